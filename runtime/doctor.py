"""What this machine has for vq4dit: CPU, native kernels, ONNX Runtime, optional modules."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

#: Instruction sets that the native kernels know, as /proc/cpuinfo spells them.
_KNOWN_FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
                "avx512_vbmi", "asimd", "asimddp", "neon", "sve")  # fmt: skip

#: Optional module -> what it is for, and the extra that brings it.
OPTIONAL_MODULES = {
    "torch": ("reading .pt checkpoints, calibration, verify --against", "calibrate"),
    "onnx": ("export and build", "calibrate"),
    "diffusers": ("the VAE of the demo model's training", "calibrate"),
    "scipy": ("the Frechet distance of evaluate", "calibrate"),
    "tensorrt": ("target tensorrt", "tensorrt"),
    "tensorrt_rtx": ("the tests of the exported graphs", "dev"),
}


def inspect_machine() -> dict[str, Any]:
    """Facts about this machine, as plain values for JSON; imports onnxruntime if it is there."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "native_library": _native_library(),
        "onnxruntime": _onnxruntime(),
        "modules": {name: _version(name) for name in OPTIONAL_MODULES},
    }


def _cpu() -> dict[str, Any]:
    """Usable cores, model name and the instruction sets that matter."""
    cpuinfo = Path("/proc/cpuinfo")
    fields: dict[str, str] = {}
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "name": fields.get("model name") or platform.processor() or "unknown",
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "instruction_sets": [flag for flag in _KNOWN_FLAGS if flag in flags],
    }


def _native_library() -> dict[str, Any] | None:
    """File name of the native library and the instruction sets it can use here, None if absent."""
    from vq4dit.plugins import available_isas, ort_library_path

    path = ort_library_path()
    return None if path is None else {"name": path.name, "kernels": list(available_isas())}


def _onnxruntime() -> dict[str, Any] | None:
    try:
        import onnxruntime
    except ImportError:
        return None
    return {
        "version": onnxruntime.__version__,
        "providers": list(onnxruntime.get_available_providers()),
    }


def _version(module: str) -> str | None:
    """Version of an optional module without importing it; "unknown" if it is there without one."""
    if find_spec(module) is None:
        return None
    for distribution in (module, module.replace("_", "-"), f"{module.replace('_', '-')}-cu13"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "unknown"
