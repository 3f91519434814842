"""Where this machine tells its power or energy: one reader per source, all through small files.

| source | what it is | unit | who may read |
|---|---|---|---|
| `HwmonRails` | INA3221 and similar monitors (Jetson), in sysfs hwmon | watts now | all |
| `RaplZone` | Intel and AMD processors' counters, in sysfs powercap | joules so far | often root |
| `NvmlSource` | NVIDIA devices, through the driver | joules so far, or watts now | all |

Gauges (watts now) must be sampled and summed up over time, counters read twice (`energy`).
Source: kernel documentation of hwmon (millivolt, milliampere, microwatt) and powercap (microjoule);
NVIDIA Jetson Linux developer guide, "Jetson board power consumption" (rail names).
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from .devices import NvmlDevice, nvml_devices

#: Jetson rails that hold all others.
_TOTAL_RAILS = ("VDD_IN", "POM_5V_IN", "SYS_VIN_HV")


class PowerSource(Protocol):
    """Reads power or energy; `is_counter` tells which."""

    @property
    def name(self) -> str:
        """Kind of the source, such as "ina3221", "rapl" or "nvml"."""

    @property
    def is_counter(self) -> bool:
        """Whether `read` gives joules so far, not watts now."""

    @property
    def wraps_at(self) -> float | None:
        """Joules at which a counter begins anew, None if it does not."""

    def read(self) -> dict[str, float]:
        """Rail -> watts now, or joules since some time in the past for a counter.

        Raises:
            OSError: the source cannot be read (any more).
        """


class HwmonRails:
    """Rails of a power monitor in hwmon: power{n}_input, or in{n}_input times curr{n}_input.

    Args:
        folder: such as /sys/class/hwmon/hwmon3.
    """

    is_counter = False
    wraps_at = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = _text(folder / "name")
        self._rails: dict[str, tuple[Path, ...]] = {}
        for current in sorted(folder.glob("curr*_input")):
            number = current.name.removeprefix("curr").removesuffix("_input")
            voltage = folder / f"in{number}_input"
            if voltage.is_file():
                self._rails[self._label("in", number)] = (voltage, current)
        for power in sorted(folder.glob("power*_input")):
            number = power.name.removeprefix("power").removesuffix("_input")
            self._rails.setdefault(self._label("power", number), (power,))

    @property
    def has_rails(self) -> bool:
        """Whether the monitor tells any power."""
        return bool(self._rails)

    def read(self) -> dict[str, float]:
        """Rail -> watts now."""
        watts = {}
        for rail, files in self._rails.items():
            values = [int(_text(file)) for file in files]
            watts[rail] = values[0] * values[1] / 1e6 if len(values) == 2 else values[0] / 1e6
        return watts

    def _label(self, kind: str, number: str) -> str:
        label = self._folder / f"{kind}{number}_label"
        return _text(label) if label.is_file() else f"{self.name}.{number}"


class RaplZone:
    """One zone of the processor's energy counters.

    Args:
        folder: such as /sys/class/powercap/intel-rapl:0.
    """

    is_counter = True

    def __init__(self, folder: Path) -> None:
        self._counter = folder / "energy_uj"
        self._rail = f"{_text(folder / 'name')} ({folder.name.partition(':')[2]})"
        self.name = "rapl"
        limit = folder / "max_energy_range_uj"
        self.wraps_at: float | None = int(_text(limit)) / 1e6 if limit.is_file() else None

    def read(self) -> dict[str, float]:
        """Zone -> joules."""
        return {self._rail: int(_text(self._counter)) / 1e6}


class NvmlSource:
    """A device's energy counter, or its power where it has no counter."""

    wraps_at = None

    def __init__(self, device: NvmlDevice) -> None:
        self._device = device
        self._rail = f"{device.name} ({device.index})"
        self.name = "nvml"
        self.is_counter = device.joules() is not None

    def read(self) -> dict[str, float]:
        """Device -> joules or watts."""
        value = self._device.joules() if self.is_counter else self._device.watts()
        if value is None:
            raise OSError(f"{self._rail} does not tell its power")
        return {self._rail: value}


def power_sources(root: Path = Path("/")) -> tuple[list[PowerSource], list[str]]:
    """All sources of this machine that can be read, and why others cannot.

    root: where sys/ is, for tests; devices are asked for the real root alone.
    """
    usable: list[PowerSource] = []
    reasons: list[str] = []
    for source in _candidates(root):
        try:
            source.read()
        except (OSError, ValueError) as error:
            reasons.append(f"{source.name}: {error}")
        else:
            usable.append(source)
    if not usable and not reasons:
        reasons.append("found no power monitor (hwmon ina*), no powercap zone, no NVIDIA driver")
    return usable, reasons


def total_of(rails: dict[str, float]) -> float:
    """The whole of a source's rails: one that holds all others, or their sum."""
    for rail in _TOTAL_RAILS:
        if rail in rails:
            return rails[rail]
    return sum(rails.values())


def _candidates(root: Path) -> list[PowerSource]:
    found: list[PowerSource] = []
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = folder / "name"
        if name.is_file() and _text(name).startswith("ina"):
            rails = HwmonRails(folder)
            if rails.has_rails:
                found.append(rails)
    for folder in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        is_part = folder.name.count(":") > 1  # core and uncore are inside their package, dram not
        if (folder / "name").is_file() and (not is_part or _text(folder / "name") == "dram"):
            found.append(RaplZone(folder))
    if root == Path("/"):
        found.extend(NvmlSource(device) for device in nvml_devices())
    return found


def _text(path: Path) -> str:
    return path.read_text().strip()
