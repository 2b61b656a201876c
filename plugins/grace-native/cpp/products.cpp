// One of the two precisions, chosen by GRACE_REAL, so that both compile at the same time.
#include "products.hpp"

namespace grace {
#include "products.inc"
template const ProductKernel<GRACE_REAL> *product_kernels<GRACE_REAL>(int &count);
}  // namespace grace
