"""CUDA's runtime as a session needs it: one stream, buffers in pairs, graphs; errors as one line.

Uses cuda-bindings, imported when the first stream is made. Nothing here knows TensorRT.
"""

from __future__ import annotations

import ctypes
import logging
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vq4dit.errors import BackendUnavailable, Vq4ditError

_log = logging.getLogger(__name__)

#: What to do where the driver is of CUDA 12: cuda-bindings bring the CUDA runtime of their version,
#: which runs on no driver of an older major version. Source: its release notes and requirements.
FOR_CUDA_12 = "pip install 'cuda-bindings<13'"

#: cudaError_t values that have a message of their own.
_OUT_OF_MEMORY = "cudaErrorMemoryAllocation"
_OLD_DRIVER = "cudaErrorInsufficientDriver"
_NO_DRIVER = ("cudaErrorNoDevice", "cudaErrorInitializationError")


class Cuda:
    """Calls of CUDA's runtime that raise instead of returning codes.

    Raises:
        BackendUnavailable: cuda-bindings is not installed, or there is no driver or GPU.
    """

    def __init__(self) -> None:
        self.runtime = import_cuda_runtime()
        if self.call("cudaGetDeviceCount") == 0:
            raise BackendUnavailable("CUDA finds no GPU; run `vq4dit doctor`")

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function; returns what it gives besides the status.

        Raises:
            BackendUnavailable: there is no driver or GPU, or its memory is exhausted.
            Vq4ditError: CUDA failed otherwise.
        """
        status, *results = getattr(self.runtime, name)(*arguments)
        if status != self.runtime.cudaError_t.cudaSuccess:
            raise self._error(name, status)
        return results[0] if len(results) == 1 else tuple(results)

    def release(self, name: str, handle: Any) -> None:
        """Free something; a failure is logged, so that it hides no error that led here."""
        (status,) = getattr(self.runtime, name)(handle)
        if status != self.runtime.cudaError_t.cudaSuccess:
            _log.debug("%s gave %s", name, status.name)

    def _error(self, name: str, status: Any) -> Vq4ditError:
        error = status.name
        if error == _OLD_DRIVER:
            return BackendUnavailable(
                f"CUDA cannot use a GPU here ({error}): the NVIDIA driver is missing or older than "
                "the CUDA in cuda-bindings; run `vq4dit doctor`, update the driver, or for one of "
                f"CUDA 12 {FOR_CUDA_12}"
            )
        if error in _NO_DRIVER:
            return BackendUnavailable(
                f"CUDA cannot use a GPU here ({error}): the NVIDIA driver is missing, or shows no "
                "GPU; run `vq4dit doctor`, or build with --target cpu"
            )
        if error == _OUT_OF_MEMORY:
            return out_of_gpu_memory(name)
        return Vq4ditError(
            f"CUDA failed: {name} gave {error}; run the program again, and `vq4dit verify` on the "
            "engine if it fails again"
        )


class Stream:
    """A CUDA stream that waits for nothing else; work on it is done in order."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        flags = cuda.runtime.cudaStreamNonBlocking
        self.handle: Any = cuda.call("cudaStreamCreateWithFlags", flags)

    def copy(self, target: int, source: int, num_bytes: int, *, to_device: bool) -> None:
        """Queue a copy between pinned host memory and the device."""
        kinds = self._cuda.runtime.cudaMemcpyKind
        kind = kinds.cudaMemcpyHostToDevice if to_device else kinds.cudaMemcpyDeviceToHost
        self._cuda.call("cudaMemcpyAsync", target, source, num_bytes, kind, self.handle)

    def synchronize(self) -> None:
        """Wait for all that was queued."""
        self._cuda.call("cudaStreamSynchronize", self.handle)

    def begin_capture(self) -> None:
        """Record what is queued from now on instead of doing it."""
        mode = self._cuda.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._cuda.call("cudaStreamBeginCapture", self.handle, mode)

    def end_capture(self) -> Graph:
        """The recorded work, ready to launch."""
        recorded = self._cuda.call("cudaStreamEndCapture", self.handle)
        try:
            return Graph(self._cuda, self._cuda.call("cudaGraphInstantiate", recorded, 0))
        finally:
            self._cuda.release("cudaGraphDestroy", recorded)

    def abandon_capture(self) -> None:
        """End a capture that failed; the stream is usable again."""
        _, recorded = self._cuda.runtime.cudaStreamEndCapture(self.handle)
        if recorded is not None and int(recorded) != 0:
            self._cuda.release("cudaGraphDestroy", recorded)
        self._cuda.runtime.cudaGetLastError()  # forget the capture's error

    def close(self) -> None:
        """Destroy the stream."""
        if self.handle is not None:
            self._cuda.release("cudaStreamDestroy", self.handle)
        self.handle = None


