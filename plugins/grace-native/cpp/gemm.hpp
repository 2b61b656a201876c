// Small dense maps on tile tensors: out[m][row][lane] = sum over sources and channels of W[m][k] x[k][row][lane].
//
// One output block has `columns` = rows * lanes contiguous numbers per channel. The register kernel holds kPanel
// channels times up to kColumns vectors; weights are packed panel by panel so that they are read in order.
#pragma once

#include <vector>

#include "simd.hpp"

namespace grace {

#if GRACE_VECTOR_BYTES >= 64
constexpr int kPanel = 8, kColumns = 3;
#elif GRACE_VECTOR_BYTES >= 32
constexpr int kPanel = 4, kColumns = 3;
#else
constexpr int kPanel = 4, kColumns = 2;
#endif

template <class Real> struct Source {
  const Real *x;
  ptrdiff_t stride;  // between channels
  int channels;
};

// Weights of one or several elements, packed as [element][panel][k][channel of the panel].
template <class Real> class Packed {
 public:
  int outputs = 0, inputs = 0;
  // w: [elements][outputs][inputs] row-major
  void pack(const double *w, int elements, int m, int k) {
    outputs = m, inputs = k;
    data_.resize(size_t(elements) * m * k);
    Real *to = data_.data();
    for (int e = 0; e < elements; ++e, w += size_t(m) * k)
      for (int first = 0; first < m; first += kPanel)
        for (int i = 0; i < k; ++i)
          for (int o = first; o < m && o < first + kPanel; ++o) *to++ = Real(w[size_t(o) * k + i]);
  }
  const Real *of(int element) const { return data_.data() + size_t(element) * outputs * inputs; }

 private:
  std::vector<Real> data_;
};

template <class Real, int M, int N>
void gemm_block(const Real *w, const Source<Real> *sources, int count, ptrdiff_t column, Real *out, ptrdiff_t stride,
                bool accumulate) {
  using V = Vec<Real>;
  V c[M][N];
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) c[i][j] = accumulate ? load<Real>(out + i * stride + j * width<Real>) : zero<Real>();
  for (int s = 0; s < count; ++s) {
    const Real *x = sources[s].x + column;
    const ptrdiff_t step = sources[s].stride;
    for (int k = sources[s].channels; k > 0; --k, x += step, w += M) {
      V v[N];
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) v[j] = load<Real>(x + j * width<Real>);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
        const V b = splat<Real>(w[i]);
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) c[i][j] += b * v[j];
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) store<Real>(out + i * stride + j * width<Real>, c[i][j]);
}

template <class Real>
using GemmKernel = void (*)(const Real *, const Source<Real> *, int, ptrdiff_t, Real *, ptrdiff_t, bool);

template <class Real, int N> GemmKernel<Real> gemm_kernel(int m) {
  switch (m) {
    case 1: return gemm_block<Real, 1, N>;
    case 2: return gemm_block<Real, 2, N>;
    case 3: return gemm_block<Real, 3, N>;
#if GRACE_VECTOR_BYTES >= 64
    case 4: return gemm_block<Real, 4, N>;
    case 5: return gemm_block<Real, 5, N>;
    case 6: return gemm_block<Real, 6, N>;
    case 7: return gemm_block<Real, 7, N>;
#endif
    default: return gemm_block<Real, kPanel, N>;
  }
}

// columns must be a multiple of the vector width.
template <class Real>
void multiply(const Packed<Real> &weights, int element, const Source<Real> *sources, int count, int columns, Real *out,
              ptrdiff_t stride, bool accumulate) {
  const Real *base = weights.of(element);
  int vectors = columns / width<Real>;
  for (ptrdiff_t column = 0; vectors > 0;) {
    int n = vectors < kColumns ? vectors : kColumns;
    if (kColumns == 3 && vectors == 4) n = 2;
    const Real *w = base;
    for (int first = 0; first < weights.outputs; first += kPanel) {
      const int m = weights.outputs - first < kPanel ? weights.outputs - first : kPanel;
      const GemmKernel<Real> kernel =
          n == 3 ? gemm_kernel<Real, 3>(m) : n == 2 ? gemm_kernel<Real, 2>(m) : gemm_kernel<Real, 1>(m);
      kernel(w, sources, count, column, out + first * stride + column, stride, accumulate);
      w += size_t(m) * weights.inputs;
    }
    column += n * width<Real>, vectors -= n;
  }
}

}  // namespace grace
