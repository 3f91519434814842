"""PTX from Triton, whose code for these GPUs is proven on hardware, gives right answers here.

Triton lays out fragments, swizzles shared memory and pipelines copies by its own rules, so the
emulator's reading of mma, ldmatrix and cp.async is not checked by our own kernels alone.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import tolerances
from ptx import FailureKind, KernelFailure, Report, run_kernel
from ptx.float_formats import bfloat16_from_float32, float32_from_bfloat16

from vq4dit.plugins.cuda.compile import sources

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402


@triton.jit
def gemm(x_ptr, w_ptr, y_ptr, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    steps = tl.arange(0, BK)
    x = x_ptr + rows[:, None] * K + steps[None, :]
    w = w_ptr + columns[None, :] * K + steps[:, None]
    total = tl.zeros((BM, BN), tl.float32)
    for _ in range(0, tl.cdiv(K, BK)):
        left = tl.load(x, mask=rows[:, None] < M, other=0.0)
        right = tl.load(w, mask=columns[None, :] < N, other=0.0)
        total = tl.dot(left, right, total)
        x += BK
        w += BK
    y = y_ptr + rows[:, None] * N + columns[None, :]
    inside = (rows[:, None] < M) & (columns[None, :] < N)
    tl.store(y, total.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def gemv(x_ptr, w_ptr, y_ptr, K, BN: tl.constexpr, BK: tl.constexpr):
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    steps = tl.arange(0, BK)
    total = tl.zeros((BN, BK), tl.float32)
    for start in range(0, K, BK):
        w = tl.load(w_ptr + rows[:, None] * K + start + steps[None, :]).to(tl.float32)
        x = tl.load(x_ptr + start + steps).to(tl.float32)
        total += w * x[None, :]
    tl.store(y_ptr + rows, tl.sum(total, axis=1))


@triton.jit
def softmax(x_ptr, y_ptr, N, B: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, B)
    x = tl.load(x_ptr + row * N + columns, mask=columns < N, other=-float("inf"))
    weights = tl.exp(x - tl.max(x, axis=0))
    tl.store(y_ptr + row * N + columns, weights / tl.sum(weights, axis=0), mask=columns < N)


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def compiled(function, types: dict[str, str], constants: dict[str, int], *, sm: int, **options):
    """The kernel for a GPU that need not be there; pointers are multiples of 16."""
    names = function.arg_names
    places = {name: (names.index(name),) for name in names}
    source = ASTSource(
        fn=function,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={places[name]: value for name, value in constants.items()},
        attrs={
            places[name]: [["tt.divisibility", 16]]
            for name, kind in types.items()
            if kind[0] == "*" or name == "K"
        },
    )
    return triton.compile(source, target=GPUTarget("cuda", sm, 32), options=options)


def launch(kernel, grid, arguments, ptx: str | None = None) -> Report:
    """Run compiled code; Triton's own scratch pointers are null."""
    text = ptx or kernel.asm["ptx"]
    num_parameters = text[: text.index("{")].count(".param ")
    scratch = [0] * (num_parameters - len(arguments))
    threads = 32 * kernel.metadata.num_warps
    name = kernel.metadata.name
    return run_kernel(text, name, grid, threads, [*arguments, *scratch], kernel.metadata.shared)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


TYPES = {"x_ptr": "*fp16", "w_ptr": "*fp16", "y_ptr": "*fp16", "M": "i32", "N": "i32", "K": "i32"}
BLOCKS = {"BM": 64, "BN": 64, "BK": 32}


@pytest.fixture(scope="module")
def pipelined():
    return compiled(gemm, TYPES, BLOCKS, sm=80, num_warps=4, num_stages=3)


