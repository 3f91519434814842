"""Open the sessions of an engine, each on the backend of the engine's target."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from vq4dit.engines.manifest import PLAN_TARGETS, Manifest
from vq4dit.errors import ArtifactError, BackendUnavailable, OptionError
from vq4dit.gpu_build import GpuBuild

from .ort_session import CPU_PROVIDERS, OrtDecoderSession, OrtStepSession
from .session import DecoderSession, StepSession
from .tiled_decoder import with_tiles

_log = logging.getLogger(__name__)

#: Bits per weight in the manifest from which on a layer is not quantized.
_DENSE_BITS = 16

#: Target -> element types that its sessions run.
_COMPUTE_DTYPES = {
    "cpu": ("float32",),
    "onnx": ("float32", "float16"),
    "tensorrt": ("float16", "bfloat16"),
    "tensorrt-rtx": ("float16", "bfloat16", "float32"),
}


def open_step_session(
    engine_dir: Path,
    manifest: Manifest,
    *,
    accuracy: str,
    threads: int | None,
    providers: Sequence[str] | None,
) -> StepSession:
    """The session of the step model; arguments as of `Pipeline`."""
    path = engine_dir / manifest.files["step"].name
    if manifest.target in PLAN_TARGETS:
        from .trt_session import TrtStepSession

        return TrtStepSession(
            path,
            target=manifest.target,
            build=plan_facts(manifest),
            entry=manifest.files["step"],
        )
    return OrtStepSession(
        path,
        library=native_library(manifest),
        accuracy=accuracy,
        threads=threads,
        providers=tuple(providers or CPU_PROVIDERS),
    )


def open_decoder_session(
    engine_dir: Path,
    manifest: Manifest,
    *,
    threads: int | None,
    providers: Sequence[str] | None,
) -> DecoderSession:
    """The session of the decoder, which the engine must have."""
    path = engine_dir / manifest.files["decoder"].name
    if manifest.target in PLAN_TARGETS:
        from .trt_session import TrtDecoderSession

        plan = TrtDecoderSession(
            path,
            target=manifest.target,
            build=plan_facts(manifest),
            entry=manifest.files["decoder"],
        )
        return with_tiles(plan, manifest)
    used = tuple(providers or CPU_PROVIDERS)
    return with_tiles(OrtDecoderSession(path, threads=threads, providers=used), manifest)


def plan_facts(manifest: Manifest) -> GpuBuild:
    """What the manifest says of the engine's plans; ArtifactError if it has none."""
    if manifest.tensorrt is None:
        raise ArtifactError(
            f"the engine for target {manifest.target} says nothing of its plans; build it again"
        )
    return manifest.tensorrt


def native_library(manifest: Manifest) -> Path | None:
    """Our kernels for this engine: the installed library for target cpu, None for function bodies.

    Says once per process, as a warning, when quantized layers have to do without.
    """
    if manifest.target != "cpu":
        return None
    from vq4dit.plugins import ort_library_path

    library = ort_library_path()
    if library is None and min(manifest.bits_per_weight.values(), default=0) < _DENSE_BITS:
        _warn_of_function_bodies()
    return library


@cache
def _warn_of_function_bodies() -> None:
    _log.warning(
        "the native CPU kernels are not installed: running the portable function bodies, which are "
        "much slower; install vq4dit again with a C++ compiler and CMake to get them"
    )


def check_runs_here(manifest: Manifest, providers: Sequence[str] | None) -> None:
    """Refuse an engine that no session runs, before its files are read.

    Raises:
        BackendUnavailable: unknown target or types.   OptionError: providers for another target.
    """
    if manifest.target not in _COMPUTE_DTYPES:
        raise BackendUnavailable(
            f"the engine was built for target {manifest.target!r}, this version runs "
            f"{', '.join(_COMPUTE_DTYPES)}; build it with --target cpu"
        )
    if providers is not None and manifest.target != "onnx":
        raise OptionError(
            "providers can be chosen for target onnx only; build the engine with --target onnx"
        )
    runs = _COMPUTE_DTYPES[manifest.target]
    if manifest.compute_dtype not in runs or manifest.label_dtype != "int64":
        raise BackendUnavailable(
            f"the engine has dtypes {manifest.compute_dtype} and {manifest.label_dtype}, target "
            f"{manifest.target} runs {' or '.join(runs)} and int64; build it again"
        )
