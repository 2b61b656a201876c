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
  std::vector<double> distance;
  Buffer<Real> x, y, z, inverse, harmonics, gd, gy;  // harmonics, gy: [lm][capacity]
  void reserve(int count, int elements, int lmax) {
    segment.resize(elements + 1);
    const int wanted = round_up(count, lanes<Real>) + elements * lanes<Real>;
    const size_t lm = size_t(lmax + 1) * (lmax + 1);
    if (wanted > capacity) capacity = wanted;
    bond.resize(capacity), other.resize(capacity), distance.resize(capacity);
    for (auto *b : {&x, &y, &z, &inverse, &gd}) b->reserve(capacity);
    harmonics.reserve(lm * capacity), gy.reserve(lm * capacity);
  }
};

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
      s.bond[k] = -1, s.other[k] = atom, s.distance[k] = 1e3;
      s.x[k] = s.y[k] = 0, s.z[k] = 1, s.inverse[k] = Real(1e-3);
    }
    slot = next;
  }
  s.segment[elements] = s.size = slot;
  for (int64_t b = begin; b < end; ++b) {
    const int j = nb.other[b], k = at[elements == 1 ? 0 : nb.species[j]]++;
    const double *r = nb.vector + 3 * b;
    const double d = std::sqrt(r[0] * r[0] + r[1] * r[1] + r[2] * r[2] + 1e-10), inverse = 1 / d;
    s.bond[k] = int(b - begin), s.other[k] = j, s.distance[k] = d, s.inverse[k] = Real(inverse);
    s.x[k] = Real(r[0] * inverse), s.y[k] = Real(r[1] * inverse), s.z[k] = Real(r[2] * inverse);
  }
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
      for (size_t i = 0; i < size; ++i) tables_.back()[i] = Real(from[i]);
    }
    elements_ = elements;
  }
  // Values, and slopes unless null, of one slot.
  void evaluate(int centre, int other, double distance, int64_t bond, Real *value, Real *slope) const {
    const int pair = centre * elements_ + other;
    if (bond < 0 || distance >= end_[pair]) return clear(value, slope);
    if (values) {
      for (int k = 0; k < functions; ++k) {
        value[k] = Real(values[bond * functions + k]);
        if (slope) slope[k] = Real(slopes[bond * functions + k]);
      }
      return;
    }
    const int t = table_of_[pair], intervals = intervals_[t];
    const double scale = intervals / end_[pair], x = distance * scale;
    int i = int(x);
    if (i >= intervals) i = intervals - 1;
    Real w[6], dw[6];
    weights(x - i, scale, w, dw);
    const Real *row = tables_[t].data() + size_t(i) * functions;
    if (slope) combine<true>(row, w, dw, value, slope);
    else combine<false>(row, w, dw, value, slope);
  }

 private:
  void clear(Real *value, Real *slope) const {
    std::memset(value, 0, functions * sizeof(Real));
    if (slope) std::memset(slope, 0, functions * sizeof(Real));
  }
  // Cardinal quintic B-splines and their derivatives times `scale`.
  static void weights(double u, double scale, Real *w, Real *dw) {
    const double v = 1 - u, u2 = u * u, v2 = v * v, u4 = u2 * u2, v4 = v2 * v2;
    w[0] = Real(v4 * v / 120), w[5] = Real(u4 * u / 120);
    w[4] = Real((1 + u * (5 + u * (10 + u * (10 + u * (5 - 5 * u))))) / 120);
    w[1] = Real((1 + v * (5 + v * (10 + v * (10 + v * (5 - 5 * v))))) / 120);
    w[2] = Real((66 + u2 * (-60 + u2 * (30 - 10 * u))) / 120);
    w[3] = Real((66 + v2 * (-60 + v2 * (30 - 10 * v))) / 120);
    const double f = scale / 120;
    dw[0] = Real(-5 * v4 * f), dw[5] = Real(5 * u4 * f);
    dw[1] = Real(-(5 + v * (20 + v * (30 + v * (20 - 25 * v)))) * f);
    dw[4] = Real((5 + u * (20 + u * (30 + u * (20 - 25 * u)))) * f);
    dw[2] = Real(u * (-120 + u2 * (120 - 50 * u)) * f);
    dw[3] = Real(-v * (-120 + v2 * (120 - 50 * v)) * f);
  }
  template <bool Slopes> void combine(const Real *row, const Real *w, const Real *dw, Real *value, Real *slope) const {
    using V = Vec<Real>;
    for (int k = 0; k < functions; k += width<Real>) {
      V p = zero<Real>(), q = zero<Real>();
#pragma GCC unroll 6
      for (int s = 0; s < 6; ++s) {
        const V t = load<Real>(row + s * functions + k);
        p += w[s] * t;
        if (Slopes) q += dw[s] * t;
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

// Lane i of the result is the sum over the lanes of x[i], for as many vectors as there are lanes.
template <class Real, int Step> struct Fold {
  static Vec<Real> of(const Vec<Real> *x) {
    const Vec<Real> a = Fold<Real, Step / 2>::of(x), b = Fold<Real, Step / 2>::of(x + Step / 2);
    using Index = std::conditional_t<sizeof(Real) == 8, int64_t, int32_t>;
    typedef Index Mask __attribute__((vector_size(GRACE_VECTOR_BYTES)));
    constexpr int W = width<Real>, h = Step / 2;
    Mask direct{}, crossed{};
    for (int i = 0; i < W; ++i) direct[i] = (i & h) ? W + i : i, crossed[i] = (i & h) ? W + (i ^ h) : (i ^ h);
    return shuffle(a, b, direct) + shuffle(a, b, crossed);
  }
  template <class Mask> static Vec<Real> shuffle(Vec<Real> a, Vec<Real> b, Mask m) {
#if defined(__clang__)
    Vec<Real> r{};
    for (int i = 0; i < width<Real>; ++i) r[i] = m[i] < width<Real> ? a[m[i]] : b[m[i] - width<Real>];
    return r;
#else
    return __builtin_shuffle(a, b, m);
#endif
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
  DensityItem(Reader &r, const std::vector<Radial<Real>> &radials, int elements) : elements_(elements) {
    radial_ = &radials.at(r.next()), lmax_ = r.integer(), projected_ = r.next(), channels_ = r.integer();
    out_ = Ref::read(r), gradient_ = Ref::read(r);
    rows_ = (lmax_ + 1) * (lmax_ + 1);
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
  }
  void forward(Tile<Real> &tile, int lane, int atom, const Neighbours &nb, BondSpace<Real> &w) const override {
    constexpr int T = lanes<Real>, Chunk = 16;
    const Slots<Real> &s = w.slots;
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
      for (int begin = s.segment[e]; begin < end; begin += Chunk) {
        const int n = std::min(Chunk, end - begin);
        for (int k = 0; k < n; ++k)
          radial_->evaluate(tile.element, e, s.distance[begin + k], bond(s, begin + k, nb, atom), &w.value[size_t(k) * F], nullptr);
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
    w.value.reserve(size_t(W) * F), w.slope.reserve(size_t(W) * F), w.other.reserve(size_t(W) * F);
    w.local.reserve(size_t(rows_) * columns_);
    const Real *from = tile.at(gradient_) + lane;
    for (int e = 0; e < elements_; ++e) {
      if (s.segment[e] == s.segment[e + 1]) continue;
      gather(from, tile.element, e, w.local.data());
      for (int slot = s.segment[e]; slot < s.segment[e + 1]; slot += W) {
        for (int i = 0; i < W; ++i)
          radial_->evaluate(tile.element, e, s.distance[slot + i], bond(s, slot + i, nb, atom), &w.value[size_t(i) * F], &w.slope[size_t(i) * F]);
        V c[W];
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) c[i] = zero<Real>();
        for (const auto &b : blocks_) {
          outer<Real, false>(s.harmonics.data() + ptrdiff_t(b.row) * s.capacity + slot, 1, s.capacity, W, &w.local[size_t(b.row) * columns_],
                             columns_, b.rows, columns_, &w.other[b.function], F);
          for (int k = b.function; k < b.function + columns_; k += W)
#pragma GCC unroll 16
            for (int i = 0; i < W; ++i) c[i] += load<Real>(&w.other[size_t(i) * F + k]) * load<Real>(&w.slope[size_t(i) * F + k]);
        }
        add<Real>(&s.gd[slot], fold<Real>(c));
        for (const auto &b : blocks_)
          for (int lm = b.row; lm < b.row + b.rows; ++lm) {
#pragma GCC unroll 16
            for (int i = 0; i < W; ++i) c[i] = zero<Real>();
            for (int k = 0; k < columns_; k += W) {
              const V g = load<Real>(&w.local[size_t(lm) * columns_ + k]);
#pragma GCC unroll 16
              for (int i = 0; i < W; ++i) c[i] += g * load<Real>(&w.value[size_t(i) * F + b.function + k]);
            }
            add<Real>(&s.gy[ptrdiff_t(lm) * s.capacity + slot], fold<Real>(c));
          }
      }
    }
  }

 private:
  struct Block { int row, rows, function; };
  static int64_t bond(const Slots<Real> &s, int slot, const Neighbours &nb, int atom) {
    return s.bond[slot] < 0 ? -1 : nb.first[atom] + s.bond[slot];
  }
  const Real *factor(int centre, int e, int l) const {
    return factors_.data() + ((size_t(centre) * elements_ + e) * (lmax_ + 1) + l) * channels_;
  }
  // Gradient of one lane as [lm][column], padded columns zero.
  void gather(const Real *from, int centre, int e, Real *to) const {
    constexpr int T = lanes<Real>;
    for (int k = 0; k < columns_; ++k) {
      const Real *channel = from + ((projected_ ? e * columns_ : 0) + k) * gradient_.stride * T;
      const bool idle = !projected_ && k >= channels_;
      for (int lm = 0; lm < rows_; ++lm) to[lm * columns_ + k] = idle ? Real(0) : channel[lm * T];
    }
    if (projected_) return;
    for (int l = 0; l <= lmax_; ++l)
      for (int lm = l * l; lm < (l + 1) * (l + 1); ++lm)
        for (int n = 0; n < channels_; ++n) to[lm * columns_ + n] *= factor(centre, e, l)[n];
  }
  const Radial<Real> *radial_;
  int elements_, lmax_, channels_, rows_, columns_;
  bool projected_;
  Ref out_, gradient_;
  std::vector<Block> blocks_;
  std::vector<Real> factors_;
};

// Messages: harmonics times radial functions times a tensor of the neighbour, coupled.
template <class Real> class MessageItem : public BondItem<Real> {
 public:
  MessageItem(Reader &r, const std::vector<Radial<Real>> &radials, int elements) : elements_(elements) {
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
  }
  void forward(Tile<Real> &tile, int lane, int atom, const Neighbours &nb, BondSpace<Real> &w) const override {
    constexpr int T = lanes<Real>, W = width<Real>;
    const Slots<Real> &s = w.slots;
    const int F = radial_->functions, count = (lmax_ + 1) * (lmax_ + 1) * rows_q_;
    w.value.reserve(size_t(s.capacity) * F), w.local.reserve(size_t(count) * padded_), w.other.reserve(size_t(rows_) * padded_);
    for (int e = 0; e < elements_; ++e)
      for (int k = s.segment[e]; k < s.segment[e + 1]; ++k)
        radial_->evaluate(tile.element, e, s.distance[k], s.bond[k] < 0 ? -1 : nb.first[atom] + s.bond[k], &w.value[size_t(k) * F], nullptr);
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
    constexpr int T = lanes<Real>, W = width<Real>;
    Slots<Real> &s = w.slots;
    const int F = radial_->functions, lm = (lmax_ + 1) * (lmax_ + 1), count = lm * rows_q_;
    w.value.reserve(F), w.slope.reserve(F), w.local.reserve(size_t(count) * padded_);
    w.other.reserve(size_t(rows_) * padded_), w.third.reserve(size_t(round_up(lm, W)) * W);
    std::memset(w.third.data(), 0, size_t(round_up(lm, W)) * W * sizeof(Real));
    const Real *from = tile.at(gradient_) + lane;
    std::memset(w.other.data(), 0, size_t(rows_) * padded_ * sizeof(Real));
    for (int n = 0; n < channels_; ++n)
      for (int f = 0; f < rows_; ++f) w.other[f * padded_ + n] = from[(n * gradient_.stride + f) * T];
    std::memset(w.local.data(), 0, size_t(count) * padded_ * sizeof(Real));
    for (const auto &t : terms_)
      for (int c = 0; c < padded_; c += W)
        add<Real>(&w.local[t.source * padded_ + c], t.value * load<Real>(&w.other[t.row * padded_ + c]));
    const Real *message = tile.message[message_];
    Real *gradient = tile.message_gradient[message_];
    for (int e = 0; e < elements_; ++e)
      for (int k = s.segment[e]; k < s.segment[e + 1]; ++k) {
        if (s.bond[k] < 0) continue;
        radial_->evaluate(tile.element, e, s.distance[k], nb.first[atom] + s.bond[k], w.value.data(), w.slope.data());
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

 private:
  struct Term { int source, row; Real value; };
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
