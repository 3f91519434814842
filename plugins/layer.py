"""One vector-quantized linear layer in memory: codebook, packed assignments, bias, layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vq4dit.errors import ShapeError

from .layout import Layout
from .reference import check_codebook, codebook_decode


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedLayer:
    """A linear layer whose weight is a gather of codewords.

    Args:
        codebook: (R, K, d) float16.
        assignments: packed int8 of shape `layout.assignments_shape(O)`.
        bias: (O,) floating.
        layout: sizes, column order and byte order.
    Raises:
        ShapeError: shapes do not fit each other.
    """

    codebook: NDArray[Any]
    assignments: NDArray[np.int8]
    bias: NDArray[Any]
    layout: Layout

    def __post_init__(self) -> None:
        """Check the shapes; indices are checked where a file is read and where they are used."""
        check_codebook(self.codebook, self.layout)
        if self.bias.shape != (self.out_features,):
            raise ShapeError(f"bias has shape {self.bias.shape}, needed ({self.out_features},)")
        if self.out_features % self.row_groups:
            raise ShapeError(
                f"out_features {self.out_features} is not a multiple of R = {self.row_groups}"
            )

    @property
    def out_features(self) -> int:
        """O, rows of the weight."""
        return self.layout.out_features_from(self.assignments.shape)

    @property
    def row_groups(self) -> int:
        """R, codebooks of this layer, each for O / R successive rows."""
        return len(self.codebook)

    @property
    def num_bytes(self) -> int:
        """Bytes of the codebook and the packed assignments; the bias is counted apart."""
        return self.codebook.nbytes + self.assignments.nbytes

    @property
    def bits_per_weight(self) -> float:
        """Bits of codebook and packed assignments over the number of weights (O * I)."""
        return 8 * self.num_bytes / (self.out_features * self.layout.in_features)

    def weight(self) -> NDArray[Any]:
        """Decode the dense weight (O, I), dtype of the codebook."""
        return codebook_decode(self.codebook, self.assignments, layout=self.layout)
