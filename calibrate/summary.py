"""What a calibration did, as numbers: times, memory, curves, errors."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from vq4dit.model_config import PRESETS, ModelConfig

from .checkpoint import Checkpoint
from .layer import VQLinear


@dataclass(frozen=True, kw_only=True)
class CalibrationSummary:
    """Seconds per stage, peak memory, curves, and each layer's relative weight error.

    `weight_error` is |W - W_q|^2 / |W|^2 by layer, `layer_bytes` the bytes of its codebooks and
    packed assignments, `bits_per_weight` the same over its weights. `soft` holds one row per step
    of the open ratios (feature_loss, ratio_loss, frozen_share; with the block where each has its
    own steps), `distill` the relative output error per step. `bits` is the configuration
    or, where there was a budget, what was reached; then `allocation` has the bits of every linear.
    `keep` are the exceptions.
    """

    recipe: str
    bits: float
    seed: int
    seconds: Mapping[str, float]
    peak_rss_bytes: int
    weight_error: Mapping[str, float]
    model: str = ""
    layer_bytes: Mapping[str, int] = field(default_factory=dict)
    bits_per_weight: Mapping[str, float] = field(default_factory=dict)
    soft: list[dict[str, float]] = field(default_factory=list)
    distill: list[float] = field(default_factory=list)
    keep: list[list[str]] = field(default_factory=list)
    allocation: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, curves included."""
        return asdict(self)


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far, in bytes.

    Linux tells it in /proc; getrusage there counts the memory of the process that started this one.
    """
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(x for x in lines if x.startswith("VmHWM:")).split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@torch.no_grad()
def weight_errors(source: Checkpoint, layers: Mapping[str, VQLinear]) -> dict[str, float]:
    """Relative squared error of each layer's decoded weight."""
    errors = {}
    for name, layer in layers.items():
        weight = source.torch_tensor(f"{name}.weight")
        error = layer.weight().cpu() - weight
        error = error.square().sum() / weight.square().sum().clamp(min=1e-30)
        errors[name] = float(error)
    return errors


def model_name(config: ModelConfig) -> str:
    """The preset's name, "DiT-XL/2", whatever the picture size; other models by their sizes."""
    for name, preset in PRESETS.items():
        keys = ("hidden_size", "depth", "patch_size", "num_heads")
        if all(getattr(preset, key) == getattr(config, key) for key in keys):
            return name
    return f"DiT {config.depth} x {config.hidden_size}, patch {config.patch_size}"


def layer_sizes(layers: Mapping[str, VQLinear]) -> tuple[dict[str, int], dict[str, float]]:
    """Bytes and bits per weight of each layer's codebooks and packed assignments."""
    quantized = {name: layer.quantized() for name, layer in layers.items()}
    num_bytes = {name: layer.num_bytes for name, layer in quantized.items()}
    return num_bytes, {name: layer.bits_per_weight for name, layer in quantized.items()}
