"""Branches, loops, divergence, exits, and how they are counted."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import FailureKind, KernelFailure
from support_ptx import evaluate, run_body

REGISTERS = ".reg .b32 %x, %y, %z; .reg .b64 %at; .reg .pred %p, %q;"


def test_each_thread_leaves_a_loop_in_its_own_time():
    body = """mov.u32 %d, 0; mov.u32 %x, 0;
$loop:
    add.u32 %d, %d, %x;
    add.u32 %x, %x, 1;
    setp.le.u32 %p, %x, %a;
    @%p bra $loop;"""
    limits = np.random.default_rng(0).integers(0, 40, 96, np.uint32)
    found = evaluate(body, "u32", [("u32", limits)], declarations=".reg .b32 %x;")
    np.testing.assert_array_equal(found, limits * (limits + 1) // 2)


def test_nested_loops_and_ways_that_join():
    # Steps of the Collatz sequence: an inner loop of halvings within a loop of odd steps.
    body = """mov.u32 %d, 0; mov.u32 %x, %a;
$outer:
    setp.eq.u32 %p, %x, 1;
    @%p bra $end;
    and.b32 %y, %x, 1;
    setp.eq.u32 %p, %y, 0;
    @%p bra $even;
    mad.lo.u32 %x, %x, 3, 1;
    add.u32 %d, %d, 1;
$even:
    shr.u32 %x, %x, 1;
    add.u32 %d, %d, 1;
    and.b32 %y, %x, 1;
    setp.eq.u32 %p, %y, 0;
    @%p bra $even;
    bra.uni $outer;
$end:"""

    def steps(value: int) -> int:
        count = 0
        while value != 1:
            value = value // 2 if value % 2 == 0 else 3 * value + 1
            count += 1
        return count

    values = np.arange(1, 129, dtype=np.uint32)
    found = evaluate(body, "u32", [("u32", values)], declarations=".reg .b32 %x, %y;")
    np.testing.assert_array_equal(found, [steps(int(value)) for value in values])


def test_joins_above_the_ways_that_lead_to_them():
    """Ways meet again at $join, which stands above one of them; the warp is whole there."""
    body = """setp.lt.u32 %p, %thread, 20;
    @%p bra $far;
    mov.u32 %x, 1;
$join:
    shfl.sync.idx.b32 %d, %x, 0, 31, 0xffffffff;
    bra $end;
$far:
    mov.u32 %x, 2;
    bra $join;
$end:"""
    found = evaluate(body, "u32", [("u32", np.zeros(64))], declarations=".reg .b32 %x;")
    np.testing.assert_array_equal(found, [2] * 32 + [1] * 32)


def test_a_barrier_above_one_of_the_ways_to_it():
    body = """setp.lt.u32 %p, %thread, 20;
    @%p bra $far;
    mov.u32 %d, 1;
$join:
    bar.sync 0;
    bra $end;
$far:
    mov.u32 %d, 2;
    bra $join;
$end:"""
    found = evaluate(body, "u32", [("u32", np.zeros(64))])
    np.testing.assert_array_equal(found, [2] * 20 + [1] * 44)


@pytest.mark.parametrize("leave", ["ret", "exit"])
def test_threads_leave_early(leave):
    y = np.zeros(64, np.uint32)
    body = f"""setp.lt.u32 %p, %thread, 10;
    @%p {leave};
    mad.wide.u32 %at, %thread, 4, %rd0;
    st.global.b32 [%at], %thread;"""
    run_body(body, [y], block=64, declarations=REGISTERS)
    np.testing.assert_array_equal(y, np.where(np.arange(64) < 10, 0, np.arange(64)))


def test_predicates_guard_single_instructions():
    body = """and.b32 %d, %thread, 1; setp.eq.u32 %p, %d, 1; mov.u32 %d, 5;
    @%p add.u32 %d, %d, 1;
    @!%p add.u32 %d, %d, 2;"""
    found = evaluate(body, "u32", [("u32", np.zeros(32))])
    np.testing.assert_array_equal(found, np.where(np.arange(32) % 2, 6, 7))


def test_grid_and_block_in_three_dimensions():
    y = np.zeros((2, 3, 4, 5, 6, 7), np.uint32)
    axes = [f"%{base}.{axis}" for base in ("ctaid", "tid") for axis in "zyx"]
    extents = [f"%n{axis[1:]}" for axis in axes]
    lines = [f"mov.u32 %x, {axes[0]};"]
    for axis, extent in zip(axes[1:], extents[1:], strict=True):
        lines.append(f"mov.u32 %y, {extent}; mul.lo.u32 %x, %x, %y;")
        lines.append(f"mov.u32 %y, {axis}; add.u32 %x, %x, %y;")
    lines.append("mad.wide.u32 %at, %x, 4, %rd0; st.global.b32 [%at], %x;")
    run_body("\n".join(lines), [y], grid=(4, 3, 2), block=(7, 6, 5), declarations=REGISTERS)
    np.testing.assert_array_equal(y.reshape(-1), np.arange(y.size))


def test_endless_loops_stop():
    with pytest.raises(KernelFailure) as caught:
        run_body("$again:\nbra $again;", [np.zeros(1)])
    assert caught.value.kind is FailureKind.ENDLESS
    assert caught.value.text == "bra $again"


def test_traps_name_their_thread():
    with pytest.raises(KernelFailure) as caught:
        run_body("setp.eq.u32 %p, %thread, 9; @%p trap;", [np.zeros(1)], declarations=REGISTERS)
    failure = caught.value
    assert (failure.kind, failure.thread, failure.block) == (
        FailureKind.TRAP,
        (9, 0, 0),
        (0, 0, 0),
    )


LOOPS = """mov.u32 %x, 0; setp.eq.u32 %q, %thread, 0;
$outer:
    mov.u32 %y, 0;
$inner:
    @%q st.shared.b32 [tile], 1;
    fma.rn.f32 %z, 0f3F800000, 0f3F800000, 0f3F800000;
    add.u32 %y, %y, 1;
    setp.lt.u32 %p, %y, 5;
    @%p bra $inner;
    @%q st.shared.b32 [tile], 1;
    add.u32 %x, %x, 1;
    setp.lt.u32 %p, %x, 3;
    @%p bra $outer;
    @%q st.shared.b32 [tile], 1;"""


def test_counts_belong_to_loops():
    declarations = REGISTERS + ".shared .b32 tile[1];"
    report = run_body(LOOPS, [np.zeros(1)], grid=7, declarations=declarations)
    outer, inner = report.loops
    assert outer.first < inner.first and inner.last < outer.last
    assert report.count("fma") == 7 * 15 == report.count("fma.rn", inner)
    assert report.count("st.shared") == 7 * (15 + 3 + 1)
    assert report.wavefronts("st.shared", outer).found == 7 * (15 + 3)
    assert report.wavefronts("st.shared", inner).found == 7 * 15
    assert report.main_loop("fma") == inner
    assert report.main_loop("mov") == outer
    assert report.opcode_counts(inner)["setp"] == 7 * 15
    with pytest.raises(ValueError, match="no loop executed mma"):
        report.main_loop()
