"""NVIDIA devices through the driver's management library (NVML): power, energy, memory, clocks.

Called through ctypes: no package is needed, and nothing is loaded until somebody asks.
Source: NVML API reference (function names, units, struct layouts).
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"
_OK = 0
_CLOCK_SM, _CLOCK_MEMORY = 1, 2
_NAME_LENGTH = 96


class _Memory(ctypes.Structure):
    """nvmlMemory_t: bytes."""

    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


class NvmlDevice:
    """One device; readings are None where the device does not tell.

    Args:
        library: the loaded management library, initialised.
        index: number of the device.
    """

    def __init__(self, library: ctypes.CDLL, index: int) -> None:
        self._library = library
        self._handle = ctypes.c_void_p()
        self.index = index
        status = library.nvmlDeviceGetHandleByIndex_v2(
            ctypes.c_uint(index), ctypes.byref(self._handle)
        )
        if status != _OK:
            raise OSError(f"NVML gives no handle of device {index}: status {status}")

    @property
    def name(self) -> str:
        """Product name."""
        text = ctypes.create_string_buffer(_NAME_LENGTH)
        status = self._library.nvmlDeviceGetName(self._handle, text, ctypes.c_uint(_NAME_LENGTH))
        return text.value.decode(errors="replace") if status == _OK else f"device {self.index}"

    def joules(self) -> float | None:
        """Energy since the driver was loaded (Volta and newer)."""
        value = self._read("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong())
        return None if value is None else value.value / 1e3

    def watts(self) -> float | None:
        """Power of the board now."""
        value = self._read("nvmlDeviceGetPowerUsage", ctypes.c_uint())
        return None if value is None else value.value / 1e3

    def memory_used(self) -> int | None:
        """Bytes taken by all processes."""
        memory = self._read("nvmlDeviceGetMemoryInfo", _Memory())
        return None if memory is None else int(memory.used)

    def clocks_mhz(self) -> dict[str, int]:
        """Present clocks."""
        found = {}
        for name, kind in (("sm", _CLOCK_SM), ("memory", _CLOCK_MEMORY)):
            value = ctypes.c_uint()
            status = self._library.nvmlDeviceGetClockInfo(
                self._handle, ctypes.c_uint(kind), ctypes.byref(value)
            )
            if status == _OK:
                found[name] = value.value
        return found

    def _read(self, function: str, value: Any) -> Any:
        """Let a function of the library fill in a value; None if it does not."""
        call = getattr(self._library, function, None)
        if call is None or call(self._handle, ctypes.byref(value)) != _OK:
            return None
        return value


def nvml_devices(library: str = _LIBRARY) -> list[NvmlDevice]:
    """All devices of this machine; none where there is no driver."""
    try:
        loaded = ctypes.CDLL(library)
    except OSError:
        return []
    count = ctypes.c_uint()
    if loaded.nvmlInit_v2() != _OK or loaded.nvmlDeviceGetCount_v2(ctypes.byref(count)) != _OK:
        return []
    return [NvmlDevice(loaded, index) for index in range(count.value)]


@cache
def _devices() -> tuple[NvmlDevice, ...]:
    return tuple(nvml_devices())


def device_memory_used() -> int | None:
    """Bytes taken on all devices by all processes, None where no device tells."""
    used = [memory for device in _devices() if (memory := device.memory_used()) is not None]
    return sum(used) if used else None
