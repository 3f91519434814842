"""How many bits and bytes a quantized DiT takes, layer by layer, from a file or from shapes alone.

Two ways to count the whole model. The paper's accounting takes the blocks only: packed assignments,
codebooks and biases in float32 (VQ4DiT, arXiv 2408.17131, whose 162.08 MB of DiT-XL/2 at 2 bits
follows from it; MB is 2^20 bytes). The whole-model accounting takes every tensor as it is stored:
codebooks, biases and all that is not quantized in float16.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

import numpy as np

from .errors import OptionError, ShapeError
from .model_config import PRESETS, ModelConfig
from .plugins.layer import QuantizedLayer
from .plugins.layout import CONFIGURATIONS, Layout, layout_from_bits
from .weight_source import WeightSource

MIB = 1 << 20
_FLOAT16_BYTES = 2
_FLOAT32_BYTES = 4

#: Linears whose rows are three matrices (q, k, v), each with a codebook of its own by default.
_THREE_PART_LINEAR = "attn.qkv"


@dataclass(frozen=True, kw_only=True)
class LayerSize:
    """What one linear of a block takes.

    Args:
        name: such as "blocks.0.attn.qkv".
        shape: (O, I).
        bits: bits of one weight by its assignment alone (index bits / d), or of a dense weight.
        bits_per_weight: bits of packed assignments and codebooks over O * I.
        bytes: assignments and codebooks, or the dense weight; the bias is counted apart.
        assignment_bytes, codebook_bytes, bias_bytes: the parts (0 for what is not there).
        codebook_size, sub_vector_len, row_groups, group_order: the layout; None for a dense layer.
        sha256: of the codebook's bytes followed by the assignments', None where there is no file.
    """

    name: str
    shape: tuple[int, int]
    bits: float
    bits_per_weight: float
    bytes: int
    assignment_bytes: int = 0
    codebook_bytes: int = 0
    bias_bytes: int = 0
    codebook_size: int | None = None
    sub_vector_len: int | None = None
    row_groups: int | None = None
    group_order: str | None = None
    sha256: str | None = None

    @property
    def is_quantized(self) -> bool:
        """Whether the weight is a gather of codewords."""
        return self.codebook_size is not None

    @property
    def num_weights(self) -> int:
        """O * I."""
        return prod(self.shape)

    @property
    def paper_bytes(self) -> int:
        """Bytes by the paper's accounting: codebook, bias and a dense weight count as float32."""
        bias = self.shape[0] * _FLOAT32_BYTES
        if self.codebook_size is None or self.sub_vector_len is None or self.row_groups is None:
            return self.num_weights * _FLOAT32_BYTES + bias
        codebook_values = self.row_groups * self.codebook_size * self.sub_vector_len
        return self.assignment_bytes + codebook_values * _FLOAT32_BYTES + bias


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """What a whole model takes: its block linears, and the bytes of all other tensors."""

    layers: tuple[LayerSize, ...]
    other_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Bits of assignments and codebooks (or dense weights) over the weights of the blocks."""
        return 8 * sum(layer.bytes for layer in self.layers) / self._num_weights

    @property
    def assignment_bits_per_weight(self) -> float:
        """The part of `bits_per_weight` that the assignments take."""
        return 8 * sum(layer.assignment_bytes for layer in self.layers) / self._num_weights

    @property
    def codebook_bits_per_weight(self) -> float:
        """The part of `bits_per_weight` that the codebooks take."""
        return 8 * sum(layer.codebook_bytes for layer in self.layers) / self._num_weights

    @property
    def total_bytes(self) -> int:
        """Bytes of every tensor as stored."""
        return self.other_bytes + sum(layer.bytes + layer.bias_bytes for layer in self.layers)

    @property
    def paper_accounting_mib(self) -> float:
        """Size by the paper's accounting, in MiB."""
        return sum(layer.paper_bytes for layer in self.layers) / MIB

    @property
    def unquantized(self) -> tuple[str, ...]:
        """Names of the block linears that are dense."""
        return tuple(layer.name for layer in self.layers if not layer.is_quantized)

    @property
    def _num_weights(self) -> int:
        return sum(layer.num_weights for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "bits_per_weight": self.bits_per_weight,
            "assignment_bits_per_weight": self.assignment_bits_per_weight,
            "codebook_bits_per_weight": self.codebook_bits_per_weight,
            "paper_accounting_mib": self.paper_accounting_mib,
            "total_bytes": self.total_bytes,
            "unquantized_layers": list(self.unquantized),
            "layers": [asdict(layer) for layer in self.layers],
        }


