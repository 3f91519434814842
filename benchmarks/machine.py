"""What figures depend on: processor and system, without the machine's name."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any


def machine(packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """Processor, load and versions; `packages` are names of installed distributions."""
    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        models = [x.split(": ", 1)[1] for x in lines if x.startswith("model name")]
        processor = models[0] if models else processor
    versions = {"python": platform.python_version()}
    return {
        "processor": processor,
        "processors": os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.system(),
        "versions": versions | {name: version(name) for name in packages},
    }
