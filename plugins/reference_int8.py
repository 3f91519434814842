"""Reference of the CPU library's int8 mode: the same integers as its kernels, in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .layout import Layout
from .reference import activate, codebook_decode

_LEVELS = np.float32(127)


def codebook_gemm_int8(
    x: NDArray[np.float32],
    codebook: NDArray[np.floating],
    assignments: NDArray[np.int8],
    bias: NDArray[np.floating],
    *,
    layout: Layout,
    activation: str = "none",
) -> NDArray[np.float32]:
    """act(x W^T + bias) with x and the codewords rounded to int8, sums in integers.

    x is scaled per row, the codebook per row group, both by the largest absolute value: symmetric
    quantization as in Jacob et al., 2018 (arXiv 1712.05877), without a zero point.

    Args:
        x: (..., I) float32.
        codebook: (R, K, d).
        assignments: int8, packed as the layout says.
        bias: (O,).
        layout: of the assignments.
        activation: "none", "gelu_tanh" or "silu".
    Returns:
        (..., O) float32; a row of x with a NaN or an infinity becomes NaN.
    """
    x = np.asarray(x, np.float32)
    codebook = np.asarray(codebook, np.float32)
    x_scale, x_whole = _quantized(x, axes=(-1,))
    codebook_scale, codebook_whole = _quantized(codebook, axes=(1, 2))
    weight = codebook_decode(codebook_whole, assignments, layout=layout)
    row_scale = np.repeat(codebook_scale.reshape(-1), len(weight) // len(codebook))
    sums = x_whole.astype(np.float64) @ weight.astype(np.float64).T  # exact: below 2^53
    y = sums.astype(np.float32) * (x_scale * row_scale) + np.asarray(bias, np.float32)
    return activate(y, activation).astype(np.float32)


def _quantized(
    values: NDArray[np.float32], *, axes: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale, kept as axes of length 1, and whole numbers -127..127; scale NaN where not finite."""
    finite = np.isfinite(values).all(axis=axes, keepdims=True)
    most = np.abs(np.where(finite, values, 0)).max(axis=axes, keepdims=True)
    factor = np.divide(_LEVELS, most, where=most > 0, out=np.zeros_like(most))
    scale = np.where(finite, most / _LEVELS, np.float32(np.nan))
    return scale, np.rint(np.where(finite, values, 0) * factor)