class Graph:
    """Recorded work that one call launches."""

    def __init__(self, cuda: Cuda, handle: Any) -> None:
        self._cuda = cuda
        self._handle = handle

    def launch(self, stream: Stream) -> None:
        """Queue all of it."""
        self._cuda.call("cudaGraphLaunch", self._handle, stream.handle)

    def close(self) -> None:
        """Destroy the graph."""
        if self._handle is not None:
            self._cuda.release("cudaGraphExecDestroy", self._handle)
        self._handle = None


class BufferPair:
    """Device memory for one tensor and pinned host memory of the same size.

    Args:
        cuda: the calls.
        shape: of the largest tensor.
        dtype: NumPy dtype of its elements.
    Raises:
        BackendUnavailable: the GPU's memory is exhausted.
    """

    def __init__(self, cuda: Cuda, shape: tuple[int, ...], dtype: Any) -> None:
        self._cuda = cuda
        self._host: int | None = None
        self.num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.device: int | None = int(cuda.call("cudaMalloc", self.num_bytes))
        try:
            self._host = int(cuda.call("cudaMallocHost", self.num_bytes))
        except Vq4ditError:
            self.close()
            raise
        self.host = _array_at(self._host, self.num_bytes).view(dtype).reshape(shape)

    def upload(self, stream: Stream, num_bytes: int) -> None:
        """Queue the copy of the first bytes to the device."""
        stream.copy(_given(self.device), _given(self._host), num_bytes, to_device=True)

    def download(self, stream: Stream, num_bytes: int) -> None:
        """Queue the copy of the first bytes from the device."""
        stream.copy(_given(self._host), _given(self.device), num_bytes, to_device=False)

    def close(self) -> None:
        """Free both."""
        if self._host is not None:
            self.host = np.empty(0, np.uint8)
            self._cuda.release("cudaFreeHost", self._host)
        if self.device is not None:
            self._cuda.release("cudaFree", self.device)
        self._host = self.device = None


def import_cuda_runtime() -> ModuleType:
    """`cuda.bindings.runtime`; BackendUnavailable where it is not installed."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendUnavailable(
            f"running a TensorRT engine needs cuda-bindings, which does not import here ({error}); "
            "pip install cuda-bindings"
        ) from None
    module: ModuleType = runtime
    return module


def out_of_gpu_memory(what: str) -> BackendUnavailable:
    """The error for an allocation that the GPU refused."""
    return BackendUnavailable(
        f"the GPU's memory is exhausted ({what}); close other programs on the GPU, build with a "
        "smaller --batch, or use --low-memory"
    )


def _array_at(address: int, num_bytes: int) -> NDArray[np.uint8]:
    """The bytes at an address as an array that does not own them."""
    memory = (ctypes.c_uint8 * num_bytes).from_address(address)
    return np.frombuffer(memoryview(memory).cast("B"), np.uint8)


def _given(address: int | None) -> int:
    if address is None:
        raise Vq4ditError("this buffer was freed; open the engine again")
    return address
