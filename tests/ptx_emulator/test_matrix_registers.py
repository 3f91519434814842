"""Matrix instructions of some warps, on registers that serve twice, in forms that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import FailureKind, KernelFailure, UnsupportedPtx
from ptx.float_formats import float32_from_bfloat16
from support_ptx import run_body

DECLARATIONS = """.reg .b32 a<4>, b<2>, c<4>, d<4>, e<4>, %x, %y, %i; .reg .b64 %at, %own;
.reg .pred %p, %q; .shared .align 128 .b8 tile[8192];"""
ZERO = "".join(f"mov.b32 c{i}, 0;" for i in range(4))
SUMMANDS = "{c0, c1, c2, c3}"


def multiply(kind: str, d: str, a: str, b: str, *, depth: int = 16) -> str:
    """D = A B of fragments in registers, without a sum."""
    return (
        f"mma.sync.aligned.m16n8k{depth}.row.col.f32.{kind}.{kind}.f32 "
        f"{{{d}0, {d}1, {d}2, {d}3}}, {{{a}}}, {{{b}}}, {SUMMANDS};"
    )


def put(registers: list[str], at: str) -> str:
    """Each lane's registers to (32, len) words."""
    return "".join(f"st.global.b32 [{at}+{4 * i}], {name};" for i, name in enumerate(registers))


def test_one_fragment_in_two_formats():
    """The same bits are other numbers in float16 and in bfloat16."""
    words = np.random.default_rng(1).integers(0x3C00, 0x4400, (32, 12), np.uint16)
    y = np.zeros((32, 2), np.float32)
    body = f"""{ZERO} mad.wide.u32 %at, %thread, 24, %rd0; ld.global.v2.b32 {{a0, a1}}, [%at];
    ld.global.v2.b32 {{a2, a3}}, [%at+8]; ld.global.v2.b32 {{b0, b1}}, [%at+16];
    {multiply("f16", "d", "a0, a1, a2, a3", "b0, b1")}
    {multiply("bf16", "e", "a0, a1, a2, a3", "b0, b1")}
    mad.wide.u32 %own, %thread, 8, %rd1; {put(["d0", "e0"], "%own")}"""
    run_body(body, [words, y], declarations=DECLARATIONS)
    for column, value in enumerate((lambda w: w.view(np.float16), float32_from_bfloat16)):
        numbers = value(words).astype(np.float64)
        # Row 0 of A is in lanes 0..3, elements 0, 1, 4, 5; column 0 of B in the same lanes.
        left, right = numbers[:4, [0, 1, 4, 5]], numbers[:4, 8:12]
        np.testing.assert_allclose(y[0, column], (left * right).sum(), rtol=1e-6)


def test_one_pair_of_registers_as_a_left_and_as_a_right_matrix():
    words = np.random.default_rng(2).integers(0x3C00, 0x4400, (32, 4), np.uint16)
    y = np.zeros((32, 2), np.float32)
    body = f"""{ZERO} mad.wide.u32 %at, %thread, 8, %rd0; ld.global.v2.b32 {{a0, a1}}, [%at];
    mov.b32 a2, 0; mov.b32 a3, 0;
    {multiply("f16", "d", "a0, a1", "a0", depth=8)}
    {multiply("f16", "e", "a0, a1, a2, a3", "a0, a1")}
    mad.wide.u32 %own, %thread, 8, %rd1; {put(["d0", "e0"], "%own")}"""
    run_body(body, [words, y], declarations=DECLARATIONS)
    row = words.view(np.float16).astype(np.float64)[:4, :2]
    np.testing.assert_allclose(y[0], [(row * row).sum()] * 2, rtol=1e-6)


def test_registers_that_change_in_a_loop():
    """60 products with other numbers each time; a matrix that is kept too long shows."""
    y = np.zeros((32, 4), np.float32)
    body = f"""{ZERO} mov.u32 %i, 0;
$loop:
    cvt.rn.f32.u32 %x, %i; cvt.rn.f16x2.f32 a0, %x, %x; mov.b32 a1, a0; mov.b32 a2, a0;
    mov.b32 a3, a0; add.u32 %y, %i, 1; cvt.rn.f32.u32 %y, %y; cvt.rn.f16x2.f32 b0, %y, %y;
    mov.b32 b1, b0;
    {multiply("f16", "c", "a0, a1, a2, a3", "b0, b1")}
    add.u32 %i, %i, 1; setp.lt.u32 %p, %i, 60; @%p bra $loop;
    mad.wide.u32 %own, %thread, 16, %rd0; {put(["c0", "c1", "c2", "c3"], "%own")}"""
    run_body(body, [y], declarations=DECLARATIONS)
    np.testing.assert_array_equal(y, 16 * sum(i * (i + 1) for i in range(60)))


