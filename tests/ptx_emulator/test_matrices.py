"""mma, ldmatrix and stmatrix: fragments as the PTX ISA draws them, element by element."""

from __future__ import annotations

import numpy as np
import pytest
import tolerances
from ptx import FailureKind, KernelFailure, UnsupportedPtx
from ptx.float_formats import bfloat16_from_float32, float32_from_bfloat16
from support_ptx import run_body

LANES = np.arange(32)


def place_in_a(lane: int, element: int) -> tuple[int, int]:
    """(row, column) of A's element a<element> in m16n8k16, from the ISA's formulas."""
    group, place = lane // 4, lane % 4
    row = group if element in (0, 1, 4, 5) else group + 8
    column = place * 2 + (element & 1) + (8 if element >= 4 else 0)
    return row, column


def place_in_b(lane: int, element: int) -> tuple[int, int]:
    group, place = lane // 4, lane % 4
    return place * 2 + (element & 1) + (8 if element >= 2 else 0), group


def place_in_c(lane: int, element: int) -> tuple[int, int]:
    group, place = lane // 4, lane % 4
    return group + (8 if element >= 2 else 0), place * 2 + (element & 1)


def fragment(matrix: np.ndarray, place, count: int) -> np.ndarray:
    """(32, count) elements of each lane."""
    return np.array([[matrix[place(lane, e)] for e in range(count)] for lane in LANES])


def from_fragment(values: np.ndarray, place, shape: tuple[int, int]) -> np.ndarray:
    matrix = np.zeros(shape, values.dtype)
    for lane in LANES:
        for element in range(values.shape[1]):
            matrix[place(lane, element)] = values[lane, element]
    return matrix


def bits_of(values: np.ndarray, kind: str) -> np.ndarray:
    values = values.astype(np.float32)
    return bfloat16_from_float32(values) if kind == "bf16" else values.astype(np.float16)


def value_of(bits: np.ndarray, kind: str) -> np.ndarray:
    return float32_from_bfloat16(bits) if kind == "bf16" else bits.astype(np.float32)


LOAD = """mul.wide.u32 %at, %thread, {size}; add.s64 %at, %at, {pointer};
ld.global.v{count}.b32 {{{registers}}}, [%at];"""


def load(pointer: str, registers: list[str]) -> str:
    return LOAD.format(
        size=4 * len(registers),
        pointer=pointer,
        count=len(registers),
        registers=", ".join(registers),
    ).replace("v1.b32", "b32")


DECLARATIONS = ".reg .b32 a<4>, b<4>, c<4>, d<4>, %x; .reg .b64 %at; .reg .pred %p;"


def store(pointer: str, registers: list[str]) -> str:
    text = load(pointer, registers)
    vector, _, rest = text.partition("ld.global")
    kind, items = rest.split(" ", 1)
    return f"{vector}st.global{kind} [%at], {items.split('}')[0]}}};"


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("depth", [8, 16])
def test_multiply_accumulate(kind, depth):
    rng = np.random.default_rng(depth)
    a, b = (bits_of(rng.standard_normal(s), kind) for s in ((16, depth), (depth, 8)))
    c = rng.standard_normal((16, 8)).astype(np.float32)
    halves = depth // 8
    registers = [[f"a{i}" for i in range(2 * halves)], [f"b{i}" for i in range(halves)]]
    left, right = (", ".join(names) for names in registers)
    y = np.zeros((32, 4), np.float32)
    body = f"""{load("%rd0", registers[0])} {load("%rd1", registers[1])}
    {load("%rd2", ["c0", "c1", "c2", "c3"])}
    mma.sync.aligned.m16n8k{depth}.row.col.f32.{kind}.{kind}.f32
        {{d0, d1, d2, d3}}, {{{left}}}, {{{right}}}, {{c0, c1, c2, c3}};
    {store("%rd3", ["d0", "d1", "d2", "d3"])}"""
    sources = [
        np.ascontiguousarray(fragment(a, place_in_a, 4 * halves)),
        np.ascontiguousarray(fragment(b, place_in_b, 2 * halves)),
        fragment(c, place_in_c, 4),
        y,
    ]
    report = run_body(body, sources, declarations=DECLARATIONS)
    expected = value_of(a, kind).astype(np.float64) @ value_of(b, kind) + c
    found = from_fragment(y, place_in_c, (16, 8))
    np.testing.assert_allclose(
        found, expected, rtol=tolerances.FP32_RELATIVE, atol=tolerances.FP32_RELATIVE
    )
    assert report.count("mma") == 1


def test_half_accumulators_are_rounded_once():
    rng = np.random.default_rng(7)
    a = rng.integers(-8, 8, (16, 16)).astype(np.float16)
    b = rng.integers(-8, 8, (16, 8)).astype(np.float16)
    c = rng.standard_normal((16, 8)).astype(np.float16)
    y = np.zeros((32, 4), np.float16)
    body = f"""{load("%rd0", ["a0", "a1", "a2", "a3"])} {load("%rd1", ["b0", "b1"])}
    {load("%rd2", ["c0", "c1"])}
    mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16
        {{d0, d1}}, {{a0, a1, a2, a3}}, {{b0, b1}}, {{c0, c1}};
    {store("%rd3", ["d0", "d1"])}"""
    sources = [fragment(m, p, n) for m, p, n in ((a, place_in_a, 8), (b, place_in_b, 4))]
    run_body(body, [*sources, fragment(c, place_in_c, 4), y], declarations=DECLARATIONS)
    expected = (a.astype(np.float32) @ b.astype(np.float32) + c).astype(np.float16)
    np.testing.assert_array_equal(from_fragment(y, place_in_c, (16, 8)), expected)


