// Everything that runs over the bonds of one atom: geometry, harmonics, radial tables, densities, messages, forces.
//
//   d = sqrt(r^2 + 1e-10),  u = r / d                                        geometry, in double precision
//   phi_k(d) = sum_s b_s(x) T[i + s][k],  i + x = d / end * intervals        quintic B-spline tables
//   B[k, lm] = sum_b phi_k(d_b) Y_lm(u_b)    per element of the neighbour    (densities; A is linear in B)
//   T[n, lm, q] = sum_b R_b[n, l] Y_b[lm] I_j[n, q],  out[f] = sum c T       (messages)
//   dE/dr = (g_u - (g_u . u) u) / d + g_d u
//
// The bonds of an atom are sorted by the element of the neighbour; every run is padded to whole registers. Padded
// slots have zero radial functions.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "program.hpp"

namespace grace {

constexpr int kMaxDegree = 8;

struct Neighbours {  // bonds of all centres, CSR
  const int64_t *first = nullptr;
  const int32_t *other = nullptr;
  const double *vector = nullptr;
  const int32_t *species = nullptr;
};

// The bonds of one atom in slots.
template <class Real> struct Slots {
  int size = 0, capacity = 0;  // slots in use, and between rows of the arrays below
  std::vector<int> bond, other, segment;  // bond number or -1, neighbour, first slot of every element (and the end)
  Buffer<double> rx, ry, rz, distance;  // A
  Buffer<Real> x, y, z, inverse, harmonics, gd, gy;  // harmonics, gy: [lm][capacity]
  Buffer<int> interval;                 // of the radial table in use, and the spline weights there: [6][capacity]
  Buffer<Real> weight, slope_weight;
  void reserve(int count, int elements, int lmax) {
    segment.resize(elements + 1);
    const int wanted = round_up(count, lanes<Real>) + elements * lanes<Real>;
    const size_t lm = size_t(lmax + 1) * (lmax + 1);
    if (wanted > capacity) capacity = wanted;
    bond.resize(capacity), other.resize(capacity), interval.reserve(capacity);
    for (auto *b : {&rx, &ry, &rz, &distance}) b->reserve(capacity);
    for (auto *b : {&x, &y, &z, &inverse, &gd}) b->reserve(capacity);
    weight.reserve(size_t(6) * capacity), slope_weight.reserve(size_t(6) * capacity);
    harmonics.reserve(lm * capacity), gy.reserve(lm * capacity);
  }
};

// A loop of its own over whole arrays, so that the compiler turns it into vector code.
template <class Real>
void unit_vectors(int count, const double *__restrict rx, const double *__restrict ry, const double *__restrict rz, double *__restrict distance,
                  Real *__restrict inverse, Real *__restrict x, Real *__restrict y, Real *__restrict z) {
  for (int k = 0; k < count; ++k) {
    const double d = std::sqrt(rx[k] * rx[k] + ry[k] * ry[k] + rz[k] * rz[k] + 1e-10), i = 1 / d;
    distance[k] = d, inverse[k] = Real(i), x[k] = Real(rx[k] * i), y[k] = Real(ry[k] * i), z[k] = Real(rz[k] * i);
  }
}

template <class Real> void fill_slots(Slots<Real> &s, const Neighbours &nb, int atom, int elements) {
  constexpr int W = width<Real>;
  const int64_t begin = nb.first[atom], end = nb.first[atom + 1];
  int count[256] = {}, *at = count;
  std::vector<int> large;
  if (elements > 256) large.assign(elements, 0), at = large.data();
  if (elements == 1) at[0] = int(end - begin);
  else for (int64_t b = begin; b < end; ++b) ++at[nb.species[nb.other[b]]];
  int slot = 0;
  for (int e = 0; e < elements; ++e) {
    s.segment[e] = slot;
    const int n = at[e];
    at[e] = slot;
    const int next = slot + round_up(n, W);
    for (int k = slot + n; k < next; ++k) {
      s.bond[k] = -1, s.other[k] = atom;
      s.rx[k] = s.ry[k] = 0, s.rz[k] = 1e3;  // beyond every cutoff
    }
    slot = next;
  }
  s.segment[elements] = s.size = slot;
  for (int64_t b = begin; b < end; ++b) {
    const int j = nb.other[b], k = at[elements == 1 ? 0 : nb.species[j]]++;
    const double *r = nb.vector + 3 * b;
    s.bond[k] = int(b - begin), s.other[k] = j;
    s.rx[k] = r[0], s.ry[k] = r[1], s.rz[k] = r[2];
  }
  unit_vectors(s.size, s.rx.data(), s.ry.data(), s.rz.data(), s.distance.data(), s.inverse.data(), s.x.data(), s.y.data(), s.z.data());
}

// Constants of the recurrences P_mm = a, P_lm = b z P_(l-1,m) + c P_(l-2,m); sqrt(2) for m > 0 is kept in P.
struct HarmonicConstants {
  double start[kMaxDegree + 1], b[kMaxDegree + 1][kMaxDegree + 1], c[kMaxDegree + 1][kMaxDegree + 1];
  HarmonicConstants() {
    double pmm = 1;
    for (int m = 0; m <= kMaxDegree; ++m) {
      if (m) pmm *= std::sqrt((2.0 * m + 1) / (2.0 * m));
      start[m] = pmm * (m ? std::sqrt(2.0) : 1.0);
      for (int l = m + 1; l <= kMaxDegree; ++l) {
        const double n = std::sqrt((4.0 * l * l - 1) / (double(l) * l - double(m) * m));
        b[l][m] = n;
        c[l][m] = l == m + 1 ? 0 : -n * std::sqrt((double(l - 1) * (l - 1) - double(m) * m) / (4.0 * (l - 1) * (l - 1) - 1));
      }
    }
  }
};
inline const HarmonicConstants &harmonic_constants() {
  static const HarmonicConstants constants;
  return constants;
}

template <class Real> void harmonics(Slots<Real> &s, int lmax) {
  using V = Vec<Real>;
  const HarmonicConstants &h = harmonic_constants();
  for (int k = 0; k < s.size; k += width<Real>) {
    const V x = load<Real>(&s.x[k]), y = load<Real>(&s.y[k]), z = load<Real>(&s.z[k]);
    Real *Y = s.harmonics.data() + k;
    V re = splat<Real>(1), im = zero<Real>();
    for (int m = 0; m <= lmax; ++m) {
      if (m) {
        const V t = x * re - y * im;
        im = x * im + y * re, re = t;
      }
      V before = zero<Real>(), p = splat<Real>(Real(h.start[m]));
      for (int l = m; l <= lmax; ++l) {
        if (l > m) {
          const V next = Real(h.b[l][m]) * z * p + Real(h.c[l][m]) * before;
          before = p, p = next;
        }
        store<Real>(Y + ptrdiff_t(l * l + l + m) * s.capacity, p * re);
        if (m) store<Real>(Y + ptrdiff_t(l * l + l - m) * s.capacity, p * im);
      }
    }
  }
}

// Turns gy, gd into dE/dr of every slot (written to x, y, z).
template <class Real> void harmonics_backward(Slots<Real> &s, int lmax) {
  using V = Vec<Real>;
  const HarmonicConstants &h = harmonic_constants();
  for (int k = 0; k < s.size; k += width<Real>) {
    const V x = load<Real>(&s.x[k]), y = load<Real>(&s.y[k]), z = load<Real>(&s.z[k]);
    const Real *g = s.gy.data() + k;
    V gx = zero<Real>(), gy = zero<Real>(), gz = zero<Real>();
    V re = splat<Real>(1), im = zero<Real>(), re1 = zero<Real>(), im1 = zero<Real>();  // of order m and m - 1
    for (int m = 0; m <= lmax; ++m) {
      if (m) {
        re1 = re, im1 = im;
        re = x * re1 - y * im1, im = x * im1 + y * re1;
      }
      V before = zero<Real>(), p = splat<Real>(Real(h.start[m])), dbefore = before, dp = before;
      V c = zero<Real>(), d = zero<Real>(), cz = zero<Real>(), dz = zero<Real>();
      for (int l = m; l <= lmax; ++l) {
        if (l > m) {
          const V next = Real(h.b[l][m]) * z * p + Real(h.c[l][m]) * before;
          const V dnext = Real(h.b[l][m]) * (p + z * dp) + Real(h.c[l][m]) * dbefore;
          before = p, p = next, dbefore = dp, dp = dnext;
        }
        const V gc = load<Real>(g + ptrdiff_t(l * l + l + m) * s.capacity);
        c += gc * p, cz += gc * dp;
        if (m) {
          const V gs = load<Real>(g + ptrdiff_t(l * l + l - m) * s.capacity);
          d += gs * p, dz += gs * dp;
        }
      }
      gz += cz * re + dz * im;
      if (m) {
        gx += Real(m) * (c * re1 + d * im1);
        gy += Real(m) * (d * re1 - c * im1);
      }
    }
    const V radial = load<Real>(&s.gd[k]), inverse = load<Real>(&s.inverse[k]);
    const V along = radial - (gx * x + gy * y + gz * z) * inverse;
    store<Real>(&s.x[k], gx * inverse + along * x);
    store<Real>(&s.y[k], gy * inverse + along * y);
    store<Real>(&s.z[k], gz * inverse + along * z);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// K functions of the distance per pair of elements, as splines or (for checks) given on every bond from outside.
template <class Real> class Radial {
 public:
  int functions = 0;  // padded to whole lines
  int64_t gradient_size() const {
    if (tables_.size() != 1) throw std::runtime_error("grace-native: training needs one table per radial function");
    return int64_t(intervals_[0] + 5) * functions;
  }
  // Adds to the gradient by the coefficients of the (only) table what a slot has: `g` by the values of functions first..
  void scatter(const Slots<Real> &s, int slot, int first, int count, const Real *g, Real seed, double *to) const {
    to += size_t(s.interval[slot]) * functions + first;
    for (int i = 0; i < 6; ++i, to += functions) {
      const Real w = seed * s.weight[size_t(i) * s.capacity + slot];
      for (int k = 0; k < count; ++k) to[k] += double(w * g[k]);
    }
  }
  bool within(int centre, int other, const Slots<Real> &s, int slot) const {
    return s.bond[slot] >= 0 && s.distance[slot] < end_[centre * elements_ + other];
  }
  int used = 0;       // those in front of the padding
  const double *values = nullptr, *slopes = nullptr;  // [bond][functions] when given from outside
  Radial(Reader &r, int elements) {
    functions = r.integer();
    const int tables = r.integer();
    for (int i = 0; i < elements * elements; ++i) table_of_.push_back(r.integer());
    const double *ends = r.numbers(size_t(elements) * elements);
    end_.assign(ends, ends + elements * elements);
    for (int t = 0; t < tables; ++t) {
      const int intervals = r.integer();
      intervals_.push_back(intervals);
      const size_t size = size_t(intervals + 5) * functions;
      const double *from = r.numbers(size);
      tables_.emplace_back();
      tables_.back().reserve(size);
      for (size_t i = 0; i < size; ++i) {
        tables_.back()[i] = Real(from[i]);
        if (from[i] != 0) used = std::max(used, int(i % functions) + 1);
      }
    }
    if (!tables) used = functions;
    elements_ = elements;
  }
  // Places in the table and spline weights (and those of slopes) of the slots of one element, before `evaluate`.
  void locate(int centre, int other, Slots<Real> &s, bool slopes) const {
    const int pair = centre * elements_ + other, begin = s.segment[other], count = s.segment[other + 1] - begin;
    if (values || !count || !(end_[pair] > 0)) return;
    const int intervals = intervals_[table_of_[pair]];
    const ptrdiff_t step = s.capacity;
    const double scale = intervals / end_[pair];
    if (slopes) spline_weights<true>(count, intervals, scale, &s.distance[begin], &s.interval[begin], &s.weight[begin], &s.slope_weight[begin], step);
    else spline_weights<false>(count, intervals, scale, &s.distance[begin], &s.interval[begin], &s.weight[begin], &s.slope_weight[begin], step);
  }
  // Values, and slopes unless null, of one slot; `bond` is its number, negative for padding.
  void evaluate(int centre, int other, const Slots<Real> &s, int slot, int64_t bond, Real *value, Real *slope) const {
    const int pair = centre * elements_ + other;
    if (bond < 0 || s.distance[slot] >= end_[pair]) return clear(value, slope);
    if (values) {
      for (int k = 0; k < functions; ++k) {
        value[k] = Real(values[bond * functions + k]);
        if (slope) slope[k] = Real(slopes[bond * functions + k]);
      }
      return;
    }
    const Real *row = tables_[table_of_[pair]].data() + size_t(s.interval[slot]) * functions;
    if (slope) combine<true>(row, &s.weight[slot], &s.slope_weight[slot], s.capacity, value, slope);
    else combine<false>(row, &s.weight[slot], &s.slope_weight[slot], s.capacity, value, slope);
  }

 private:
  void clear(Real *value, Real *slope) const {
    std::memset(value, 0, functions * sizeof(Real));
    if (slope) std::memset(slope, 0, functions * sizeof(Real));
  }
  // Cardinal quintic B-splines and their derivatives times `scale`, [6][step]. The place within an interval is found in double
  // precision; from there on Real is enough.
  template <bool Slopes>
  static void spline_weights(int count, int intervals, double scale, const double *__restrict distance, int *__restrict interval,
                             Real *__restrict w, Real *__restrict dw, ptrdiff_t step) {
    const Real f = Real(scale / 120), c = Real(1.0 / 120);
    for (int k = 0; k < count; ++k) {
      const double x = std::min(distance[k] * scale, double(intervals));
      const int i = std::min(int(x), intervals - 1);
      interval[k] = i;
      const Real u = Real(x - i), v = 1 - u, u2 = u * u, v2 = v * v, u4 = u2 * u2, v4 = v2 * v2;
      w[k] = v4 * v * c, w[5 * step + k] = u4 * u * c;
      w[4 * step + k] = (1 + u * (5 + u * (10 + u * (10 + u * (5 - 5 * u))))) * c;
      w[step + k] = (1 + v * (5 + v * (10 + v * (10 + v * (5 - 5 * v))))) * c;
      w[2 * step + k] = (66 + u2 * (-60 + u2 * (30 - 10 * u))) * c;
      w[3 * step + k] = (66 + v2 * (-60 + v2 * (30 - 10 * v))) * c;
      if (!Slopes) continue;
      dw[k] = -5 * v4 * f, dw[5 * step + k] = 5 * u4 * f;
      dw[step + k] = -(5 + v * (20 + v * (30 + v * (20 - 25 * v)))) * f;
      dw[4 * step + k] = (5 + u * (20 + u * (30 + u * (20 - 25 * u)))) * f;
      dw[2 * step + k] = u * (-120 + u2 * (120 - 50 * u)) * f;
      dw[3 * step + k] = -v * (-120 + v2 * (120 - 50 * v)) * f;
    }
  }
  template <bool Slopes>
  void combine(const Real *row, const Real *w, const Real *dw, ptrdiff_t step, Real *value, Real *slope) const {
    using V = Vec<Real>;
    for (int k = 0; k < functions; k += width<Real>) {
      V p = zero<Real>(), q = zero<Real>();
#pragma GCC unroll 6
      for (int s = 0; s < 6; ++s) {
        const V t = load<Real>(row + s * functions + k);
        p += w[s * step] * t;
        if (Slopes) q += dw[s * step] * t;
      }
      store<Real>(value + k, p);
      if (Slopes) store<Real>(slope + k, q);
    }
  }
  int elements_ = 0;
  std::vector<int> table_of_, intervals_;
  std::vector<double> end_;
  std::vector<Buffer<Real>> tables_;
};

// ---------------------------------------------------------------------------------------------------------------------
// Work space of the bond loops of one thread.
template <class Real> struct BondSpace {
  Slots<Real> slots;
  Buffer<Real> value, slope, local, other, third;
};

template <class Real> struct BondItem {
  virtual ~BondItem() = default;
  virtual void forward(Tile<Real> &tile, int lane, int atom, const Neighbours &nb, BondSpace<Real> &w) const = 0;
  virtual void backward(Tile<Real> &tile, int lane, int atom, const Neighbours &nb, BondSpace<Real> &w) const = 0;
  // In place of `backward` when the gradient by the weights is wanted: adds to it, and to the gradients of messages.
  virtual void weights(Tile<Real> &, int, int, const Neighbours &, BondSpace<Real> &) const {}
  virtual int64_t gradient_size() const { return 0; }
};

// out[r][c] (+)= sum_k a(r, k) b[k][c], a(r, k) = a[r * ar + k * ak]; columns in whole registers.
template <class Real, int M, int N, bool Add>
inline void outer_block(const Real *a, ptrdiff_t ar, ptrdiff_t ak, const Real *b, ptrdiff_t sb, int count, Real *out, ptrdiff_t so) {
  using V = Vec<Real>;
  V c[M][N];
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) c[i][j] = Add ? load<Real>(out + i * so + j * width<Real>) : zero<Real>();
  for (int k = 0; k < count; ++k) {
    V v[N];
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) v[j] = load<Real>(b + k * sb + j * width<Real>);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const V x = splat<Real>(a[i * ar + k * ak]);
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) c[i][j] += x * v[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) store<Real>(out + i * so + j * width<Real>, c[i][j]);
}
template <class Real, int N, bool Add>
inline void outer_rows(const Real *a, ptrdiff_t ar, ptrdiff_t ak, int rows, const Real *b, ptrdiff_t sb, int count, Real *out, ptrdiff_t so) {
  constexpr int P = N == 4 ? 4 : kPanel;
  int r = 0;
  for (; r + P <= rows; r += P) outer_block<Real, P, N, Add>(a + r * ar, ar, ak, b, sb, count, out + r * so, so);
  for (; r + 2 <= rows; r += 2) outer_block<Real, 2, N, Add>(a + r * ar, ar, ak, b, sb, count, out + r * so, so);
  if (r < rows) outer_block<Real, 1, N, Add>(a + r * ar, ar, ak, b, sb, count, out + r * so, so);
}
template <class Real, bool Add>
inline void outer(const Real *a, ptrdiff_t ar, ptrdiff_t ak, int rows, const Real *b, ptrdiff_t sb, int count, int columns, Real *out, ptrdiff_t so) {
  constexpr int W = width<Real>;
  for (int c = 0; c < columns;) {
    const int left = (columns - c) / W;
    if (kPanel == 8 && (left == 4 || left >= 8)) outer_rows<Real, 4, Add>(a, ar, ak, rows, b + c, sb, count, out + c, so), c += 4 * W;
    else if (left >= kColumns) outer_rows<Real, kColumns, Add>(a, ar, ak, rows, b + c, sb, count, out + c, so), c += kColumns * W;
    else outer_rows<Real, 1, Add>(a, ar, ak, rows, b + c, sb, count, out + c, so), c += W;
  }
}

// Lanes of two vectors: those of a are numbered from 0, of b from the width.
template <class Real> struct Shuffle {
  using Index = std::conditional_t<sizeof(Real) == 8, int64_t, int32_t>;
  typedef Index Mask __attribute__((vector_size(GRACE_VECTOR_BYTES)));
  static Vec<Real> of(Vec<Real> a, Vec<Real> b, Mask m) {
#if defined(__clang__)
    Vec<Real> r{};
    for (int i = 0; i < width<Real>; ++i) r[i] = m[i] < width<Real> ? a[m[i]] : b[m[i] - width<Real>];
    return r;
#else
    return __builtin_shuffle(a, b, m);
#endif
  }
};

// Lane i of the result is the sum over the lanes of x[i], for as many vectors as there are lanes.
template <class Real, int Step> struct Fold {
  static Vec<Real> of(const Vec<Real> *x) {
    const Vec<Real> a = Fold<Real, Step / 2>::of(x), b = Fold<Real, Step / 2>::of(x + Step / 2);
    constexpr int W = width<Real>, h = Step / 2;
    typename Shuffle<Real>::Mask direct{}, crossed{};
    for (int i = 0; i < W; ++i) direct[i] = (i & h) ? W + i : i, crossed[i] = (i & h) ? W + (i ^ h) : (i ^ h);
    return Shuffle<Real>::of(a, b, direct) + Shuffle<Real>::of(a, b, crossed);
  }
};
template <class Real> struct Fold<Real, 1> {
  static Vec<Real> of(const Vec<Real> *x) { return x[0]; }
};
template <class Real> inline Vec<Real> fold(const Vec<Real> *x) { return Fold<Real, width<Real>>::of(x); }

// Densities. `projected`: functions phi_k, k < K, common to all degrees; tile tensor [element of the neighbour][k][lm].
// Otherwise functions [l][n] and the density itself, A[n][lm] = sum over elements z_e[n] sum_b R Y.
template <class Real> class DensityItem : public BondItem<Real> {
 public:
  DensityItem(Reader &r, const std::vector<Radial<Real>> &radials, int elements, bool trained) : elements_(elements) {
    radial_ = &radials.at(r.next()), lmax_ = r.integer(), projected_ = r.next(), channels_ = r.integer();
    out_ = Ref::read(r), gradient_ = Ref::read(r);
    rows_ = (lmax_ + 1) * (lmax_ + 1), used_ = radial_->used;
    const int F = radial_->functions;
    if (projected_) {
      blocks_.push_back({0, rows_, 0}), columns_ = F;
    } else {
      columns_ = round_up(channels_, lanes<Real>);
      for (int l = 0; l <= lmax_; ++l) blocks_.push_back({l * l, 2 * l + 1, l * columns_});
      // factors [centre element][neighbour element][lm][channel], 1/avg included
      const size_t count = size_t(elements) * elements * (lmax_ + 1) * channels_;
      const double *z = r.numbers(count);
      factors_.assign(z, z + count);
      if (F < (lmax_ + 1) * columns_) throw std::runtime_error("grace-native: radial table of another size");
    }
    if (!trained) return;
    if (projected_) throw std::runtime_error("grace-native: training needs the direct form of densities");
    table_slot_ = r.next(), factor_slot_ = r.next();
  }
  int64_t gradient_size() const override {
    return table_slot_ < 0 ? 0 : std::max(table_slot_ + radial_->gradient_size(), factor_slot_ + int64_t(factors_.size()));
  }
  void weights(Tile<Real> &tile, int lane, int atom, const Neighbours &nb, BondSpace<Real> &w) const override {
    constexpr int W = width<Real>;
    using V = Vec<Real>;
    Slots<Real> &s = w.slots;
    const int F = radial_->functions, used = (lmax_ + 1) * columns_;
    w.value.reserve(size_t(W) * F), w.slope.reserve(size_t(2) * W * F), w.other.reserve(size_t(W) * F), w.third.reserve(size_t(W) * F);
    w.local.reserve(size_t(rows_) * columns_);
    Real *values = w.other.data(), *by_value = w.slope.data(), *turned = by_value + size_t(W) * F, *by_factor = w.third.data();
    const Real *from = tile.at(gradient_) + lane;
    const Real seed = tile.seed[lane];
    gather(from, tile.element, -1, w.local.data());
    for (int e = 0; e < elements_; ++e) {
      if (s.segment[e] == s.segment[e + 1]) continue;
      radial_->locate(tile.element, e, s, false);
      std::memset(by_factor, 0, size_t(W) * F * sizeof(Real));
      for (int slot = s.segment[e]; slot < s.segment[e + 1]; slot += W) {
        for (int i = 0; i < W; ++i)
          radial_->evaluate(tile.element, e, s, slot + i, bond(s, slot + i, nb, atom), &w.value[size_t(i) * F], nullptr);
        transpose(&w.value[0], F, used, values);
        for (const auto &b : blocks_) {
          const Real *g = &w.local[size_t(b.row) * columns_];
          const ptrdiff_t place = ptrdiff_t(b.row) * s.capacity + slot;
          for (int k = 0; k < columns_; k += 8) by_function(s, place, g + k, b.rows, by_value + (b.function + k) * W);
        }
        for (int l = 0; l <= lmax_; ++l)
          for (int n = 0; n < columns_; ++n) {
            const int k = l * columns_ + n;
            const V t = load<Real>(by_value + k * W);
            add<Real>(by_factor + k * W, t * load<Real>(values + k * W));
            store<Real>(by_value + k * W, t * splat<Real>(n < channels_ ? factor(tile.element, e, l)[n] : Real(0)));
          }
        for (int k = 0; k < used; k += W) {  // [function][bond] -> [bond][function]
          V x[W];
#pragma GCC unroll 16
          for (int i = 0; i < W; ++i) x[i] = load<Real>(by_value + (k + i) * W);
          transpose_steps<W / 2>(x);
#pragma GCC unroll 16
          for (int i = 0; i < W; ++i) store<Real>(turned + size_t(i) * F + k, x[i]);
        }
        for (int i = 0; i < W; ++i)
          if (radial_->within(tile.element, e, s, slot + i))
            radial_->scatter(s, slot + i, 0, used, turned + size_t(i) * F, seed, tile.gradient + table_slot_);
      }
      double *to = tile.gradient + factor_slot_ + ((size_t(tile.element) * elements_ + e) * (lmax_ + 1)) * channels_;
      for (int l = 0; l <= lmax_; ++l)
        for (int n = 0; n < channels_; ++n) to[l * channels_ + n] += double(seed * sum<Real>(load<Real>(by_factor + (l * columns_ + n) * W)));
    }
  }
  void forward(Tile<Real> &tile, int lane, int atom, const Neighbours &nb, BondSpace<Real> &w) const override {
    constexpr int T = lanes<Real>, Chunk = 16;
    Slots<Real> &s = w.slots;
    const int F = radial_->functions;
    w.value.reserve(size_t(Chunk) * F), w.local.reserve(size_t(rows_) * columns_);
    Real *to = tile.at(out_) + lane;
    if (!projected_)
      for (int n = 0; n < channels_; ++n)
        for (int lm = 0; lm < rows_; ++lm) to[(n * out_.stride + lm) * T] = 0;
    for (int e = 0; e < elements_; ++e) {
      const int end = s.segment[e + 1];
      if (!projected_ && s.segment[e] == end) continue;
      std::memset(w.local.data(), 0, size_t(rows_) * columns_ * sizeof(Real));
      radial_->locate(tile.element, e, s, false);
      for (int begin = s.segment[e]; begin < end; begin += Chunk) {
        const int n = std::min(Chunk, end - begin);
        for (int k = 0; k < n; ++k)
          radial_->evaluate(tile.element, e, s, begin + k, bond(s, begin + k, nb, atom), &w.value[size_t(k) * F], nullptr);
        for (const auto &b : blocks_)
          outer<Real, true>(s.harmonics.data() + ptrdiff_t(b.row) * s.capacity + begin, s.capacity, 1, b.rows, &w.value[b.function], F, n,
                            columns_, &w.local[size_t(b.row) * columns_], columns_);
      }
      if (projected_) {
        for (int k = 0; k < columns_; ++k) {
          Real *channel = to + (e * columns_ + k) * out_.stride * T;
          for (int lm = 0; lm < rows_; ++lm) channel[lm * T] = w.local[lm * columns_ + k];
        }
      } else {
        for (int l = 0; l <= lmax_; ++l)
          for (int n = 0; n < channels_; ++n) {
            const Real z = factor(tile.element, e, l)[n];
            Real *channel = to + n * out_.stride * T;
            for (int lm = l * l; lm < (l + 1) * (l + 1); ++lm) channel[lm * T] += z * w.local[lm * columns_ + n];
          }
      }
    }
  }
  void backward(Tile<Real> &tile, int lane, int atom, const Neighbours &nb, BondSpace<Real> &w) const override {
    constexpr int W = width<Real>;
    using V = Vec<Real>;
    Slots<Real> &s = w.slots;
    const int F = radial_->functions;
    w.value.reserve(size_t(W) * F), w.slope.reserve(size_t(W) * F), w.other.reserve(size_t(2) * W * F);
    w.local.reserve(size_t(rows_) * columns_);
    Real *values = w.other.data(), *slopes = values + size_t(W) * F;  // [function][bond]
    const Real *from = tile.at(gradient_) + lane;
    for (int e = 0; e < elements_; ++e) {
      if (s.segment[e] == s.segment[e + 1]) continue;
      gather(from, tile.element, e, w.local.data());
      radial_->locate(tile.element, e, s, true);
      for (int slot = s.segment[e]; slot < s.segment[e + 1]; slot += W) {
        for (int i = 0; i < W; ++i)
          radial_->evaluate(tile.element, e, s, slot + i, bond(s, slot + i, nb, atom), &w.value[size_t(i) * F], &w.slope[size_t(i) * F]);
        transpose(&w.value[0], F, used_, values), transpose(&w.slope[0], F, used_, slopes);
        V gd = zero<Real>();
        for (const auto &b : blocks_) {
          const Real *g = &w.local[size_t(b.row) * columns_];
          const ptrdiff_t place = ptrdiff_t(b.row) * s.capacity + slot;
          const int count = projected_ ? used_ : channels_;
          int k = 0, lm = 0;
          for (; k + 8 <= count; k += 8) slope_block<8>(s, place, g + k, b.rows, slopes + (b.function + k) * W, gd);
          for (; k + 4 <= count; k += 4) slope_block<4>(s, place, g + k, b.rows, slopes + (b.function + k) * W, gd);
          for (; k < count; ++k) slope_block<1>(s, place, g + k, b.rows, slopes + (b.function + k) * W, gd);
          for (; lm + 8 <= b.rows; lm += 8) row_block<8>(s, place, g, lm, values + b.function * W, count);
          for (; lm + 4 <= b.rows; lm += 4) row_block<4>(s, place, g, lm, values + b.function * W, count);
          for (; lm < b.rows; ++lm) row_block<1>(s, place, g, lm, values + b.function * W, count);
        }
        add<Real>(&s.gd[slot], gd);
      }
    }
  }

 private:
  struct Block { int row, rows, function; };
  static int64_t bond(const Slots<Real> &s, int slot, const Neighbours &nb, int atom) {
    return s.bond[slot] < 0 ? -1 : nb.first[atom] + s.bond[slot];
  }
  // to[k] = sum_lm g[lm][k] Y_lm for 8 functions and the bonds of one register
  void by_function(const Slots<Real> &s, ptrdiff_t place, const Real *g, int rows, Real *to) const {
    Vec<Real> t[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) t[i] = zero<Real>();
    for (int lm = 0; lm < rows; ++lm) {
      const Vec<Real> y = load<Real>(s.harmonics.data() + place + ptrdiff_t(lm) * s.capacity);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) t[i] += splat<Real>(g[size_t(lm) * columns_ + i]) * y;
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) store<Real>(to + i * width<Real>, t[i]);
  }
  // gd += sum_k dphi_k (sum_lm g[lm][k] Y_lm), for M functions and the bonds of one register
  template <int M> void slope_block(const Slots<Real> &s, ptrdiff_t place, const Real *g, int rows, const Real *slopes, Vec<Real> &gd) const {
    Vec<Real> t[M];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) t[i] = zero<Real>();
    for (int lm = 0; lm < rows; ++lm) {
      const Vec<Real> y = load<Real>(s.harmonics.data() + place + ptrdiff_t(lm) * s.capacity);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) t[i] += splat<Real>(g[size_t(lm) * columns_ + i]) * y;
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) gd += t[i] * load<Real>(slopes + i * width<Real>);
  }
  // gy[lm] += sum_k g[lm][k] phi_k, for M rows
  template <int M> void row_block(Slots<Real> &s, ptrdiff_t place, const Real *g, int lm, const Real *values, int count) const {
    Vec<Real> t[M];
    g += size_t(lm) * columns_;
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) t[i] = zero<Real>();
    for (int k = 0; k < count; ++k) {
      const Vec<Real> v = load<Real>(values + k * width<Real>);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) t[i] += splat<Real>(g[size_t(i) * columns_ + k]) * v;
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) add<Real>(s.gy.data() + place + ptrdiff_t(lm + i) * s.capacity, t[i]);
  }
  // [bond][function] -> [function][bond]
  static void transpose(const Real *from, int stride, int count, Real *to) {
    constexpr int W = width<Real>;
    for (int k = 0; k < count; k += W) {
      Vec<Real> x[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) x[i] = load<Real>(from + size_t(i) * stride + k);
      transpose_steps<W / 2>(x);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) store<Real>(to + size_t(k + i) * W, x[i]);
    }
  }
  // Exchanges the off-diagonal blocks of size h, then those of half the size within every block.
  template <int h> static void transpose_steps(Vec<Real> *x) {
    constexpr int W = width<Real>;
    typename Shuffle<Real>::Mask low{}, high{};
    for (int j = 0; j < W; ++j) low[j] = (j & h) ? W + j - h : j, high[j] = (j & h) ? W + j : j + h;
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
      if (i & h) continue;
      const Vec<Real> a = x[i], b = x[i + h];
      x[i] = Shuffle<Real>::of(a, b, low), x[i + h] = Shuffle<Real>::of(a, b, high);
    }
    if constexpr (h > 1) transpose_steps<h / 2>(x);
  }
  const Real *factor(int centre, int e, int l) const {
    return factors_.data() + ((size_t(centre) * elements_ + e) * (lmax_ + 1) + l) * channels_;
  }
  // Gradient of one lane as [lm][column], padded columns zero; times the factors of element e unless that is negative.
  void gather(const Real *from, int centre, int e, Real *to) const {
    constexpr int T = lanes<Real>;
    for (int k = 0; k < columns_; ++k) {
      const Real *channel = from + ((projected_ ? e * columns_ : 0) + k) * gradient_.stride * T;
      const bool idle = !projected_ && k >= channels_;
      for (int lm = 0; lm < rows_; ++lm) to[lm * columns_ + k] = idle ? Real(0) : channel[lm * T];
    }
    if (projected_ || e < 0) return;
    for (int l = 0; l <= lmax_; ++l)
      for (int lm = l * l; lm < (l + 1) * (l + 1); ++lm)
        for (int n = 0; n < channels_; ++n) to[lm * columns_ + n] *= factor(centre, e, l)[n];
  }
  const Radial<Real> *radial_;
  int elements_, lmax_, channels_, rows_, columns_, used_;
  bool projected_;
  Ref out_, gradient_;
  std::vector<Block> blocks_;
  std::vector<Real> factors_;
  int64_t table_slot_ = -1, factor_slot_ = -1;  // of the gradient by the weights
};

