"""Products of two warpgroups that wait at different times, without a kernel around them."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import FailureKind
from ptx.faults import Fault
from ptx.geometry import Geometry
from ptx.ordering import Ordering
from ptx.shared_memory import SharedMemory
from ptx.warpgroup_products import WarpgroupProducts

FIRST, SECOND, ALL = np.arange(4), np.arange(4, 8), np.arange(8)
THREADS = np.arange(256)


class Block:
    """A block of two warpgroups whose shared memory is written and fenced."""

    def __init__(self) -> None:
        geometry = Geometry(grid=(1, 1, 1), block=(256, 1, 1), first_block=0, num_blocks=1)
        self.ordering = Ordering(geometry)
        self.shared = SharedMemory(1024, 4, geometry, self.ordering)
        self.products = WarpgroupProducts(geometry, self.shared)
        self.write(THREADS)
        self.ordering.fence_async_proxy(ALL)
        self.ordering.synchronise(ALL)
        self.products.fence(ALL)

    def write(self, threads: np.ndarray) -> None:
        """Each thread its word."""
        self.shared.store(4 * threads.astype(np.uint64), [threads.astype(np.uint32)], threads)

    def read(self, warps: np.ndarray) -> np.ndarray:
        """The first 32 bytes for each warp, until it waits."""
        addresses = np.tile(np.array([0, 16]), (len(warps), 1))
        return self.products.read_shared(addresses, 16, warps)


def test_every_warp_reads_the_same():
    data = Block().read(ALL)
    assert data.shape == (8, 2, 16)
    np.testing.assert_array_equal(data.view(np.uint32).reshape(8, 8), np.tile(np.arange(8), (8, 1)))


def test_what_is_read_is_free_once_both_have_waited():
    block = Block()
    block.read(ALL)
    block.products.commit(ALL)
    for waiting in (FIRST, SECOND):
        with pytest.raises(Fault) as caught:
            block.write(THREADS[:1])
        assert caught.value.kind is FailureKind.RACE
        block.products.wait(waiting, 0)
        block.ordering.synchronise(ALL)
    block.write(THREADS[:1])
    assert block.shared.num_being_read == 0


def test_one_group_after_the_other():
    block = Block()
    for _ in range(2):
        block.read(FIRST)
        block.products.commit(FIRST)
    block.products.wait(FIRST, 2)
    assert block.shared.being_read[0] == 2 * 4
    block.products.wait(FIRST, 1)
    assert block.shared.being_read[0] == 4
    block.products.wait(SECOND, 0)
    assert block.shared.being_read[0] == 4, "others have not read it"
    block.products.wait(FIRST, 0)
    assert not block.shared.being_read.any()


@pytest.mark.parametrize(("slot", "finds"), [(3, True), (4, True), (5, False)])
def test_registers_belong_to_the_warps_that_have_begun(slot, finds):
    block = Block()
    block.products.begin((3,), (4,), "m64n8k16", FIRST)
    block.products.commit(FIRST)
    block.products.touch((slot,), SECOND)
    if finds:
        with pytest.raises(Fault) as caught:
            block.products.touch((slot,), FIRST)
        assert caught.value.kind is FailureKind.REGISTER_IN_FLIGHT
    block.products.wait(FIRST, 0)
    block.products.touch((slot,), FIRST)
    with pytest.raises(Fault) as caught:
        block.products.begin((slot,), (), "m64n8k16", FIRST)
    assert caught.value.kind is FailureKind.REGISTER_NOT_FENCED
    block.products.fence(FIRST)
    block.products.begin((slot,), (), "m64n8k16", FIRST)


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize(("writer", "fencer"), [(0, 0), (5, 5), (5, 0), (0, 5), (6, 2)])
def test_a_fence_is_for_the_writes_of_its_own_warp(writer, fencer, blocks):
    """Between the last barrier and the next one a warp writes and one fences; in the last block."""
    geometry = Geometry(grid=(3, 1, 1), block=(256, 1, 1), first_block=0, num_blocks=blocks)
    ordering = Ordering(geometry)
    shared = SharedMemory(1024, 4, geometry, ordering)
    mine = 8 * (blocks - 1) + ALL
    threads = 32 * mine[writer] + np.arange(32)
    places = 4 * (threads % 256).astype(np.uint64)
    shared.store(places, [threads.astype(np.uint32)], threads)
    ordering.fence_async_proxy(mine[fencer : fencer + 1])
    ordering.synchronise(mine)
    products = WarpgroupProducts(geometry, shared)
    addresses = np.full((4, 1), 128 * writer)
    if writer == fencer:
        data = products.read_shared(addresses, 16, mine[:4])
        np.testing.assert_array_equal(data.view(np.uint32)[0, 0], threads[:4])
        return
    with pytest.raises(Fault) as caught:
        products.read_shared(addresses, 16, mine[:4])
    assert caught.value.kind is FailureKind.PROXY_NOT_FENCED
