"""Load a TensorRT plan on this machine, or say in one line why it does not load.

For target tensorrt the full runtime serves, or the lean one where the plan was built for later
versions too; for tensorrt-rtx TensorRT for RTX. Each is imported when it is needed.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vq4dit.cache_folder import cache_folder
from vq4dit.engine_files import FileEntry
from vq4dit.errors import ArtifactError, BackendUnavailable
from vq4dit.gpu_build import GpuBuild
from vq4dit.packed_plan import read_packed_plan

from .gpu import Driver, find_driver, sm_name
from .rtx_kernels import KernelCache

#: Environment variable that names our C++ plugin library.
LIBRARY_VARIABLE = "VQ4DIT_TENSORRT_LIBRARY"
_LIBRARY_NAME = "libvq4dit_tensorrt.so"

_BUILD_AGAIN = "run `vq4dit build X.vq.safetensors --target {target}` here"


@dataclass(kw_only=True)
class LoadedPlan:
    """A plan in a runtime; `runtime` and `logger` must live as long as `engine`."""

    trt: Any
    logger: Any
    runtime: Any
    engine: Any
    kernel_cache: KernelCache | None = None
    #: What TensorRT said of errors since the plan was loaded.
    errors: list[str] = field(default_factory=list)

    def create_context(self) -> Any:
        """An execution context; None if there is no memory for it."""
        if self.kernel_cache is not None:
            return self.kernel_cache.create_context(self.engine)
        return self.engine.create_execution_context()


def load_plan(path: Path, target: str, build: GpuBuild, entry: FileEntry) -> LoadedPlan:
    """Deserialize a plan.

    Args:
        path: the file with the plan.
        target: "tensorrt" or "tensorrt-rtx".
        build, entry: what the manifest says of the plans and of this file. TensorRT-RTX's kernels
            are kept under its hash.
    Raises:
        BackendUnavailable: module, driver, GPU or plugin missing; another GPU or version than the
            plan was built for; not enough memory.
        ArtifactError: the plan is damaged.
    """
    trt = import_runtime(target, build)
    check_fits_here(target, build, str(trt.__version__))
    errors: list[str] = []
    logger = make_logger(trt, errors)
    runtime = trt.Runtime(logger)
    if build.version_compatible:
        runtime.engine_host_code_allowed = True  # such plans bring the runtime of their version
    if build.plugin == "library":
        load_plugin_library(trt)
    engine = runtime.deserialize_cuda_engine(_read_plan(path, entry))
    if engine is None:
        raise refusal(path, target, errors)
    cache = None
    if target == "tensorrt-rtx":
        cache = KernelCache(cache_folder() / f"rtx-{entry.sha256[:32]}.kernels")
    return LoadedPlan(
        trt=trt, logger=logger, runtime=runtime, engine=engine, kernel_cache=cache, errors=errors
    )


def _read_plan(path: Path, entry: FileEntry) -> bytes | bytearray:
    if entry.unpacked_bytes is None:
        return path.read_bytes()
    return read_packed_plan(path, entry.unpacked_bytes)


def import_runtime(target: str, build: GpuBuild) -> Any:
    """The Python module of the target's runtime.

    Raises:
        BackendUnavailable: it is not installed.
    """
    names = ["tensorrt_rtx"] if target == "tensorrt-rtx" else ["tensorrt"]
    if target == "tensorrt" and build.version_compatible:
        names.append("tensorrt_lean")
    remedies = {
        "tensorrt": "pip install 'vq4dit[tensorrt]' (from NVIDIA's package index)",
        "tensorrt_rtx": "pip install 'vq4dit[tensorrt-rtx]'",
    }
    reason = f"module {names[0]} is not installed"
    for name in names:
        if find_spec(name) is None:
            continue
        try:
            return import_module(name)
        except ImportError as error:
            reason = f"module {name} does not import ({error})"
    raise BackendUnavailable(
        f"an engine for target {target} needs its runtime: {reason}; {remedies[names[0]]}"
    )


def check_fits_here(target: str, build: GpuBuild, version: str) -> None:
    """Refuse a plan that was built for another version or another GPU.

    Raises:
        BackendUnavailable: naming what the plan needs, what is here, and the command that rebuilds.
    """
    again = _BUILD_AGAIN.format(target=target)
    found, needed = _numbers(version), _numbers(build.version)
    fits = found >= needed if build.version_compatible else found == needed
    if not fits:
        raise BackendUnavailable(
            f"the engine was built with {target} {build.version}, this machine has {version}; "
            f"{again}, or install that version"
        )
    driver, reason = find_driver()
    if driver is None or reason:
        raise BackendUnavailable(
            f"an engine for target {target} needs an NVIDIA GPU, and {reason}; run `vq4dit "
            "doctor`, or build with --target cpu"
        )
    if driver.gpus[0].compute_capability not in build.compute_capabilities:
        raise BackendUnavailable(_other_gpu(build, driver, again))


def _other_gpu(build: GpuBuild, driver: Driver, again: str) -> str:
    built = ", ".join(sm_name(c) for c in build.compute_capabilities)
    where = f" ({build.gpu})" if build.gpu else ""
    here = f"{driver.gpus[0].sm} ({driver.gpus[0].name})"
    return f"the engine was built for {built}{where}, this machine has {here}; {again}"


def _numbers(version: str) -> tuple[int, ...]:
    """Major, minor and patch; builds of one patch read each other's plans."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def make_logger(trt: Any, errors: list[str]) -> Any:
    """A logger that collects errors and drops the rest."""

    class Collector(trt.ILogger):  # type: ignore[misc]
        """Called by TensorRT from any thread."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                errors.append(" ".join(msg.split()))

    return Collector()


def refusal(path: Path, target: str, errors: list[str]) -> Exception:
    """What to raise where TensorRT does not take a plan, by its own words."""
    words = "; ".join(errors[:2]) or "no reason given"
    again = _BUILD_AGAIN.format(target=target)
    lower = words.lower()
    if "plugin" in lower:
        return BackendUnavailable(
            f"{path}: {target} lacks a plugin that the plan needs ({words}); name the library in "
            f"{LIBRARY_VARIABLE}, or {again}"
        )
    if "memory" in lower:
        return BackendUnavailable(
            f"{path}: {target} found too little GPU memory ({words}); close other programs on the "
            "GPU, or use --low-memory"
        )
    if "version" in lower or "compatible" in lower or "different device" in lower:
        return BackendUnavailable(
            f"{path}: the plan was built elsewhere and does not load here ({words}); {again}"
        )
    return ArtifactError(f"{path}: {target} cannot load the plan ({words}); {again}")


def load_plugin_library(trt: Any) -> None:
    """Register our C++ plugins; BackendUnavailable if the library is not there or does not load."""
    path = plugin_library_path()
    if path is None or trt.get_plugin_registry().load_library(str(path)) is None:
        raise BackendUnavailable(
            f"the engine needs our TensorRT plugin library, and {path or _LIBRARY_NAME} "
            f"{'is not installed' if path is None else 'does not load'}; build it with CMake from "
            f"plugins/tensorrt/cpp and name it in {LIBRARY_VARIABLE}"
        )


def plugin_library_path() -> Path | None:
    """Our C++ plugin library: the one that the environment names, else the installed one."""
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        return Path(named) if Path(named).is_file() else None
    from vq4dit import plugins

    folders = [Path(folder) for folder in plugins.__path__]
    return next((f / _LIBRARY_NAME for f in folders if (f / _LIBRARY_NAME).is_file()), None)
