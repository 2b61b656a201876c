// Included by products_double.cpp and products_float.cpp, which define GRACE_REAL.
#include "products.hpp"

namespace grace {
#include "products.inc"
template const ProductKernel<GRACE_REAL> *product_kernels<GRACE_REAL>(int &count);
}  // namespace grace
