// A model, and its evaluation for a set of centres with neighbours.
//
// Centres of one element are cut into tiles; a tile runs through all operations of a phase while its numbers stay in
// the cache. Between phases the messages of all atoms are complete (a place for communication between ranks).
// Tiles are dealt to threads in fixed ranges and thread sums are added in order: equal thread counts give equal bits.
#pragma once

#include <algorithm>
#include <numeric>

#include "activations.hpp"
#include "bonds.hpp"
#include "norms.hpp"
#include "parallel.hpp"

namespace grace {

template <class Real> struct StoreMessage : Operation<Real> {  // tile tensor -> [atom][row][channel], plus constants
  int message, rows, channels, constant_row;
  Ref x;
  std::vector<Real> constant;
  StoreMessage(Reader &r, int elements) {
    message = r.integer(), x = Ref::read(r), rows = r.integer(), channels = r.integer(), constant_row = r.integer();
    const double *c = r.numbers(size_t(elements) * channels);
    constant.assign(c, c + size_t(elements) * channels);
  }
  void run(Tile<Real> &tile) const override {
    const int padded = round_up(channels, lanes<Real>);
    const Real *from = tile.at(x);
    for (int a = 0; a < tile.count; ++a) {
      Real *to = tile.message[message] + size_t(tile.atoms[a]) * rows * padded;
      for (int q = 0; q < rows; ++q) {
        for (int n = 0; n < channels; ++n) to[q * padded + n] = from[(n * x.stride + q) * lanes<Real> + a];
        for (int n = channels; n < padded; ++n) to[q * padded + n] = 0;
      }
      if (constant_row >= 0)
        for (int n = 0; n < channels; ++n) to[constant_row * padded + n] += constant[size_t(tile.element) * channels + n];
    }
  }
};

template <class Real> struct AddMessageGradient : Operation<Real> {  // the other way round
  int message, rows, channels;
  Ref g;
  explicit AddMessageGradient(Reader &r) { message = r.integer(), g = Ref::read(r), rows = r.integer(), channels = r.integer(); }
  void run(Tile<Real> &tile) const override {
    const int padded = round_up(channels, lanes<Real>);
    Real *to = tile.at(g);
    for (int a = 0; a < tile.count; ++a) {
      const Real *from = tile.message_gradient[message] + size_t(tile.atoms[a]) * rows * padded;
      for (int q = 0; q < rows; ++q)
        for (int n = 0; n < channels; ++n) to[(n * g.stride + q) * lanes<Real> + a] += from[q * padded + n];
    }
  }
};

struct MessageShape { int phase, rows, channels; };

template <class Real> struct Phase {
  int64_t scratch_rows = 0, kept_rows = 0;
  int lmax = 0;
  std::vector<std::unique_ptr<BondItem<Real>>> bonds;
  std::vector<std::unique_ptr<Operation<Real>>> forward, backward;
};

template <class Real> class Model {
 public:
  int elements = 0;
  int64_t carried_rows = 0;
  std::vector<Radial<Real>> radials;
  std::vector<MessageShape> messages;
  std::vector<Phase<Real>> phases;
  std::vector<double> constant;  // energy per element
  int64_t gradient_size = 0;     // of the gradient by the weights (programs for training)
  int feature_columns = 0;       // numbers per atom for the extrapolation grade

  Model(const int64_t *code, size_t size, const double *data, size_t data_size) {
    Reader r(code, size, data, data_size);
    if (r.next() != 1) throw std::runtime_error("grace-native: program of another version");
    elements = r.integer();
    const double *c = r.numbers(elements);
    constant.assign(c, c + elements);
    carried_rows = r.next();
    messages.resize(r.next());
    for (auto &m : messages) m.phase = r.integer(), m.rows = r.integer(), m.channels = r.integer();
    const int tables = r.integer();
    radials.reserve(tables);
    for (int i = 0; i < tables; ++i) radials.emplace_back(r, elements);
    phases.resize(r.next());
    for (auto &p : phases) {
      p.scratch_rows = r.next(), p.kept_rows = r.next(), p.lmax = r.integer();
      if (p.lmax > kMaxDegree) throw std::runtime_error("grace-native: degree too large");
      for (int64_t n = r.next(); n > 0; --n) p.bonds.push_back(bond_item(r));
      for (int64_t n = r.next(); n > 0; --n) p.forward.push_back(operation(r));
      for (int64_t n = r.next(); n > 0; --n) p.backward.push_back(operation(r));
      for (const auto &item : p.bonds) gradient_size = std::max(gradient_size, item->gradient_size());
      for (const auto &op : p.backward) gradient_size = std::max(gradient_size, op->gradient_size());
    }
    if (!r.done()) throw std::runtime_error("grace-native: program too long");
  }

 private:
  std::unique_ptr<BondItem<Real>> bond_item(Reader &r) {
    switch (r.next()) {
      case 0: return std::make_unique<DensityItem<Real>>(r, radials, elements, false);
      case 1: return std::make_unique<MessageItem<Real>>(r, radials, elements, false);
      case 2: return std::make_unique<ZblItem<Real>>(r, elements);
      case 3: return std::make_unique<DensityItem<Real>>(r, radials, elements, true);
      case 4: return std::make_unique<MessageItem<Real>>(r, radials, elements, true);
    }
    throw std::runtime_error("grace-native: unknown bond operation");
  }
  std::unique_ptr<Operation<Real>> operation(Reader &r) {
    switch (r.next()) {
      case 0: return std::make_unique<Linear<Real>>(r, elements);
      case 1: return std::make_unique<Product<Real>>(r, false);
      case 2: return std::make_unique<Product<Real>>(r, true);
      case 3: return std::make_unique<Zero<Real>>(r);
      case 4: return std::make_unique<AddConstant<Real>>(r);
      case 5: return std::make_unique<InvariantNorm<Real>>(r, false);
      case 6: return std::make_unique<InvariantNorm<Real>>(r, true);
      case 7: return std::make_unique<EquivariantNorm<Real>>(r, false);
      case 8: return std::make_unique<EquivariantNorm<Real>>(r, true);
      case 9: return std::make_unique<NetworkReadout<Real>>(r, elements, false);
      case 10: return std::make_unique<FinnisSinclairReadout<Real>>(r);
      case 11: return std::make_unique<LinearReadout<Real>>(r, false);
      case 12: return std::make_unique<StoreMessage<Real>>(r, elements);
      case 13: return std::make_unique<AddMessageGradient<Real>>(r);
      case 14: return std::make_unique<Gate<Real>>(r, false);
      case 15: return std::make_unique<Gate<Real>>(r, true);
      case 16: {
        auto op = std::make_unique<Invariants<Real>>(r);
        feature_columns = std::max(feature_columns, op->columns());
        return op;
      }
      // training
      case 17: return std::make_unique<LinearGradient<Real>>(r, elements);
      case 18: return std::make_unique<NetworkReadout<Real>>(r, elements, true);
      case 19: return std::make_unique<LinearReadout<Real>>(r, true);
      case 20: return std::make_unique<InvariantNorm<Real>>(r, true, true);
      case 21: return std::make_unique<MessageConstantGradient<Real>>(r, elements);
    }
    throw std::runtime_error("grace-native: unknown operation");
  }
};

struct Outputs {
  double *energies;  // [centres] eV
  double *forces;    // [atoms][3] eV/A, ghosts included
  double *virials;   // [centres][9] eV, sum over the bonds of a centre of r_x g_y
  double *bond_gradients = nullptr;  // [bonds][3] eV/A, added to; null: not wanted
};

template <class Real> class Evaluator {
 public:
  explicit Evaluator(const Model<Real> &model) : model_(model) {}

  // Numbers of every centre for the extrapolation grade, [centres][feature_columns], of the evaluations that follow; null: none.
  void set_features(double *features) { features_ = features; }

  // Evaluations that follow add the gradient of sum_i seeds[i] E_i by the weights to `gradient`, in place of forces and virials;
  // null: forces and virials again.
  void set_gradient(const double *seeds, double *gradient) { seeds_ = seeds, gradient_ = gradient; }

  // Shares of the work, whatever the number of threads: results then do not depend on it. 0: one per thread.
  void set_parts(int parts) { parts_ = parts; }

  // Centres 0..centres-1 have neighbours; atoms centres..atoms-1 (ghosts) only pass messages on.
  void begin(int centres, int atoms, const Neighbours &nb, int threads, size_t keep_bytes) {
    nb_ = nb, centres_ = centres, atoms_ = atoms;
    make_tiles();
    int longest = 0;
    for (int i = 0; i < centres; ++i) longest = std::max(longest, int(nb.first[i + 1] - nb.first[i]));
    threads_ = std::max(1, std::min<int>(parts_ ? parts_ : threads, int(tiles_.size()))), limit_ = threads;
    workers_.resize(std::max<size_t>(workers_.size(), threads_));
    int64_t scratch = 0, kept = 0;
    int lmax = 0;
    for (const auto &p : model_.phases) scratch = std::max(scratch, p.scratch_rows), lmax = std::max(lmax, p.lmax);
    kept_.resize(model_.phases.size());
    keep_ = true;
    size_t total = 0;
    for (size_t p = 0; p + 1 < model_.phases.size(); ++p) total += size_t(model_.phases[p].kept_rows) * kLineBytes * tiles_.size();
    keep_ = total <= keep_bytes;
    for (size_t p = 0; p + 1 < model_.phases.size(); ++p) {
      kept = std::max(kept, model_.phases[p].kept_rows);
      if (keep_) kept_[p].reserve(size_t(model_.phases[p].kept_rows) * lanes<Real> * tiles_.size());
    }
    carried_.reserve(size_t(model_.carried_rows) * lanes<Real> * tiles_.size());
    messages_.resize(model_.messages.size());
    for (size_t m = 0; m < messages_.size(); ++m) messages_[m].reserve(message_size(m));
    forces_size_ = size_t(atoms_) * 3;
    for (int t = 0; t < threads_; ++t) {
      Worker &w = workers_[t];
      w.scratch.reserve(size_t(scratch) * lanes<Real>);
      if (!keep_) w.kept.reserve(size_t(kept) * lanes<Real>);
      w.bonds.slots.reserve(longest, model_.elements, lmax);
      w.forces.assign(forces_size_, 0.0);
      w.gradient.assign(gradient_ ? size_t(model_.gradient_size) : 0, 0.0);
      w.tile.message.resize(messages_.size()), w.tile.message_gradient.resize(messages_.size());
      w.gradients.resize(messages_.size());
      for (size_t m = 0; m < messages_.size(); ++m) {
        w.gradients[m].reserve(message_size(m));
        std::memset(static_cast<void *>(w.gradients[m].data()), 0, message_size(m) * sizeof(Real));
        w.tile.message[m] = messages_[m].data(), w.tile.message_gradient[m] = w.gradients[m].data();
      }
    }
  }

  int phases() const { return int(model_.phases.size()); }
  Real *message(int m) { return messages_[m].data(); }
  Real *message_gradient(int m) { return workers_[0].gradients[m].data(); }
  size_t message_size(int m) const {
    return size_t(atoms_) * model_.messages[m].rows * round_up(model_.messages[m].channels, lanes<Real>);
  }

  // Phase p < last: messages of all centres.
  void forward(int p) {
    over_tiles([&](Worker &w, int t) {
      enter(w, p, t);
      bonds_forward(w, p);
      for (const auto &op : model_.phases[p].forward) op->run(w.tile);
    });
  }
  // Last phase, forward and backward at once.
  void turn(const Outputs &out) {
    const int p = phases() - 1;
    over_tiles([&](Worker &w, int t) {
      enter(w, p, t);
      bonds_forward(w, p);
      for (const auto &op : model_.phases[p].forward) op->run(w.tile);
      for (const auto &op : model_.phases[p].backward) op->run(w.tile);
      for (int a = 0; a < w.tile.count; ++a)
        out.energies[w.tile.atoms[a]] = double(w.tile.energy[a]) + model_.constant[w.tile.element];
      bonds_backward(w, p, out);
    });
    sum_message_gradients(p - 1);
  }
  // Phase p < last, backward; message gradients of the phase must be complete.
  void backward(int p, const Outputs &out) {
    over_tiles([&](Worker &w, int t) {
      enter(w, p, t);
      if (!keep_) {
        bonds_forward(w, p);
        for (const auto &op : model_.phases[p].forward) op->run(w.tile);
      }
      for (const auto &op : model_.phases[p].backward) op->run(w.tile);
      bonds_backward(w, p, out);
    });
    sum_message_gradients(p - 1);
  }
  void finish(const Outputs &out) {
    if (gradient_) {
      const int64_t size = model_.gradient_size;
      parallel(threads_, limit_, [&](int rank, int count) {
        for (int t = 0; t < threads_; ++t) {
          const double *from = workers_[t].gradient.data();
          for (int64_t i = size * rank / count; i < size * (rank + 1) / count; ++i) gradient_[i] += from[i];
        }
      });
      return;
    }
    std::memset(out.forces, 0, forces_size_ * sizeof(double));
    for (int t = 0; t < threads_; ++t)
      for (size_t i = 0; i < forces_size_; ++i) out.forces[i] += workers_[t].forces[i];
  }
  size_t bytes() const {
    size_t total = carried_.size() * sizeof(Real);
    for (const auto &k : kept_) total += k.size() * sizeof(Real);
    for (const auto &m : messages_) total += m.size() * sizeof(Real);
    for (const auto &w : workers_) {
      total += (w.scratch.size() + w.kept.size()) * sizeof(Real) + w.forces.size() * sizeof(double);
      for (const auto &g : w.gradients) total += g.size() * sizeof(Real);
    }
    return total;
  }

 private:
  struct TileRange { int element, first, count; };
  struct Worker {
    Tile<Real> tile;
    BondSpace<Real> bonds;
    Buffer<Real> scratch, kept;
    std::vector<Buffer<Real>> gradients;
    std::vector<double> forces, gradient;
  };

  void make_tiles() {
    order_.resize(centres_);
    std::iota(order_.begin(), order_.end(), 0);
    if (model_.elements > 1)
      std::stable_sort(order_.begin(), order_.end(), [&](int a, int b) { return nb_.species[a] < nb_.species[b]; });
    tiles_.clear();
    for (int i = 0; i < centres_;) {
      const int e = nb_.species[order_[i]];
      int n = 1;
      while (n < lanes<Real> && i + n < centres_ && nb_.species[order_[i + n]] == e) ++n;
      tiles_.push_back({e, i, n});
      i += n;
    }
  }
  template <class F> void over_tiles(F work) {
    const int64_t n = int64_t(tiles_.size());
    parallel(threads_, limit_, [&](int rank, int count) {
      for (int t = int(n * rank / count); t < int(n * (rank + 1) / count); ++t) work(workers_[rank], t);
    });
  }
  void enter(Worker &w, int p, int t) {
    const TileRange &range = tiles_[t];
    const Phase<Real> &phase = model_.phases[p];
    w.tile.arena[0] = w.scratch.data();
    if (p + 1 < phases())
      w.tile.arena[1] = keep_ ? kept_[p].data() + size_t(t) * phase.kept_rows * lanes<Real> : w.kept.data();
    w.tile.arena[2] = carried_.data() + size_t(t) * model_.carried_rows * lanes<Real>;
    w.tile.element = range.element, w.tile.count = range.count, w.tile.atoms = order_.data() + range.first;
    w.tile.features = features_, w.tile.feature_columns = model_.feature_columns;
    w.tile.gradient = gradient_ ? w.gradient.data() : nullptr;
    if (gradient_)
      for (int a = 0; a < lanes<Real>; ++a) w.tile.seed[a] = a < range.count ? Real(seeds_[w.tile.atoms[a]]) : Real(0);
  }
  void bonds_forward(Worker &w, int p) {
    const Phase<Real> &phase = model_.phases[p];
    for (auto &e : w.tile.energy) e = 0;
    // idle lanes of a short tile repeat its last atom, so that they hold ordinary numbers
    for (int lane = 0; lane < lanes<Real>; ++lane) {
      const int atom = w.tile.atoms[std::min(lane, w.tile.count - 1)];
      if (lane < w.tile.count) {
        fill_slots<Real>(w.bonds.slots, nb_, atom, model_.elements);
        harmonics<Real>(w.bonds.slots, phase.lmax);
      }
      for (const auto &item : phase.bonds) item->forward(w.tile, lane, atom, nb_, w.bonds);
    }
  }
  void bonds_backward(Worker &w, int p, const Outputs &out) {
    const Phase<Real> &phase = model_.phases[p];
    Slots<Real> &s = w.bonds.slots;
    const size_t lm = size_t(phase.lmax + 1) * (phase.lmax + 1);
    const bool first = p + 1 == phases();
    for (int lane = 0; lane < w.tile.count; ++lane) {
      const int atom = w.tile.atoms[lane];
      fill_slots<Real>(s, nb_, atom, model_.elements);
      harmonics<Real>(s, phase.lmax);
      if (gradient_) {
        for (const auto &item : phase.bonds) item->weights(w.tile, lane, atom, nb_, w.bonds);
        continue;
      }
      std::memset(s.gd.data(), 0, s.size * sizeof(Real));
      for (size_t i = 0; i < lm; ++i) std::memset(s.gy.data() + i * s.capacity, 0, s.size * sizeof(Real));
      for (const auto &item : phase.bonds) item->backward(w.tile, lane, atom, nb_, w.bonds);
      harmonics_backward<Real>(s, phase.lmax);
      double own[3] = {0, 0, 0}, virial[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0};
      for (int k = 0; k < s.size; ++k) {
        if (s.bond[k] < 0) continue;
        const double g[3] = {double(s.x[k]), double(s.y[k]), double(s.z[k])};
        const double *r = nb_.vector + 3 * (nb_.first[atom] + s.bond[k]);
        double *other = w.forces.data() + 3 * size_t(s.other[k]);
        if (out.bond_gradients)
          for (int x = 0; x < 3; ++x) out.bond_gradients[3 * (nb_.first[atom] + s.bond[k]) + x] += g[x];
        for (int x = 0; x < 3; ++x) {
          own[x] += g[x], other[x] -= g[x];
          for (int y = 0; y < 3; ++y) virial[3 * x + y] += r[x] * g[y];
        }
      }
      for (int x = 0; x < 3; ++x) w.forces[3 * size_t(atom) + x] += own[x];
      double *v = out.virials + 9 * size_t(atom);
      for (int x = 0; x < 9; ++x) v[x] = first ? virial[x] : v[x] + virial[x];
    }
  }
  // Adds the message gradients of all threads into those of the first and lets all threads read them.
  void sum_message_gradients(int p) {
    for (size_t m = 0; m < messages_.size(); ++m) {
      if (model_.messages[m].phase != p) continue;
      Real *to = workers_[0].gradients[m].data();
      const int64_t size = int64_t(message_size(int(m)));
      parallel(threads_, limit_, [&](int rank, int count) {
        for (int t = 1; t < threads_; ++t) {
          const Real *from = workers_[t].gradients[m].data();
          for (int64_t i = size * rank / count; i < size * (rank + 1) / count; ++i) to[i] += from[i];
        }
      });
      for (int t = 0; t < threads_; ++t) workers_[t].tile.message_gradient[m] = to;
    }
  }

  const Model<Real> &model_;
  Neighbours nb_;
  int centres_ = 0, atoms_ = 0, threads_ = 1, limit_ = 1, parts_ = 0;
  bool keep_ = true;
  double *features_ = nullptr;
  const double *seeds_ = nullptr;
  double *gradient_ = nullptr;
  size_t forces_size_ = 0;
  std::vector<int> order_;
  std::vector<TileRange> tiles_;
  std::vector<Worker> workers_;
  std::vector<Buffer<Real>> kept_, messages_;
  Buffer<Real> carried_;
};

}  // namespace grace
