// The program of a model, as the planner (grace_native/encode.py) writes it: a stream of 64-bit integers that refers
// to a block of numbers. Nothing here knows node types of blueprints; it is a list of tile operations per phase.
//
// Phase p holds everything between two message passes. Arenas: 0 scratch of a thread, 1 values of a tile kept from the
// forward to the backward pass of its phase, 2 values of a tile carried between phases.
#pragma once

#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "gemm.hpp"
#include "products.hpp"

namespace grace {

class Reader {
 public:
  Reader(const int64_t *code, size_t size, const double *data, size_t data_size)
      : code_(code), size_(size), data_(data), data_size_(data_size) {}
  int64_t next() {
    if (at_ >= size_) throw std::runtime_error("grace-native: truncated program");
    return code_[at_++];
  }
  int integer() { return int(next()); }
  // `count` numbers at the offset that comes next in the stream
  const double *numbers(size_t count) {
    const int64_t offset = next();
    if (offset < 0 || size_t(offset) + count > data_size_) throw std::runtime_error("grace-native: damaged program");
    return data_ + offset;
  }
  bool done() const { return at_ == size_; }

 private:
  const int64_t *code_;
  size_t size_, at_ = 0;
  const double *data_;
  size_t data_size_;
};

struct Ref {  // a tile tensor: first row of channel 0, rows between channels
  int arena = 0;
  int64_t row = 0, stride = 0;
  static Ref read(Reader &r) {
    Ref x;
    x.arena = r.integer(), x.row = r.next(), x.stride = r.next();
    return x;
  }
};

// What operations see of the tile they work on.
template <class Real> struct Tile {
  Real *arena[3] = {nullptr, nullptr, nullptr};
  int element = 0, count = 0;    // element number, atoms in use
  const int *atoms = nullptr;    // their numbers
  Real energy[lanes<Real>];      // per atom, without the constant of the element
  std::vector<Source<Real>> sources;
  Buffer<Real> work;
  std::vector<Real *> message, message_gradient;  // [atom][row][channel]
  Real seed[lanes<Real>];        // per atom, factor of its energy in the sum whose gradient by the weights is wanted
  double *gradient = nullptr;    // that gradient, added to; null: not wanted
  double *features = nullptr;    // [atom][feature_columns], for the extrapolation grade; null: not wanted
  int feature_columns = 0;
  Real *at(const Ref &x) const { return arena[x.arena] + x.row * lanes<Real>; }
};

template <class Real> struct Operation {
  virtual ~Operation() = default;
  virtual void run(Tile<Real> &tile) const = 0;
  virtual int64_t gradient_size() const { return 0; }  // numbers of the gradient by the weights up to the last this touches
};

// ---------------------------------------------------------------------------------------------------------------------
template <class Real> class Linear : public Operation<Real> {
 public:
  Linear(Reader &r, int elements) {
    blocks_.resize(r.next());
    for (auto &b : blocks_) {
      b.out = Ref::read(r), b.outputs = r.integer(), b.rows = r.integer(), b.accumulate = r.next(), b.dependent = r.next();
      b.sources.resize(r.next());
      int inputs = 0;
      for (auto &s : b.sources) s.x = Ref::read(r), s.channels = r.integer(), inputs += s.channels;
      const int sets = b.dependent ? elements : 1;
      b.weights.pack(r.numbers(size_t(sets) * b.outputs * inputs), sets, b.outputs, inputs);
    }
  }
  void run(Tile<Real> &tile) const override {
    for (const auto &b : blocks_) {
      tile.sources.clear();
      for (const auto &s : b.sources) tile.sources.push_back({tile.at(s.x), ptrdiff_t(s.x.stride * lanes<Real>), s.channels});
      multiply<Real>(b.weights, b.dependent ? tile.element : 0, tile.sources.data(), int(tile.sources.size()),
                     b.rows * lanes<Real>, tile.at(b.out), b.out.stride * lanes<Real>, b.accumulate);
    }
  }

 private:
  struct Input { Ref x; int channels; };
  struct Block {
    Ref out;
    int outputs, rows;
    bool accumulate, dependent;
    std::vector<Input> sources;
    Packed<Real> weights;
  };
  std::vector<Block> blocks_;
};

// ---------------------------------------------------------------------------------------------------------------------
// Products of tile tensors; entries of equal degrees and targets share a kernel. Without one, terms are interpreted.
template <class Real> class Product : public Operation<Real> {
 public:
  Product(Reader &r, bool backward) : backward_(backward) {
    channels_ = r.integer();
    left_ = Ref::read(r), right_ = Ref::read(r), out_ = Ref::read(r);
    if (backward) gout_ = Ref::read(r), gleft_ = Ref::read(r), gright_ = Ref::read(r);
    buckets_.resize(r.next());
    for (auto &b : buckets_) {
      const int l1 = r.integer(), l2 = r.integer(), mask = r.integer(), targets = r.integer();
      const double *scale = r.numbers(targets);
      b.scale.assign(scale, scale + targets);
      b.count = r.integer();
      b.entries.resize(size_t(b.count) * (2 + targets));
      for (auto &e : b.entries) e = r.integer();
      int known = 0;
      const ProductKernel<Real> *kernels = product_kernels<Real>(known);
      for (int k = 0; k < known && !b.kernel; ++k)
        if (kernels[k].l1 == l1 && kernels[k].l2 == l2 && kernels[k].mask == mask) b.kernel = kernels + k;
      if (!b.kernel) throw std::runtime_error("grace-native: no kernel for a coupling");
    }
    terms_.resize(r.next());
    for (auto &t : terms_) t.left = r.integer(), t.right = r.integer(), t.out = r.integer(), t.value = Real(*r.numbers(1));
  }
  void run(Tile<Real> &tile) const override {
    constexpr int T = lanes<Real>;
    const Real *a = tile.at(left_), *b = tile.at(right_);
    Real *o = tile.at(out_), *go = nullptr, *ga = nullptr, *gb = nullptr;
    if (backward_) go = tile.at(gout_), ga = tile.at(gleft_), gb = tile.at(gright_);
    for (int n = 0; n < channels_; ++n) {
      for (const auto &k : buckets_) {
        if (backward_)
          k.kernel->backward(k.entries.data(), k.count, k.scale.data(), a, b, go, ga, gb);
        else
          k.kernel->forward(k.entries.data(), k.count, k.scale.data(), a, b, o);
      }
      if (!terms_.empty()) interpret(a, b, o, go, ga, gb);
      a += left_.stride * T, b += right_.stride * T, o += out_.stride * T;
      if (backward_) go += gout_.stride * T, ga += gleft_.stride * T, gb += gright_.stride * T;
    }
  }

 private:
  struct Bucket {
    const ProductKernel<Real> *kernel = nullptr;
    int count = 0;
    std::vector<Real> scale;
    std::vector<int> entries;
  };
  struct Term { int left, right, out; Real value; };
  void interpret(const Real *a, const Real *b, Real *o, const Real *go, Real *ga, Real *gb) const {
    constexpr int T = lanes<Real>;
    for (int s = 0; s < T; s += width<Real>) {
      if (!backward_) {
        int last = -1;
        for (const auto &t : terms_) {  // sorted by target
          const Vec<Real> p = load<Real>(a + t.left * T + s) * load<Real>(b + t.right * T + s) * t.value;
          if (t.out == last) add<Real>(o + t.out * T + s, p);
          else store<Real>(o + t.out * T + s, p);
          last = t.out;
        }
      } else {
        for (const auto &t : terms_) {
          const Vec<Real> g = load<Real>(go + t.out * T + s) * t.value;
          const Vec<Real> x = load<Real>(a + t.left * T + s), y = load<Real>(b + t.right * T + s);
          add<Real>(ga + t.left * T + s, g * y);
          add<Real>(gb + t.right * T + s, g * x);
        }
      }
    }
  }
  bool backward_;
  int channels_;
  Ref left_, right_, out_, gout_, gleft_, gright_;
  std::vector<Bucket> buckets_;
  std::vector<Term> terms_;
};

// ---------------------------------------------------------------------------------------------------------------------
template <class Real> class Zero : public Operation<Real> {
 public:
  explicit Zero(Reader &r) { x_ = Ref::read(r), rows_ = r.next(); }
  void run(Tile<Real> &tile) const override { std::memset(tile.at(x_), 0, size_t(rows_) * kLineBytes); }

 private:
  Ref x_;
  int64_t rows_;
};

// Invariants B of some tensors, for the extrapolation grade: columns first.. of every atom become t(B) W, then |B|^2, with t
// the identity or asinh. Skipped unless somebody wants them.
template <class Real> class Invariants : public Operation<Real> {
 public:
  explicit Invariants(Reader &r) {
    first_ = r.integer(), outputs_ = r.integer(), asinh_ = r.integer();
    inputs_.resize(r.next());
    for (auto &s : inputs_) s.x = Ref::read(r), s.channels = r.integer(), channels_ += s.channels;
    weights_.pack(r.numbers(size_t(outputs_) * channels_), 1, outputs_, channels_);
  }
  int columns() const { return first_ + outputs_ + 1; }
  void run(Tile<Real> &tile) const override {
    if (!tile.features) return;
    constexpr int T = lanes<Real>;
    tile.work.reserve(size_t(outputs_ + 1 + (asinh_ ? channels_ : 0)) * T);
    Real *out = tile.work.data(), *square = out + outputs_ * T, *bent = square + T;
    std::memset(static_cast<void *>(square), 0, T * sizeof(Real));
    tile.sources.clear();
    for (const auto &s : inputs_) {
      const Real *x = tile.at(s.x);
      for (int n = 0; n < s.channels; ++n, x += s.x.stride * T)
        for (int i = 0; i < T; i += width<Real>) {
          const Vec<Real> v = load<Real>(x + i);
          add<Real>(square + i, v * v);
        }
      if (asinh_) {
        x = tile.at(s.x);
        tile.sources.push_back({bent, T, s.channels});
        for (int n = 0; n < s.channels; ++n, x += s.x.stride * T, bent += T)
          for (int i = 0; i < T; ++i) bent[i] = std::asinh(x[i]);
      } else {
        tile.sources.push_back({tile.at(s.x), ptrdiff_t(s.x.stride * T), s.channels});
      }
    }
    multiply<Real>(weights_, 0, tile.sources.data(), int(tile.sources.size()), T, out, T, false);
    for (int a = 0; a < tile.count; ++a) {
      double *to = tile.features + size_t(tile.atoms[a]) * tile.feature_columns + first_;
      for (int k = 0; k <= outputs_; ++k) to[k] = double(out[k * T + a]);  // the square is the last row
    }
  }

 private:
  struct Input { Ref x; int channels; };
  int first_, outputs_, channels_ = 0;
  bool asinh_;
  std::vector<Input> inputs_;
  Packed<Real> weights_;
};

// out[c][row] += value, one number for all channels and rows
template <class Real> class AddConstant : public Operation<Real> {
 public:
  explicit AddConstant(Reader &r) { x_ = Ref::read(r), channels_ = r.integer(), rows_ = r.integer(), value_ = Real(*r.numbers(1)); }
  void run(Tile<Real> &tile) const override {
    for (int n = 0; n < channels_; ++n) {
      Real *x = tile.at(x_) + n * x_.stride * lanes<Real>;
      for (int i = 0; i < rows_ * lanes<Real>; ++i) x[i] += value_;
    }
  }

 private:
  Ref x_;
  int channels_, rows_;
  Real value_;
};

}  // namespace grace
