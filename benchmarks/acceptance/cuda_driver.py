"""The CUDA driver through ctypes: memory, modules, launches, graphs and event times.

Everything runs in one stream of the device's primary context. Kernels of a few microseconds are
timed inside a CUDA graph: Python could not launch them fast enough one by one.
Source of names and numbers: CUDA Driver API reference, cuda.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from vq4dit.errors import BackendUnavailable, Vq4ditError

_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76
_MAX_DYNAMIC_SHARED_BYTES = 8
_NON_BLOCKING = 1  # of a stream: does not wait for the default stream
_CAPTURE_RELAXED = 2
_DEFAULT_SHARED_BYTES = 48 * 1024

#: What a kernel that went wrong leaves behind: from then on every call in this process fails.
_LOST = frozenset(
    f"CUDA_ERROR_{name}"
    for name in (
        "ILLEGAL_ADDRESS", "LAUNCH_TIMEOUT", "HARDWARE_STACK_ERROR", "ILLEGAL_INSTRUCTION",
        "MISALIGNED_ADDRESS", "INVALID_ADDRESS_SPACE", "INVALID_PC", "LAUNCH_FAILED",
    )
)  # fmt: skip


class ContextLost(Vq4ditError):
    """A kernel crashed, and nothing runs on the GPU in this process any more."""


def driver_problem() -> str | None:
    """Why no kernel can run here, as one sentence; None if one can."""
    try:
        Device()
    except BackendUnavailable as error:
        return str(error)
    return None


class Device:
    """The first GPU, its primary context current in this thread.

    Raises:
        BackendUnavailable: no driver, no GPU, or the GPU cannot be used.
    """

    def __init__(self) -> None:
        try:
            self._cuda = ctypes.CDLL("libcuda.so.1")
        except OSError:
            raise BackendUnavailable(
                "libcuda.so.1 was not found; install the NVIDIA driver"
            ) from None
        device, context, count = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_int()
        self._call("cuInit", 0)
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if count.value == 0:
            raise BackendUnavailable("the driver sees no GPU; check nvidia-smi")
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._device = device
        self.stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(self.stream), _NON_BLOCKING)

    @property
    def name(self) -> str:
        """Such as NVIDIA A100-SXM4-80GB."""
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, len(text), self._device)
        return text.value.decode()

    @property
    def compute_capability(self) -> int:
        """Such as 80."""
        major = self._attribute(_COMPUTE_CAPABILITY_MAJOR)
        return 10 * major + self._attribute(_COMPUTE_CAPABILITY_MINOR)

    @property
    def driver_version(self) -> str:
        """CUDA version that the driver knows, such as 13.0."""
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        return f"{version.value // 1000}.{version.value % 1000 // 10}"

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def upload(self, array: np.ndarray) -> Buffer:
        """A copy of the array on the device."""
        contiguous = np.ascontiguousarray(array)
        buffer = self.allocate(contiguous.nbytes)
        source = contiguous.ctypes.data_as(ctypes.c_void_p)
        if contiguous.nbytes:
            self._call(
                "cuMemcpyHtoD_v2", buffer.pointer, source, ctypes.c_size_t(contiguous.nbytes)
            )
        return buffer

    def allocate(self, num_bytes: int) -> Buffer:
        """Device memory; freed with `Buffer.free`."""
        pointer = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(num_bytes, 1)))
        return Buffer(self, pointer, num_bytes)

    def kernel(self, image: bytes, name: str, *, shared_bytes: int) -> Kernel:
        """Load a cubin or PTX (ended with NUL here) and find a function in it."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(image + b"\0"))
        self._call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        if shared_bytes > _DEFAULT_SHARED_BYTES:
            self._call("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED_BYTES, shared_bytes)
        return Kernel(self, function, shared_bytes)

    def synchronize(self) -> None:
        """Wait for all work; errors of earlier launches come out here."""
        self._call("cuCtxSynchronize")

    def event(self) -> Event:
        """A mark in the stream."""
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), 0)
        return Event(self, event)

    def capture(self, launches: Callable[[], None]) -> Graph:
        """A graph of everything that `launches` puts into the stream."""
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self.stream, _CAPTURE_RELAXED)
        try:
            launches()
        finally:
            self._call("cuStreamEndCapture", self.stream, ctypes.byref(graph))
        flags = ctypes.c_uint64(0)
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, flags)
        self._call("cuGraphDestroy", graph)
        return Graph(self, executable)

    def _attribute(self, attribute: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self._device)
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        result = getattr(self._cuda, function)(*arguments)
        if result != 0:
            name = ctypes.c_char_p()
            self._cuda.cuGetErrorName(result, ctypes.byref(name))
            text = name.value.decode() if name.value else str(result)
            kind = ContextLost if text in _LOST else BackendUnavailable
            raise kind(f"{function} failed: {text}")


class Buffer:
    """Bytes on the device."""

    def __init__(self, device: Device, pointer: ctypes.c_uint64, num_bytes: int) -> None:
        self._device, self.pointer, self.num_bytes = device, pointer, num_bytes

    def download(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A copy on the host, of what the stream has written."""
        self._device.synchronize()
        array = np.empty(shape, dtype)
        target = array.ctypes.data_as(ctypes.c_void_p)
        size = ctypes.c_size_t(array.nbytes)
        self._device._call("cuMemcpyDtoH_v2", target, self.pointer, size)
        return array

    def fill(self, byte: int) -> None:
        """Set every byte."""
        size = ctypes.c_size_t(self.num_bytes)
        value = ctypes.c_ubyte(byte)
        self._device._call("cuMemsetD8Async", self.pointer, value, size, self._device.stream)

    def free(self) -> None:
        """Give the memory back; once. A lost context has none."""
        with suppress(ContextLost):
            self._device._call("cuMemFree_v2", self.pointer)


class Kernel:
    """A function on the device."""

    def __init__(self, device: Device, function: ctypes.c_void_p, shared_bytes: int) -> None:
        self._device, self._function, self._shared_bytes = device, function, shared_bytes

    def launch(
        self, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Buffer | int]
    ) -> None:
        """Queue it: a Buffer becomes its address, an int 32 bits."""
        values = [a.pointer if isinstance(a, Buffer) else ctypes.c_int32(a) for a in arguments]
        addresses = [ctypes.cast(ctypes.byref(v), ctypes.c_void_p) for v in values]
        array = (ctypes.c_void_p * len(values))(*addresses)
        self._device._call(
            "cuLaunchKernel", self._function, *grid, *block, self._shared_bytes,
            self._device.stream, array, None,
        )  # fmt: skip


class Graph:
    """Launches that were captured."""

    def __init__(self, device: Device, executable: ctypes.c_void_p) -> None:
        self._device, self._executable = device, executable

    def launch(self) -> None:
        """Queue all of them."""
        self._device._call("cuGraphLaunch", self._executable, self._device.stream)

    def free(self) -> None:
        """Give it back; once."""
        self._device._call("cuGraphExecDestroy", self._executable)


class Event:
    """A moment in the stream."""

    def __init__(self, device: Device, event: ctypes.c_void_p) -> None:
        self._device, self._event = device, event

    def record(self) -> None:
        """Put the mark behind what is queued."""
        self._device._call("cuEventRecord", self._event, self._device.stream)

    def microseconds_since(self, earlier: Event) -> float:
        """Time between two marks; waits for this one."""
        elapsed = ctypes.c_float()
        self._device._call("cuEventSynchronize", self._event)
        self._device._call("cuEventElapsedTime", ctypes.byref(elapsed), earlier._event, self._event)
        return 1000.0 * elapsed.value
