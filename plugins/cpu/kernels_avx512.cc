// The kernels for AVX-512 (F, BW, DQ, VL, VNNI): the AVX2 code on 256-bit registers, with VNNI's
// pair products. Compiled with those flags, called only where the machine has them. Wider registers
// brought nothing on Zen 4, where table look-ups wait for the L1 and L2 caches.
#include <immintrin.h>

#include "kernels.h"

namespace vq4dit {
namespace {

#include "vector_avx2.inl"

#include "block_kernel.inl"

}  // namespace

const Kernels kAvx512Kernels = {"avx512", fast_block<kFastRows>, fast_block<kFewRows>, exact_block};

}  // namespace vq4dit
