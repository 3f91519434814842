"""Pack and unpack assignments, and map weights to sub-vectors and back.

Bytes of one row, little-endian along G (index i of the row; bit 0 is the least significant):

    8 bits   byte i            = index i
    4 bits   byte i/2          = index i (low nibble) | index i+1 << 4
    6 bits   bytes 3(i/4)..+2  = index i | index i+1 << 6 | index i+2 << 12 | index i+3 << 18

Every byte b is stored as the int8 number b - 128: TensorRT keeps INT8 constants compressed (behind
DequantizeLinear) but widens UINT8 to INT32. Padding indices are zero, that is byte 0, stored -128.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vq4dit.errors import ShapeError

from .layout import ORDER_PERIOD, WORD_POSITIONS, AssignmentLayout, GroupOrder, Layout

_BYTE_OFFSET = 128


def column_order(layout: Layout) -> NDArray[np.intp]:
    """Column of the weight at each place of the concatenated sub-vectors, shape (I,).

    `weight[:, column_order]` reshaped to (O, G, d) gives the sub-vectors.
    """
    columns = np.arange(layout.in_features)
    if layout.group_order == GroupOrder.CONTIGUOUS:
        return columns
    period = ORDER_PERIOD[layout.group_order]
    # Within one period: (d/2 runs of 8, sub-vector t, pair) -> (sub-vector t, run, pair).
    pattern = np.arange(period).reshape(-1, 4, 2).transpose(1, 0, 2).reshape(-1)
    return columns.reshape(-1, period)[:, pattern].reshape(-1)


def sub_vectors_from_weight(weight: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """Cut a weight (O, I) into sub-vectors (O, G, d), dtype kept."""
    if weight.ndim != 2 or weight.shape[1] != layout.in_features:
        raise ShapeError(f"weight has shape {weight.shape}, needed (O, {layout.in_features})")
    ordered = weight[:, column_order(layout)]
    return ordered.reshape(weight.shape[0], layout.num_sub_vectors, layout.sub_vector_len)


def weight_from_sub_vectors(sub_vectors: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """Inverse of `sub_vectors_from_weight`: (O, G, d) -> (O, I), dtype kept."""
    needed = (layout.num_sub_vectors, layout.sub_vector_len)
    if sub_vectors.ndim != 3 or sub_vectors.shape[1:] != needed:
        raise ShapeError(f"sub-vectors have shape {sub_vectors.shape}, needed (O, *{needed})")
    weight = np.empty((len(sub_vectors), layout.in_features), sub_vectors.dtype)
    weight[:, column_order(layout)] = sub_vectors.reshape(len(sub_vectors), -1)
    return weight


def pack_assignments(assignments: NDArray[Any], layout: Layout) -> NDArray[np.int8]:
    """Pack indices (O, G), each < K, into the int8 tensor of `layout.assignments_shape(O)`.

    Raises:
        ShapeError: not (O, G), or an index >= K (the first one is named with its place).
    """
    if assignments.ndim != 2 or assignments.shape[1] != layout.num_sub_vectors:
        raise ShapeError(
            f"assignments have shape {assignments.shape}, needed (O, {layout.num_sub_vectors})"
        )
    _check_range(assignments, layout)
    packed = _pack_rows(assignments.astype(np.uint8), layout)  # (O, bytes_per_row) uint8
    rows = (packed.astype(np.int16) - _BYTE_OFFSET).astype(np.int8)
    return change_assignment_layout(
        rows, replace(layout, assignment_layout=AssignmentLayout.ROWS), layout.assignment_layout
    )


def unpack_assignments(packed: NDArray[np.int8], layout: Layout) -> NDArray[np.uint8]:
    """Inverse of `pack_assignments`: indices (O, G) uint8, each checked to be < K.

    Raises:
        ShapeError: wrong dtype or shape, or an index >= K (the first one is named with its place).
    """
    if packed.dtype != np.int8:
        raise ShapeError(f"assignments have dtype {packed.dtype}, needed int8")
    layout.out_features_from(packed.shape)
    rows = change_assignment_layout(packed, layout, AssignmentLayout.ROWS)
    raw = (rows.astype(np.int16) + _BYTE_OFFSET).astype(np.uint8)
    indices = _unpack_rows(raw, layout)[:, : layout.num_sub_vectors]
    _check_range(indices, layout)
    return indices


def change_assignment_layout(
    packed: NDArray[np.int8], layout: Layout, to: AssignmentLayout
) -> NDArray[np.int8]:
    """Bring packed bytes from `layout.assignment_layout` into the order `to`; exact and invertible.

    ROWS -> FOUR_MAJOR: pad each row with zero indices to whole words, reshape to
    (O, G/4, word_bytes), transpose to (G/4, O, word_bytes). Back: transpose, reshape, cut.
    """
    source = layout.assignment_layout
    if source == to:
        return packed
    out_features = layout.out_features_from(packed.shape)
    words = -(-layout.num_sub_vectors // WORD_POSITIONS)
    if to == AssignmentLayout.FOUR_MAJOR:
        padding = words * layout.word_bytes - layout.bytes_per_row
        padded = np.pad(packed, ((0, 0), (0, padding)), constant_values=-_BYTE_OFFSET)
        split = padded.reshape(out_features, words, layout.word_bytes)
        return np.ascontiguousarray(split.transpose(1, 0, 2))
    joined = packed.transpose(1, 0, 2).reshape(out_features, words * layout.word_bytes)
    return np.ascontiguousarray(joined[:, : layout.bytes_per_row])


def _check_range(indices: NDArray[Any], layout: Layout) -> None:
    """Raise ShapeError naming the first index outside 0..K-1."""
    if indices.size == 0 or (indices.max() < layout.codebook_size and indices.min() >= 0):
        return
    row, position = np.argwhere((indices >= layout.codebook_size) | (indices < 0))[0]
    raise ShapeError(
        f"assignment at row {row}, sub-vector {position} is {indices[row, position]}, "
        f"needed 0..{layout.codebook_size - 1}"
    )


def _pack_rows(indices: NDArray[np.uint8], layout: Layout) -> NDArray[np.uint8]:
    """(O, G) indices -> (O, bytes_per_row), little-endian along G."""
    if layout.index_bits == 8:
        return indices
    if layout.index_bits == 4:
        padded = np.pad(indices, ((0, 0), (0, -indices.shape[1] % 2)))
        return padded[:, 0::2] | (padded[:, 1::2] << np.uint8(4))
    padded = np.pad(indices, ((0, 0), (0, -indices.shape[1] % 4)))
    a, b, c, d = (padded[:, i::4] for i in range(4))
    three = np.stack([a | (b << 6), (b >> 2) | (c << 4), (c >> 4) | (d << 2)], axis=-1)
    return three.reshape(len(indices), -1)


def _unpack_rows(raw: NDArray[np.uint8], layout: Layout) -> NDArray[np.uint8]:
    """(O, bytes_per_row) -> (O, at least G) indices; padding is still behind the last one."""
    if layout.index_bits == 8:
        return raw
    if layout.index_bits == 4:
        return np.stack([raw & 15, raw >> 4], axis=-1).reshape(len(raw), -1)
    x, y, z = (raw[:, i::3] for i in range(3))
    parts = [x & 63, (x >> 6) | ((y & 15) << 2), (y >> 4) | ((z & 3) << 4), z >> 2]
    return np.stack(parts, axis=-1).reshape(len(raw), -1)
