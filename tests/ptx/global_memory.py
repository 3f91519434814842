"""Global and constant memory: NumPy arrays behind 64-bit addresses that are far apart.

Buffer i lives at (i + 1) << 40, so that a truncated address, or one that runs off the end of its
buffer, meets no other buffer. global_order.py finds races.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ptx.failures import FailureKind
from ptx.faults import Fault, first
from ptx.geometry import Geometry
from ptx.global_order import GlobalOrder, LastAccess
from ptx.ordering import Ordering
from ptx.scalar_types import ScalarType

_BUFFER_SHIFT = 40
_OFFSET_MASK = (1 << _BUFFER_SHIFT) - 1


class Buffer:
    """One array in global memory, changed in place."""

    def __init__(self, array: np.ndarray, *, name: str) -> None:
        if not array.flags.c_contiguous:
            raise ValueError(f"{name}: the array is not contiguous; pass numpy.ascontiguousarray")
        self.name = name
        self.is_writable = array.flags.writeable
        self.raw = array.reshape(-1).view(np.uint8)
        self.writes: LastAccess | None = None
        self.reads: LastAccess | None = None

    def elements(self, dtype: np.dtype) -> np.ndarray:
        """The buffer's whole elements of a type."""
        size = dtype.itemsize
        return self.raw[: len(self.raw) // size * size].view(dtype)


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
        self.order = GlobalOrder(geometry, ordering)

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
            self._note_read(buffer, offsets, size * count, threads[chosen])
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
            self._note_write(buffer, offsets, total, threads[chosen])
            elements = buffer.elements(values[0].dtype)
            for number, value in enumerate(values):
                elements[offsets // size + number] = value[chosen]

    def update(
        self,
        addresses: np.ndarray,
        scalar_type: ScalarType,
        threads: np.ndarray,
        combine: Callable[[np.generic, int], np.generic],
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
                elements[offset] = combine(old[place], int(place))
        return old

    def _split(
        self, addresses: np.ndarray, num_bytes: int, threads: np.ndarray
    ) -> Iterator[tuple[slice | np.ndarray, Buffer, np.ndarray]]:
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

    def _note_read(
        self, buffer: Buffer, offsets: np.ndarray, num_bytes: int, threads: np.ndarray
    ) -> None:
        """What cannot be written needs no record of who read it."""
        if not buffer.is_writable:
            return
        places = offsets[:, None] + np.arange(num_bytes)
        what = f"read of what another thread wrote, {buffer.name}"
        self.order.check(buffer.writes, places, threads, what)
        buffer.reads = buffer.reads or LastAccess(len(buffer.raw))
        self.order.note(buffer.reads, places, threads)

    def _note_write(
        self, buffer: Buffer, offsets: np.ndarray, num_bytes: int, threads: np.ndarray
    ) -> None:
        places = offsets[:, None] + np.arange(num_bytes)
        self.order.check(buffer.writes, places, threads, f"two threads write to {buffer.name}")
        what = f"write to what another thread read, {buffer.name}"
        self.order.check(buffer.reads, places, threads, what)
        buffer.writes = buffer.writes or LastAccess(len(buffer.raw))
        self.order.note(buffer.writes, places, threads)
        lost = buffer.writes.thread[places] != threads[:, None]
        if lost.any():
            raise Fault(
                FailureKind.RACE,
                f"two threads write byte {int(places[lost][0])} of {buffer.name} at once",
                thread=int(threads[first(lost)]),
            )
