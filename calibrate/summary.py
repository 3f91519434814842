"""What a calibration did, as numbers: times, memory, curves, errors."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from .checkpoint import Checkpoint
from .layer import VQLinear


@dataclass(frozen=True, kw_only=True)
class CalibrationSummary:
    """Seconds per stage, peak memory, curves, and each layer's relative weight error.

    `weight_error` is |W - W_q|^2 / |W|^2 by layer; `soft` holds one row per step of the open ratios
    (feature_loss, ratio_loss, frozen_share), `distill` the relative output error per step.
    """

    recipe: str
    bits: int
    seed: int
    seconds: Mapping[str, float]
    peak_rss_bytes: int
    weight_error: Mapping[str, float]
    soft: list[dict[str, float]] = field(default_factory=list)
    distill: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, curves included."""
        return asdict(self)


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@torch.no_grad()
def weight_errors(source: Checkpoint, layers: Mapping[str, VQLinear]) -> dict[str, float]:
    """Relative squared error of each layer's decoded weight."""
    errors = {}
    for name, layer in layers.items():
        weight = source.torch_tensor(f"{name}.weight")
        error = (layer.weight() - weight).square().sum() / weight.square().sum().clamp(min=1e-30)
        errors[name] = float(error)
    return errors
