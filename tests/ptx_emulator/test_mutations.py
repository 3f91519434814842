"""Bugs put into a kernel that works: each is found, by the check that is there for it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tolerances
from ptx import FailureKind, KernelFailure, Report, run_kernel

from vq4dit.errors import BackendUnavailable
from vq4dit.plugins.cuda.nvrtc import load_nvrtc

try:
    load_nvrtc()
except BackendUnavailable as error:
    pytest.skip(str(error), allow_module_level=True)

SOURCE = (Path(__file__).parent / "pipelined_gemm.cu").read_text()
SHARED_BYTES = 3 * 2 * 64 * 128


@cache
def compiled(source: str) -> str:
    return load_nvrtc().ptx("pipelined_gemm.cu", {"pipelined_gemm.cu": source}, 80, {})


def run(source: str, m: int, n: int, depth: int) -> tuple[float, Report]:
    """Relative error and report; outputs that nobody writes are NaN."""
    rng = np.random.default_rng(m)
    x, w, bias = (rng.standard_normal(s).astype(np.float16) for s in ((m, depth), (n, depth), n))
    for array in (x, w, bias):
        array.setflags(write=False)
    y = np.full((m, n), np.nan, np.float16)
    grid = (-(-m // 64), -(-n // 64))
    arguments = [x, w, bias, y, m, n, depth]
    report = run_kernel(compiled(source), "pipelined_gemm", grid, 128, arguments, SHARED_BYTES)
    expected = x.astype(np.float32) @ w.astype(np.float32).T + bias.astype(np.float32)
    return float(np.linalg.norm(y - expected) / np.linalg.norm(expected)), report


#: Tails everywhere; seven steps, so that the last one reads the tiles that the exchange overwrites.
SIZES = (100, 72, 392)


@pytest.mark.parametrize("sizes", [SIZES, (1, 8, 8), (64, 64, 64), (65, 136, 200), (63, 64, 576)])
def test_the_kernel_is_right(sizes):
    error, report = run(SOURCE, *sizes)
    assert error <= tolerances.FP16_OUTPUT_RELATIVE
    assert report.wavefronts().conflicts == 0
    # Four warps, of each slice half of the four products of a step, 16 tiles.
    blocks = -(-sizes[0] // 64) * -(-sizes[1] // 64)
    assert report.count("mma") == blocks * -(-sizes[2] // 64) * 4 * 2 * 16


WRONG, CONFLICTS = "wrong outputs", "bank conflicts"

#: name -> (what finds it, then pairs of text in the kernel and what replaces it)
MUTATIONS = {
    "no barrier in the loop": (
        FailureKind.RACE,
        ("__syncthreads();  // this step's tiles", "// this step's tiles"),
    ),
    "no barrier before the exchange": (
        FailureKind.RACE,
        ("__syncthreads();  // nobody reads", "// nobody reads"),
    ),
    "no barrier within the exchange": (
        FailureKind.RACE,
        ("__syncthreads();  // the sums", "// the sums"),
    ),
    "copies begin before the barrier": (
        FailureKind.RACE,
        (
            "    wait<kStages - 2>();\n",
            "    if (step + 2 < steps) copy_step(step + 2);\n    wait<1>();\n",
        ),
        ("    if (step + kStages - 1 < steps) copy_step(step + kStages - 1);\n", ""),
    ),
    "waits for one group too few": (
        FailureKind.ASYNC_NOT_WAITED,
        ("wait<kStages - 2>();", "wait<kStages - 1>();"),
    ),
    "never commits in the loop": (
        FailureKind.ASYNC_NOT_WAITED,
        ("copy_step(step + kStages - 1);\n    commit();", "copy_step(step + kStages - 1);"),
    ),
    "one stage too few": (
        FailureKind.ASYNC_NOT_WAITED,
        ("kStages = 3", "kStages = 2"),
        ("wait<kStages - 2>();", "wait<0>();"),
        ("step + kStages - 1", "step + 2"),
    ),
    "fragments of x swapped": (
        WRONG,
        (
            '"r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])',
            '"r"(a[0]), "r"(a[2]), "r"(a[1]), "r"(a[3])',
        ),
    ),
    "fragments of W swapped": (
        WRONG,
        ("b[j / 2][j % 2], b[j / 2][j % 2 + 2]", "b[j / 2][j % 2 + 2], b[j / 2][j % 2]"),
    ),
    "no swizzle": (
        CONFLICTS,
        ("(chunk ^ (row % 8)) * 16", "chunk * 16"),
        (" ^ (lane % 8);", ";"),
    ),
    "swizzle on one side only": (WRONG, (" ^ (lane % 8);", ";")),
    "stale columns": (WRONG, ("column = step * kDepth", "column = (step - step / 4) * kDepth")),
    "tile of the step before": (
        FailureKind.ASYNC_NOT_WAITED,
        ("word rows = tiles + step %", "word rows = tiles + (step + 2) %"),
    ),
    "no tail of M on the store": (
        FailureKind.OUT_OF_BOUNDS,
        ("row < m && column < n", "column < n"),
    ),
    "no tail of N on the store": (FailureKind.RACE, ("row < m && column < n", "row < m")),
    "tail of M off by one": (FailureKind.OUT_OF_BOUNDS, ("row < m && col", "row <= m && col")),
    "no tail of M on the copy": (
        FailureKind.OUT_OF_BOUNDS,
        ("first_row + row < rows && column < depth ? 16", "column < depth ? 16"),
    ),
    "no zeros past the depth": (
        FailureKind.OUT_OF_BOUNDS,
        ("first_row + row < rows && column < depth ? 16", "first_row + row < rows ? 16"),
    ),
    "vector store misaligned": (
        FailureKind.MISALIGNED,
        ("lane % 4 / 2 * 4;", "lane % 4 / 2 * 4 + 2;"),
    ),
    "copy misaligned": (
        FailureKind.MISALIGNED,
        ("column = step * kDepth + chunk * 8", "column = step * kDepth + chunk * 8 + 4"),
    ),
    "half of the bias left out": (
        FailureKind.UNINITIALISED_SHARED,
        ("i < kRows; i += kThreads", "i < kRows / 2; i += kThreads"),
    ),
    "sums never set to zero": (
        FailureKind.UNINITIALISED_REGISTER,
        ("sums[kTilesM][kTilesN][4] = {}", "sums[kTilesM][kTilesN][4]"),
    ),
    "barrier for one warp": (
        FailureKind.DIVERGENT_BARRIER,
        ("  wait<0>();\n", "  wait<0>();\n  if (warp == 0) __syncthreads();\n"),
    ),
    "barrier after an exit": (
        FailureKind.DIVERGENT_BARRIER,
        ("  if (slice == 1) return;\n", "  if (slice == 1) return;\n  __syncthreads();\n"),
    ),
    "stages run past their end": (
        FailureKind.OUT_OF_BOUNDS,
        (
            "const word rows = tiles + step % kStages",
            "const word rows = tiles + step % (kStages + 1)",
        ),
    ),
    "wrong stride of y": (
        FailureKind.OUT_OF_BOUNDS,
        (
            "static_cast<long long>(row) * n + column",
            "static_cast<long long>(row) * (n + 8) + column",
        ),
    ),
    "wrong stride in the tile": (WRONG, ("i * 16 * kRowBytes", "i * 8 * kRowBytes")),
    "warps overlap": (FailureKind.RACE, ("warp_n = warp % 2 * 32", "warp_n = warp % 2 * 16")),
    "blocks overlap": (
        FailureKind.RACE,
        ("first_m = blockIdx.x * kRows", "first_m = blockIdx.x * (kRows - 8)"),
    ),
    "wrong lane of the shuffle": (
        WRONG,
        ("is_odd ? pairs[0] : pairs[1], 1)", "is_odd ? pairs[0] : pairs[1], 2)"),
    ),
    "shuffle for some lanes only": (
        FailureKind.DIVERGENT_WARP,
        ("const word other = __shfl", "if (row >= m) continue;\n        const word other = __shfl"),
    ),
    "rounds towards zero": (WRONG, ("cvt.rn.f16x2.f32", "cvt.rz.f16x2.f32")),
    "address cut to 32 bits": (
        FailureKind.OUT_OF_BOUNDS,
        (
            "copy_16(target, matrix +",
            "copy_16(target, (const half_bits*)(address)(word)(address)matrix +",
        ),
    ),
    "x is written": (
        FailureKind.READ_ONLY,
        (
            "  if (slice == 1) return;",
            "  if (slice == 1) return;\n  if (lane == 0) const_cast<half_bits*>(x)[warp] = 0;",
        ),
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_bug_is_found(name):
    finder, *replacements = MUTATIONS[name]
    source = SOURCE
    for old, new in replacements:
        assert old in source, f"the kernel has no {old!r} any more"
        source = source.replace(old, new)
    try:
        error, report = run(source, *SIZES)
    except KernelFailure as failure:
        assert failure.kind is finder, failure
        return
    if finder == CONFLICTS:
        assert report.wavefronts("ldmatrix").conflicts > 0
        assert error <= tolerances.FP16_OUTPUT_RELATIVE, "only slower"
        return
    assert finder == WRONG
    assert not error <= tolerances.FP16_OUTPUT_RELATIVE
