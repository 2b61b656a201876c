// Gradients by the weights of  sum over atoms of seed_i E_i  (training): operations that programs for inference do not have.
//
//   out[o][row] = sum_i W[o][i] x[i][row]      dW[o][i] = sum over rows and atoms of seed g[o][row] x[i][row]
//
// Every array of weights has a place ("slot") in one vector of gradients per thread. The seeds multiply here, not in the
// backward pass: all atoms of a structure share one seed, so that what passes through messages is right, too.
#pragma once

#include "bonds.hpp"

namespace grace {

// to[m * so + j] += sum over vectors of g[m][v] x[j][v], j < n <= width
template <class Real, int M>
inline void dot_block(const Real *g, ptrdiff_t gs, const Real *const *x, int vectors, double *to, ptrdiff_t so, int n) {
  constexpr int W = width<Real>;
  using V = Vec<Real>;
  V c[M][W];
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) c[m][i] = zero<Real>();
  for (int v = 0; v < vectors; ++v) {
    V a[M];
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) a[m] = load<Real>(g + m * gs + v * W);
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
      const V b = load<Real>(x[i] + v * W);
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) c[m][i] += a[m] * b;
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) {
    const V t = fold<Real>(c[m]);
    for (int j = 0; j < n; ++j) to[m * so + j] += double(t[j]);
  }
}

// dW [outputs][so] of one source; g already carries the seeds
template <class Real>
void weight_gradient(const Real *g, ptrdiff_t gs, int outputs, const Real *x, ptrdiff_t xs, int inputs, int columns, double *to, ptrdiff_t so) {
  constexpr int W = width<Real>, M = 3;
  const int vectors = columns / W;
  for (int i = 0; i < inputs; i += W) {
    const int n = std::min(W, inputs - i);
    const Real *from[W];
    for (int j = 0; j < W; ++j) from[j] = x + (i + std::min(j, n - 1)) * xs;
    int o = 0;
    for (; o + M <= outputs; o += M) dot_block<Real, M>(g + o * gs, gs, from, vectors, to + o * so + i, so, n);
    for (; o < outputs; ++o) dot_block<Real, 1>(g + o * gs, gs, from, vectors, to + o * so + i, so, n);
  }
}

// to[c][row][lane] = seed[lane] * from[c][row][lane]
template <class Real>
void with_seeds(const Tile<Real> &tile, const Real *from, ptrdiff_t stride, int channels, int columns, Real *to) {
  for (int c = 0; c < channels; ++c, from += stride, to += columns)
    for (int i = 0; i < columns; i += lanes<Real>)
      for (int a = 0; a < lanes<Real>; ++a) to[i + a] = from[i + a] * tile.seed[a];
}

template <class Real> class LinearGradient : public Operation<Real> {
 public:
  LinearGradient(Reader &r, int elements) {
    blocks_.resize(r.next());
    for (auto &b : blocks_) {
      b.gradient = Ref::read(r), b.outputs = r.integer(), b.rows = r.integer();
      b.sources.resize(r.next());
      for (auto &s : b.sources) {
        s.x = Ref::read(r), s.channels = r.integer(), s.dependent = r.next(), s.slot = r.next();
        size_ = std::max(size_, s.slot + int64_t(s.dependent ? elements : 1) * b.outputs * s.channels);
      }
    }
  }
  int64_t gradient_size() const override { return size_; }
  void run(Tile<Real> &tile) const override {
    if (!tile.gradient) return;
    constexpr int T = lanes<Real>;
    for (const auto &b : blocks_) {
      const int columns = b.rows * T;
      tile.work.reserve(size_t(b.outputs) * columns);
      with_seeds<Real>(tile, tile.at(b.gradient), b.gradient.stride * T, b.outputs, columns, tile.work.data());
      for (const auto &s : b.sources)
        weight_gradient<Real>(tile.work.data(), columns, b.outputs, tile.at(s.x), s.x.stride * T, s.channels, columns,
                              tile.gradient + s.slot + (s.dependent ? int64_t(tile.element) * b.outputs * s.channels : 0), s.channels);
    }
  }

 private:
  struct Input { Ref x; int channels; bool dependent; int64_t slot; };
  struct Block {
    Ref gradient;
    int outputs, rows;
    std::vector<Input> sources;
  };
  std::vector<Block> blocks_;
  int64_t size_ = 0;
};

// Constants [element][channel] that a message carries in one of its rows.
template <class Real> class MessageConstantGradient : public Operation<Real> {
 public:
  MessageConstantGradient(Reader &r, int elements) {
    message_ = r.integer(), rows_ = r.integer(), channels_ = r.integer(), row_ = r.integer(), slot_ = r.next();
    size_ = slot_ + int64_t(elements) * channels_;
  }
  int64_t gradient_size() const override { return size_; }
  void run(Tile<Real> &tile) const override {
    if (!tile.gradient) return;
    const int padded = round_up(channels_, lanes<Real>);
    double *to = tile.gradient + slot_ + int64_t(tile.element) * channels_;
    for (int a = 0; a < tile.count; ++a) {
      const Real *from = tile.message_gradient[message_] + (size_t(tile.atoms[a]) * rows_ + row_) * padded;
      for (int n = 0; n < channels_; ++n) to[n] += double(tile.seed[a] * from[n]);
    }
  }

 private:
  int message_, rows_, channels_, row_;
  int64_t slot_, size_;
};

}  // namespace grace
