"""A predicted profile: time per operation and part, memory, and what it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .step_ops import KINDS, PARTS

#: Stands beside every figure.
LABEL = "predicted"


@dataclass(frozen=True, kw_only=True)
class PredictedLayer:
    """One operation of a step, for each kind of weights.

    Args:
        name, part, kind: as in `StepOp`.
        m, n, k: rows of x, out_features, in_features (0 where it is no product).
        microseconds: weights ("fp16", "2bit", ...) -> time.
        kernel: weights -> kernel and tile; limit: weights -> what binds.
        decoded_bytes: weights -> bytes of the weight that is decoded to memory, 0 where none is.
    """

    name: str
    part: str
    kind: str
    m: int
    n: int
    k: int
    microseconds: Mapping[str, float]
    kernel: Mapping[str, str]
    limit: Mapping[str, str]
    decoded_bytes: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class PredictedMemory:
    """Bytes of weights, of activations, and of the largest weight that is decoded to memory.

    Neither the driver's nor TensorRT's own memory.
    """

    weights_bytes: int
    activations_bytes: int
    decoded_bytes: int

    @property
    def total_bytes(self) -> int:
        """All together."""
        return self.weights_bytes + self.activations_bytes + self.decoded_bytes


@dataclass(frozen=True, kw_only=True)
class PredictedProfile:
    """One step of one model on one GPU.

    Args:
        model: its name or where it is from; gpu: name in the table; gpu_title: the product.
        batch: samples of a step; cfg: whether guidance doubles them.
        weights: the kinds that are compared, such as ("fp16", "2bit").
        layers: every operation in order.
        memory: weights -> bytes.
        gpu_memory_bytes: what the GPU has.
        assumptions: sentences to print with the figures.
        calibration: what the model's efficiencies rest on.
    """

    model: str
    gpu: str
    gpu_title: str
    batch: int
    cfg: bool
    weights: tuple[str, ...]
    layers: tuple[PredictedLayer, ...]
    memory: Mapping[str, PredictedMemory]
    gpu_memory_bytes: int
    assumptions: tuple[str, ...]
    calibration: str
    label: str = LABEL

    def step_ms(self, weights: str) -> float:
        """Milliseconds of one step."""
        return sum(layer.microseconds[weights] for layer in self.layers) / 1e3

    def parts_ms(self, weights: str) -> dict[str, float]:
        """Milliseconds by part, in the order of PARTS."""
        return {part: self._sum(weights, part=part) for part in PARTS}

    def kinds_ms(self, weights: str) -> dict[str, float]:
        """Milliseconds by kind of operation, in the order of KINDS."""
        return {kind: self._sum(weights, kind=kind) for kind in KINDS}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "label": self.label,
            "calibration": self.calibration,
            "model": self.model,
            "gpu": self.gpu,
            "gpu_title": self.gpu_title,
            "batch": self.batch,
            "cfg": self.cfg,
            "weights": list(self.weights),
            "step_ms": {w: self.step_ms(w) for w in self.weights},
            "parts_ms": {w: self.parts_ms(w) for w in self.weights},
            "kinds_ms": {w: self.kinds_ms(w) for w in self.weights},
            "memory_bytes": {
                w: asdict(self.memory[w]) | {"total_bytes": self.memory[w].total_bytes}
                for w in self.weights
            },
            "gpu_memory_bytes": self.gpu_memory_bytes,
            "layers": [
                {
                    "name": layer.name,
                    "part": layer.part,
                    "kind": layer.kind,
                    "m": layer.m,
                    "n": layer.n,
                    "k": layer.k,
                    "microseconds": dict(layer.microseconds),
                    "kernel": dict(layer.kernel),
                    "limit": dict(layer.limit),
                    "decoded_bytes": dict(layer.decoded_bytes),
                }
                for layer in self.layers
            ],
            "assumptions": list(self.assumptions),
        }

    def _sum(self, weights: str, *, part: str | None = None, kind: str | None = None) -> float:
        return (
            sum(
                layer.microseconds[weights]
                for layer in self.layers
                if part in (None, layer.part) and kind in (None, layer.kind)
            )
            / 1e3
        )
