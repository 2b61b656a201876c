#include "pair_grace.hpp"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "host.hpp"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "program_file.hpp"
#include "update.h"

using namespace LAMMPS_NS;

static constexpr size_t kKeepBytes = size_t(512) << 20;  // values kept between the passes; above it they are computed twice

PairGrace::PairGrace(LAMMPS *lmp) : Pair(lmp) {
  single_enable = 0, restartinfo = 0, one_coeff = 1, manybody_flag = 1;
  no_virial_fdotr_compute = 1;
  centroidstressflag = CENTROID_AVAIL;
}

PairGrace::~PairGrace() {
  if (allocated) {
    memory->destroy(setflag);
    memory->destroy(cutsq);
  }
}

void PairGrace::allocate() {
  allocated = 1;
  const int n = atom->ntypes + 1;
  memory->create(setflag, n, n, "pair:setflag");
  memory->create(cutsq, n, n, "pair:cutsq");
  map = new int[n];  // deleted by Pair
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) setflag[i][j] = 0, cutsq[i][j] = 0;
}

// ---- input ----------------------------------------------------------------------------------------------------------
void PairGrace::settings(int narg, char **arg) {
  precision_.clear(), threads_ = 0;
  for (int i = 0; i < narg; ++i) {
    const std::string word = arg[i];
    if (word == "fp64" || word == "fp32") {
      precision_ = word;
    } else if (word == "threads" && i + 1 < narg) {
      threads_ = utils::inumeric(FLERR, arg[++i], false, lmp);
      if (threads_ < 1) error->all(FLERR, std::string("pair_style grace: threads must be positive"));
    } else {
      error->all(FLERR, "pair_style grace: unknown keyword '" + word + "'; known: fp64, fp32, threads N");
    }
  }
}

void PairGrace::coeff(int narg, char **arg) {
  const int types = atom->ntypes;
  if (narg < 3 || std::strcmp(arg[0], "*") != 0 || std::strcmp(arg[1], "*") != 0)
    error->all(FLERR, std::string("pair_style grace: write pair_coeff * * FILE element1 element2 ... (one element per atom type)"));
  if (narg != 3 + types)
    error->all(FLERR, "pair_style grace: pair_coeff names " + std::to_string(narg - 3) + " elements, but there are " +
                          std::to_string(types) + " atom types; name one per type, NULL for types of another pair style");
  if (!allocated) allocate();
  const std::string bytes = read(arg[2], types, arg + 3);
  try {
    const grace::ProgramFile file(bytes);
    const std::string precision = file.header.at("precision");
    if (!precision_.empty() && precision != precision_)
      error->all(FLERR, "pair_style grace: " + std::string(arg[2]) + " was written for " + precision + ", not " + precision_);
    program_elements_ = int(file.elements.size());
    cutoffs_ = file.cutoffs;
    cutoff_ = 0;
    for (double c : cutoffs_) cutoff_ = std::max(cutoff_, c);
    element_of_.assign(types + 1, -1);
    std::string known;
    for (const auto &e : file.elements) known += (known.empty() ? "" : " ") + e;
    for (int t = 1; t <= types; ++t) {
      const std::string symbol = arg[2 + t];
      if (symbol == "NULL") continue;
      for (size_t e = 0; e < file.elements.size(); ++e)
        if (file.elements[e] == symbol) element_of_[t] = int(e);
      if (element_of_[t] < 0)
        error->all(FLERR, "pair_style grace: " + std::string(arg[2]) + " has no element '" + symbol + "'; it has " + known);
    }
    kernels_.reset(grace::open_kernels()(grace::kKernelsVersion, precision == "fp32", file.code.data(), file.code.size(), file.data.data(),
                                         file.data.size()));
    if (comm->me == 0)
      utils::logmesg(lmp, "GRACE model {} ({}), cutoff {:.3f} A, {}, {} kernels\n", file.header.at("model"), known, cutoff_, precision,
                     grace::instruction_set());
  } catch (const LAMMPSException &) {
    throw;
  } catch (const std::exception &e) {
    error->all(FLERR, "pair_style grace: cannot use " + std::string(arg[2]) + ": " + e.what());
  }
  int pairs = 0;
  for (int i = 1; i <= types; ++i) {
    map[i] = element_of_[i];
    for (int j = i; j <= types; ++j) {
      setflag[i][j] = element_of_[i] >= 0 && element_of_[j] >= 0;
      pairs += setflag[i][j];
    }
  }
  if (!pairs) error->all(FLERR, std::string("pair_style grace: pair_coeff names no element"));
  comm_forward = comm_reverse = 0;
  for (int p = 0; p + 1 < kernels_->phases(); ++p) comm_forward = std::max(comm_forward, kernels_->message_numbers(p));
  comm_reverse = comm_forward;
  // beyond the first layer a bond also carries energy of farther atoms, which centroid stress cannot attribute
  centroidstressflag = kernels_->phases() > 1 ? CENTROID_NOTAVAIL : CENTROID_AVAIL;
}

