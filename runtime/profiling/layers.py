"""Per-layer times of an engine's step and decoder, by whatever its session offers.

A session that has `NodeTimer`'s method is asked; an engine on ONNX Runtime is opened once more with
ONNX Runtime's profiler on. Another backend's figures thus come with no change here.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from vq4dit.engines.manifest import PLAN_TARGETS
from vq4dit.errors import BackendUnavailable
from vq4dit.runtime.open_session import native_library
from vq4dit.runtime.ort_session import CPU_PROVIDERS, OrtDecoderSession, OrtStepSession
from vq4dit.runtime.pipeline import Pipeline

from .breakdown import breakdown
from .event_cost import EventCost
from .inputs import step_inputs
from .options import ProfileOptions
from .ort_nodes import NodeProfile, account, optimized_path, profile_nodes
from .peaks import Peaks

_ASYNCHRONOUS = frozenset(
    f"{name}ExecutionProvider"
    for name in ("CUDA", "Tensorrt", "NvTensorRTRTX", "ROCM", "MIGraphX", "Dml", "WebGpu")
)
_NO_COST = EventCost(per_node_us=0.0, per_tensor_us=0.0, renaming_us=0.0)


def step_layers(
    pipeline: Pipeline, options: ProfileOptions, *, peaks: Peaks, event_cost: EventCost
) -> tuple[NodeProfile, dict[str, Any]]:
    """Account of a step's nodes, and its breakdown ready for JSON.

    Raises:
        BackendUnavailable: the engine's session cannot time its layers.
    """
    session = pipeline.sessions.step
    inputs = step_inputs(pipeline.manifest, options.batch)
    if hasattr(session, "node_times"):
        plain = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            session.run(inputs)
            plain.append(time.perf_counter() - start)
        runs = session.node_times(inputs, repeats=options.repeats)
        sums = [sum(node.duration_us for node in run) / 1e6 for run in runs]
        profile = account(runs, plain, sums, _NO_COST)
    elif isinstance(session, OrtStepSession):
        _check_waits(options)
        profile = profile_nodes(
            lambda prefix: _profiled_step(pipeline, options, prefix),
            lambda opened: opened.run(inputs),
            lambda: session.run(inputs),
            repeats=options.repeats,
            budget_seconds=options.seconds,
            event_cost=event_cost,
        )
    else:
        raise BackendUnavailable(
            f"{pipeline.engine_dir}: target {pipeline.manifest.target} does not tell the times of "
            "its layers here; run a profiler of the backend, such as trtexec --dumpProfile"
        )
    return profile, _result(profile, peaks, is_decoder=False)


def decoder_layers(
    pipeline: Pipeline, options: ProfileOptions, *, peaks: Peaks, event_cost: EventCost
) -> dict[str, Any] | None:
    """Breakdown of the decoder ready for JSON; None without a decoder on ONNX Runtime.

    A decoder that works by tiles is timed on one tile; `latent_size` tells its side.
    """
    manifest = pipeline.manifest
    if manifest.target in PLAN_TARGETS or "decoder" not in manifest.files:
        return None
    size = manifest.decoder_tile or manifest.latent_shape[1]
    latent = np.ascontiguousarray(step_inputs(manifest, options.batch).latent[:, :, :size, :size])
    plain = _decoder(pipeline, options, None)
    try:
        profile = profile_nodes(
            lambda prefix: _decoder(pipeline, options, prefix),
            lambda opened: opened.decode(latent),
            lambda: plain.decode(latent),
            repeats=options.repeats,
            budget_seconds=options.seconds,
            event_cost=event_cost,
        )
    finally:
        plain.close()
    return {"latent_size": size, **_result(profile, peaks, is_decoder=True)}


def _decoder(pipeline: Pipeline, options: ProfileOptions, prefix: Path | None) -> OrtDecoderSession:
    """The decoder model, with the profiler on if there is a prefix."""
    return OrtDecoderSession(
        _path(pipeline, "decoder"),
        threads=options.threads,
        providers=tuple(options.providers or CPU_PROVIDERS),
        profile_prefix=prefix,
    )


def _check_waits(options: ProfileOptions) -> None:
    """Refuse providers whose nodes return before their work is done."""
    asynchronous = [name for name in options.providers or () if name in _ASYNCHRONOUS]
    if asynchronous:
        raise BackendUnavailable(
            f"ONNX Runtime tells of {asynchronous[0]} only how long its launches take; profile "
            "target tensorrt, or use the GPU vendor's profiler"
        )


def _profiled_step(pipeline: Pipeline, options: ProfileOptions, prefix: Path) -> OrtStepSession:
    """The step model with the profiler on; its optimised graph too where it has function bodies."""
    library = native_library(pipeline.manifest)
    return OrtStepSession(
        _path(pipeline, "step"),
        library=library,
        accuracy=options.accuracy,
        threads=options.threads,
        providers=tuple(options.providers or CPU_PROVIDERS),
        profile_prefix=prefix,
        optimized_path=optimized_path(prefix) if library is None else None,
    )


def _result(profile: NodeProfile, peaks: Peaks, *, is_decoder: bool) -> dict[str, Any]:
    rows = breakdown(profile.nodes, whole_ms=profile.plain_ms, peaks=peaks, is_decoder=is_decoder)
    return {"account": profile.to_dict(), **rows}


def _path(pipeline: Pipeline, role: str) -> Path:
    return pipeline.engine_dir / pipeline.manifest.files[role].name
