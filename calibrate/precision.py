"""How precise each linear shall be: one configuration for all, exceptions by name, or a budget.

Bits per weight count assignments and codebooks over the weights of all block linears, those that
stay dense at 16 bits included, as `vq4dit inspect` does. A size counts all of an artifact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from vq4dit.accounting import layer_size_from_layout, size_from_shapes
from vq4dit.errors import OptionError, ShapeError
from vq4dit.model_config import ModelConfig
from vq4dit.plugins.layout import CONFIGURATIONS

from .start import layer_spec

#: A linear that stays dense.
DENSE = "fp16"
_DENSE_BYTES = 2

#: What `keep` can ask for.
PRECISIONS = (DENSE, *(str(bits) for bits in sorted(CONFIGURATIONS)))

#: Bytes of an artifact besides its tensors, at most: the metadata's fixed part, and for each tensor
#: its header, hash, layout and allocation.
_METADATA_BYTES = 4096
_METADATA_BYTES_PER_TENSOR = 384

_NUM_NAMES = 5


@dataclass(frozen=True, kw_only=True)
class Precision:
    """What the caller asks for.

    Args:
        bits: configuration of every linear where there is no budget.
        keep: (pattern, "fp16" or bits) pairs; the pattern is matched with full names such as
            "blocks.0.attn.qkv", and of several that match the last one counts.
        target_bits: budget in bits per weight over all block linears, or
        target_bytes: budget for the whole artifact; None for no budget.
    Raises:
        OptionError: a value is out of range, or there are two budgets.
    """

    bits: int = 2
    keep: tuple[tuple[str, str], ...] = ()
    target_bits: float | None = None
    target_bytes: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no model can have."""
        if self.bits not in CONFIGURATIONS:
            raise OptionError(f"bits is {self.bits}, needed one of {sorted(CONFIGURATIONS)}")
        for pattern, value in self.keep:
            if value not in PRECISIONS:
                raise OptionError(
                    f"keep {pattern}={value}: {value!r} is unknown; needed one of "
                    f"{', '.join(PRECISIONS)}"
                )
        if self.target_bits is not None and self.target_bytes is not None:
            raise OptionError("target bits and target size are both given; give one of them")
        for name, target in (("bits", self.target_bits), ("size", self.target_bytes)):
            if target is not None and not 0 < target < math.inf:
                raise OptionError(f"target {name} is {target}, needed a positive number")

    @property
    def has_budget(self) -> bool:
        """Whether bits are to be allocated from measured sensitivities."""
        return self.target_bits is not None or self.target_bytes is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for settings and metadata."""
        bits = None if self.has_budget else self.bits
        return {**asdict(self), "bits": bits, "keep": [list(pair) for pair in self.keep]}

    def pinned(self, config: ModelConfig) -> dict[str, int | None]:
        """Linears that `keep` decides: full name -> bits, None where it stays dense.

        Raises:
            OptionError: a pattern matches nothing, a configuration does not fit its linear, or no
                linear is left to quantize.
        """
        shapes = config.block_linear_shapes()
        pinned: dict[str, int | None] = {}
        for pattern, value in self.keep:
            names = [name for name in shapes if fnmatchcase(name, pattern)]
            if not names:
                raise OptionError(
                    f"keep {pattern}={value}: no linear has such a name; there are "
                    f"{', '.join(list(shapes)[:_NUM_NAMES])}, ... ({len(shapes)} in all)"
                )
            pinned |= dict.fromkeys(names, None if value == DENSE else int(value))
        if len(pinned) == len(shapes) and not any(pinned.values()):
            raise OptionError("keep leaves every linear dense: there is nothing to quantize")
        for name, bits in pinned.items():
            if bits is not None and bits not in fitting_bits(name, shapes[name]):
                raise OptionError(f"keep: {name} {shapes[name]} cannot be quantized to {bits} bits")
        return pinned

    def budget(self, config: ModelConfig, pinned: Mapping[str, int | None]) -> int:
        """Bytes that the assignments and codebooks of the linears not pinned may take.

        Can be negative where what is fixed takes more than the target.
        """
        shapes = config.block_linear_shapes()
        taken = sum(layer_bytes(name, shapes[name], bits) for name, bits in pinned.items())
        if self.target_bits is not None:
            return bytes_from_bits(self.target_bits, config) - taken
        assert self.target_bytes is not None, "no target"
        return self.target_bytes - fixed_bytes(config) - taken


def fitting_bits(name: str, shape: tuple[int, int]) -> tuple[int, ...]:
    """Configurations whose sub-vectors fit a linear's (O, I)."""
    fitting = []
    for bits in sorted(CONFIGURATIONS):
        try:
            layer_spec(name, shape, bits)
        except ShapeError:
            continue
        fitting.append(bits)
    return tuple(fitting)


def layer_bytes(name: str, shape: tuple[int, int], bits: int | None) -> int:
    """Bytes of a linear's assignments and codebooks, or of its dense weight where bits is None."""
    if bits is None:
        return shape[0] * shape[1] * _DENSE_BYTES
    spec = layer_spec(name, shape, bits)
    return layer_size_from_layout(name, shape[0], spec.layout, spec.row_groups).bytes


def bytes_from_bits(bits_per_weight: float, config: ModelConfig) -> int:
    """Bytes of all block linears at so many bits per weight."""
    return math.floor(bits_per_weight * num_weights(config) / 8 + 1e-6)


def num_weights(config: ModelConfig) -> int:
    """Weights of all block linears."""
    return sum(rows * columns for rows, columns in config.block_linear_shapes().values())


def fixed_bytes(config: ModelConfig) -> int:
    """Bytes of an artifact without the weights of the block linears, its metadata at most."""
    size = size_from_shapes(config, bits=max(CONFIGURATIONS))
    biases = sum(layer.bias_bytes for layer in size.layers)
    num_tensors = len(config.tensor_shapes()) + len(size.layers)
    metadata = _METADATA_BYTES + _METADATA_BYTES_PER_TENSOR * num_tensors
    return size.other_bytes + biases + metadata
