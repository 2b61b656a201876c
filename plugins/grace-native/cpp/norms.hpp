// Normalisation of tile tensors, forward and backward.
#pragma once

#include "program.hpp"

namespace grace {

// Scalars x[c]: channels before `first` times `linear`, the others x s / sqrt(mean x^2 + 1e-10).
template <class Real> class InvariantNorm : public Operation<Real> {
 public:
  InvariantNorm(Reader &r, bool backward, bool trained = false) : backward_(backward) {
    x_ = Ref::read(r), y_ = Ref::read(r);
    if (backward) gx_ = Ref::read(r), gy_ = Ref::read(r);
    channels_ = r.integer(), first_ = r.integer(), linear_ = Real(*r.numbers(1));
    const double *s = r.numbers(channels_ - first_);
    scale_.assign(s, s + channels_ - first_);
    if (trained) linear_slot_ = r.next(), slot_ = r.next();
  }
  int64_t gradient_size() const override { return slot_ < 0 ? 0 : std::max(linear_slot_ + 1, slot_ + int64_t(scale_.size())); }
  void run(Tile<Real> &tile) const override {
    constexpr int T = lanes<Real>;
    const Real *x = tile.at(x_);
    const ptrdiff_t sx = x_.stride * T;
    const int n = channels_ - first_;
    for (int a = 0; a < T; ++a) {
      Real total = 0;
      for (int c = first_; c < channels_; ++c) total += x[c * sx + a] * x[c * sx + a];
      const Real inverse = 1 / std::sqrt(total / n + Real(1e-10));
      if (!backward_) {
        Real *y = tile.at(y_);
        const ptrdiff_t sy = y_.stride * T;
        if (first_) y[a] = linear_ * x[a];
        for (int c = first_; c < channels_; ++c) y[c * sy + a] = x[c * sx + a] * scale_[c - first_] * inverse;
        continue;
      }
      const Real *gy = tile.at(gy_);
      Real *gx = tile.at(gx_), dot = 0;
      const ptrdiff_t sg = gy_.stride * T, st = gx_.stride * T;
      for (int c = first_; c < channels_; ++c) dot += gy[c * sg + a] * scale_[c - first_] * x[c * sx + a];
      if (tile.gradient && slot_ >= 0) {
        if (first_) tile.gradient[linear_slot_] += double(tile.seed[a] * gy[a] * x[a]);
        for (int c = first_; c < channels_; ++c)
          tile.gradient[slot_ + c - first_] += double(tile.seed[a] * gy[c * sg + a] * x[c * sx + a] * inverse);
      }
      const Real k = dot * inverse * inverse * inverse / n;
      if (first_) gx[a] += linear_ * gy[a];
      for (int c = first_; c < channels_; ++c)
        gx[c * st + a] += gy[c * sg + a] * scale_[c - first_] * inverse - k * x[c * sx + a];
    }
  }

 private:
  bool backward_;
  Ref x_, y_, gx_, gy_;
  int channels_, first_;
  int64_t linear_slot_ = 0, slot_ = -1;  // of the gradient by the weights
  Real linear_;
  std::vector<Real> scale_;
};

// Equivariant tensors. Row f is divided by norm set[f] (-1: none), N_s = mean_n sum_f d_s[f] x[n,f]^2; rows marked
// `centre` first lose their mean over channels; affine [rows][channels], bias likewise.
template <class Real> class EquivariantNorm : public Operation<Real> {
 public:
  EquivariantNorm(Reader &r, bool backward) : backward_(backward) {
    x_ = Ref::read(r), y_ = Ref::read(r);
    if (backward) gx_ = Ref::read(r), gy_ = Ref::read(r);
    channels_ = r.integer(), rows_ = r.integer(), epsilon_ = Real(*r.numbers(1));
    set_.resize(rows_), centre_.resize(rows_);
    for (auto &s : set_) s = r.integer();
    for (auto &c : centre_) c = r.integer();
    const size_t size = size_t(rows_) * channels_;
    const double *d = r.numbers(2 * size_t(rows_)), *a = r.numbers(size), *b = r.numbers(size);
    weight_.assign(d, d + 2 * rows_), affine_.assign(a, a + size), bias_.assign(b, b + size);
  }
  void run(Tile<Real> &tile) const override {
    constexpr int T = lanes<Real>;
    tile.work.reserve(size_t(2) * channels_ * rows_ * T);
    Real *xc = tile.work.data(), *gc = xc + size_t(channels_) * rows_ * T;
    centred(tile.at(x_), x_.stride * T, xc);
    Real inverse[2][T];
    for (int s = 0; s < 2; ++s)
      for (int a = 0; a < T; ++a) {
        Real total = 0;
        for (int n = 0; n < channels_; ++n)
          for (int f = 0; f < rows_; ++f) total += weight_[s * rows_ + f] * xc[(n * rows_ + f) * T + a] * xc[(n * rows_ + f) * T + a];
        inverse[s][a] = 1 / std::sqrt(total / channels_ + epsilon_);
      }
    if (!backward_) {
      for (int n = 0; n < channels_; ++n)
        for (int f = 0; f < rows_; ++f)
          for (int a = 0; a < T; ++a)
            tile.at(y_)[(n * y_.stride + f) * T + a] =
                xc[(n * rows_ + f) * T + a] * affine_[f * channels_ + n] * factor(inverse, f, a) + bias_[f * channels_ + n];
      return;
    }
    Real slope[2][T] = {};
    const Real *gy = tile.at(gy_);
    for (int n = 0; n < channels_; ++n)
      for (int f = 0; f < rows_; ++f)
        for (int a = 0; a < T; ++a) {
          const Real g = gy[(n * gy_.stride + f) * T + a] * affine_[f * channels_ + n];
          gc[(n * rows_ + f) * T + a] = g * factor(inverse, f, a);
          if (set_[f] >= 0) {
            const Real i = inverse[set_[f]][a];
            slope[set_[f]][a] -= g * xc[(n * rows_ + f) * T + a] * i * i * i / channels_;
          }
        }
    for (int n = 0; n < channels_; ++n)
      for (int f = 0; f < rows_; ++f)
        for (int a = 0; a < T; ++a)
          gc[(n * rows_ + f) * T + a] +=
              (weight_[f] * slope[0][a] + weight_[rows_ + f] * slope[1][a]) * xc[(n * rows_ + f) * T + a];
    centred(gc, rows_ * T, xc);
    for (int n = 0; n < channels_; ++n)
      for (int i = 0; i < rows_ * T; ++i) tile.at(gx_)[n * gx_.stride * T + i] += xc[n * rows_ * T + i];
  }

 private:
  Real factor(const Real (&inverse)[2][lanes<Real>], int f, int a) const { return set_[f] < 0 ? Real(1) : inverse[set_[f]][a]; }
  void centred(const Real *x, ptrdiff_t stride, Real *to) const {
    constexpr int T = lanes<Real>;
    for (int f = 0; f < rows_; ++f) {
      Real mean[T] = {};
      if (centre_[f]) {
        for (int n = 0; n < channels_; ++n)
          for (int a = 0; a < T; ++a) mean[a] += x[n * stride + f * T + a];
        for (int a = 0; a < T; ++a) mean[a] /= channels_;
      }
      for (int n = 0; n < channels_; ++n)
        for (int a = 0; a < T; ++a) to[(n * rows_ + f) * T + a] = x[n * stride + f * T + a] - mean[a];
    }
  }
  bool backward_;
  Ref x_, y_, gx_, gy_;
  int channels_, rows_;
  Real epsilon_;
  std::vector<int> set_, centre_;
  std::vector<Real> weight_, affine_, bias_;
};

// Sigmoid gate of every group, driven by the scalars h of the same channel (optionally mixed over channels first):
// out[n, f] = x[n, f] sigmoid(t[n, group(f)]),  t = W2 silu(W1 h + b1) + b2  or  W h + b.
template <class Real> class Gate : public Operation<Real> {
 public:
  Gate(Reader &r, bool backward) : backward_(backward) {
    x_ = Ref::read(r), y_ = Ref::read(r);
    if (backward) gx_ = Ref::read(r), gy_ = Ref::read(r);
    channels_ = r.integer(), groups_ = r.integer();
    first_.resize(groups_ + 1);
    for (auto &f : first_) f = r.integer();
    scalars_.resize(r.next());
    for (auto &s : scalars_) s = r.integer();
    mixed_ = r.integer();
    forth_ = take(r, size_t(channels_) * mixed_), back_ = take(r, size_t(mixed_) * channels_);
    layers_.resize(r.next());
    for (auto &l : layers_) {
      l.in = r.integer(), l.out = r.integer();
      l.w = take(r, size_t(l.in) * l.out), l.b = take(r, l.out);
    }
  }
  void run(Tile<Real> &tile) const override {
    for (int a = 0; a < lanes<Real>; ++a) one(tile, a);
  }

 private:
  struct Layer { int in, out; std::vector<Real> w, b; };
  static std::vector<Real> take(Reader &r, size_t n) {
    const double *p = r.numbers(n);
    return std::vector<Real>(p, p + n);
  }
  static Real sigmoid(Real x) { return 1 / (1 + std::exp(-x)); }
  static Real silu_slope(Real x) { const Real s = sigmoid(x); return s * (1 + x * (1 - s)); }
  // x[n][i] w[n][k] -> [k][i]
  static void mix(const std::vector<Real> &x, const std::vector<Real> &w, int n, int k, int count, std::vector<Real> &to) {
    to.assign(size_t(k) * count, 0);
    for (int a = 0; a < n; ++a)
      for (int b = 0; b < k; ++b)
        for (int i = 0; i < count; ++i) to[b * count + i] += x[a * count + i] * w[a * k + b];
  }
  static void mix_transposed(const std::vector<Real> &g, const std::vector<Real> &w, int n, int k, int count, std::vector<Real> &to) {
    to.assign(size_t(n) * count, 0);
    for (int a = 0; a < n; ++a)
      for (int b = 0; b < k; ++b)
        for (int i = 0; i < count; ++i) to[a * count + i] += g[b * count + i] * w[a * k + b];
  }
  void one(Tile<Real> &tile, int lane) const {
    constexpr int T = lanes<Real>;
    const int count = int(scalars_.size());
    const auto x = [&](int n, int f) -> Real & { return tile.at(x_)[(n * x_.stride + f) * T + lane]; };
    std::vector<Real> h(size_t(channels_) * count), before, after, driven = h;
    for (int n = 0; n < channels_; ++n)
      for (int i = 0; i < count; ++i) h[n * count + i] = x(n, scalars_[i]);
    driven = h;
    if (mixed_) {
      mix(h, forth_, channels_, mixed_, count, before);
      after = before;
      for (auto &v : after) v *= sigmoid(v);
      mix(after, back_, mixed_, channels_, count, driven);
    }
    std::vector<Real> gdriven(size_t(channels_) * count, 0);
    std::vector<std::vector<Real>> z(layers_.size());
    for (int n = 0; n < channels_; ++n) {
      std::vector<Real> input(driven.begin() + n * count, driven.begin() + (n + 1) * count);
      for (size_t k = 0; k < layers_.size(); ++k) {
        const Layer &l = layers_[k];
        z[k] = l.b;
        for (int i = 0; i < l.in; ++i)
          for (int o = 0; o < l.out; ++o) z[k][o] += input[i] * l.w[i * l.out + o];
        input = z[k];
        for (auto &v : input) v *= sigmoid(v);
      }
      std::vector<Real> g(groups_, 0);
      for (int k = 0; k < groups_; ++k) {
        const Real gate = sigmoid(z.back()[k]);
        for (int f = first_[k]; f < first_[k + 1]; ++f) {
          if (!backward_) {
            tile.at(y_)[(n * y_.stride + f) * T + lane] = x(n, f) * gate;
          } else {
            const Real go = tile.at(gy_)[(n * gy_.stride + f) * T + lane];
            tile.at(gx_)[(n * gx_.stride + f) * T + lane] += go * gate;
            g[k] += go * x(n, f);
          }
        }
        g[k] *= gate * (1 - gate);
      }
      if (!backward_) continue;
      for (size_t k = layers_.size(); k-- > 0;) {
        const Layer &l = layers_[k];
        std::vector<Real> below(l.in, 0);
        for (int i = 0; i < l.in; ++i)
          for (int o = 0; o < l.out; ++o) below[i] += l.w[i * l.out + o] * g[o];
        if (k)
          for (int i = 0; i < l.in; ++i) below[i] *= silu_slope(z[k - 1][i]);
        g = below;
      }
      for (int i = 0; i < count; ++i) gdriven[n * count + i] = g[i];
    }
    if (!backward_) return;
    if (mixed_) {
      std::vector<Real> inner;
      mix_transposed(gdriven, back_, mixed_, channels_, count, inner);
      for (size_t i = 0; i < inner.size(); ++i) inner[i] *= silu_slope(before[i]);
      mix_transposed(inner, forth_, channels_, mixed_, count, gdriven);
    }
    for (int n = 0; n < channels_; ++n)
      for (int i = 0; i < count; ++i) tile.at(gx_)[(n * gx_.stride + scalars_[i]) * T + lane] += gdriven[n * count + i];
  }
  bool backward_;
  Ref x_, y_, gx_, gy_;
  int channels_, groups_, mixed_;
  std::vector<int> first_, scalars_;
  std::vector<Real> forth_, back_;
  std::vector<Layer> layers_;
};

}  // namespace grace
