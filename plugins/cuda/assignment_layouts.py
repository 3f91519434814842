"""Assignment layout MMA_LANES: the indices in the order in which the lanes of a warp need them.

A warp multiplies 8 rows of the weight by 16 columns with one mma.m16n8k16; lane 4g + t decodes row
g, columns {2t, 2t+1} (register b0) and {2t+8, 2t+9} (b1) of it (PTX ISA, "Matrix Fragments for
mma.m16n8k16"). For one row and a step of 64 columns, four such products, it needs

    mma16       d = 4   4 indices: one of each 16 columns
    mma32       d = 8   2 indices: one of each 32 columns
    contiguous  any d   8 indices: one of each half of 16 columns; 8 / d lanes share them

so that with

    indices of a row and step, natural order   (a, u)   u: lanes that differ, a: indices per lane
    MMA_LANES                                  (u, a)   lane's own indices beside each other

the whole re-layout of indices (O, G) is

    pad G with zero indices to steps * 64 / d;  reshape (O, steps, a, u);
    transpose to (steps, O, u, a);  pack the last axis to lane_bytes (bit_packing.py)

                 row o, 64 columns, mma16, 8 bits: 16 bytes
    natural      t0 t1 t2 t3 | t0 t1 t2 t3 | t0 t1 t2 t3 | t0 t1 t2 t3      | = next 16 columns
    MMA_LANES    t0 t0 t0 t0 | t1 t1 t1 t1 | t2 t2 t2 t2 | t3 t3 t3 t3      | = next lane

A lane then reads its indices with one load, a warp 8 rows with one contiguous line, and any tile
size reads the same bytes. Where a lane has 6 bytes (6-bit indices) the first four of every lane
come before the last two, so that both loads are aligned.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bit_packing import from_int8, pack_indices, to_int8, unpack_indices
from ..layout import STEP_COLUMNS, Layout


def to_mma_lanes(rows: NDArray[np.int8], layout: Layout) -> NDArray[np.int8]:
    """Layout ROWS (O, bytes_per_row) -> MMA_LANES (steps, O, step_bytes); exact, invertible."""
    indices = unpack_indices(from_int8(rows), layout.index_bits)[:, : layout.num_sub_vectors]
    steps, per_step = _steps(layout), STEP_COLUMNS // layout.sub_vector_len
    padded = np.pad(indices, ((0, 0), (0, steps * per_step - layout.num_sub_vectors)))
    natural = padded.reshape(len(rows), steps, layout.lane_indices, -1)  # (O, steps, a, u)
    lanes = pack_indices(natural.transpose(1, 0, 3, 2), layout.index_bits)
    return to_int8(_join_planes(lanes))


def from_mma_lanes(packed: NDArray[np.int8], layout: Layout) -> NDArray[np.int8]:
    """Inverse of `to_mma_lanes`: (steps, O, step_bytes) -> (O, bytes_per_row)."""
    lanes = _split_planes(from_int8(packed), layout.lane_bytes)  # (steps, O, u, lane_bytes)
    natural = unpack_indices(lanes, layout.index_bits).transpose(1, 0, 3, 2)  # (O, steps, a, u)
    indices = natural.reshape(packed.shape[1], -1)[:, : layout.num_sub_vectors]
    return to_int8(pack_indices(indices, layout.index_bits))


def _steps(layout: Layout) -> int:
    """Steps of STEP_COLUMNS columns, the last one perhaps padded."""
    return -(-layout.in_features // STEP_COLUMNS)


def _plane_widths(lane_bytes: int) -> tuple[int, ...]:
    """Widths in bytes of the aligned loads that fetch one lane's bytes."""
    return (4, 2) if lane_bytes == 6 else (lane_bytes,)


def _join_planes(lanes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(..., u, lane_bytes) -> (..., u * lane_bytes), plane after plane."""
    *outer, _, lane_bytes = lanes.shape
    planes, start = [], 0
    for width in _plane_widths(lane_bytes):
        planes.append(lanes[..., start : start + width].reshape(*outer, -1))
        start += width
    return np.ascontiguousarray(np.concatenate(planes, axis=-1))


def _split_planes(row_bytes: NDArray[np.uint8], lane_bytes: int) -> NDArray[Any]:
    """Inverse of `_join_planes`."""
    *outer, size = row_bytes.shape
    lanes = size // lane_bytes
    planes, start = [], 0
    for width in _plane_widths(lane_bytes):
        plane = row_bytes[..., start : start + lanes * width]
        planes.append(plane.reshape(*outer, lanes, width))
        start += lanes * width
    return np.concatenate(planes, axis=-1)