// Bytes of the program file, on every rank: rank 0 reads it, or has Python write it.
std::string PairGrace::read(const std::string &name, int count, char **symbols) {
  std::string bytes, problem;
  if (comm->me == 0) {
    std::ifstream in(name, std::ios::binary);
    std::string start(8, '\0');
    const bool ours = in && in.read(&start[0], 8) && grace::ProgramFile::is_one(start);
    const std::string suffix = ".gracelmp";
    const bool named = name.size() > suffix.size() && name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0;
    if (ours) {
      in.seekg(0);
      bytes.assign(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    } else if (named) {
      problem = in.is_open() ? name + " is not a .gracelmp file" : "cannot open " + name;
    } else {
      std::set<std::string> wanted;
      std::string elements;
      for (int i = 0; i < count; ++i)
        if (std::strcmp(symbols[i], "NULL") != 0 && wanted.insert(symbols[i]).second) elements += (elements.empty() ? "" : ",") + std::string(symbols[i]);
      try {
        bytes = grace::lower_with_python(name, elements, precision_.empty() ? "fp64" : precision_);
      } catch (const std::exception &e) {
        problem = e.what();
      }
    }
  }
  bigint sizes[2] = {bigint(bytes.size()), bigint(problem.size())};
  MPI_Bcast(sizes, 2, MPI_LMP_BIGINT, 0, world);
  problem.resize(size_t(sizes[1])), bytes.resize(size_t(sizes[0]));
  for (std::string *text : {&problem, &bytes})
    for (size_t at = 0; at < text->size(); at += size_t(1) << 30)
      MPI_Bcast(&(*text)[at], int(std::min(text->size() - at, size_t(1) << 30)), MPI_CHAR, 0, world);
  if (!problem.empty()) error->all(FLERR, "pair_style grace: " + problem);
  return bytes;
}

void PairGrace::init_style() {
  if (!kernels_) error->all(FLERR, std::string("pair_style grace: pair_coeff is missing"));
  if (!force->newton_pair) error->all(FLERR, std::string("pair_style grace requires newton on"));
  if (std::strcmp(update->unit_style, "metal") != 0) error->all(FLERR, std::string("pair_style grace requires units metal"));
  neighbor->add_request(this, NeighConst::REQ_FULL);
  // hybrid styles look at the message sizes of their parts before pair_coeff has been read
  force->pair->comm_forward = std::max(force->pair->comm_forward, comm_forward);
  force->pair->comm_reverse = std::max(force->pair->comm_reverse, comm_reverse);
}

double PairGrace::init_one(int i, int j) {
  if (!setflag[i][j]) return 0.0;
  return std::max(cutoffs_[element_of_[i] * program_elements_ + element_of_[j]], cutoffs_[element_of_[j] * program_elements_ + element_of_[i]]);
}

void *PairGrace::extract(const char *name, int &dimension) {
  dimension = 0;
  return std::strcmp(name, "cutoff") == 0 ? &cutoff_ : nullptr;
}

// ---- evaluation -----------------------------------------------------------------------------------------------------
void PairGrace::compute(int eflag, int vflag) {
  ev_init(eflag, vflag);
  try {
    number_atoms();
    collect_bonds();
    energies_.resize(centres_), virials_.resize(size_t(centres_) * 9), forces_.resize(size_t(atoms_) * 3);
    const bool per_bond = vflag_atom || cvflag_atom;
    if (per_bond) gradients_.assign(other_.size() * 3, 0.0);
    grace::Sums sums{energies_.data(), forces_.data(), virials_.data(), per_bond ? gradients_.data() : nullptr};
    evaluate(sums);
    tally(sums);
  } catch (const LAMMPSException &) {
    throw;
  } catch (const std::exception &e) {
    error->one(FLERR, std::string("pair_style grace: ") + e.what());
  }
}

// Atoms of the neighbour list come first (a part of the local ones in hybrid styles), then all others.
void PairGrace::number_atoms() {
  const int all = atom->nlocal + atom->nghost;
  number_.assign(all, -1), lammps_atom_.clear();
  for (int k = 0; k < list->inum; ++k) {
    const int i = list->ilist[k];
    if (element_of_[atom->type[i]] >= 0) number_[i] = int(lammps_atom_.size()), lammps_atom_.push_back(i);
  }
  centres_ = int(lammps_atom_.size());
  for (int i = 0; i < all; ++i)
    if (number_[i] < 0) number_[i] = int(lammps_atom_.size()), lammps_atom_.push_back(i);
  atoms_ = all;
  species_.resize(all);
  for (int a = 0; a < all; ++a) species_[a] = std::max(0, element_of_[atom->type[lammps_atom_[a]]]);
}

void PairGrace::collect_bonds() {
  const double *const *x = atom->x;
  const int *type = atom->type;
  first_.resize(centres_ + 1), other_.clear(), vector_.clear();
  first_[0] = 0;
  for (int a = 0; a < centres_; ++a) {
    const int i = lammps_atom_[a];
    const int *neighbours = list->firstneigh[i];
    const double *cutoff = &cutoffs_[species_[a] * program_elements_];
    for (int k = 0; k < list->numneigh[i]; ++k) {
      const int j = neighbours[k] & NEIGHMASK;
      if (element_of_[type[j]] < 0) continue;
      const double dx = x[j][0] - x[i][0], dy = x[j][1] - x[i][1], dz = x[j][2] - x[i][2];
      const double rc = cutoff[element_of_[type[j]]];
      if (dx * dx + dy * dy + dz * dz >= rc * rc) continue;
      other_.push_back(number_[j]);
      vector_.push_back(dx), vector_.push_back(dy), vector_.push_back(dz);
    }
    first_[a + 1] = int64_t(other_.size());
  }
}

void PairGrace::evaluate(grace::Sums &sums) {
  const grace::Bonds bonds{first_.data(), other_.data(), vector_.data(), species_.data()};
  const int threads = threads_ ? threads_ : std::max(1, comm->nthreads), last = kernels_->phases() - 1;
  kernels_->begin(centres_, atoms_, bonds, threads, kKeepBytes);
  for (int p = 0; p < last; ++p) {
    kernels_->forward(p);
    communicate(p, true);
  }
  kernels_->turn(sums);
  for (int p = last - 1; p >= 0; --p) {
    communicate(p, false);
    kernels_->backward(p, sums);
  }
  kernels_->finish(sums);
}

void PairGrace::tally(const grace::Sums &sums) {
  double *const *f = atom->f;
  for (int a = 0; a < atoms_; ++a)
    for (int x = 0; x < 3; ++x) f[lammps_atom_[a]][x] += sums.forces[3 * size_t(a) + x];
  if (eflag_global)
    for (int a = 0; a < centres_; ++a) eng_vdwl += sums.energies[a];
  if (eflag_atom)
    for (int a = 0; a < centres_; ++a) eatom[lammps_atom_[a]] += sums.energies[a];
  static const int row[6] = {0, 1, 2, 0, 0, 1}, column[6] = {0, 1, 2, 1, 2, 2};  // LAMMPS: xx yy zz xy xz yz
  if (vflag_global)
    for (int a = 0; a < centres_; ++a) {
      const double *v = sums.virials + 9 * size_t(a);
      for (int k = 0; k < 6; ++k) virial[k] -= 0.5 * (v[3 * row[k] + column[k]] + v[3 * column[k] + row[k]]);
    }
  if (!sums.bond_gradients) return;
  static const int row9[9] = {0, 1, 2, 0, 0, 1, 1, 2, 2}, column9[9] = {0, 1, 2, 1, 2, 2, 0, 0, 1};
  for (int a = 0; a < centres_; ++a)
    for (int64_t b = first_[a]; b < first_[a + 1]; ++b) {
      const double *r = &vector_[3 * b], *g = sums.bond_gradients + 3 * b;
      const int i = lammps_atom_[a], j = lammps_atom_[other_[b]];
      if (vflag_atom)  // half to each end
        for (int k = 0; k < 6; ++k) {
          const double half = -0.25 * (r[row[k]] * g[column[k]] + r[column[k]] * g[row[k]]);
          vatom[i][k] += half, vatom[j][k] += half;
        }
      if (cvflag_atom)  // energy of the centre pulls at the neighbour: position relative to the centre times that force
        for (int k = 0; k < 9; ++k) cvatom[j][k] -= r[row9[k]] * g[column9[k]];
    }
}

// ---- messages -------------------------------------------------------------------------------------------------------
void PairGrace::communicate(int phase, bool forward) {
  phase_ = phase;
  int &numbers = forward ? comm_forward : comm_reverse;
  const int largest = numbers;  // what LAMMPS made its buffers for
  numbers = kernels_->message_numbers(phase);
  if (forward) comm->forward_comm(this);
  else comm->reverse_comm(this);
  numbers = largest;
}

const int *PairGrace::translated(int count, const int *list) {
  translated_.resize(count);
  for (int k = 0; k < count; ++k) translated_[k] = number_[list[k]];
  return translated_.data();
}

int PairGrace::pack_forward_comm(int n, int *atoms, double *buffer, int, int *) {
  kernels_->pack_messages(phase_, n, translated(n, atoms), buffer);
  return n * kernels_->message_numbers(phase_);
}

void PairGrace::unpack_forward_comm(int n, int first, double *buffer) {
  kernels_->set_messages(phase_, n, number_.data() + first, buffer);
}

int PairGrace::pack_reverse_comm(int n, int first, double *buffer) {
  kernels_->pack_gradients(phase_, n, number_.data() + first, buffer);
  return n * kernels_->message_numbers(phase_);
}

void PairGrace::unpack_reverse_comm(int n, int *atoms, double *buffer) {
  kernels_->add_gradients(phase_, n, translated(n, atoms), buffer);
}

double PairGrace::memory_usage() {
  double total = Pair::memory_usage() + (kernels_ ? kernels_->bytes() : 0.0);
  total += double(other_.capacity()) * 4 + double(vector_.capacity() + gradients_.capacity() + forces_.capacity()) * 8;
  return total + double(virials_.capacity() + energies_.capacity()) * 8 + double(number_.capacity()) * 16;
}
