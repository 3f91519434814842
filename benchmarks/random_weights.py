"""A DiT of any size with random weights, made tensor by tensor: engines whose time is wanted."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vq4dit.model_config import ModelConfig
from vq4dit.plugins import QuantizedLayer
from vq4dit.plugins.layout import layout_from_bits
from vq4dit.plugins.packing import pack_assignments


@dataclass(frozen=True, kw_only=True)
class RandomWeights:
    """A `WeightSource`; `bits` of all block linears, None for a dense model."""

    config: ModelConfig
    bits: int | None
    label_names: tuple[str, ...] = ()
    latent_scaling_factor: float = 1.0
    sha256: str = "0" * 64

    def quantized_layer(self, name: str) -> QuantizedLayer | None:
        """Random codewords and assignments of the usual size 1 / sqrt(I)."""
        shapes = self.config.block_linear_shapes()
        if self.bits is None or name not in shapes:
            return None
        rows, columns = shapes[name]
        layout = layout_from_bits(columns, self.bits)
        rng = self._rng(name)
        groups = 3 if name.endswith("attn.qkv") else 1
        shape = (groups, layout.codebook_size, layout.sub_vector_len)
        codebook = rng.standard_normal(shape) / np.sqrt(columns)
        indices = rng.integers(0, layout.codebook_size, (rows, layout.num_sub_vectors))
        return QuantizedLayer(
            codebook=codebook.astype(np.float16),
            assignments=pack_assignments(indices, layout),
            bias=np.zeros(rows, np.float32),
            layout=layout,
        )

    def tensor(self, name: str) -> NDArray[Any]:
        """Random float32 of the usual size."""
        shape = self.config.tensor_shapes()[name]
        size = 1 / np.sqrt(max(1, int(np.prod(shape[1:]))))
        return (size * self._rng(name).standard_normal(shape)).astype(np.float32)

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(name.encode()))