SHARED = DECLARATIONS + ".shared .align 128 .b8 tile[4096];"


def matrix_addresses(stride: int) -> str:
    """%x = address of row `lane` of a tile whose rows are `stride` bytes apart."""
    return f"mov.u32 %x, tile; mad.lo.u32 %x, %thread, {stride}, %x;"


def fill(stride: int) -> str:
    """Put row `lane` of %rd0's (32, 8) halves to its place."""
    return f"""{load("%rd0", ["a0", "a1", "a2", "a3"])} {matrix_addresses(stride)}
    st.shared.v4.b32 [%x], {{a0, a1, a2, a3}}; bar.sync 0;"""


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("trans", ["", ".trans"])
def test_load_matrix(count, trans):
    rows = np.arange(32 * 8, dtype=np.uint16).reshape(32, 8)
    y = np.zeros((32, count, 2), np.uint16)
    registers = [f"d{i}" for i in range(count)]
    body = f"""{fill(16)}
    ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{", ".join(registers)}}}, [%x];
    {store("%rd1", registers)}"""
    report = run_body(body, [rows, y], declarations=SHARED)
    for number in range(count):
        matrix = rows[8 * number : 8 * number + 8]
        matrix = matrix.T if trans else matrix
        for lane in LANES:
            group, place = lane // 4, lane % 4
            assert list(y[lane, number]) == list(matrix[group, 2 * place : 2 * place + 2])
    found = report.wavefronts("ldmatrix")
    assert (found.found, found.least) == (count, count)


@pytest.mark.parametrize("trans", ["", ".trans"])
def test_store_matrix_reverses_load_matrix(trans):
    rows = np.arange(32 * 8, dtype=np.uint16).reshape(32, 8)
    y = np.zeros((32, 8), np.uint16)
    body = f"""{fill(16)}
    ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{d0, d1, d2, d3}}, [%x];
    add.u32 %x, %x, 2048;
    stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%x], {{d0, d1, d2, d3}};
    bar.sync 0;
    ld.shared.v4.b32 {{d0, d1, d2, d3}}, [%x];
    {store("%rd1", ["d0", "d1", "d2", "d3"])}"""
    run_body(body, [rows, y], declarations=SHARED)
    np.testing.assert_array_equal(y, rows)


@pytest.mark.parametrize(("stride", "wavefronts"), [(16, 4), (32, 8), (64, 16), (128, 32), (80, 4)])
def test_bank_conflicts_of_load_matrix(stride, wavefronts):
    y = np.zeros((32, 4), np.uint32)
    body = f"""{fill(stride)}
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{d0, d1, d2, d3}}, [%x];
    {store("%rd1", ["d0", "d1", "d2", "d3"])}"""
    report = run_body(body, [np.zeros((32, 8), np.uint16), y], declarations=SHARED)
    found = report.wavefronts("ldmatrix")
    assert (found.found, found.least, found.conflicts) == (wavefronts, 4, wavefronts - 4)


def test_matrix_instructions_need_the_whole_warp():
    body = """setp.lt.u32 %p, %thread, 9; mov.u32 %x, tile; mov.u32 a0, 0;
    @%p ldmatrix.sync.aligned.m8n8.x1.shared.b16 {d0}, [%x];"""
    with pytest.raises(KernelFailure) as caught:
        run_body(body, [np.zeros(1)], declarations=SHARED)
    assert caught.value.kind is FailureKind.DIVERGENT_WARP


def test_matrix_instructions_need_whole_warps_in_the_block():
    body = """mov.u32 %x, tile;
    ldmatrix.sync.aligned.m8n8.x1.shared.b16 {d0}, [%x];"""
    with pytest.raises(KernelFailure, match="last warp is not whole"):
        run_body(body, [np.zeros(1)], block=40, declarations=SHARED)


@pytest.mark.parametrize(
    ("shape", "left", "right", "registers"),
    [
        ("m16n8k8", "tf32", "tf32", "a0, a1, a2, a3"),
        ("m16n8k16", "f16", "bf16", "a0, a1, a2, a3"),
        ("m16n8k16", "f16", "f16", "a0, a1"),
        ("m16n8k32", "f16", "f16", "a0, a1, a2, a3"),
    ],
)
def test_unknown_forms_are_refused(shape, left, right, registers):
    body = f"""mma.sync.aligned.{shape}.row.col.f32.{left}.{right}.f32
    {{d0, d1, d2, d3}}, {{{registers}}}, {{b0, b1}}, {{c0, c1, c2, c3}};"""
    with pytest.raises(UnsupportedPtx):
        run_body(body, [np.zeros(1)], declarations=DECLARATIONS)


def test_newer_tensor_cores_are_refused():
    with pytest.raises(UnsupportedPtx, match="unknown instruction tcgen05"):
        run_body("tcgen05.wait::ld.sync.aligned;", [np.zeros(1)])


def test_transposition():
    rng = np.random.default_rng(3)
    matrix = rng.integers(0, 1 << 16, (8, 8)).astype(np.uint16)
    found = np.zeros((32, 2), np.uint16)
    pairs = np.array([matrix[lane // 4, lane % 4 * 2 : lane % 4 * 2 + 2] for lane in LANES])
    body = f"""{load("%rd0", ["a0"])} movmatrix.sync.aligned.m8n8.trans.b16 d0, a0;
    {store("%rd1", ["d0"])}"""
    run_body(body, [pairs, found], declarations=DECLARATIONS)
    np.testing.assert_array_equal(found.reshape(8, 8), matrix.T)
    with pytest.raises(UnsupportedPtx, match="unknown form of movmatrix"):
        run_body(body.replace(".trans", ""), [pairs, found], declarations=DECLARATIONS)
