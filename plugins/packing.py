"""Pack and unpack assignments, and map weights to sub-vectors and back.

The bits of one row are drawn in bit_packing.py; each row is padded to whole groups of indices.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vq4dit.errors import ShapeError

from .bit_packing import BYTE_OFFSET, from_int8, pack_indices, to_int8, unpack_indices
from .cuda.assignment_layouts import from_mma_lanes, to_mma_lanes
from .layout import ORDER_PERIOD, WORD_POSITIONS, AssignmentLayout, GroupOrder, Layout


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
    rows = to_int8(pack_indices(assignments.astype(np.uint8), layout.index_bits))
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
    indices = unpack_indices(from_int8(rows), layout.index_bits)[:, : layout.num_sub_vectors]
    _check_range(indices, layout)
    return indices


def change_assignment_layout(
    packed: NDArray[np.int8], layout: Layout, to: AssignmentLayout
) -> NDArray[np.int8]:
    """Bring packed bytes from `layout.assignment_layout` into the order `to`; exact and invertible.

    ROWS -> FOUR_MAJOR: pad each row with zero indices to whole words, reshape to
    (O, G/4, word_bytes), transpose to (G/4, O, word_bytes). Back: transpose, reshape, cut.
    ROWS -> MMA_LANES: see cuda/assignment_layouts.py.
    """
    if layout.assignment_layout == to:
        return packed
    layout.out_features_from(packed.shape)
    rows = _TO_ROWS[layout.assignment_layout](packed, layout)
    return _FROM_ROWS[to](rows, replace(layout, assignment_layout=to))


def _to_four_major(rows: NDArray[np.int8], layout: Layout) -> NDArray[np.int8]:
    """(O, bytes_per_row) -> (ceil(G / 4), O, word_bytes)."""
    words = -(-layout.num_sub_vectors // WORD_POSITIONS)
    padding = words * layout.word_bytes - layout.bytes_per_row
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=-BYTE_OFFSET)
    split = padded.reshape(len(rows), words, layout.word_bytes)
    return np.ascontiguousarray(split.transpose(1, 0, 2))


def _from_four_major(packed: NDArray[np.int8], layout: Layout) -> NDArray[np.int8]:
    """Inverse of `_to_four_major`."""
    joined = packed.transpose(1, 0, 2).reshape(packed.shape[1], -1)
    return np.ascontiguousarray(joined[:, : layout.bytes_per_row])


def _unchanged(packed: NDArray[np.int8], layout: Layout) -> NDArray[np.int8]:
    """ROWS is what the other orders are made from."""
    return packed


_FROM_ROWS = {
    AssignmentLayout.ROWS: _unchanged,
    AssignmentLayout.FOUR_MAJOR: _to_four_major,
    AssignmentLayout.MMA_LANES: to_mma_lanes,
}
_TO_ROWS = {
    AssignmentLayout.ROWS: _unchanged,
    AssignmentLayout.FOUR_MAJOR: _from_four_major,
    AssignmentLayout.MMA_LANES: from_mma_lanes,
}


def _check_range(indices: NDArray[Any], layout: Layout) -> None:
    """Raise ShapeError naming the first index outside 0..K-1."""
    if indices.size == 0 or (indices.max() < layout.codebook_size and indices.min() >= 0):
        return
    row, position = np.argwhere((indices >= layout.codebook_size) | (indices < 0))[0]
    raise ShapeError(
        f"assignment at row {row}, sub-vector {position} is {indices[row, position]}, "
        f"needed 0..{layout.codebook_size - 1}"
    )
