"""MMA_LANES: drawn examples, round trips, sizes that do not fit."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_cuda import QUANTIZATIONS

from vq4dit.errors import ShapeError
from vq4dit.plugins.bit_packing import from_int8
from vq4dit.plugins.layout import AssignmentLayout, GroupOrder, Layout
from vq4dit.plugins.packing import (
    change_assignment_layout,
    pack_assignments,
    unpack_assignments,
)


def lanes_layout(in_features, codebook_size, sub_vector_len, group_order):
    return Layout(
        in_features=in_features,
        codebook_size=codebook_size,
        sub_vector_len=sub_vector_len,
        group_order=group_order,
        assignment_layout=AssignmentLayout.MMA_LANES,
    )


@given(
    st.sampled_from(QUANTIZATIONS),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 2**32 - 1),
)
def test_lanes_and_rows_hold_the_same_indices(quantization, periods, out_features, seed):
    layout = lanes_layout(32 * periods, *quantization)
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, quantization[0], (out_features, layout.num_sub_vectors))
    packed = pack_assignments(indices, layout)
    assert packed.shape == layout.assignments_shape(out_features)
    assert layout.out_features_from(packed.shape) == out_features
    np.testing.assert_array_equal(unpack_assignments(packed, layout), indices)
    for other in AssignmentLayout:
        moved = change_assignment_layout(packed, layout, other)
        source = replace(layout, assignment_layout=other)
        back = change_assignment_layout(moved, source, AssignmentLayout.MMA_LANES)
        np.testing.assert_array_equal(back, packed)


def test_each_lane_finds_its_four_indices_beside_each_other():
    # mma16: lane t of a row needs sub-vectors t, t + 4, t + 8, t + 12 of 64 columns.
    layout = lanes_layout(128, 256, 4, GroupOrder.MMA16)
    indices = np.arange(32)[None, :].repeat(3, axis=0)  # (O, G)
    raw = from_int8(pack_assignments(indices, layout))
    assert raw.shape == (2, 3, 16)
    assert raw[0, 1].tolist() == [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]
    assert raw[1, 2].tolist() == [16 + i for i in raw[0, 1].tolist()]


def test_six_bit_indices_come_as_four_bytes_and_two():
    # A lane's eight indices 1, 0, 0, 0, 0, 0, 0, 63: bit 0 of byte 0 and the top of byte 5.
    layout = lanes_layout(64, 64, 2, GroupOrder.CONTIGUOUS)
    indices = np.zeros((1, 32), int)
    indices[0, [0, 28]] = [1, 63]  # lane 0: first and last of its (s, h), natural place 4 a + u
    raw = from_int8(pack_assignments(indices, layout))[0, 0]
    assert raw[:4].tolist() == [1, 0, 0, 0]
    assert raw[16:18].tolist() == [0, 63 << 2]
    assert raw.sum() == 1 + (63 << 2)


@pytest.mark.parametrize(
    ("codebook_size", "sub_vector_len", "group_order"),
    [
        (16, 8, GroupOrder.MMA32),
        (64, 4, GroupOrder.MMA16),
        (64, 8, GroupOrder.CONTIGUOUS),
        (256, 1, GroupOrder.CONTIGUOUS),
        (256, 16, GroupOrder.CONTIGUOUS),
    ],
)
def test_quantizations_without_whole_bytes_per_lane_are_refused(
    codebook_size, sub_vector_len, group_order
):
    with pytest.raises(ShapeError, match="mma_lanes is not made for sub_vector_len"):
        lanes_layout(64, codebook_size, sub_vector_len, group_order)
