"""Which threads go on together, who waits for whom, and what of it is counted."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import FailureKind, KernelFailure
from support_ptx import run_body

DECLARATIONS = """.reg .b32 %x, %y, %z, %d; .reg .b64 %at; .reg .pred %p, %q;
.shared .align 4 .b8 tile[256];"""
STORE = "mad.wide.u32 %at, %thread, 4, %rd0; st.global.b32 [%at], %d;"


def run(body: str, *, block: int = 32, grid: int = 1):
    y = np.zeros(block, np.uint32)
    report = run_body(body, [y], block=block, grid=grid, declarations=DECLARATIONS)
    return y, report


def test_threads_meet_again_where_a_loop_ends():
    """Each leaves the loop in another turn; what follows is issued once."""
    body = f"""mov.u32 %d, 0;
$loop:
    add.u32 %d, %d, 1; setp.lt.u32 %p, %d, %thread; @%p bra $loop;
    mul.lo.u32 %d, %d, 2; {STORE}"""
    y, report = run(body, block=64)
    np.testing.assert_array_equal(y, 2 * np.maximum(np.arange(64), 1))
    assert report.count("mul.lo") == 2
    # Warp 0 goes round until thread 31 has had its turns, warp 1 until thread 63.
    assert report.count("add", report.loops[0]) == 31 + 63


def test_ways_apart_are_issued_by_those_who_take_them():
    """Of two warps and a third that is not whole the first goes both ways."""
    body = f"""setp.lt.u32 %p, %thread, 20; @%p bra $far;
    sub.u32 %d, %thread, 1; bra $end;
$far:
    add.u32 %d, %thread, 1;
$end: {STORE}"""
    y, report = run(body, block=72)
    thread = np.arange(72)
    np.testing.assert_array_equal(y, np.where(thread < 20, thread + 1, thread - 1))
    assert (report.count("sub"), report.count("add"), report.count("st.global")) == (3, 1, 3)


#: Lanes up to 19 come to $join from below, after the others; there the warp exchanges.
BELOW = """setp.lt.u32 %p, %thread, 20; {more} @%p bra $far;
    mov.u32 %x, 1;
$join:
    add.u32 %x, %x, 4;
    {inside}
    bra $end;
$far:
    mov.u32 %x, 2;
    bra $join;
$end:"""


def test_a_part_of_a_warp_waits_within_a_stretch():
    inside = "shfl.sync.idx.b32 %d, %x, 0, 31, -1; add.u32 %d, %d, %thread;"
    y, report = run(BELOW.format(more="", inside=inside) + STORE, block=64)
    np.testing.assert_array_equal(y, np.where(np.arange(64) < 32, 6, 5) + np.arange(64))
    assert report.count("shfl") == 2, "once by each warp"
    assert report.count("add.u32 %x") == 0, "mnemonics are counted, not operands"
    assert report.count("bra") == 2 + 1 + 2, "in front, of the lanes from below, and behind"


def test_threads_that_a_predicate_excludes_need_not_wait():
    more = "setp.lt.u32 %q, %thread, 26; mov.u32 %d, 50;"
    inside = "@%q shfl.sync.bfly.b32 %d, %x, 16, 31, 0x3FFFFFF; @!%q mov.u32 %d, 9;"
    broken = inside.replace("0x3FFFFFF", "0x7FFFFFF")
    with pytest.raises(KernelFailure) as caught:
        run(BELOW.format(more=more, inside=broken))
    assert caught.value.kind is FailureKind.DIVERGENT_WARP
    # Lanes of one half exchange within 0..7 and 16..23; 10 to 15 have no partner among them.
    inside = inside.replace("bfly.b32 %d, %x, 16", "bfly.b32 %d, %x, 1")
    y, _ = run(BELOW.format(more=more, inside=inside) + STORE)
    lane = np.arange(32)
    np.testing.assert_array_equal(y, np.where(lane < 20, 6, np.where(lane < 26, 5, 9)))


def test_who_waits_in_vain_is_told():
    inside = "shfl.sync.idx.b32 %d, %x, 0, 31, -1;"
    never = BELOW.format(more="", inside=inside).replace("bra $join;", "bar.sync 0;")
    with pytest.raises(KernelFailure) as caught:
        run(never)
    assert caught.value.kind is FailureKind.DIVERGENT_WARP
    assert caught.value.text.startswith("shfl.sync.idx")
    assert f"only lanes {list(range(20, 32))} come" in caught.value.detail


@pytest.mark.parametrize(
    "control", ["@%p trap;", "@%p exit;", "@%p bra $away;", "@!%q trap;", "@%p bar.sync 7, 64;"]
)
def test_control_for_nobody_does_nothing(control):
    """Also for a part of the threads alone."""
    body = f"""setp.eq.u32 %p, %thread, 99; setp.ne.u32 %q, %thread, 99; mov.u32 %d, 3;
    {control}"""
    tail = f"{STORE} bra $end; $away: trap; $end:"
    y, _ = run(body + tail)
    np.testing.assert_array_equal(y, 3)
    part = "setp.ge.u32 %p, %thread, 8; @%p exit; setp.eq.u32 %p, %thread, 99;"
    y, _ = run(part + body + tail)
    np.testing.assert_array_equal(y, [3] * 8 + [0] * 24)


def test_a_trap_names_the_first_thread_that_runs_into_it():
    for body, thread in (("trap;", 0), ("setp.gt.u32 %p, %thread, 40; @%p trap;", 41)):
        with pytest.raises(KernelFailure) as caught:
            run(body, block=64)
        assert caught.value.thread == (thread, 0, 0)


def test_padding_does_nothing():
    """33 threads: the second warp's other lanes would write beyond the array."""
    y, report = run(f"mov.u32 %d, 5; {STORE}", block=33, grid=1)
    np.testing.assert_array_equal(y, 5)
    assert report.count("st.global") == 2