def size_from_shapes(
    config: ModelConfig, bits: int, *, row_groups: Mapping[str, int] | None = None
) -> ModelSize:
    """Account for a model before it exists: every block linear at `bits`, all else float16.

    Args:
        config: sizes of the model.
        bits: a named configuration, 1, 2, 3 or 4.
        row_groups: codebooks per layer by the linear's name in its block ("attn.qkv"); 3 for
            attn.qkv and 1 for the others by default.
    Raises:
        OptionError: no such configuration, or it does not fit the model's sizes.
    """
    if bits not in CONFIGURATIONS:
        raise OptionError(f"bits is {bits}, needed one of {sorted(CONFIGURATIONS)}")
    groups = {_THREE_PART_LINEAR: 3, **(row_groups or {})}
    layers = []
    for name, (out_features, in_features) in config.block_linear_shapes().items():
        try:
            layout = layout_from_bits(in_features, bits)
        except ShapeError as error:
            raise OptionError(f"{name} cannot be quantized to {bits} bits: {error}") from None
        kind = name.split(".", 2)[2]
        layers.append(layer_size_from_layout(name, out_features, layout, groups.get(kind, 1)))
    others = sum(prod(shape) for shape in _other_tensors(config).values()) * _FLOAT16_BYTES
    return ModelSize(layers=tuple(layers), other_bytes=others)


def size_from_weights(
    source: WeightSource, stored_bytes: Mapping[str, int] | None = None
) -> ModelSize:
    """Account for an artifact or a checkpoint; reads (and so checks) every quantized layer.

    Args:
        source: an open file.
        stored_bytes: bytes of each tensor in the file by name; where None, dense tensors count as
            float32, the form in which a source gives them.
    Raises:
        ArtifactError: the file is damaged.
    """
    config = source.config
    shapes = config.tensor_shapes()

    def size(name: str) -> int:
        return stored_bytes[name] if stored_bytes else prod(shapes[name]) * _FLOAT32_BYTES

    layers = []
    for name, shape in config.block_linear_shapes().items():
        layer = source.quantized_layer(name)
        bias_bytes = size(f"{name}.bias")
        layers.append(
            dense_layer_size(name, shape, size(f"{name}.weight"), bias_bytes)
            if layer is None
            else quantized_layer_size(name, layer, bias_bytes=bias_bytes)
        )
    others = sum(size(name) for name in _other_tensors(config))
    return ModelSize(layers=tuple(layers), other_bytes=others)


def dense_layer_size(
    name: str, shape: tuple[int, int], weight_bytes: int, bias_bytes: int
) -> LayerSize:
    """Account for a linear that is not quantized."""
    bits = 8 * weight_bytes / prod(shape)
    return LayerSize(
        name=name,
        shape=shape,
        bits=bits,
        bits_per_weight=bits,
        bytes=weight_bytes,
        bias_bytes=bias_bytes,
    )


def quantized_layer_size(name: str, layer: QuantizedLayer, *, bias_bytes: int) -> LayerSize:
    """Account for a quantized linear, with the hash of its codebook (float16) and assignments.

    The assignments must be in layout ROWS, so that the hash is that of the artifact.
    """
    digest = hashlib.sha256(np.ascontiguousarray(layer.codebook, np.float16).tobytes())
    digest.update(layer.assignments.tobytes())
    size = layer_size_from_layout(name, layer.out_features, layer.layout, layer.row_groups)
    return replace(
        size,
        bits_per_weight=layer.bits_per_weight,
        bytes=layer.num_bytes,
        codebook_bytes=layer.codebook.nbytes,
        bias_bytes=bias_bytes,
        sha256=digest.hexdigest(),
    )


def config_from_preset(name: str, picture_size: int | None = None) -> ModelConfig:
    """A model of the paper by name ("DiT-XL/2"), for pictures of this height and width in pixels.

    Raises:
        OptionError: unknown name, or a size that the VAE (factor 8) and the patches do not divide.
    """
    if name not in PRESETS:
        raise OptionError(f"model {name!r} is unknown; known are {', '.join(PRESETS)}")
    config = PRESETS[name]
    if picture_size is None:
        return config
    step = 8 * config.patch_size
    if picture_size <= 0 or picture_size % step:
        raise OptionError(f"picture size {picture_size} must be a positive multiple of {step}")
    return ModelConfig.from_dict({**config.to_dict(), "input_size": picture_size // 8})


def layer_size_from_layout(
    name: str,
    out_features: int,
    layout: Layout,
    row_groups: int,
) -> LayerSize:
    """Account for a quantized linear by its layout; codebook and bias are stored in float16."""
    if row_groups < 1 or out_features % row_groups:
        raise OptionError(f"{name}: {out_features} rows cannot be cut into {row_groups} row groups")
    assignment_bytes = out_features * layout.bytes_per_row
    codebook_values = row_groups * layout.codebook_size * layout.sub_vector_len
    codebook_bytes = codebook_values * _FLOAT16_BYTES
    num_bytes = assignment_bytes + codebook_bytes
    return LayerSize(
        name=name,
        shape=(out_features, layout.in_features),
        bits=layout.index_bits / layout.sub_vector_len,
        bits_per_weight=8 * num_bytes / (out_features * layout.in_features),
        bytes=num_bytes,
        assignment_bytes=assignment_bytes,
        codebook_bytes=codebook_bytes,
        bias_bytes=out_features * _FLOAT16_BYTES,
        codebook_size=layout.codebook_size,
        sub_vector_len=layout.sub_vector_len,
        row_groups=row_groups,
        group_order=layout.group_order.name.lower(),
    )


def _other_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors outside the block linears (the position table included)."""
    linears = config.block_linear_shapes()
    return {
        name: shape
        for name, shape in config.tensor_shapes().items()
        if name.rpartition(".")[0] not in linears
    }