// Messages: harmonics times radial functions times a tensor of the neighbour, coupled.
template <class Real> class MessageItem : public BondItem<Real> {
 public:
  MessageItem(Reader &r, const std::vector<Radial<Real>> &radials, int elements, bool trained) : elements_(elements) {
    radial_ = &radials.at(r.next()), message_ = r.integer(), lmax_ = r.integer();
    rows_q_ = r.integer(), channels_ = r.integer();
    padded_ = round_up(channels_, lanes<Real>);
    out_ = Ref::read(r), gradient_ = Ref::read(r), rows_ = r.integer();
    used_.resize(lmax_ + 1);
    for (auto &u : used_) u = r.integer();
    terms_.resize(r.next());
    for (auto &t : terms_) t.source = r.integer(), t.row = r.integer();
    const double *c = r.numbers(terms_.size());
    for (auto &t : terms_) t.value = Real(*c++);
    if (radial_->functions < (lmax_ + 1) * padded_) throw std::runtime_error("grace-native: radial table of another size");
    if (trained) slot_ = r.next();
  }
  int64_t gradient_size() const override { return slot_ < 0 ? 0 : slot_ + radial_->gradient_size(); }
  void forward(Tile<Real> &tile, int lane, int atom, const Neighbours &nb, BondSpace<Real> &w) const override {
    constexpr int T = lanes<Real>, W = width<Real>;
    Slots<Real> &s = w.slots;
    const int F = radial_->functions, count = (lmax_ + 1) * (lmax_ + 1) * rows_q_;
    w.value.reserve(size_t(s.capacity) * F), w.local.reserve(size_t(count) * padded_), w.other.reserve(size_t(rows_) * padded_);
    for (int e = 0; e < elements_; ++e) {
      radial_->locate(tile.element, e, s, false);
      for (int k = s.segment[e]; k < s.segment[e + 1]; ++k)
        radial_->evaluate(tile.element, e, s, k, s.bond[k] < 0 ? -1 : nb.first[atom] + s.bond[k], &w.value[size_t(k) * F], nullptr);
    }
    const Real *message = tile.message[message_];
    for (int l = 0; l <= lmax_; ++l) {
      if (!used_[l]) continue;
      for (int c = 0; c < padded_; c += W)
        for (int q = 0; q < rows_q_; q += 4)
          for (int m = 0; m <= 2 * l; m += 5) gather_block(w, message, l, m, q, c);
    }
    std::memset(w.other.data(), 0, size_t(rows_) * padded_ * sizeof(Real));
    for (const auto &t : terms_)
      for (int c = 0; c < padded_; c += W)
        add<Real>(&w.other[t.row * padded_ + c], t.value * load<Real>(&w.local[t.source * padded_ + c]));
    Real *to = tile.at(out_) + lane;
    for (int n = 0; n < channels_; ++n)
      for (int f = 0; f < rows_; ++f) to[(n * out_.stride + f) * T] = w.other[f * padded_ + n];
  }
  void backward(Tile<Real> &tile, int lane, int atom, const Neighbours &nb, BondSpace<Real> &w) const override {
    constexpr int W = width<Real>;
    Slots<Real> &s = w.slots;
    const int lm = (lmax_ + 1) * (lmax_ + 1);
    spread(tile.at(gradient_) + lane, w);
    const Real *message = tile.message[message_];
    Real *gradient = tile.message_gradient[message_];
    for (int e = 0; e < elements_; ++e) {
      radial_->locate(tile.element, e, s, true);
      for (int k = s.segment[e]; k < s.segment[e + 1]; ++k) {
        if (s.bond[k] < 0) continue;
        radial_->evaluate(tile.element, e, s, k, nb.first[atom] + s.bond[k], w.value.data(), w.slope.data());
        const size_t row = size_t(s.other[k]) * rows_q_ * padded_;
        Vec<Real> gd = zero<Real>();
        if (used_[0]) bond_backward<0>(w, k, message + row, gradient + row, gd);
        if (lmax_ >= 1 && used_[1]) bond_backward<1>(w, k, message + row, gradient + row, gd);
        if (lmax_ >= 2 && used_[2]) bond_backward<2>(w, k, message + row, gradient + row, gd);
        if (lmax_ >= 3 && used_[3]) bond_backward<3>(w, k, message + row, gradient + row, gd);
        if (lmax_ >= 4 && used_[4]) bond_backward<4>(w, k, message + row, gradient + row, gd);
        if (lmax_ >= 5 && used_[5]) bond_backward<5>(w, k, message + row, gradient + row, gd);
        if (lmax_ >= 6 && used_[6]) bond_backward<6>(w, k, message + row, gradient + row, gd);
        s.gd[k] += sum<Real>(gd);
        for (int i = 0; i < lm; i += W) {  // sums over the lanes of W rows at once
          Vec<Real> rows[W];
          for (int j = 0; j < W; ++j) rows[j] = load<Real>(&w.third[size_t(i + j) * W]);
          const Vec<Real> total = fold<Real>(rows);
          for (int j = 0; j < W && i + j < lm; ++j) s.gy[ptrdiff_t(i + j) * s.capacity + k] += total[j];
        }
      }
    }
  }
  void weights(Tile<Real> &tile, int lane, int atom, const Neighbours &nb, BondSpace<Real> &w) const override {
    Slots<Real> &s = w.slots;
    spread(tile.at(gradient_) + lane, w);
    const Real *message = tile.message[message_];
    Real *gradient = tile.message_gradient[message_];
    const Real seed = tile.seed[lane];
    for (int e = 0; e < elements_; ++e) {
      radial_->locate(tile.element, e, s, false);
      for (int k = s.segment[e]; k < s.segment[e + 1]; ++k) {
        if (!radial_->within(tile.element, e, s, k)) continue;
        radial_->evaluate(tile.element, e, s, k, nb.first[atom] + s.bond[k], w.value.data(), nullptr);
        const size_t row = size_t(s.other[k]) * rows_q_ * padded_;
        for (int l = 0; l <= lmax_; ++l) {
          if (!used_[l]) continue;
          bond_weights(w, l, k, message + row, gradient + row);
          radial_->scatter(s, k, l * padded_, padded_, &w.slope[l * padded_], seed, tile.gradient + slot_);
        }
      }
    }
  }

 private:
  struct Term { int source, row; Real value; };
  // Gradient of one lane [row][channel], and by the uncoupled sums, [lm][q][channel], in w.local.
  void spread(const Real *from, BondSpace<Real> &w) const {
    constexpr int T = lanes<Real>, W = width<Real>;
    const int F = radial_->functions, lm = (lmax_ + 1) * (lmax_ + 1), count = lm * rows_q_;
    w.value.reserve(F), w.slope.reserve(F), w.local.reserve(size_t(count) * padded_);
    w.other.reserve(size_t(rows_) * padded_), w.third.reserve(size_t(round_up(lm, W)) * W);
    std::memset(w.third.data(), 0, size_t(round_up(lm, W)) * W * sizeof(Real));
    std::memset(w.other.data(), 0, size_t(rows_) * padded_ * sizeof(Real));
    for (int n = 0; n < channels_; ++n)
      for (int f = 0; f < rows_; ++f) w.other[f * padded_ + n] = from[(n * gradient_.stride + f) * T];
    std::memset(w.local.data(), 0, size_t(count) * padded_ * sizeof(Real));
    for (const auto &t : terms_)
      for (int c = 0; c < padded_; c += W)
        add<Real>(&w.local[t.source * padded_ + c], t.value * load<Real>(&w.other[t.row * padded_ + c]));
  }
  // One bond and degree: gradient by R[l][n] (in w.slope) and by the message.
  void bond_weights(BondSpace<Real> &w, int l, int k, const Real *message, Real *gradient) const {
    using V = Vec<Real>;
    const Slots<Real> &s = w.slots;
    for (int c = 0; c < padded_; c += width<Real>) {
      const V r = load<Real>(&w.value[l * padded_ + c]);
      V gr = zero<Real>();
      for (int q = 0; q < rows_q_; ++q) {
        const Real *g = &w.local[(l * l * rows_q_ + q) * padded_ + c];
        V t = zero<Real>();
        for (int m = 0; m <= 2 * l; ++m)
          t += splat<Real>(s.harmonics[ptrdiff_t(l * l + m) * s.capacity + k]) * load<Real>(g + ptrdiff_t(m) * rows_q_ * padded_);
        gr += t * load<Real>(message + q * padded_ + c);
        add<Real>(gradient + q * padded_ + c, t * r);
      }
      store<Real>(&w.slope[l * padded_ + c], gr);
    }
  }
  template <int M, int Q> void gather_fixed(BondSpace<Real> &w, const Real *message, int l, int m0, int q0, int c) const {
    using V = Vec<Real>;
    const Slots<Real> &s = w.slots;
    const int F = radial_->functions;
    V t[M][Q];
#pragma GCC unroll 5
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) t[m][q] = zero<Real>();
    const Real *R = w.value.data() + l * padded_ + c, *Y = s.harmonics.data() + ptrdiff_t(l * l + m0) * s.capacity;
    for (int k = 0; k < s.size; ++k) {
      const V r = load<Real>(R + size_t(k) * F);
      const Real *I = message + (size_t(s.other[k]) * rows_q_ + q0) * padded_ + c;
      V v[Q];
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) v[q] = r * load<Real>(I + q * padded_);
#pragma GCC unroll 5
      for (int m = 0; m < M; ++m) {
        const V y = splat<Real>(Y[m * s.capacity + k]);
#pragma GCC unroll 4
        for (int q = 0; q < Q; ++q) t[m][q] += y * v[q];
      }
    }
