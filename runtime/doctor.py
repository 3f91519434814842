"""What this machine has for vq4dit: CPU, kernels, ONNX Runtime, GPUs, optional modules."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vq4dit.errors import BackendUnavailable

from .cuda_calls import FOR_CUDA_12
from .gpu import Driver, Gpu, find_driver
from .jetson import find_jetson
from .trt_plan import LIBRARY_VARIABLE, plugin_library_path

#: Instruction sets that the native kernels know, as /proc/cpuinfo spells them.
_KNOWN_FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
                "avx512_vbmi", "avx512vbmi", "asimd", "asimddp", "neon", "sve")  # fmt: skip

#: Optional module -> what it is for, and the extra that brings it.
OPTIONAL_MODULES = {
    "torch": ("reading .pt checkpoints, calibration, verify --against", "calibrate"),
    "onnx": ("export and build", "calibrate"),
    "diffusers": ("the VAE of the demo model's training", "calibrate"),
    "scipy": ("the Frechet distance of evaluate", "calibrate"),
    "tensorrt": ("building and running target tensorrt", "tensorrt"),
    "tensorrt_lean": ("running version-compatible plans of target tensorrt", "tensorrt-lean"),
    "tensorrt_rtx": ("target tensorrt-rtx", "tensorrt-rtx"),
    "polygraphy": ("building for the targets tensorrt and tensorrt-rtx", "tensorrt-rtx"),
    "cuda.bindings": ("running the targets tensorrt and tensorrt-rtx", "tensorrt-rtx"),
}

#: Distributions of modules whose name is another one.
_DISTRIBUTIONS = {
    "cuda.bindings": ("cuda-bindings",),
    **{
        name: tuple(f"{name.replace('_', '-')}{end}" for end in ("", "-cu13", "-cu12"))
        for name in ("tensorrt", "tensorrt_lean", "tensorrt_rtx")
    },
}

#: What is missing -> the one command that adds it.
_COMMANDS = {
    "native_library": "pip install --force-reinstall --no-cache-dir vq4dit "
    "(with a C++ compiler and CMake at hand)",
    "onnxruntime": "pip install onnxruntime",
    "nvrtc": "pip install 'vq4dit[cuda]'",
    "driver": "sudo ubuntu-drivers install (on Jetson: sudo apt-get install nvidia-jetpack)",
    "gpu": "use a machine with an NVIDIA GPU; the CPU target works without",
    "tensorrt": "pip install 'vq4dit[tensorrt]' (from NVIDIA's package index)",
    "tensorrt_lean": "pip install tensorrt-lean-cu13",
    "plugin_library": "cmake -S plugins/tensorrt/cpp -B build/tensorrt && "
    f"cmake --build build/tensorrt (in a checkout; then name it in {LIBRARY_VARIABLE})",
}


def inspect_machine() -> dict[str, Any]:
    """Facts about this machine, as plain values for JSON; imports onnxruntime if it is there.

    `missing` maps each thing that is not there to the command that adds it.
    """
    driver, why_no_gpu = find_driver()
    jetson = find_jetson()
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "native_library": _native_library(),
        "onnxruntime": _onnxruntime(),
        "driver": None if driver is None else _driver_facts(driver),
        "why_no_gpu": why_no_gpu or None,
        "gpus": [] if driver is None else [_gpu_facts(gpu) for gpu in driver.gpus],
        "jetson": None if jetson is None else vars(jetson),
        "nvrtc": _nvrtc(),
        "modules": {name: _version(name) for name in OPTIONAL_MODULES},
        "plugin_library": _text_or_none(plugin_library_path()),
    }
    facts["missing"] = _missing(facts)
    return facts


def needs_plugin_library(tensorrt: str | None) -> bool:
    """Whether quantized engines need our C++ library with this version of TensorRT, None for none.

    A version that is not told counts as one that does not.
    """
    from vq4dit.plugins.tensorrt.bindings import has_ahead_of_time_plugins

    is_told = tensorrt is not None and tensorrt[:1].isdecimal()
    return is_told and not has_ahead_of_time_plugins(str(tensorrt))


def _text_or_none(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _driver_facts(driver: Driver) -> dict[str, Any]:
    return {"version": driver.version or None, "cuda_version": driver.cuda_version}


def _gpu_facts(gpu: Gpu) -> dict[str, Any]:
    return {**vars(gpu), "sm": gpu.sm}


def _nvrtc() -> str | None:
    """Version of CUDA's run-time compiler, None if it does not load."""
    from vq4dit.plugins.cuda.nvrtc import load_nvrtc

    try:
        return load_nvrtc().version.removeprefix("nvrtc ")
    except BackendUnavailable:
        return None


def _missing(facts: dict[str, Any]) -> dict[str, str]:
    """Thing -> command, for everything that is not there or does not fit the driver."""
    names = [name for name in ("native_library", "onnxruntime", "nvrtc") if not facts[name]]
    if facts["driver"] is None:
        names.append("driver")
    elif not facts["gpus"]:
        names.append("gpu")
    names += [name for name, found in facts["modules"].items() if found is None]
    if needs_plugin_library(facts["modules"]["tensorrt"]) and not facts["plugin_library"]:
        names.append("plugin_library")
    extras = {
        name: f"pip install 'vq4dit[{extra}]'" for name, (_, extra) in OPTIONAL_MODULES.items()
    }
    commands = {name: _COMMANDS.get(name) or extras[name] for name in names}
    return commands | ({"cuda.bindings": FOR_CUDA_12} if _needs_bindings_of_12(facts) else {})


def _needs_bindings_of_12(facts: dict[str, Any]) -> bool:
    """Whether the driver is of CUDA 12 and cuda-bindings of that are not there."""
    driver, found = facts["driver"], facts["modules"]["cuda.bindings"] or ""
    return bool(driver) and driver["cuda_version"].startswith("12.") and found[:3] != "12."


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
    try:
        if find_spec(module) is None:
            return None
    except ModuleNotFoundError:  # the package around it is missing
        return None
    for distribution in _DISTRIBUTIONS.get(module, (module,)):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "unknown"
