"""A Device whose kernels run in the PTX emulator: the whole of stage A without a GPU.

Has the methods of the real one, by name and parameters. Its times are made up.
"""

from __future__ import annotations

import numpy as np
from ptx import run_kernel

MICROSECONDS = 12.5


class EmulatedDevice:
    def __init__(self) -> None:
        self.launches: list[tuple[str, tuple[int, ...]]] = []
        self.buffers: list[EmulatedBuffer] = []

    @property
    def name(self) -> str:
        return "emulated"

    @property
    def compute_capability(self) -> int:
        return 80

    @property
    def driver_version(self) -> str:
        return "0.0"

    def memory(self):
        return 1 << 30, 1 << 30

    def upload(self, array):
        return self._keep(EmulatedBuffer(np.array(array, order="C")))

    def allocate(self, num_bytes):
        return self._keep(EmulatedBuffer(np.zeros(num_bytes, np.uint8)))

    def kernel(self, image, name, *, shared_bytes):
        return EmulatedKernel(self, image.decode(), name, shared_bytes)

    def synchronize(self):
        pass

    def event(self):
        return EmulatedEvent()

    def capture(self, launches):
        """Launches are counted, not run: the emulator takes seconds for each."""
        self.launches.append(("capture", ()))
        return EmulatedGraph()

    def _keep(self, buffer):
        self.buffers.append(buffer)
        return buffer


class EmulatedBuffer:
    def __init__(self, array) -> None:
        self.array, self.num_bytes, self.is_freed = array, array.nbytes, False

    def download(self, shape, dtype):
        return self.array.reshape(-1).view(dtype).reshape(shape).copy()

    def fill(self, byte):
        self.array.reshape(-1).view(np.uint8)[:] = byte

    def free(self):
        assert not self.is_freed
        self.is_freed = True


class EmulatedKernel:
    def __init__(self, device, ptx, name, shared_bytes) -> None:
        self.device, self.ptx, self.name, self.shared_bytes = device, ptx, name, shared_bytes
        self.is_run = False

    def launch(self, grid, block, arguments):
        self.device.launches.append((self.name, tuple(grid)))
        if self.is_run:  # only to be timed
            return
        self.is_run = True
        values = [a.array if isinstance(a, EmulatedBuffer) else a for a in arguments]
        run_kernel(self.ptx, self.name, grid, block, values, self.shared_bytes)


class EmulatedGraph:
    def launch(self):
        pass

    def free(self):
        pass


class EmulatedEvent:
    def record(self):
        pass

    def microseconds_since(self, earlier):
        return MICROSECONDS
