// Normalisation of tile tensors, forward and backward.
#pragma once

#include "program.hpp"

namespace grace {

// Scalars x[c]: channels before `first` times `linear`, the others x s / sqrt(mean x^2 + 1e-10).
template <class Real> class InvariantNorm : public Operation<Real> {
 public:
  InvariantNorm(Reader &r, bool backward) : backward_(backward) {
    x_ = Ref::read(r), y_ = Ref::read(r);
    if (backward) gx_ = Ref::read(r), gy_ = Ref::read(r);
    channels_ = r.integer(), first_ = r.integer(), linear_ = Real(*r.numbers(1));
    const double *s = r.numbers(channels_ - first_);
    scale_.assign(s, s + channels_ - first_);
  }
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

}  // namespace grace
