"""Loops of a kernel, and counts within them."""

from __future__ import annotations

import numpy as np
import pytest
from ptx.parser import parse_kernel
from ptx.report import Loop, find_loops
from support_ptx import kernel_text, run_body

DECLARATIONS = ".reg .b32 %x, %y; .reg .pred %p; .shared .align 4 .b8 tile[4096];"


def loops_of(body: str) -> tuple[Loop, ...]:
    """Loops, counted from the body's first instruction."""
    text = kernel_text(body, num_buffers=1, declarations=DECLARATIONS)
    found = find_loops(parse_kernel(text, "k").instructions)
    return tuple(Loop(first=loop.first - 2, last=loop.last - 2) for loop in found)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("mov.u32 %x, 1; bra $end; $end: mov.u32 %x, 2;", []),
        ("$a: mov.u32 %x, 1; @%p bra $a;", [(0, 1)]),
        ("$a: @%p bra $a;", [(0, 0)]),
        # A loop that goes on from two places ends at the second one.
        ("$a: mov.u32 %x, 1; @%p bra $a; mov.u32 %x, 2; @!%p bra $a;", [(0, 3)]),
        ("$a: mov.u32 %x, 1; $b: mov.u32 %x, 2; @%p bra $b; @%p bra $a;", [(0, 3), (1, 2)]),
    ],
)
def test_branches_back_close_loops(body, expected):
    assert loops_of(body) == tuple(Loop(first=first, last=last) for first, last in expected)


def test_a_loop_holds_its_ends():
    loop = Loop(first=3, last=5)
    assert [index in loop for index in range(2, 7)] == [False, True, True, True, False]


BODY = """mov.u32 %x, 0;
$loop:
    mul.lo.u32 %y, %thread, 8; ld.global.b32 %y, [%rd0]; shl.b32 %y, %thread, 5;
    st.shared.b32 [%y], %x; add.u32 %x, %x, 1; setp.lt.u32 %p, %x, 6; @%p bra $loop;
    st.shared.b32 [tile+4], 1;"""


def test_counts_within_a_loop_and_outside():
    report = run_body(BODY, [np.zeros(1, np.uint32)], block=32, grid=2, declarations=DECLARATIONS)
    (loop,) = report.loops
    assert report.count("bra", loop) == report.count("mul.lo.u32", loop) == 2 * 6
    assert report.count("shared") == report.count("lo") == 0, "a mnemonic begins so"
    assert report.count("") == sum(report.opcode_counts().values())
    assert report.opcode_counts(loop).total() == 2 * 6 * 7
    inside, all_of_it = report.wavefronts("st.shared", loop), report.wavefronts("st.shared")
    assert (inside.found, inside.least, inside.conflicts) == (2 * 6 * 8, 2 * 6, 2 * 6 * 7)
    assert (all_of_it.found, all_of_it.least) == (inside.found + 2, inside.least + 2)


def test_the_main_loop_is_the_innermost_with_most():
    body = """mov.u32 %x, 0;
$outer:
    mov.u32 %y, 0;
$inner:
    sub.u32 %y, %y, 1; sub.u32 %y, %y, 1; add.u32 %y, %y, 3; setp.lt.u32 %p, %y, 4;
    @%p bra $inner; add.u32 %x, %x, 1; setp.lt.u32 %p, %x, 3; @%p bra $outer;
$last:
    sub.u32 %x, %x, 1; setp.gt.u32 %p, %x, 0; @%p bra $last;"""
    report = run_body(body, [np.zeros(1)], declarations=DECLARATIONS)
    outer, inner, last = report.loops
    assert report.main_loop("sub") == inner
    assert report.main_loop("add") == outer
    with pytest.raises(ValueError, match="no loop executed mma; the kernel has 3 loops"):
        report.main_loop()
    assert report.count("sub", last) == 3


def test_a_kernel_without_loops_has_no_main_loop():
    report = run_body("mov.u32 %x, 1;", [np.zeros(1)], declarations=DECLARATIONS)
    assert report.loops == ()
    with pytest.raises(ValueError, match="no loop executed mov; the kernel has 0 loops"):
        report.main_loop("mov")
