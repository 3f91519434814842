"""Special registers, and the place in the launch that a failure names."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import FailureKind, KernelFailure
from support_ptx import evaluate, run_body

DECLARATIONS = ".reg .b32 %x, %y, %z; .reg .pred %p;"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eq", lambda lane: 1 << lane),
        ("lt", lambda lane: (1 << lane) - 1),
        ("le", lambda lane: (2 << lane) - 1),
        ("ge", lambda lane: 2**32 - (1 << lane)),
        ("gt", lambda lane: 2**32 - (2 << lane)),
    ],
)
def test_masks_of_lanes(name, value):
    found = evaluate(f"mov.u32 %d, %lanemask_{name};", "u32", [("u32", np.zeros(64))])
    assert [int(mask) for mask in found] == [value(lane) for lane in range(32)] * 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("%laneid", lambda thread: thread % 32),
        ("%warpid", lambda thread: thread // 32),
        ("%nwarpid", lambda thread: 3),
        ("%ntid.x", lambda thread: 72),
        ("%nctaid.x", lambda thread: 40),
        ("%dynamic_smem_size", lambda thread: 48),
    ],
)
def test_every_block_has_the_same(name, expected):
    """40 blocks of 72 threads: several groups of blocks, each of a last warp that is not whole."""
    y = np.zeros((40, 72), np.uint32)
    body = f"""mov.u32 %x, %ctaid.x; mad.lo.u32 %x, %x, 72, %thread;
    mad.wide.u32 %rd1, %x, 4, %rd0; mov.u32 %y, {name}; st.global.b32 [%rd1], %y;"""
    declarations = DECLARATIONS + ".shared .align 4 .b8 fixed[20];"
    run_body(body, [y], grid=40, block=72, declarations=declarations, shared_bytes=48)
    np.testing.assert_array_equal(y, np.tile([expected(thread) for thread in range(72)], (40, 1)))


@pytest.mark.parametrize("number", [0, 50, 119])
def test_a_failure_names_block_and_thread(number):
    """Blocks of 64 threads run 32 at once; block and thread have three dimensions."""
    body = f"""mov.u32 %x, %ctaid.z; mov.u32 %y, %ctaid.y; mad.lo.u32 %x, %x, 4, %y;
    mov.u32 %y, %ctaid.x; mad.lo.u32 %x, %x, 5, %y; setp.eq.u32 %p, %x, {number};
    mov.u32 %y, %tid.y; setp.eq.and.u32 %p, %y, 3, %p; @%p trap;"""
    with pytest.raises(KernelFailure) as caught:
        run_body(body, [np.zeros(1)], grid=(5, 4, 6), block=(8, 4, 2), declarations=DECLARATIONS)
    failure = caught.value
    place = (number % 5, number // 5 % 4, number // 20)
    assert (failure.kind, failure.block) == (FailureKind.TRAP, place)
    assert failure.thread == (0, 3, 0)
