"""Sessions on TensorRT: one step, and the decoder.

Needs a TensorRT runtime and cuda-bindings, no torch. The noise comes from the host with every step,
so that a picture is the same on any target up to the arithmetic.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vq4dit.engine_files import FileEntry
from vq4dit.gpu_build import GpuBuild

from .session import Floats, NodeTime, StepInputs
from .trt_plan import load_plan
from .trt_runner import PlanRunner

_STEP_INPUTS = tuple(field.name for field in fields(StepInputs))
_STEP_OUTPUTS = ("latent_out", "x_start")

#: Without guidance the step reads no weight of it.
_OPTIONAL_INPUTS = ("cfg_scale",)


class TrtStepSession:
    """The step plan on a GPU; implements `StepSession`.

    Args:
        path: the file with the plan.
        target: "tensorrt" or "tensorrt-rtx".
        build, entry: what the manifest says of the plans and of this file.
    Raises:
        BackendUnavailable: this machine lacks what the plan needs.
        ArtifactError: the file is not a step plan that TensorRT can load.
    """

    def __init__(self, path: Path, *, target: str, build: GpuBuild, entry: FileEntry) -> None:
        self._runner = PlanRunner(
            load_plan(path, target, build, entry),
            inputs=_STEP_INPUTS,
            outputs=_STEP_OUTPUTS,
            optional=_OPTIONAL_INPUTS,
        )

    def run(self, inputs: StepInputs) -> tuple[Floats, Floats]:
        """Run one step; returns latent_out and x_start, both (N, C, H, W) float32."""
        results = self._runner.run(_feeds(inputs))
        return results["latent_out"], results["x_start"]

    def node_times(self, inputs: StepInputs, *, repeats: int) -> list[list[NodeTime]]:
        """Run the step with TensorRT's profiler on; for each run its layers in order."""
        return self._runner.node_times(_feeds(inputs), repeats=repeats)

    def close(self) -> None:
        """Free the session; it cannot run any more."""
        self._runner.close()


class TrtDecoderSession:
    """The decoder's plan on a GPU; implements `DecoderSession`. Arguments as TrtStepSession."""

    def __init__(self, path: Path, *, target: str, build: GpuBuild, entry: FileEntry) -> None:
        self._runner = PlanRunner(
            load_plan(path, target, build, entry), inputs=("latent",), outputs=("image",)
        )

    def decode(self, latent: Floats) -> Floats:
        """Latents (N, C, h, w) to pictures (N, C, H, W) float32, about -1..1.

        N is free: latents go in parts of the plan's largest batch, the last part filled up to its
        smallest one.
        """
        low, high = self._runner.batch_min, self._runner.batch_max
        parts = []
        for start in range(0, len(latent), high):
            part = latent[start : start + high]
            filled = np.resize(part, (max(len(part), low), *part.shape[1:]))
            parts.append(self._runner.run({"latent": filled})["image"][: len(part)])
        return np.concatenate(parts)

    def close(self) -> None:
        """Free the session; it cannot run any more."""
        self._runner.close()


def _feeds(inputs: StepInputs) -> dict[str, NDArray[Any]]:
    return {name: getattr(inputs, name) for name in _STEP_INPUTS}
