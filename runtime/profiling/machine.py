"""What figures depend on: processor, memory, power mode, clocks, versions; no machine's name."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .devices import nvml_devices
from .peaks import usable_processors

_PACKAGES = ("vq4dit", "numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt")
_KIB = 1024
_COMMAND_SECONDS = 5


def machine_facts(root: Path = Path("/")) -> dict[str, Any]:
    """Facts about this machine as plain values; root: where proc/ and sys/ are, for tests."""
    return {
        "processor": _processor(root),
        "processors": usable_processors(),
        "memory_bytes": _memory_bytes(root),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "board": _board(root),
        "power_mode": power_mode(root),
        "clocks": clocks(root),
        "devices": [
            {"name": device.name, "clocks_mhz": device.clocks_mhz()} for device in nvml_devices()
        ]
        if root == Path("/")
        else [],
        "versions": {"python": platform.python_version(), **_versions()},
    }


def power_mode(root: Path = Path("/")) -> str | None:
    """The Jetson's power mode as `nvpmodel` names it, None on other machines.

    Falls back to the number in nvpmodel's status file where the program is missing or fails.
    """
    program = shutil.which("nvpmodel") if root == Path("/") else None
    if program is not None:
        done = subprocess.run(
            [program, "-q"], capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False
        )
        found = re.search(r"NV Power Mode:\s*(\S+)", done.stdout)
        if found:
            return found[1]
    status = root / "var/lib/nvpmodel/status"
    if not status.is_file():
        return None
    found = re.search(r"pmode:0*(\d+)", status.read_text())
    return f"mode {found[1]}" if found else None


def clocks(root: Path = Path("/")) -> list[dict[str, Any]]:
    """Governor, present and largest clock in MHz of processors and of a Jetson's GPU and memory."""
    found: list[dict[str, Any]] = []
    for folder in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq")):
        names = ("scaling_governor", "scaling_cur_freq", "scaling_max_freq")
        found.append(_clock(folder.parent.name, folder, names, scale=1e3))
    for folder in sorted((root / "sys/class/devfreq").glob("*")):
        found.append(_clock(folder.name, folder, ("governor", "cur_freq", "max_freq"), scale=1e6))
    return found


def _clock(name: str, folder: Path, files: tuple[str, str, str], *, scale: float) -> dict[str, Any]:
    governor, now, largest = (_read(folder / file) for file in files)
    return {
        "of": name,
        "governor": governor,
        "mhz": float(now) / scale if now else None,
        "max_mhz": float(largest) / scale if largest else None,
    }


def _processor(root: Path) -> str:
    info = _read(root / "proc/cpuinfo") or ""
    found = re.search(r"^(?:model name|Hardware|Model)\s*:\s*(.+)$", info, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _board(root: Path) -> str | None:
    """The board's name in the device tree, such as "NVIDIA Jetson AGX Orin Developer Kit"."""
    text = _read(root / "proc/device-tree/model")
    return text.strip("\0") if text else None


def _memory_bytes(root: Path) -> int | None:
    found = re.search(r"MemTotal:\s*(\d+)", _read(root / "proc/meminfo") or "")
    return int(found[1]) * _KIB if found else None


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _read(path: Path) -> str | None:
    """Stripped text of a file, None where it is missing or closed to us."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None
