// The double-precision kernels.
#define GRACE_REAL double
#include "products.cpp"
