"""What every backend offers: a session that runs one step, and one that decodes latents."""

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
