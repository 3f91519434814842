"""What races with what in shared memory, beyond the plain cases of test_shared_memory.py."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import FailureKind, KernelFailure
from ptx.geometry import Geometry
from ptx.ordering import Ordering
from ptx.shared_memory import SharedMemory
from support_ptx import run_body

DECLARATIONS = """.reg .b32 %x, %y, %mine, %mirror, %warp; .reg .b64 %at, %wide; .reg .f32 %f;
.reg .pred %first, %second, %even, %p; .shared .align 16 .b8 tile[8192];"""
#: %mirror: the word of the lane that is as far from its warp's end.
BEGIN = """mov.u32 %x, tile; mad.lo.u32 %mine, %thread, 4, %x; xor.b32 %y, %thread, 31;
mad.lo.u32 %mirror, %y, 4, %x; shr.u32 %warp, %thread, 5; setp.eq.u32 %first, %warp, 0;
setp.eq.u32 %second, %warp, 1; and.b32 %y, %thread, 1; setp.eq.u32 %even, %y, 0;
"""
WRITE = "st.shared.b32 [%mine], %thread;"
BARRIER, OF_WARP = "bar.sync 0;", "bar.warp.sync -1;"


def run(*parts: str, block: int = 64, grid: int = 1):
    y = np.zeros(1, np.uint32)
    return run_body(BEGIN + "".join(parts), [y], block=block, grid=grid, declarations=DECLARATIONS)


def failure(*parts: str, **options) -> KernelFailure:
    with pytest.raises(KernelFailure) as caught:
        run(*parts, **options)
    return caught.value


def test_two_warps_race_even_with_one_value():
    assert failure("st.shared.b32 [tile], 5;").kind is FailureKind.RACE
    run("@%first st.shared.b32 [tile], 5;", BARRIER, "@%second st.shared.b32 [tile], 5;")


@pytest.mark.parametrize(("low", "high", "races"), [(0.0, -0.0, True), (np.nan, np.nan, False)])
def test_one_value_is_one_pattern_of_bits(low, high, races):
    bits = [int(np.float32(value).view(np.uint32)) for value in (low, high)]
    body = f"mov.b32 %f, {bits[0]}; @%even mov.b32 %f, {bits[1]}; st.shared.f32 [tile], %f;"
    if races:
        assert failure(body, block=32).kind is FailureKind.RACE
    else:
        assert run(body, block=32).count("st.shared") == 1


@pytest.mark.parametrize(
    "read",
    [
        # All lanes at once, the last of which writes; or one lane, then another, which writes.
        "ld.shared.b32 %y, [tile];",
        "setp.eq.u32 %p, %thread, 0; @%p ld.shared.b32 %y, [tile];"
        "setp.eq.u32 %p, %thread, 31; @%p ld.shared.b32 %y, [tile];",
        # Read again by the one that has read it first.
        "setp.eq.u32 %p, %thread, 31; @%p ld.shared.b32 %y, [tile]; ld.shared.b32 %y, [tile];"
        "@%p ld.shared.b32 %y, [tile];",
    ],
)
@pytest.mark.parametrize("writer", [0, 31])
def test_a_lane_that_has_read_too_may_not_write(read, writer):
    write = f"setp.eq.u32 %p, %thread, {writer}; @%p st.shared.b32 [tile], 1;"
    assert failure(WRITE, OF_WARP, read, write, block=32).kind is FailureKind.RACE
    run(WRITE, OF_WARP, read, OF_WARP, write, block=32)


def test_a_lane_may_write_what_it_alone_has_read():
    run(WRITE, BARRIER, "ld.shared.b32 %y, [%mine];", "ld.shared.b32 %y, [%mine];", WRITE, WRITE)


def test_a_barrier_of_one_warp_orders_no_other_ones_lanes():
    exchange = "ld.shared.b32 %y, [%mirror];"
    assert failure(WRITE, f"@%first {OF_WARP}", exchange).kind is FailureKind.RACE
    run(WRITE, f"@%first {OF_WARP}", f"@%first {exchange}")
    assert failure(WRITE, OF_WARP, exchange, f"@%first {OF_WARP}", WRITE).kind is FailureKind.RACE


def test_lanes_of_the_only_warp_need_a_barrier_after_every_exchange():
    read = "ld.shared.b32 %y, [%mirror];"
    for barrier in (BARRIER, OF_WARP):
        one = {"block": 32}
        run(WRITE, barrier, read, barrier, WRITE, barrier, read, **one)
        assert failure(WRITE, barrier, read, barrier, WRITE, read, **one).kind is FailureKind.RACE
        assert failure(WRITE, barrier, read, barrier, read, WRITE, **one).kind is FailureKind.RACE


#: Of four warps the first two meet at barrier 1, the others at barrier 2.
PAIRS = "shr.u32 %y, %warp, 1; add.u32 %y, %y, 1; bar.sync %y, 64;"
#: Warp 0 and 2 at barrier 3, warp 1 and 3 at barrier 4.
CROSSED = "and.b32 %y, %warp, 1; add.u32 %y, %y, 3; bar.sync %y, 64;"


def neighbour(access: str, step: int) -> str:
    """An access to the word of a thread `step` away."""
    return (
        f"xor.b32 %y, %thread, {step}; mov.u32 %x, tile; mad.lo.u32 %mirror, %y, 4, %x;"
        + {"read": "ld.shared.b32 %y, [%mirror];", "write": "st.shared.b32 [%mirror], %y;"}[access]
    )


@pytest.mark.parametrize("access", ["read", "write"])
def test_barriers_of_some_order_those_and_whom_they_have_met(access):
    near, over, far = (neighbour(access, step) for step in (32, 64, 96))
    four = {"block": 128}
    run(WRITE, PAIRS, near, **four)
    run(WRITE, CROSSED, over, **four)
    assert failure(WRITE, PAIRS, over, **four).kind is FailureKind.RACE
    assert failure(WRITE, CROSSED, near, **four).kind is FailureKind.RACE
    # Warp 3 knows of warp 0 through warp 1 or 2.
    run(WRITE, PAIRS, CROSSED, far, **four)
    assert failure(WRITE, PAIRS, PAIRS, far, **four).kind is FailureKind.RACE
    # What is written after the first barrier is known only to those who were at the second.
    run(PAIRS, WRITE, CROSSED, over, **four)
    assert failure(PAIRS, WRITE, CROSSED, far, **four).kind is FailureKind.RACE


def test_reads_of_every_warp_are_kept():
    """Warps 1 to 3 read the word of thread 0, which may be written only after all of them."""
    read = "ld.shared.b32 %y, [tile];"
    write = "setp.eq.u32 %p, %thread, 0; @%p st.shared.b32 [tile], 1;"
    for reader in range(1, 4):
        one = f"setp.eq.u32 %p, %warp, {reader}; @%p {read}"
        found = failure(WRITE, BARRIER, one, write, block=128)
        assert found.kind is FailureKind.RACE
        run(WRITE, BARRIER, one, BARRIER, write, block=128)
    # Read in two words at once, of which one was read by nobody else.
    wide = "setp.eq.u32 %p, %thread, 0; @%p st.shared.b64 [tile], 1;"
    last = "setp.eq.u32 %p, %warp, 3; @%p ld.shared.b32 %y, [tile+4];"
    assert failure(WRITE, BARRIER, last, wide, block=128).kind is FailureKind.RACE


@pytest.mark.parametrize("block", [512, 1024])
def test_every_thread_of_a_large_block_is_told_apart(block):
    run(WRITE, BARRIER, neighbour("read", block // 2), BARRIER, WRITE, block=block)
    run(WRITE, BARRIER, "ld.shared.b32 %y, [%mine];", WRITE, block=block)
    assert failure(WRITE, neighbour("read", 1), block=block).kind is FailureKind.RACE
    assert failure(WRITE, neighbour("write", block // 2), block=block).kind is FailureKind.RACE


def test_a_failure_tells_the_address_in_its_block():
    late = "mov.u32 %x, %ctaid.x; setp.eq.u32 %p, %x, 3; @%p ld.shared.b32 %y, [tile+512];"
    found = failure(WRITE, late, grid=5)
    assert (found.kind, found.block) == (FailureKind.UNINITIALISED_SHARED, (3, 0, 0))
    assert "shared byte 512," in found.detail


def test_shared_memory_and_targets_of_copies_are_full_of_nan():
    """What a check should miss shows in a kernel's outputs."""
    geometry = Geometry(grid=(1, 1, 1), block=(32, 1, 1), first_block=0, num_blocks=1)
    memory = SharedMemory(256, 4, geometry, Ordering(geometry))
    assert np.isnan(memory.raw.view(np.float16)).all()
    threads = np.arange(32)
    memory.store(4 * threads, [np.ones(32, np.float32)], threads)
    memory.begin_copy(4 * threads[:8], 4, threads[:8])
    held = memory.raw[:128].view(np.float32)
    np.testing.assert_array_equal(np.isnan(held), threads < 8)
    np.testing.assert_array_equal(held[8:], 1)
