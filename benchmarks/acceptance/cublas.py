"""The baseline: cuBLAS in float16 or bfloat16 with float32 sums, through ctypes.

libcublas comes with torch, CuPy, or the CUDA toolkit (JetPack). Its matrices are column-major, so
y (M, O) = x (M, I) W (O, I)^T is asked for as y^T = W x^T. No bias, no activation: less work than
our kernels do. Source of names and numbers: cuBLAS documentation, cublas_api.h.
"""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vq4dit.errors import BackendUnavailable

from .cuda_driver import Buffer, Device

_NAMES = ("libcublas.so.13", "libcublas.so.12", "libcublas.so.11", "libcublas.so")
_TYPES = {"float16": 2, "bfloat16": 14}
_COMPUTE_32F, _DEFAULT_ALGORITHM = 68, -1
_TRANSPOSED, _PLAIN = 1, 0
_WORKSPACE_BYTES = 32 << 20


class Cublas:
    """A handle that works in the device's stream.

    Raises:
        BackendUnavailable: libcublas is not to be found, or refuses.
    """

    def __init__(self, device: Device) -> None:
        self._library = _load()
        self._handle = ctypes.c_void_p()
        self._call("cublasCreate_v2", ctypes.byref(self._handle))
        self._call("cublasSetStream_v2", self._handle, device.stream)
        # Its own allocations would not be allowed while a graph is captured.
        self._workspace = device.allocate(_WORKSPACE_BYTES)
        size = ctypes.c_size_t(_WORKSPACE_BYTES)
        self._call("cublasSetWorkspace_v2", self._handle, self._workspace.pointer, size)

    def matmul(
        self, x: Buffer, weight: Buffer, y: Buffer, *, m: int, n: int, k: int, dtype: str
    ) -> None:
        """Queue y (m, n) = x (m, k) weight (n, k)^T."""
        kind, one, zero = _TYPES[dtype], ctypes.c_float(1), ctypes.c_float(0)
        self._call(
            "cublasGemmEx", self._handle, _TRANSPOSED, _PLAIN, n, m, k,
            ctypes.byref(one), weight.pointer, kind, k, x.pointer, kind, k,
            ctypes.byref(zero), y.pointer, kind, n, _COMPUTE_32F, _DEFAULT_ALGORITHM,
        )  # fmt: skip

    def close(self) -> None:
        """Give the handle and its memory back; once."""
        self._call("cublasDestroy_v2", self._handle)
        self._workspace.free()

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status != 0:
            raise BackendUnavailable(f"{function} failed with status {status}")


def _load() -> ctypes.CDLL:
    """libcublas of a wheel, else of the system."""
    spec = find_spec("nvidia")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    packaged = [str(p) for f in folders for p in sorted(Path(f).glob("*/lib/libcublas.so.*"))]
    for name in (*packaged, *_NAMES):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise BackendUnavailable(
        "libcublas was not found; install torch or CuPy for CUDA, or the CUDA toolkit"
    )
