"""The op in NumPy: slow, plain, and the oracle of every other backend.

The arithmetic is float32 (float64 on request of the input's dtype); inputs are checked in front.
Source of the op: VQ4DiT (arXiv 2408.17131) section 3, weight = gather of codewords.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vq4dit.errors import ShapeError

from .layout import Layout
from .packing import unpack_assignments, weight_from_sub_vectors

#: Activations that the op can apply to its result.
ACTIVATIONS = ("none", "gelu_tanh", "silu")


def codebook_decode(
    codebook: NDArray[Any], assignments: NDArray[np.int8], *, layout: Layout
) -> NDArray[Any]:
    """Decode a vector-quantized weight.

    Args:
        codebook: (R, K, d) floating; row o uses codebook o // (O / R).
        assignments: packed int8 of shape `layout.assignments_shape(O)`.
        layout: sizes, column order and byte order.
    Returns:
        (O, I), dtype of the codebook.
    Raises:
        ShapeError: shapes do not fit, O is not a multiple of R, or an index is >= K.
    """
    check_codebook(codebook, layout)
    indices = unpack_assignments(assignments, layout)  # (O, G)
    out_features, row_groups = len(indices), len(codebook)
    if out_features % row_groups:
        raise ShapeError(f"out_features {out_features} is not a multiple of R = {row_groups}")
    group = np.arange(out_features) // (out_features // row_groups)  # (O,)
    sub_vectors = codebook[group[:, None], indices]  # (O, G, d)
    return weight_from_sub_vectors(sub_vectors, layout)


def codebook_gemm(
    x: NDArray[Any],
    codebook: NDArray[Any],
    assignments: NDArray[np.int8],
    bias: NDArray[Any],
    *,
    layout: Layout,
    activation: str = "none",
) -> NDArray[Any]:
    """Multiply by a vector-quantized weight: act(x @ decode(codebook, assignments).T + bias).

    Args:
        x: (..., I) floating.
        codebook: (R, K, d).
        assignments: packed int8 of shape `layout.assignments_shape(O)`.
        bias: (O,).
        layout: sizes, column order and byte order.
        activation: one of ACTIVATIONS.
    Returns:
        (..., O), dtype of x; accumulated in float32, or float64 where x is float64.
    Raises:
        ShapeError: shapes do not fit or an index is >= K.   ValueError: unknown activation.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is unknown; needed one of {ACTIVATIONS}")
    if x.ndim < 1 or x.shape[-1] != layout.in_features:
        raise ShapeError(f"x has shape {x.shape}, needed (..., {layout.in_features})")
    work = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
    weight: NDArray[Any] = codebook_decode(codebook, assignments, layout=layout).astype(work)
    if bias.shape != (len(weight),):
        raise ShapeError(f"bias has shape {bias.shape}, needed ({len(weight)},)")
    y: NDArray[Any] = np.matmul(x.astype(work), weight.T) + bias.astype(work)
    return activate(y, activation).astype(x.dtype, copy=False)


def codebook_gemm_residual(
    x: NDArray[Any],
    codebook: NDArray[Any],
    assignments: NDArray[np.int8],
    bias: NDArray[Any],
    gate: NDArray[Any],
    residual: NDArray[Any],
    *,
    layout: Layout,
) -> NDArray[Any]:
    """The linear with the DiT block's gated residual: residual + gate * (x @ W.T + bias).

    Args:
        x: (B, S, I).   codebook, assignments, bias: as in `codebook_gemm`.
        gate: (B, O), one row per sample.   residual: (B, S, O).
        layout: sizes, column order and byte order.
    Returns:
        (B, S, O), dtype of the residual.
    Raises:
        ShapeError: shapes do not fit or an index is >= K.
    Source: Peebles & Xie 2023 (arXiv 2212.09748), adaLN-Zero block, figure 3.
    """
    y = codebook_gemm(x, codebook, assignments, bias, layout=layout)  # (B, S, O)
    if x.ndim != 3 or residual.shape != y.shape:
        raise ShapeError(f"residual has shape {residual.shape}, needed {y.shape} with x (B, S, I)")
    if gate.shape != (y.shape[0], y.shape[2]):
        raise ShapeError(f"gate has shape {gate.shape}, needed {(y.shape[0], y.shape[2])}")
    sum_: NDArray[Any] = residual + gate[:, None, :] * y
    return sum_.astype(residual.dtype, copy=False)


def check_codebook(codebook: NDArray[Any], layout: Layout) -> None:
    """Raise ShapeError unless the codebook is (R, K, d) of the layout."""
    needed = (layout.codebook_size, layout.sub_vector_len)
    if codebook.ndim != 3 or codebook.shape[1:] != needed or len(codebook) < 1:
        raise ShapeError(
            f"codebook has shape {codebook.shape}, needed (R, {needed[0]}, {needed[1]})"
        )


def activate(y: NDArray[Any], activation: str) -> NDArray[Any]:
    """Apply an activation element by element; gelu_tanh as Hendrycks & Gimpel 2016, section 2."""
    if activation == "gelu_tanh":
        y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    elif activation == "silu":
        y = y / (1 + np.exp(-np.clip(y, -80, None)))
    return y
