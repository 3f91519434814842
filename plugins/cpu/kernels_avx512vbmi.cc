// The kernels for AVX-512 with VBMI (Ice Lake, Zen 4): those of AVX-512, and few rows by byte
// permutations. Compiled with those flags, called only where the machine has them.
#include <immintrin.h>

#include <utility>

#include "kernels.h"

namespace vq4dit {
namespace {

#include "vector_avx2.inl"
#include "vector_avx512.inl"

#include "block_kernel.inl"

#include "int8_vnni.inl"
#include "int8_panel.inl"

#include "few_rows_vbmi.inl"

}  // namespace

const Kernels kAvx512VbmiKernels = {
    "avx512vbmi",
    {{kPermutedRows, kPermutedLanes, 2, few_rows},
     {8, 8, 2, fast_block<8, 2>},
     {16, 16, 1, fast_block<16, 1>},
     {32, 32, 2, fast_block<32, 2>}},
    {{8, 8, 1, exact_block<8, 1>}, {16, 16, 1, exact_block<16, 1>}, {}, {}},
    {quantize_rows, int8_panel},
};

}  // namespace vq4dit
