// One library of kernels, compiled once per instruction set.
#include "kernels.hpp"

#include <memory>

#include "evaluator.hpp"

namespace grace {
namespace {

template <class Real> class Host final : public Kernels {
 public:
  Host(const int64_t *code, size_t size, const double *data, size_t data_size)
      : model_(code, size, data, data_size), evaluator_(model_) {}
  int elements() const override { return model_.elements; }
  int phases() const override { return evaluator_.phases(); }
  int message_numbers(int p) const override {
    size_t bytes = 0;
    for (const auto &m : model_.messages)
      if (m.phase == p) bytes += size_t(m.rows) * m.channels * sizeof(Real);
    return int((bytes + sizeof(double) - 1) / sizeof(double));
  }
  void begin(int centres, int atoms, const Bonds &b, int threads, size_t keep_bytes) override {
    Neighbours nb;
    nb.first = b.first, nb.other = b.other, nb.vector = b.vector, nb.species = b.species;
    evaluator_.begin(centres, atoms, nb, threads, keep_bytes);
  }
  void forward(int p) override { evaluator_.forward(p); }
  void turn(const Sums &s) override { evaluator_.turn(outputs(s)); }
  void backward(int p, const Sums &s) override { evaluator_.backward(p, outputs(s)); }
  void finish(const Sums &s) override { evaluator_.finish(outputs(s)); }
  void pack_messages(int p, int count, const int *atoms, double *to) const override {
    auto &e = const_cast<Evaluator<Real> &>(evaluator_);
    each(p, count, [&](int m) { return e.message(m); }, [&](Real *row, int a, size_t at, size_t n) {
      std::memcpy(bytes(to, p, a) + at, row, n);
    }, atoms);
  }
  void set_messages(int p, int count, const int *atoms, const double *from) override {
    each(p, count, [&](int m) { return evaluator_.message(m); }, [&](Real *row, int a, size_t at, size_t n) {
      std::memcpy(row, bytes(from, p, a) + at, n);
    }, atoms);
  }
  void pack_gradients(int p, int count, const int *atoms, double *to) const override {
    auto &e = const_cast<Evaluator<Real> &>(evaluator_);
    each(p, count, [&](int m) { return e.message_gradient(m); }, [&](Real *row, int a, size_t at, size_t n) {
      std::memcpy(bytes(to, p, a) + at, row, n);
    }, atoms);
  }
  void add_gradients(int p, int count, const int *atoms, const double *from) override {
    each(p, count, [&](int m) { return evaluator_.message_gradient(m); }, [&](Real *row, int a, size_t at, size_t n) {
      const char *source = bytes(from, p, a) + at;
      for (size_t i = 0; i < n / sizeof(Real); ++i) {
        Real g;
        std::memcpy(&g, source + i * sizeof(Real), sizeof(Real));
        row[i] += g;
      }
    }, atoms);
  }
  double bytes() const override { return double(evaluator_.bytes()); }
  int radial_tables() const override { return int(model_.radials.size()); }
  int radial_functions(int table) const override { return model_.radials.at(table).functions; }
  void set_radial(int table, const double *values, const double *slopes) override {
    auto &radial = model_.radials.at(table);
    radial.values = values, radial.slopes = slopes;
  }
  int feature_columns() const override { return model_.feature_columns; }
  void set_features(double *features) override { evaluator_.set_features(features); }
  int64_t gradient_size() const override { return model_.gradient_size; }
  void set_gradient(const double *seeds, double *gradient) override { evaluator_.set_gradient(seeds, gradient); }
  void set_parts(int parts) override { evaluator_.set_parts(parts); }
  void update(const int64_t *code, size_t size, const double *data, size_t data_size) override {
    model_ = Model<Real>(code, size, data, data_size);
  }

 private:
  static Outputs outputs(const Sums &s) { return {s.energies, s.forces, s.virials, s.bond_gradients}; }
  char *bytes(double *x, int p, int a) const { return reinterpret_cast<char *>(x + size_t(a) * message_numbers(p)); }
  const char *bytes(const double *x, int p, int a) const { return reinterpret_cast<const char *>(x + size_t(a) * message_numbers(p)); }
  // use(row of channels, place in the list, byte offset in the packed record, bytes of the row)
  template <class Base, class Use> void each(int p, int count, Base base, Use use, const int *atoms) const {
    size_t offset = 0;
    for (size_t m = 0; m < model_.messages.size(); ++m) {
      const MessageShape &shape = model_.messages[m];
      if (shape.phase != p) continue;
      const size_t padded = round_up(shape.channels, lanes<Real>), n = size_t(shape.channels) * sizeof(Real);
      Real *values = base(int(m));
      for (int a = 0; a < count; ++a)
        for (int q = 0; q < shape.rows; ++q)
          use(values + (size_t(atoms[a]) * shape.rows + q) * padded, a, offset + q * n, n);
      offset += shape.rows * n;
    }
  }
  Model<Real> model_;
  Evaluator<Real> evaluator_;
};

}  // namespace
}  // namespace grace

extern "C" __attribute__((visibility("default"))) grace::Kernels *grace_kernels(
    int version, bool single, const int64_t *code, size_t size, const double *data, size_t data_size) {
  if (version != grace::kKernelsVersion) throw std::runtime_error("pair style and kernels are of different versions");
  if (single) return new grace::Host<float>(code, size, data, data_size);
  return new grace::Host<double>(code, size, data, data_size);
}

extern "C" __attribute__((visibility("default"))) int grace_couplings(int *triples, int capacity) {
  int count = 0;
  const auto *table = grace::product_kernels<double>(count);
  for (int i = 0; i < count && i < capacity; ++i)
    triples[3 * i] = table[i].l1, triples[3 * i + 1] = table[i].l2, triples[3 * i + 2] = table[i].mask;
  return count;
}