#pragma GCC unroll 5
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) store<Real>(&w.local[((l * l + m0 + m) * rows_q_ + q0 + q) * padded_ + c], t[m][q]);
  }
  template <int M> void gather_rows(BondSpace<Real> &w, const Real *message, int l, int m0, int q0, int c) const {
    switch (rows_q_ - q0) {
      case 1: return gather_fixed<M, 1>(w, message, l, m0, q0, c);
      case 2: return gather_fixed<M, 2>(w, message, l, m0, q0, c);
      case 3: return gather_fixed<M, 3>(w, message, l, m0, q0, c);
      default: return gather_fixed<M, 4>(w, message, l, m0, q0, c);
    }
  }
  void gather_block(BondSpace<Real> &w, const Real *message, int l, int m0, int q0, int c) const {
    switch (2 * l + 1 - m0) {
      case 1: return gather_rows<1>(w, message, l, m0, q0, c);
      case 2: return gather_rows<2>(w, message, l, m0, q0, c);
      case 3: return gather_rows<3>(w, message, l, m0, q0, c);
      case 4: return gather_rows<4>(w, message, l, m0, q0, c);
      default: return gather_rows<5>(w, message, l, m0, q0, c);
    }
  }
  template <int L> void bond_backward(BondSpace<Real> &w, int k, const Real *message, Real *gradient, Vec<Real> &gd) const {
    using V = Vec<Real>;
    constexpr int M = 2 * L + 1;
    Slots<Real> &s = w.slots;
    V y[M], gy[M];
#pragma GCC unroll 13
    for (int m = 0; m < M; ++m) y[m] = splat<Real>(s.harmonics[ptrdiff_t(L * L + m) * s.capacity + k]), gy[m] = zero<Real>();
    for (int c = 0; c < padded_; c += width<Real>) {
      const V r = load<Real>(&w.value[L * padded_ + c]), dr = load<Real>(&w.slope[L * padded_ + c]);
      V gr = zero<Real>();
      for (int q = 0; q < rows_q_; ++q) {
        const V i = load<Real>(message + q * padded_ + c), ri = r * i;
        const Real *g = &w.local[(L * L * rows_q_ + q) * padded_ + c];
        V t = zero<Real>();
#pragma GCC unroll 13
        for (int m = 0; m < M; ++m) {
          const V x = load<Real>(g + ptrdiff_t(m) * rows_q_ * padded_);
          t += y[m] * x, gy[m] += ri * x;
        }
        gr += t * i;
        add<Real>(gradient + q * padded_ + c, t * r);
      }
      gd += gr * dr;
    }
#pragma GCC unroll 13
    for (int m = 0; m < M; ++m) store<Real>(&w.third[size_t(L * L + m) * width<Real>], gy[m]);
  }
  const Radial<Real> *radial_;
  int elements_, message_, lmax_, rows_q_, channels_, padded_, rows_;
  Ref out_, gradient_;
  std::vector<int> used_;
  std::vector<Term> terms_;
  int64_t slot_ = -1;  // of the gradient by the table
};

