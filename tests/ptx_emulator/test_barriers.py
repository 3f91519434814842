"""Barriers of blocks of any size, and what a barrier that cannot complete tells."""

from __future__ import annotations

import re

import numpy as np
import pytest
from ptx import FailureKind, KernelFailure, UnsupportedPtx
from support_ptx import run_body

DECLARATIONS = """.reg .b32 %x, %y, %mine, %other; .reg .b64 %at; .reg .pred %p;
.shared .align 4 .b8 tile[4096];"""
#: %other: the word of the thread that is as far from the block's end.
EXCHANGE = """mov.u32 %x, tile; mad.lo.u32 %mine, %thread, 4, %x; mov.u32 %y, %ntid.x;
sub.u32 %y, %y, %thread; sub.u32 %y, %y, 1; mad.lo.u32 %other, %y, 4, %x;
st.shared.b32 [%mine], %thread; {barrier} ld.shared.b32 %x, [%other];
mad.wide.u32 %at, %thread, 4, %rd0; st.global.b32 [%at], %x;"""


def failure(body: str, *, block: int) -> KernelFailure:
    with pytest.raises(KernelFailure) as caught:
        run_body(body, [np.zeros(block, np.uint32)], block=block, declarations=DECLARATIONS)
    return caught.value


@pytest.mark.parametrize("block", [40, 65, 96, 1000, 1024])
def test_blocks_of_any_size_meet(block):
    y = np.zeros(block, np.uint32)
    body = EXCHANGE.format(barrier="barrier.sync.aligned 0;")
    run_body(body, [y], block=block, declarations=DECLARATIONS)
    np.testing.assert_array_equal(y, np.arange(block)[::-1])
    assert failure(EXCHANGE.format(barrier=""), block=block).kind in (
        FailureKind.RACE,
        FailureKind.UNINITIALISED_SHARED,
    )


def test_a_count_is_neither_missed_nor_exceeded():
    for count in (32, 96):
        found = failure(EXCHANGE.format(barrier=f"bar.sync 1, {count};"), block=64)
        assert found.kind is FailureKind.DIVERGENT_BARRIER


def test_numbers_of_barriers_are_apart():
    """Warp 0 waits at barrier 1 and warp 1 at barrier 2, in one instruction."""
    barrier = "shr.u32 %x, %thread, 5; add.u32 %x, %x, 1; bar.sync %x, 64;"
    assert failure(barrier, block=64).kind is FailureKind.DIVERGENT_BARRIER


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("@%p exit; bar.sync 0;", "8 threads wait for the others of the block, of which 32 have"),
        ("@%p bra $in; bra $end; $in: bar.sync 0; $end:", "32 threads wait .* of which 8 have"),
        ("@%p bra $in; bar.sync 0; bra $end; $in: bar.sync 0; $end:", "of 40 threads wait in ano"),
    ],
)
def test_what_cannot_complete_is_told(body, detail):
    found = failure(f"setp.lt.u32 %p, %thread, 32; {body}", block=40)
    assert (found.kind, found.text) == (FailureKind.DIVERGENT_BARRIER, "bar.sync 0")
    assert re.search(detail, found.detail)


@pytest.mark.parametrize(
    "text", ["bar.arrive 0, 64;", "bar.red.popc.u32 %x, 0, %p;", "barrier.sync.frob 0;", "bar 0;"]
)
def test_unknown_barriers_are_refused(text):
    with pytest.raises(UnsupportedPtx, match="unknown"):
        run_body(text, [np.zeros(1)], declarations=DECLARATIONS)
