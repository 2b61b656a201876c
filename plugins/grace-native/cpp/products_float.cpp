// The single-precision kernels (a file of their own, so that both precisions compile at the same time).
#define GRACE_REAL float
#include "products.cpp"
