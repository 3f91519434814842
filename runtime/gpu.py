"""The NVIDIA driver and its GPUs, asked through the driver's own library and nothing else.

Needs neither CUDA's Python packages nor a toolkit, so that `doctor` and error messages can say what
is there on any machine.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: Where a Linux driver tells its version.
_VERSION_FILE = Path("/proc/driver/nvidia/version")
_VERSION = re.compile(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b")

#: Names of the driver's library; on Jetson and in containers the first one is found too.
_LIBRARIES = ("libcuda.so.1", "libcuda.so", "nvcuda.dll")

#: CUdevice_attribute of the driver API.
_MAJOR, _MINOR, _IS_INTEGRATED = 75, 76, 18
_NAME_BYTES = 128


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU.

    Args:
        name: as the driver says.
        compute_capability: "8.7" and the like.
        memory_bytes: all of it; on an integrated GPU it is the machine's own.
        is_integrated: shares memory with the CPU, as on Jetson.
    """

    name: str
    compute_capability: str
    memory_bytes: int
    is_integrated: bool

    @property
    def sm(self) -> str:
        """The compute capability as compilers write it, "sm_87"."""
        return sm_name(self.compute_capability)


@dataclass(frozen=True, kw_only=True)
class Driver:
    """The driver: its own version ("" if it does not tell), the CUDA version it brings, GPUs."""

    version: str
    cuda_version: str
    gpus: tuple[Gpu, ...]


def sm_name(compute_capability: str) -> str:
    """ "8.7" -> "sm_87"."""
    return f"sm_{compute_capability.replace('.', '')}"


def find_driver(libraries: Sequence[str] = _LIBRARIES) -> tuple[Driver | None, str]:
    """The driver and its GPUs, or None and the reason in half a sentence.

    Args:
        libraries: names or paths of the driver's library to try in turn.
    """
    library = _load(libraries)
    if library is None:
        return None, f"the NVIDIA driver's library {libraries[0]} is not installed"
    status = library.cuInit(0)
    if status != 0:
        return None, f"the NVIDIA driver does not start ({_error_name(library, status)})"
    gpus = tuple(_gpu(library, index) for index in range(_integer(library.cuDeviceGetCount)))
    cuda = _integer(library.cuDriverGetVersion)
    driver = Driver(
        version=_driver_version(), cuda_version=f"{cuda // 1000}.{cuda % 1000 // 10}", gpus=gpus
    )
    return driver, "" if gpus else "the NVIDIA driver finds no GPU"


def _load(names: Sequence[str]) -> ctypes.CDLL | None:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _gpu(library: ctypes.CDLL, index: int) -> Gpu:
    """Facts of GPU number `index`; a device handle is that number."""
    name = ctypes.create_string_buffer(_NAME_BYTES)
    library.cuDeviceGetName(name, _NAME_BYTES, index)
    memory = ctypes.c_size_t()
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), index)
    major, minor, is_integrated = (
        _integer(library.cuDeviceGetAttribute, attribute, index)
        for attribute in (_MAJOR, _MINOR, _IS_INTEGRATED)
    )
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{major}.{minor}",
        memory_bytes=memory.value,
        is_integrated=bool(is_integrated),
    )


def _integer(function: ctypes._CFuncPtr, *arguments: int) -> int:  # type: ignore[name-defined]
    """Call a function of the driver whose first argument receives an int; 0 if it fails."""
    value = ctypes.c_int()
    status = function(ctypes.byref(value), *arguments)
    return 0 if status != 0 else value.value


def _error_name(library: ctypes.CDLL, status: int) -> str:
    text = ctypes.c_char_p()
    found = library.cuGetErrorName(status, ctypes.byref(text))
    name = text.value.decode() if found == 0 and text.value else ""
    return f"error {status} {name}".rstrip()


def _driver_version() -> str:
    if not _VERSION_FILE.is_file():
        return ""
    match = _VERSION.search(_VERSION_FILE.read_text(errors="replace"))
    return match[1] if match else ""
