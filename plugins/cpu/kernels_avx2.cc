// The kernels for AVX2 and FMA; compiled with those flags, called only where the machine has them.
#include <immintrin.h>

#include "kernels.h"

namespace vq4dit {
namespace {

#include "vector_avx2.inl"

#include "block_kernel.inl"

#include "int8_portable.inl"
#include "int8_panel.inl"

}  // namespace

const Kernels kAvx2Kernels = {
    "avx2",
    {{8, 8, 2, fast_block<8, 2>}, {16, 16, 1, fast_block<16, 1>}, {}, {}},
    {{8, 8, 1, exact_block<8, 1>}, {}, {}, {}},
    {quantize_rows, int8_panel},
};

}  // namespace vq4dit
