// Vectors of the machine, tiles of atoms.
//
// A tile holds kLanes atoms (one cache line of numbers: 8 doubles or 16 floats); every tile tensor is
// [channel][row][lane]. GRACE_VECTOR_BYTES is the register width this translation unit is compiled for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifndef GRACE_VECTOR_BYTES
#define GRACE_VECTOR_BYTES 16
#endif

namespace grace {

constexpr int kLineBytes = 64;

template <class Real> struct VecOf;
template <> struct VecOf<double> { typedef double type __attribute__((vector_size(GRACE_VECTOR_BYTES), may_alias)); };
template <> struct VecOf<float> { typedef float type __attribute__((vector_size(GRACE_VECTOR_BYTES), may_alias)); };
template <class Real> using Vec = typename VecOf<Real>::type;

template <class Real> constexpr int lanes = kLineBytes / int(sizeof(Real));          // atoms per tile
template <class Real> constexpr int width = GRACE_VECTOR_BYTES / int(sizeof(Real));  // numbers per register

template <class Real> inline Vec<Real> load(const Real *p) { return *reinterpret_cast<const Vec<Real> *>(p); }
template <class Real> inline void store(Real *p, Vec<Real> v) { *reinterpret_cast<Vec<Real> *>(p) = v; }
template <class Real> inline void add(Real *p, Vec<Real> v) { store<Real>(p, load<Real>(p) + v); }
template <class Real> inline Vec<Real> zero() { return Vec<Real>{}; }
template <class Real> inline Vec<Real> splat(Real x) { return x - Vec<Real>{}; }
template <class Real> inline Real sum(Vec<Real> v) {
  Real total = 0;
  for (int i = 0; i < width<Real>; ++i) total += v[i];
  return total;
}
inline int round_up(int n, int to) { return (n + to - 1) / to * to; }

// Aligned growing buffer without initialisation.
template <class Real> class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;
  Buffer(Buffer &&other) noexcept : raw_(other.raw_), data_(other.data_), size_(other.size_) {
    other.raw_ = nullptr, other.data_ = nullptr, other.size_ = 0;
  }
  ~Buffer() { delete[] raw_; }
  void reserve(size_t size) {
    if (size <= size_) return;
    delete[] raw_;
    raw_ = nullptr, data_ = nullptr, size_ = 0;
    raw_ = new char[size * sizeof(Real) + 2 * kLineBytes];
    const size_t shift = (kLineBytes - reinterpret_cast<uintptr_t>(raw_) % kLineBytes) % kLineBytes;
    data_ = reinterpret_cast<Real *>(raw_ + shift), size_ = size;
  }
  void clear() { if (size_) std::memset(static_cast<void *>(data_), 0, size_ * sizeof(Real)); }
  Real *data() { return data_; }
  const Real *data() const { return data_; }
  size_t size() const { return size_; }
  Real &operator[](size_t i) { return data_[i]; }
  const Real &operator[](size_t i) const { return data_[i]; }

 private:
  char *raw_ = nullptr;
  Real *data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace grace
