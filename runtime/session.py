"""What every backend offers: a session that runs one step, and one that decodes latents.

A backend that can tell the time of its layers also has `NodeTimer`'s method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class StepInputs:
    """Inputs of one sampling step for N samples, each row for itself.

    Args:
        latent: (N, C, H, W) float32.
        timestep: (N,) float32, t of the training schedule.
        label: (N,) int64, 0..num_classes - 1.
        cfg_scale: (N,) float32.
        coefficients: (N, 8) float32, rows of a sampler's table.
        noise: (N, C, H, W) float32.
        history: (N, C, H, W) float32, x_start of the step before.
    """

    latent: Floats
    timestep: Floats
    label: NDArray[np.int64]
    cfg_scale: Floats
    coefficients: Floats
    noise: Floats
    history: Floats


class StepSession(Protocol):
    """A loaded step model."""

    def run(self, inputs: StepInputs) -> tuple[Floats, Floats]:
        """Run one step; returns latent_out and x_start, both (N, C, H, W) float32."""

    def close(self) -> None:
        """Free what the session holds; a closed session cannot run."""


class DecoderSession(Protocol):
    """A loaded decoder."""

    def decode(self, latent: Floats) -> Floats:
        """Latents (N, C, h, w) to pictures (N, C, H, W) float32, about -1..1."""

    def close(self) -> None:
        """Free what the session holds; a closed session cannot run."""


Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class NodeTime:
    """How long one node (or one layer that a backend fused) took in one run of an engine.

    Args:
        name: as in the exported graph where the backend kept it; the part of the DiT follows
            from it.
        op: type of the op, such as "CodebookGemm", or the backend's word for the layer.
        start_us: microseconds after the run's begin, None where the backend does not tell.
        duration_us: microseconds.
        inputs, outputs: shapes of the tensors, empty where unknown.
        activation_bytes, weight_bytes, output_bytes: what the node has to read (tensors of this
            run, constants) and to write; 0 where unknown.
    """

    name: str
    op: str
    duration_us: float
    start_us: float | None = None
    inputs: tuple[Shape, ...] = ()
    outputs: tuple[Shape, ...] = ()
    activation_bytes: int = 0
    weight_bytes: int = 0
    output_bytes: int = 0


class NodeTimer(Protocol):
    """A `StepSession` that can time its nodes; ONNX Runtime's is `profiling.ort_nodes`."""

    def node_times(self, inputs: StepInputs, *, repeats: int) -> list[list[NodeTime]]:
        """Run the step `repeats` times with timers on; for each run its nodes in order.

        Every run has the same nodes. Runs of `run` before and after must be no slower for it.
        """
