"""A step of the run: what it needs, what can be done without that, and what is measured with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .cuda_driver import Device, driver_problem

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the run was given.

    Args:
        work: folder for engines and plans.
        images: folder of prepared machine code, None to compile on the spot.
        artifact: quantized model (X.vq.safetensors) of stage B.
        checkpoint: the same model unquantized.
        tensorrt_root: folder of the TensorRT SDK, for the plugin library.
        batches: batch sizes of stage B.
    """

    work: Path
    images: Path | None = None
    artifact: Path | None = None
    checkpoint: Path | None = None
    tensorrt_root: Path | None = None
    batches: tuple[int, ...] = (1, 8)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step; steps run in order, each for itself.

    Args:
        name: unique; results are kept under it.
        stage: "A" or "B".
        needs: names in NEEDS, all of which `measure` needs.
        prepare: what can be done on any machine, None if nothing; tells what was done.
        prepare_needs: what `prepare` needs.
        measure: the step itself; its rows go into the report.
    """

    name: str
    stage: str
    needs: tuple[str, ...]
    measure: Callable[[Setting], Rows]
    prepare: Callable[[Setting], str] | None = None
    prepare_needs: tuple[str, ...] = field(default=())


def missing(needs: tuple[str, ...], setting: Setting) -> str | None:
    """What is missing of these needs, in words; None if nothing is."""
    found = [reason for need in needs if (reason := NEEDS[need](setting))]
    return "; ".join(found) or None


def open_device() -> Device:
    """The GPU; BackendUnavailable without one."""
    return Device()


def _gpu(setting: Setting) -> str | None:
    problem = driver_problem()
    return f"a GPU ({problem})" if problem else None


def _module(name: str, package: str) -> Callable[[Setting], str | None]:
    def reason(setting: Setting) -> str | None:
        return None if find_spec(name) else f"module {name} ({package})"

    return reason


def _artifact(setting: Setting) -> str | None:
    return None if setting.artifact else "--artifact X.vq.safetensors"


def _checkpoint(setting: Setting) -> str | None:
    return None if setting.checkpoint else "--checkpoint of the unquantized model"


def _headers(setting: Setting) -> str | None:
    if setting.tensorrt_root is None:
        return "--tensorrt-root with TensorRT's headers"
    return None if shutil.which("cmake") else "cmake"


#: What a step can need -> what to say where it is missing.
NEEDS: dict[str, Callable[[Setting], str | None]] = {
    "gpu": _gpu,
    "tensorrt": _module("tensorrt", "pip install 'vq4dit[tensorrt]'"),
    "lean": _module("tensorrt_lean", "pip install tensorrt-lean-cu13"),
    "onnx": _module("onnx", "pip install 'vq4dit[calibrate]'"),
    "artifact": _artifact,
    "checkpoint": _checkpoint,
    "headers": _headers,
}
