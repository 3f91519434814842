// The kernels for AVX2 and FMA; compiled with those flags, called only where the machine has them.
#include <immintrin.h>

#include "kernels.h"

namespace vq4dit {
namespace {

#include "vector_avx2.inl"

#include "block_kernel.inl"

}  // namespace

const Kernels kAvx2Kernels = {"avx2", fast_block<kFastRows>, fast_block<kFewRows>, exact_block};

}  // namespace vq4dit
