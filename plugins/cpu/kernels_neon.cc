// The kernels for NEON, which every AArch64 processor has.
#include <arm_neon.h>

#include "kernels.h"

namespace vq4dit {
namespace {

#include "vector_neon.inl"

#include "block_kernel.inl"

#include "int8_portable.inl"
#include "int8_panel.inl"

}  // namespace

const Kernels kNeonKernels = {
    "neon",
    {{8, 8, 2, fast_block<8, 2>}, {16, 16, 1, fast_block<16, 1>}, {}, {}},
    {{8, 8, 1, exact_block<8, 1>}, {}, {}, {}},
    {quantize_rows, int8_panel},
};

}  // namespace vq4dit
