// Coupled products, channel by channel; kernels come from generate_products.py.
#pragma once

#include "simd.hpp"

namespace grace {

template <class Real> struct ProductKernel {
  int l1, l2, mask;  // degrees of the factors; bit L set for every target degree L
  // entries: per pair of groups first row left, first row right, first row of every target
  void (*forward)(const int *entries, int count, const Real *scale, const Real *left, const Real *right, Real *out);
  void (*backward)(const int *entries, int count, const Real *scale, const Real *left, const Real *right,
                   const Real *gout, Real *gleft, Real *gright);
};

template <class Real> const ProductKernel<Real> *product_kernels(int &count);
extern template const ProductKernel<double> *product_kernels<double>(int &count);
extern template const ProductKernel<float> *product_kernels<float>(int &count);

}  // namespace grace
