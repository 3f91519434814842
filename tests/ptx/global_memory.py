"""Global and constant memory: NumPy arrays behind 64-bit addresses that are far apart.

Buffer i lives at (i + 1) << 40, so that a truncated address, or one that runs off the end of its
buffer, meets no other buffer. Every byte written remembers who wrote it: two warps that write the
same byte, or one that reads what another wrote, race unless both are in one block with a barrier
between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ptx.failures import FailureKind
from ptx.faults import Fault, first
from ptx.geometry import Geometry
from ptx.ordering import Ordering
from ptx.scalar_types import ScalarType

_BUFFER_SHIFT = 40
_OFFSET_MASK = (1 << _BUFFER_SHIFT) - 1
_NOBODY = -1


@dataclass
class _Writers:
    """Who wrote each byte last: block of the launch, warp in that block, and its clock."""

    block: np.ndarray
    warp: np.ndarray
    clock: np.ndarray


class Buffer:
    """One array in global memory, changed in place."""

    def __init__(self, array: np.ndarray, *, name: str) -> None:
        if not array.flags.c_contiguous:
            raise ValueError(f"{name}: the array is not contiguous; pass numpy.ascontiguousarray")
        self.name = name
        self.is_writable = array.flags.writeable
        self.raw = array.reshape(-1).view(np.uint8)
        self.writers: _Writers | None = None

    def elements(self, dtype: np.dtype) -> np.ndarray:
        """The buffer's whole elements of a type."""
        size = dtype.itemsize
        return self.raw[: len(self.raw) // size * size].view(dtype)

    def ensure_writers(self) -> _Writers:
        if self.writers is None:
            size = len(self.raw)
            self.writers = _Writers(
                np.full(size, _NOBODY, np.int64), np.zeros(size, np.int64), np.zeros(size, np.int32)
            )
        return self.writers


class GlobalMemory:
    """All buffers of a launch."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []

    def add(self, array: np.ndarray, *, name: str) -> int:
        """Place an array and return its address; the same array keeps its address."""
        for number, buffer in enumerate(self.buffers):
            if buffer.raw.size and np.shares_memory(buffer.raw, array):
                same = buffer.raw.ctypes.data == array.ctypes.data
                if not same or buffer.raw.nbytes != array.nbytes:
                    raise ValueError(f"{name} overlaps {buffer.name}; pass the whole array twice")
                return (number + 1) << _BUFFER_SHIFT
        self.buffers.append(Buffer(array, name=name))
        return len(self.buffers) << _BUFFER_SHIFT


class GlobalAccess:
    """Global memory as one group of blocks sees it."""

    def __init__(self, memory: GlobalMemory, geometry: Geometry, ordering: Ordering) -> None:
        self.memory = memory
        self.geometry = geometry
        self.ordering = ordering
        self.block = geometry.first_block + geometry.block_in_group

    def load(
        self, addresses: np.ndarray, scalar_type: ScalarType, count: int, threads: np.ndarray
    ) -> list[np.ndarray]:
        """Read `count` neighbours of a type at each address, one array for each of them.

        Args:
            addresses: (n,) uint64, of the active threads only.
            threads: (n,) their places in the group.
        Raises:
            Fault: misaligned, out of bounds, or written by another thread of this launch.
        """
        size = scalar_type.num_bytes
        values = [np.empty(len(threads), scalar_type.dtype) for _ in range(count)]
        for chosen, buffer, offsets in self._split(addresses, size * count, threads):
            self._check_readers(buffer, offsets, size * count, threads[chosen])
            elements = buffer.elements(scalar_type.dtype)
            for number, value in enumerate(values):
                value[chosen] = elements[offsets // size + number]
        return values

    def store(
        self, addresses: np.ndarray, values: Sequence[np.ndarray], threads: np.ndarray
    ) -> None:
        """Write neighbouring values at each address.

        Raises:
            Fault: misaligned, out of bounds, read-only, or written by another thread too.
        """
        size = values[0].dtype.itemsize
        total = size * len(values)
        for chosen, buffer, offsets in self._split(addresses, total, threads):
            self._check_writable(buffer, threads[chosen])
            self._note_writers(buffer, offsets, total, threads[chosen])
            elements = buffer.elements(values[0].dtype)
            for number, value in enumerate(values):
                elements[offsets // size + number] = value[chosen]

    def update(
        self, addresses: np.ndarray, scalar_type: ScalarType, threads: np.ndarray, combine
    ) -> np.ndarray:
        """Atomically replace the value at each address, thread after thread; return the old ones.

        Args:
            combine: (old value, position among the active threads) -> new value.
        """
        old = np.empty(len(threads), scalar_type.dtype)
        for chosen, buffer, offsets in self._split(addresses, scalar_type.num_bytes, threads):
            self._check_writable(buffer, threads[chosen])
            elements = buffer.elements(scalar_type.dtype)
            places = np.arange(len(threads))[chosen]
            for place, offset in zip(places, offsets // scalar_type.num_bytes, strict=True):
                old[place] = elements[offset]
                elements[offset] = combine(old[place], place)
        return old

    def _split(self, addresses: np.ndarray, num_bytes: int, threads: np.ndarray):
        """Yield (which threads, buffer, their offsets in it), all within bounds and aligned."""
        misaligned = addresses % np.uint64(num_bytes) != 0
        if misaligned.any():
            place = first(misaligned)
            raise Fault(
                FailureKind.MISALIGNED,
                f"global address {int(addresses[place]):#x} for {num_bytes} bytes",
                thread=int(threads[place]),
            )
        numbers = addresses >> np.uint64(_BUFFER_SHIFT)
        offsets = (addresses & np.uint64(_OFFSET_MASK)).astype(np.int64)
        if len(numbers) and (numbers == numbers[0]).all():
            whole = slice(None)
            yield whole, self._buffer(int(numbers[0]), offsets, num_bytes, threads), offsets
            return
        for number in np.unique(numbers):
            chosen = np.flatnonzero(numbers == number)
            buffer = self._buffer(int(number), offsets[chosen], num_bytes, threads[chosen])
            yield chosen, buffer, offsets[chosen]

    def _buffer(
        self, number: int, offsets: np.ndarray, num_bytes: int, threads: np.ndarray
    ) -> Buffer:
        if not 1 <= number <= len(self.memory.buffers):
            address = (number << _BUFFER_SHIFT) + int(offsets[0])
            raise Fault(
                FailureKind.OUT_OF_BOUNDS,
                f"global address {address:#x} is in no buffer",
                thread=int(threads[0]),
            )
        buffer = self.memory.buffers[number - 1]
        outside = offsets + num_bytes > len(buffer.raw)
        if outside.any():
            place = first(outside)
            raise Fault(
                FailureKind.OUT_OF_BOUNDS,
                f"bytes {int(offsets[place])}..{int(offsets[place]) + num_bytes - 1} of "
                f"{buffer.name}, which has {len(buffer.raw)}",
                thread=int(threads[place]),
            )
        return buffer

    def _check_writable(self, buffer: Buffer, threads: np.ndarray) -> None:
        if not buffer.is_writable:
            raise Fault(FailureKind.READ_ONLY, buffer.name, thread=int(threads[0]))

    def _check_readers(
        self, buffer: Buffer, offsets: np.ndarray, num_bytes: int, threads: np.ndarray
    ) -> None:
        if buffer.writers is not None:
            places = offsets[:, None] + np.arange(num_bytes)
            self._check_order(buffer, places, threads, "read of what another thread wrote")

    def _note_writers(
        self, buffer: Buffer, offsets: np.ndarray, num_bytes: int, threads: np.ndarray
    ) -> None:
        writers = buffer.ensure_writers()
        places = offsets[:, None] + np.arange(num_bytes)
        self._check_order(buffer, places, threads, "two threads write")
        if len(np.unique(places)) != places.size:
            self._check_one_writer(buffer, places, threads)
        warps = self.geometry.warp[threads]
        writers.block[places] = self.block[threads][:, None]
        writers.warp[places] = self.geometry.warp_in_block[threads][:, None]
        writers.clock[places] = self.ordering.now[warps][:, None]

    def _check_one_writer(self, buffer: Buffer, places: np.ndarray, threads: np.ndarray) -> None:
        """One instruction: nobody else may write the same byte."""
        writer = np.empty(len(buffer.raw), np.int64)
        writer[places] = threads[:, None]
        lost = writer[places] != threads[:, None]
        raise Fault(
            FailureKind.RACE,
            f"two threads write byte {int(places[lost][0])} of {buffer.name}",
            thread=int(threads[first(lost)]),
        )

    def _check_order(
        self, buffer: Buffer, places: np.ndarray, threads: np.ndarray, what: str
    ) -> None:
        writers = buffer.ensure_writers()
        block = writers.block[places]
        same_block = block == self.block[threads][:, None]
        warps = self.geometry.warp[threads]
        known = self.ordering.known[warps[:, None], np.where(same_block, writers.warp[places], 0)]
        ordered = same_block & (writers.clock[places] <= known)
        racing = (block != _NOBODY) & ~ordered
        if racing.any():
            place = first(racing)
            raise Fault(
                FailureKind.RACE,
                f"{what}: byte {int(places[place][racing[place]][0])} of {buffer.name}",
                thread=int(threads[place]),
            )
