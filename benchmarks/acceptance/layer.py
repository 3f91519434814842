"""Random numbers for one case, as bytes for the GPU and as float32 for the answer on the host.

The answer is computed for a sample of rows and columns, since the largest case has 193,536 columns;
that every output was written is seen in the whole of y, which starts as NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from vq4dit.plugins.packing import pack_assignments, weight_from_sub_vectors
from vq4dit.plugins.reference import ACTIVATIONS

from .cases import Case

_MAX_ROWS, _MAX_COLUMNS = 64, 512
_CODEWORD_SCALE = 0.05  # weights of a trained linear of this size

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """One node's inputs by name, as the kernels take them, and sampled expected outputs.

    Args:
        inputs: name -> uint16 (float16 or bfloat16 bits), int8 or float32 array.
        output_shape: of y.
        is_output_float32: for gated residuals; else y has the case's dtype.
        rows, columns: which outputs `expected` holds.
        expected: (len(rows), len(columns)) float32, from the rounded inputs.
    """

    inputs: dict[str, NDArray]
    output_shape: tuple[int, ...]
    is_output_float32: bool
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    expected: Floats

    def relative_error(self, y: NDArray, dtype: str) -> float:
        """Of the sampled outputs, by the Frobenius norm; infinite where any output is not finite.

        Args:
            y: all outputs as the kernel wrote them: uint16 bits, or float32.
            dtype: the case's.
        """
        values = y if self.is_output_float32 else from_bits(y, dtype)
        if not np.isfinite(values).all():
            return float("inf")
        difference = values[np.ix_(self.rows, self.columns)] - self.expected
        return float(np.linalg.norm(difference) / np.linalg.norm(self.expected))


def random_layer(case: Case) -> Layer:
    """Numbers that depend on the case's name alone."""
    rng = np.random.default_rng(crc32(case.name.encode()))
    layout = case.layout
    shape = (case.row_groups, layout.codebook_size, layout.sub_vector_len)
    codebook = _rounded(_CODEWORD_SCALE * rng.standard_normal(shape, np.float32), case.dtype)
    indices = rng.integers(
        0, layout.codebook_size, (case.n, layout.num_sub_vectors), dtype=np.uint8
    )
    inputs = {
        "codebook": to_bits(codebook, case.dtype),
        "assignments": pack_assignments(indices, layout),
    }
    columns = _spread(case.n, _MAX_COLUMNS)
    groups = columns // (case.n // case.row_groups)
    weight = weight_from_sub_vectors(codebook[groups[:, None], indices[columns]], layout)
    if case.op == "CodebookDecode":
        rows = _spread(case.n, _MAX_COLUMNS)
        return Layer(
            inputs=inputs, output_shape=(case.n, case.k), is_output_float32=False, rows=rows,
            columns=np.arange(case.k), expected=weight,
        )  # fmt: skip
    return _multiplied(case, rng, inputs, weight, columns)


def _multiplied(
    case: Case,
    rng: np.random.Generator,
    inputs: dict[str, NDArray],
    weight: Floats,
    columns: NDArray[np.intp],
) -> Layer:
    """The rest of a layer that multiplies: x, bias, gate, residual and what comes out."""

    def numbers(*shape: int) -> Floats:
        return _rounded(rng.standard_normal(shape, np.float32), case.dtype)

    x, bias, rows = numbers(case.m, case.k), numbers(case.n), _spread(case.m, _MAX_ROWS)
    expected = x[rows] @ weight.T + bias[columns]
    inputs |= {"x": to_bits(x, case.dtype), "bias": to_bits(bias, case.dtype)}
    is_residual = case.op == "CodebookGemmResidual"
    if is_residual:
        gate = numbers(case.m // case.sequence, case.n)
        residual = rng.standard_normal((case.m, case.n), np.float32)
        inputs |= {"gate": to_bits(gate, case.dtype), "residual": residual}
        chosen = np.ix_(rows, columns)
        expected = residual[chosen] + gate[np.ix_(rows // case.sequence, columns)] * expected
    else:
        expected = _activated(expected, case.activation)
    return Layer(
        inputs=inputs, output_shape=(case.m, case.n), is_output_float32=is_residual, rows=rows,
        columns=columns, expected=expected,
    )  # fmt: skip


def to_bits(values: Floats, dtype: str) -> NDArray[np.uint16]:
    """float32 -> float16 or bfloat16 bits, rounded to nearest even."""
    if dtype == "float16":
        return values.astype(np.float16).view(np.uint16)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bits(bits: NDArray[np.uint16], dtype: str) -> Floats:
    """float16 or bfloat16 bits -> float32, exactly."""
    if dtype == "float16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _rounded(values: Floats, dtype: str) -> Floats:
    return from_bits(to_bits(values, dtype), dtype)


def _spread(size: int, most: int) -> NDArray[np.intp]:
    """At most `most` places of 0 .. size - 1, first and last among them."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).round().astype(np.intp))


def _activated(y: Floats, activation: str) -> Floats:
    """As vq4dit.plugins.reference."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is unknown; needed one of {ACTIVATIONS}")
    if activation == "gelu_tanh":
        inner = np.float32(np.sqrt(2 / np.pi)) * (y + np.float32(0.044715) * y**3)
        return np.float32(0.5) * y * (1 + np.tanh(inner))
    return y / (1 + np.exp(-y)) if activation == "silu" else y
