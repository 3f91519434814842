"""plugins/packing.py: golden bytes, round trips, range errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vq4dit.errors import ShapeError
from vq4dit.plugins import GroupOrder, Layout
from vq4dit.plugins.layout import PORTABLE_LAYOUTS, AssignmentLayout
from vq4dit.plugins.packing import (
    change_assignment_layout,
    column_order,
    pack_assignments,
    sub_vectors_from_weight,
    unpack_assignments,
    weight_from_sub_vectors,
)


@st.composite
def layouts(draw):
    """Layouts of all index widths, group orders and assignment layouts."""
    order = draw(st.sampled_from(GroupOrder))
    if order == GroupOrder.CONTIGUOUS:
        length = draw(st.integers(1, 9))
        count = draw(st.integers(1, 13))
    else:
        length = {GroupOrder.MMA16: 4, GroupOrder.MMA32: 8}[order]
        count = 4 * draw(st.integers(1, 4))
    return Layout(
        in_features=length * count,
        codebook_size=draw(st.integers(1, 256)),
        sub_vector_len=length,
        group_order=order,
        assignment_layout=draw(st.sampled_from(PORTABLE_LAYOUTS)),
    )


def _indices(layout: Layout, out_features: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, layout.codebook_size, (out_features, layout.num_sub_vectors))


@given(layouts(), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_pack_unpack_round_trip(layout, out_features, seed):
    indices = _indices(layout, out_features, seed)
    packed = pack_assignments(indices, layout)
    assert packed.dtype == np.int8
    assert packed.shape == layout.assignments_shape(out_features)
    np.testing.assert_array_equal(unpack_assignments(packed, layout), indices)


@given(layouts(), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_assignment_layouts_are_invertible(layout, out_features, seed):
    packed = pack_assignments(_indices(layout, out_features, seed), layout)
    for other in PORTABLE_LAYOUTS:
        there = change_assignment_layout(packed, layout, other)
        back = change_assignment_layout(
            there, replace(layout, assignment_layout=other), layout.assignment_layout
        )
        np.testing.assert_array_equal(back, packed)


@given(layouts(), st.integers(1, 5))
def test_sub_vectors_round_trip(layout, out_features):
    weight = np.arange(out_features * layout.in_features).reshape(out_features, -1)
    sub_vectors = sub_vectors_from_weight(weight, layout)
    np.testing.assert_array_equal(weight_from_sub_vectors(sub_vectors, layout), weight)


@pytest.mark.parametrize(
    ("codebook_size", "indices", "raw"),
    [
        (256, [0, 1, 128, 255], [0, 1, 128, 255]),
        (16, [1, 2, 15], [0x21, 0x0F]),
        (64, [1, 2, 3, 63, 5], [0x81, 0x30, 0xFC, 0x05, 0x00, 0x00]),
    ],
)
def test_golden_bytes_of_rows(codebook_size, indices, raw):
    layout = Layout(in_features=len(indices), codebook_size=codebook_size, sub_vector_len=1)
    packed = pack_assignments(np.array([indices]), layout)
    np.testing.assert_array_equal(packed, np.array([raw]) - 128)


def test_golden_bytes_of_four_major():
    layout = Layout(
        in_features=5,
        codebook_size=256,
        sub_vector_len=1,
        assignment_layout=AssignmentLayout.FOUR_MAJOR,
    )
    packed = pack_assignments(np.array([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]), layout)
    expected = [[[1, 2, 3, 4], [6, 7, 8, 9]], [[5, 0, 0, 0], [10, 0, 0, 0]]]
    np.testing.assert_array_equal(packed, np.array(expected) - 128)


def test_column_order_of_mma16_and_mma32():
    mma16 = Layout(
        in_features=32, codebook_size=256, sub_vector_len=4, group_order=GroupOrder.MMA16
    )
    mma32 = replace(mma16, sub_vector_len=8, group_order=GroupOrder.MMA32)
    for t in range(4):
        first = column_order(mma16)[4 * t : 4 * t + 4]
        second = column_order(mma16)[16 + 4 * t : 20 + 4 * t]
        expected = np.array([2 * t, 2 * t + 1, 2 * t + 8, 2 * t + 9])
        np.testing.assert_array_equal(first, expected)
        np.testing.assert_array_equal(second, expected + 16)
        np.testing.assert_array_equal(
            column_order(mma32)[8 * t : 8 * t + 8], np.concatenate([expected, expected + 16])
        )


def test_out_of_range_index_is_named_when_packing():
    layout = Layout(in_features=4, codebook_size=3, sub_vector_len=1)
    with pytest.raises(ShapeError, match=r"row 1, sub-vector 2 is 3, needed 0\.\.2"):
        pack_assignments(np.array([[0, 1, 2, 0], [0, 1, 3, 3]]), layout)
    with pytest.raises(ShapeError, match="is -1"):
        pack_assignments(np.array([[0, -1, 2, 0]]), layout)


def test_out_of_range_index_is_named_when_unpacking():
    wide = Layout(in_features=4, codebook_size=16, sub_vector_len=1)
    packed = pack_assignments(np.array([[0, 1, 2, 9]]), wide)
    with pytest.raises(ShapeError, match=r"row 0, sub-vector 3 is 9, needed 0\.\.8"):
        unpack_assignments(packed, replace(wide, codebook_size=9))


@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 4, 1)])
def test_wrong_shapes_are_refused(shape):
    layout = Layout(in_features=8, codebook_size=256, sub_vector_len=2)
    with pytest.raises(ShapeError, match="assignments have shape"):
        pack_assignments(np.zeros(shape, int), layout)
    with pytest.raises(ShapeError, match="weight has shape"):
        sub_vectors_from_weight(np.zeros(shape), layout)
    with pytest.raises(ShapeError, match="sub-vectors have shape"):
        weight_from_sub_vectors(np.zeros(shape), layout)


def test_wrong_dtype_is_refused():
    layout = Layout(in_features=8, codebook_size=256, sub_vector_len=2)
    with pytest.raises(ShapeError, match="uint8, needed int8"):
        unpack_assignments(np.zeros((2, 4), np.uint8), layout)
