"""What a Jetson board says of itself: model, software release and power mode, from plain files.

Sources: device tree `model`; /etc/nv_tegra_release of NVIDIA's Linux for Tegra; nvpmodel's state
and its table of modes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_MODEL = "proc/device-tree/model"
_RELEASE = "etc/nv_tegra_release"
_POWER_STATE = "var/lib/nvpmodel/status"
_POWER_MODES = "etc/nvpmodel.conf"


@dataclass(frozen=True, kw_only=True)
class Jetson:
    """A Jetson board; release ("36.4.3") and power mode ("MAXN (0)") are "" where not told."""

    model: str
    release: str
    power_mode: str


def find_jetson(root: Path = Path("/")) -> Jetson | None:
    """The board that this is, None if it is not a Jetson.

    Args:
        root: folder that the files are below.
    """
    model = _read(root / _MODEL).rstrip("\0").strip()
    release = re.search(r"# R(\d+).*REVISION: ([\d.]+)", _read(root / _RELEASE))
    if "Jetson" not in model and release is None:
        return None
    return Jetson(
        model=model or "Jetson",
        release=f"{release[1]}.{release[2]}" if release else "",
        power_mode=_power_mode(root),
    )


def _power_mode(root: Path) -> str:
    """Name and number of the power mode."""
    state = re.search(r"pmode:(\d+)", _read(root / _POWER_STATE))
    if state is None:
        return ""
    number = int(state[1])
    modes = re.findall(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", _read(root / _POWER_MODES))
    name = next((name for found, name in modes if int(found) == number), "mode")
    return f"{name} ({number})"


def _read(path: Path) -> str:
    """The file's text, "" where there is none or it may not be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