// Ziegler-Biersack-Littmark repulsion with the switch of LAMMPS pair zbl; energies of the tile and slopes of the bonds.
template <class Real> class ZblItem : public BondItem<Real> {
 public:
  ZblItem(Reader &r, int elements) : elements_(elements) {
    const size_t n = size_t(elements) * elements;
    const double *c = r.numbers(n), *z = r.numbers(elements);
    cutoff_.assign(c, c + n), charge_.assign(z, z + elements);
    width_ = *r.numbers(1), factor_ = *r.numbers(1);
  }
  void forward(Tile<Real> &tile, int lane, int, const Neighbours &, BondSpace<Real> &w) const override {
    double energy = 0;
    loop(tile.element, w.slots, [&](int, double value, double) { energy += value; });
    tile.energy[lane] += Real(energy);
  }
  void backward(Tile<Real> &tile, int, int, const Neighbours &, BondSpace<Real> &w) const override {
    loop(tile.element, w.slots, [&](int k, double, double slope) { w.slots.gd[k] += Real(slope); });
  }

 private:
  template <class F> void loop(int centre, const Slots<Real> &s, F use) const {
    for (int e = 0; e < elements_; ++e) {
      const double rc = cutoff_[centre * elements_ + e];
      for (int k = s.segment[e]; k < s.segment[e + 1]; ++k) {
        const double d = s.distance[k];
        if (s.bond[k] < 0 || d > rc) continue;
        const double zz = charge_[centre] * charge_[e];
        const double length = 0.46850 / (std::pow(charge_[centre], 0.23) + std::pow(charge_[e], 0.23));
        double v, v1, v2, c0, c1, c2;
        screening(d, length, v, v1, v2), screening(rc, length, c0, c1, c2);
        const double a = (-3 * c1 + width_ * c2) / (width_ * width_), b = (2 * c1 - width_ * c2) / (width_ * width_ * width_);
        const double c = -c0 + width_ * c1 / 2 - width_ * width_ * c2 / 12;
        const double t = d > rc - width_ ? d - (rc - width_) : 0;
        use(k, factor_ * zz * (v + a / 3 * t * t * t + b / 4 * t * t * t * t + c), factor_ * zz * (v1 + a * t * t + b * t * t * t));
      }
    }
  }
  static void screening(double d, double s, double &v, double &v1, double &v2) {
    static const double a[4] = {0.18175, 0.50986, 0.28022, 0.02817}, b[4] = {3.19980, 0.94229, 0.40290, 0.20162};
    double p = 0, p1 = 0, p2 = 0;
    for (int i = 0; i < 4; ++i) {
      const double e = a[i] * std::exp(-b[i] * d / s);
      p += e, p1 -= b[i] * e / s, p2 += b[i] * b[i] * e / (s * s);
    }
    const double r1 = 1 / (d + 1e-12), r2 = 1 / (d * d + 1e-12), r3 = 1 / (d * d * d + 1e-12);
    v = p * r1, v1 = p1 * r1 - p * r2, v2 = p2 * r1 - 2 * p1 * r2 + 2 * p * r3;
  }
  int elements_;
  std::vector<double> cutoff_, charge_;
  double width_, factor_;
};

}  // namespace grace