FILL = """mov.u32 %y, tile; mad.lo.u32 %x, %thread, 16, %y; mul.lo.u32 %i, %thread, 4;
st.shared.v4.b32 [%x], {%i, %i, %i, %i}; bar.sync 0; shr.u32 %y, %thread, 5;
setp.ne.u32 %p, %y, 1;
"""


@pytest.mark.parametrize("trans", ["", ".trans"])
def test_loads_and_stores_of_some_warps(trans):
    """Of three warps the first and the last load four matrices and store them elsewhere."""
    y = np.zeros((96, 4), np.uint32)
    body = f"""{FILL}
    mov.u32 d0, 7; mov.u32 d1, 7; mov.u32 d2, 7; mov.u32 d3, 7;
    @%p ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{d0, d1, d2, d3}}, [%x];
    @%p stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%x+4096], {{d0, d1, d2, d3}};
    @%p bar.warp.sync -1; @%p ld.shared.v4.b32 {{d0, d1, d2, d3}}, [%x+4096];
    mad.wide.u32 %own, %thread, 16, %rd0; st.global.v4.b32 [%own], {{d0, d1, d2, d3}};"""
    report = run_body(body, [y], block=96, declarations=DECLARATIONS)
    thread = np.arange(96)
    expected = np.where(thread // 32 != 1, 4 * thread, 7)
    np.testing.assert_array_equal(y, np.tile(expected[:, None], (1, 4)))
    for name in ("ldmatrix", "stmatrix"):
        assert (report.wavefronts(name).found, report.wavefronts(name).least) == (8, 8)


@pytest.mark.parametrize("count", [1, 2])
def test_only_lanes_of_rows_give_addresses(count):
    registers = ", ".join(f"d{i}" for i in range(count))
    body = f"""{FILL} setp.ge.u32 %q, %thread, {8 * count}; @%q mov.u32 %x, 0xFFFFFFFF;
    ldmatrix.sync.aligned.m8n8.x{count}.shared.b16 {{{registers}}}, [%x];"""
    report = run_body(body, [np.zeros(1)], declarations=DECLARATIONS)
    assert report.wavefronts("ldmatrix").found == count
    early = body.replace(f"{8 * count};", f"{8 * count - 1};")
    with pytest.raises(KernelFailure) as caught:
        run_body(early, [np.zeros(1)], declarations=DECLARATIONS)
    assert caught.value.kind is FailureKind.MISALIGNED


@pytest.mark.parametrize(
    "inside",
    [
        multiply("f16", "d", "a0, a1, a2, a3", "b0, b1"),
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {d0}, [%x];",
        "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%x], {a0};",
    ],
    ids=["mma", "ldmatrix", "stmatrix"],
)
def test_every_matrix_instruction_needs_whole_warps(inside):
    begin = "".join(f"mov.b32 {name}, 0;" for name in ("a0", "a1", "a2", "a3", "b0", "b1"))
    part = f"{FILL} {ZERO} {begin} setp.lt.u32 %q, %thread, 40; @%q {inside}"
    with pytest.raises(KernelFailure) as caught:
        run_body(part, [np.zeros(1)], block=64, declarations=DECLARATIONS)
    assert caught.value.kind is FailureKind.DIVERGENT_WARP
    whole = part.replace("%thread, 40", "%thread, 32")
    assert run_body(whole, [np.zeros(1)], block=64, declarations=DECLARATIONS).count("bar") == 2


@pytest.mark.parametrize(
    "text",
    [
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f16 {d0, d1, d2, d3}, {a0, a1, a2, a3}, "
        "{b0, b1}, {c0, c1, c2, c3}",
        "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {d0}, [%x]",
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {d0, d1}, [%x]",
        "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%x], {a0, a1}",
        "ldmatrix.sync.aligned.m8n16.x1.shared.b8 {d0}, [%x]",
    ],
)
def test_forms_that_do_not_fit_are_refused(text):
    with pytest.raises(UnsupportedPtx):
        run_body(f"{text};", [np.zeros(1)], declarations=DECLARATIONS)
