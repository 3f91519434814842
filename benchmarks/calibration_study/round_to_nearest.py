"""Round-to-nearest quantization of a checkpoint, the baseline without codebooks.

Every 64 inputs of a row share a scale and a zero point, both float16, from their smallest and
largest weight (asymmetric min-max). Bits per weight count both: bits + 32 / 64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vq4dit.errors import ShapeError
from vq4dit.model_config import ModelConfig
from vq4dit.plugins.layer import QuantizedLayer
from vq4dit.weight_source import WeightSource

GROUP_SIZE = 64
_SCALE_BITS = 16
_SMALLEST_SCALE = float(np.finfo(np.float16).smallest_subnormal)


def bits_per_weight(bits: int) -> float:
    """Bits of a weight with its share of the group's scale and zero point."""
    return bits + 2 * _SCALE_BITS / GROUP_SIZE


def round_to_nearest(weight: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Quantize to 2^bits levels per group and back.

    Args:
        weight: (O, I) float32, I a multiple of GROUP_SIZE.
        bits: 1 or more.
    Returns:
        (O, I) float32.
    """
    rows, columns = weight.shape
    if columns % GROUP_SIZE:
        raise ShapeError(f"a row has {columns} weights, needed a multiple of {GROUP_SIZE}")
    groups = weight.reshape(rows, -1, GROUP_SIZE)
    levels = 2**bits - 1
    low, high = groups.min(axis=2, keepdims=True), groups.max(axis=2, keepdims=True)
    zero = low.astype(np.float16).astype(np.float32)
    scale = np.maximum((high - low) / levels, _SMALLEST_SCALE).astype(np.float16)
    scale = scale.astype(np.float32)
    steps = np.clip(np.rint((groups - zero) / scale), 0, levels)
    return (zero + steps * scale).reshape(rows, columns).astype(np.float32)


class RoundedWeights:
    """A checkpoint whose block linears are rounded, as dense weights; a `WeightSource`."""

    def __init__(self, source: WeightSource, bits: int) -> None:
        self._source, self._bits = source, bits
        self.config: ModelConfig = source.config
        self.label_names = source.label_names
        self.latent_scaling_factor = source.latent_scaling_factor
        self.sha256 = source.sha256

    def quantized_layer(self, name: str) -> QuantizedLayer | None:
        """None: the weights are dense again."""
        return None

    def tensor(self, name: str) -> NDArray[Any]:
        """A tensor of the checkpoint, rounded if it is the weight of a block linear."""
        value = self._source.tensor(name)
        linear, _, kind = name.rpartition(".")
        if kind == "weight" and linear in self.config.block_linear_shapes():
            return round_to_nearest(value, self._bits)
        return value
