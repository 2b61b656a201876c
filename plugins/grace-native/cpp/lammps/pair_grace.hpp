// pair_style grace [fp64|fp32] [threads N]
// pair_coeff * * FILE element1 element2 ...     (FILE: NAME.gracelmp, or a model that Python can read)
//
// Domain decomposition: every rank evaluates its own atoms. Models with message passing exchange, per layer, the
// messages of ghost atoms (forward) and the gradients of the energy with respect to them (reverse), so that ghosts
// reach one cutoff and no further. Virial: W_xy = -sum over bonds of r_x dE/dr_y.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "../kernels.hpp"
#include "pair.h"

namespace LAMMPS_NS {

class PairGrace : public Pair {
 public:
  explicit PairGrace(LAMMPS *);
  ~PairGrace() override;
  void compute(int, int) override;
  void settings(int, char **) override;
  void coeff(int, char **) override;
  void init_style() override;
  double init_one(int, int) override;
  void *extract(const char *, int &) override;
  double memory_usage() override;
  int pack_forward_comm(int, int *, double *, int, int *) override;
  void unpack_forward_comm(int, int, double *) override;
  int pack_reverse_comm(int, int, double *) override;
  void unpack_reverse_comm(int, int *, double *) override;

 private:
  void allocate();
  std::string read(const std::string &name, int count, char **symbols);
  std::string lower(const std::string &name, const std::string &elements);
  void number_atoms();
  void collect_bonds();
  void evaluate(grace::Sums &);
  void communicate(int phase, bool forward);
  void tally(const grace::Sums &);
  const int *translated(int count, const int *list);

  std::string precision_;           // asked for, or empty
  int threads_ = 0;                 // 0: as LAMMPS
  double cutoff_ = 0;
  std::vector<double> cutoffs_;     // [elements of the program]^2
  int program_elements_ = 0;
  std::vector<int> element_of_;     // program's element number of every atom type, -1 for NULL
  std::unique_ptr<grace::Kernels> kernels_;
  int phase_ = 0;                   // whose messages are on their way
  int centres_ = 0, atoms_ = 0;
  std::vector<int> number_, lammps_atom_, translated_;  // LAMMPS index -> number, number -> LAMMPS index
  std::vector<int64_t> first_;
  std::vector<int32_t> other_, species_;
  std::vector<double> vector_, energies_, forces_, virials_, gradients_;
};

}  // namespace LAMMPS_NS
