"""Local memory: bytes of each thread's own, for arrays that are not held in registers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ptx.failures import FailureKind
from ptx.faults import Fault, first
from ptx.scalar_types import ScalarType


class LocalMemory:
    """(threads, bytes) of a group."""

    def __init__(self, num_bytes: int, num_threads: int) -> None:
        self.num_bytes = num_bytes
        self.stride = -(-max(num_bytes, 1) // 16) * 16
        self.raw = np.full(num_threads * self.stride, 0xFF, np.uint8)
        self.is_written = np.zeros(num_threads * self.stride, bool)

    def load(
        self, addresses: np.ndarray, scalar_type: ScalarType, count: int, threads: np.ndarray
    ) -> list[np.ndarray]:
        """Read `count` neighbours of a type at each address of the active threads.

        Raises:
            Fault: misaligned, out of bounds or never written.
        """
        size = scalar_type.num_bytes
        starts = self._place(addresses, size * count, threads)
        unwritten = ~self.is_written[starts[:, None] + np.arange(size * count)]
        if unwritten.any():
            raise Fault(
                FailureKind.UNINITIALISED_REGISTER,
                "read of local memory that was never written",
                thread=int(threads[first(unwritten)]),
            )
        elements = self.raw.view(scalar_type.dtype)
        return [elements[starts // size + number] for number in range(count)]

    def store(
        self, addresses: np.ndarray, values: Sequence[np.ndarray], threads: np.ndarray
    ) -> None:
        """Write neighbouring values at each address of the active threads.

        Raises:
            Fault: misaligned or out of bounds.
        """
        size = values[0].dtype.itemsize
        starts = self._place(addresses, size * len(values), threads)
        self.is_written[starts[:, None] + np.arange(size * len(values))] = True
        elements = self.raw.view(values[0].dtype)
        for number, value in enumerate(values):
            elements[starts // size + number] = value

    def _place(self, addresses: np.ndarray, num_bytes: int, threads: np.ndarray) -> np.ndarray:
        addresses = addresses.astype(np.int64)
        checks = (
            (FailureKind.MISALIGNED, addresses % num_bytes != 0),
            (FailureKind.OUT_OF_BOUNDS, (addresses < 0) | (addresses + num_bytes > self.num_bytes)),
        )
        for kind, failed in checks:
            if failed.any():
                place = first(failed)
                raise Fault(
                    kind,
                    f"local address {int(addresses[place])} for {num_bytes} of "
                    f"{self.num_bytes} bytes",
                    thread=int(threads[place]),
                )
        return threads * self.stride + addresses