@pytest.mark.parametrize(("m", "n", "k"), [(64, 64, 160), (100, 72, 96), (1, 8, 32)])
def test_pipelined_gemm(pipelined, m, n, k):
    rng = np.random.default_rng(m)
    x, w = (rng.standard_normal(shape).astype(np.float16) for shape in ((m, k), (n, k)))
    y = np.full((m, n), np.nan, np.float16)
    report = launch(pipelined, (-(-m // 64), -(-n // 64)), [x, w, y, m, n, k])
    expected = x.astype(np.float32) @ w.astype(np.float32).T
    assert relative(y.astype(np.float32), expected) <= tolerances.FP16_OUTPUT_RELATIVE
    loop = report.main_loop("mma")
    assert report.count("cp.async.cg", loop) and report.count("ldmatrix", loop)
    assert report.wavefronts("ldmatrix", loop).conflicts == 0, "Triton swizzles"


@pytest.mark.toolchain
@pytest.mark.parametrize("sm", [86, 87, 89, 120])
def test_gemm_of_other_architectures(sm):
    kernel = compiled(gemm, TYPES, BLOCKS, sm=sm, num_warps=4, num_stages=3)
    rng = np.random.default_rng(sm)
    x, w = (rng.standard_normal(s).astype(np.float16) for s in ((100, 96), (72, 96)))
    y = np.full((100, 72), np.nan, np.float16)
    launch(kernel, (2, 2), [x, w, y, 100, 72, 96])
    expected = x.astype(np.float32) @ w.astype(np.float32).T
    assert relative(y.astype(np.float32), expected) <= tolerances.FP16_OUTPUT_RELATIVE


@pytest.fixture(scope="module")
def hopper():
    """Products by wgmma, with both matrices swizzled in shared memory by cp.async."""
    return compiled(gemm, TYPES, BLOCKS | {"BK": 64}, sm=90, num_warps=4, num_stages=3)


@pytest.mark.parametrize(("m", "n", "k"), [(64, 64, 320), (100, 72, 192), (1, 8, 64)])
def test_warpgroup_gemm(hopper, m, n, k):
    rng = np.random.default_rng(m)
    x, w = (rng.standard_normal(shape).astype(np.float16) for shape in ((m, k), (n, k)))
    y = np.full((m, n), np.nan, np.float16)
    report = launch(hopper, (-(-m // 64), -(-n // 64)), [x, w, y, m, n, k])
    expected = x.astype(np.float32) @ w.astype(np.float32).T
    assert relative(y.astype(np.float32), expected) <= tolerances.FP16_OUTPUT_RELATIVE
    assert report.count("wgmma.mma_async", report.main_loop("wgmma"))


def test_triton_describes_rows_of_x_as_our_kernel_does(hopper):
    """Swizzle and strides; Triton adds the address to them, we do as well."""
    ours = re.search(r'VQ_DESCRIPTOR "(\w+)"', sources()["wgmma.cuh"])
    descriptors = set(re.findall(r"-?\b\d{18,}\b", hopper.asm["ptx"]))
    assert {int(bits) % (1 << 64) for bits in descriptors} == {int(ours[1], 16)}


@pytest.mark.toolchain
@pytest.mark.parametrize("depth", [16, 32])
def test_warpgroup_gemm_with_other_swizzles(depth):
    kernel = compiled(gemm, TYPES, BLOCKS | {"BK": depth}, sm=90, num_warps=4, num_stages=3)
    rng = np.random.default_rng(depth)
    x, w = (rng.standard_normal((64, 160)).astype(np.float16) for _ in range(2))
    y = np.full((64, 64), np.nan, np.float16)
    launch(kernel, (1, 1), [x, w, y, 64, 64, 160])
    expected = x.astype(np.float32) @ w.astype(np.float32).T
    assert relative(y.astype(np.float32), expected) <= tolerances.FP16_OUTPUT_RELATIVE
    descriptors = re.findall(r"-?\b\d{18,}\b", kernel.asm["ptx"])
    swizzles = {int(bits) >> 62 & 3 for bits in descriptors}
    assert swizzles == {{16: 3, 32: 2}[depth]}, "of 32 and of 64 bytes"


def test_bfloat16_gemm():
    types = TYPES | {name: "*bf16" for name in ("x_ptr", "w_ptr", "y_ptr")}
    kernel = compiled(gemm, types, BLOCKS, sm=80, num_warps=4, num_stages=2)
    rng = np.random.default_rng(5)
    x, w = (bfloat16_from_float32(rng.standard_normal(s)) for s in ((70, 64), (64, 64)))
    y = np.full((70, 64), 0x7FFF, np.uint16)
    launch(kernel, (2, 1), [x, w, y, 70, 64, 64])
    expected = float32_from_bfloat16(x) @ float32_from_bfloat16(w).T
    assert relative(float32_from_bfloat16(y), expected) <= tolerances.BF16_OUTPUT_RELATIVE


@pytest.mark.parametrize("sm", [80, 89])
def test_gemv_sums_by_shuffles(sm):
    types = {"x_ptr": "*fp16", "w_ptr": "*fp16", "y_ptr": "*fp32", "K": "i32"}
    kernel = compiled(gemv, types, {"BN": 16, "BK": 64}, sm=sm, num_warps=4)
    rng = np.random.default_rng(6)
    x, w = (rng.standard_normal(shape).astype(np.float16) for shape in (320, (48, 320)))
    y = np.full(48, np.nan, np.float32)
    report = launch(kernel, 3, [x, w, y, 320])
    expected = w.astype(np.float64) @ x.astype(np.float64)
    assert relative(y, expected) <= tolerances.FP32_RELATIVE
    assert report.count("shfl.sync") > 0


def test_softmax():
    types = {"x_ptr": "*fp32", "y_ptr": "*fp32", "N": "i32"}
    kernel = compiled(softmax, types, {"B": 512}, sm=80, num_warps=4)
    x = np.random.default_rng(7).standard_normal((5, 300)).astype(np.float32)
    y = np.full_like(x, np.nan)
    launch(kernel, 5, [x, y, 300])
    weights = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    assert relative(y, weights / weights.sum(axis=1, keepdims=True)) <= tolerances.FP32_RELATIVE


@pytest.mark.parametrize(
    ("pattern", "replacement", "kind"),
    [
        (r"bar\.sync\s+0", "bar.warp.sync 0xffffffff", FailureKind.RACE),
        (r"(cp\.async\.wait_group\s+)2;", r"\g<1>3;", FailureKind.ASYNC_NOT_WAITED),
    ],
)
def test_its_barriers_and_waits_are_needed(pipelined, pattern, replacement, kind):
    assert_found(pipelined, pattern, replacement, kind)


@pytest.mark.parametrize(
    ("pattern", "replacement", "kind"),
    [
        (r"fence\.proxy\.async\S*;", "", FailureKind.PROXY_NOT_FENCED),
        (r"wgmma\.fence\.sync\.aligned;", "", FailureKind.REGISTER_NOT_FENCED),
        (r"wgmma\.wait_group\.sync\.aligned\s+0;", "", FailureKind.REGISTER_IN_FLIGHT),
        (r"wgmma\.wait_group\.sync\.aligned\s+1;", "", FailureKind.RACE),
        (r"bar\.sync\s+0", "bar.warp.sync 0xffffffff", FailureKind.RACE),
    ],
)
def test_fences_and_waits_of_warpgroups_are_needed(hopper, pattern, replacement, kind):
    assert_found(hopper, pattern, replacement, kind)


def assert_found(kernel, pattern: str, replacement: str, kind: FailureKind) -> None:
    """Check that the emulator finds what a change to the PTX breaks."""
    broken, count = re.subn(pattern, replacement, kernel.asm["ptx"])
    assert count
    x = np.ones((64, 320), np.float16)
    with pytest.raises(KernelFailure) as caught:
        launch(kernel, (1, 1), [x, x, np.zeros((64, 64), np.float16), 64, 64, 320], broken)
    assert caught.value.kind is kind
