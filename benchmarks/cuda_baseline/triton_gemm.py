"""A plain float16 GEMM compiled by Triton: a second opinion on how long a main loop has to be.

Another compiler with its own choice of layouts and pipeline; its code runs on real GPUs. Nothing is
launched here.
"""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # read at import; unset it warns

import triton  # noqa: E402
import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402


@triton.jit
def gemm_fp16(
    x, weight, bias, y, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    """y (m, n) = x (m, k) weight (n, k)^T + bias (n); m and n multiples of the tile, k of BK."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    x_tile = x + rows[:, None] * k + depth[None, :]
    w_tile = weight + columns[None, :] * k + depth[:, None]
    sums = tl.zeros((BM, BN), tl.float32)
    for _ in range(0, k, BK):
        sums = tl.dot(tl.load(x_tile), tl.load(w_tile), sums)
        x_tile += BK
        w_tile += BK
    sums += tl.load(bias + columns)[None, :].to(tl.float32)
    tl.store(y + rows[:, None] * n + columns[None, :], sums.to(tl.float16))


def triton_cubin(*, block_m: int, block_n: int, warps: int, stages: int, sm: int) -> bytes:
    """Machine code of the kernel for one tile of 64 columns a step and one architecture."""
    names = gemm_fp16.arg_names
    sizes = {"BM": block_m, "BN": block_n, "BK": 64}
    signature = {
        name: "constexpr" if name in sizes else "i32" if name in "mnk" else "*fp16"
        for name in names
    }
    source = ASTSource(
        fn=gemm_fp16,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in sizes.items()},
        attrs={  # every pointer and size is a multiple of 16
            (index,): [["tt.divisibility", 16]]
            for index, name in enumerate(names)
            if name not in sizes
        },
    )
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", sm, 32),
        options={"num_warps": warps, "num_stages": stages},
    )
    return compiled.asm["cubin"]
