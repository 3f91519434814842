"""plugins/layout.py: derived sizes, checks, configurations."""

from __future__ import annotations

import pytest

from vq4dit.errors import ShapeError
from vq4dit.plugins import CONFIGURATIONS, GroupOrder, Layout, default_group_order
from vq4dit.plugins.layout import PORTABLE_LAYOUTS, AssignmentLayout, layout_from_bits


@pytest.mark.parametrize(
    ("codebook_size", "bits"), [(1, 4), (16, 4), (17, 6), (64, 6), (65, 8), (256, 8)]
)
def test_index_bits_follow_the_codebook_size(codebook_size, bits):
    layout = Layout(in_features=24, codebook_size=codebook_size, sub_vector_len=4)
    assert layout.index_bits == bits
    assert layout.word_bytes == bits // 2


@pytest.mark.parametrize(
    ("codebook_size", "num_sub_vectors", "num_bytes"),
    [(16, 6, 3), (16, 5, 3), (64, 4, 3), (64, 5, 6), (256, 5, 5)],
)
def test_bytes_per_row_pads_to_whole_groups(codebook_size, num_sub_vectors, num_bytes):
    layout = Layout(in_features=2 * num_sub_vectors, codebook_size=codebook_size, sub_vector_len=2)
    assert layout.bytes_per_row == num_bytes


@pytest.mark.parametrize("assignment_layout", PORTABLE_LAYOUTS)
@pytest.mark.parametrize("codebook_size", [16, 64, 256])
def test_out_features_round_trip(codebook_size, assignment_layout):
    layout = Layout(
        in_features=26,
        codebook_size=codebook_size,
        sub_vector_len=2,
        assignment_layout=assignment_layout,
    )
    shape = layout.assignments_shape(7)
    assert layout.out_features_from(shape) == 7
    for wrong in ((*shape, 1), shape[:-1], (*shape[:-1], shape[-1] + 1), (0,) * len(shape)):
        with pytest.raises(ShapeError, match="assignments have shape"):
            layout.out_features_from(wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook_size": 0}, "needed 1..256"),
        ({"codebook_size": 257}, "needed 1..256"),
        ({"sub_vector_len": 0}, "must be positive"),
        ({"in_features": 0}, "must be positive"),
        ({"sub_vector_len": 5}, "not a multiple"),
        ({"group_order": 3}, "layout"),
        ({"assignment_layout": 3}, "layout"),
        ({"group_order": GroupOrder.MMA16, "sub_vector_len": 8}, "needs sub_vector_len 4"),
        ({"group_order": GroupOrder.MMA16, "in_features": 24}, "multiple of 16"),
        ({"group_order": GroupOrder.MMA32}, "needs sub_vector_len 8"),
    ],
)
def test_bad_sizes_are_named(changes, message):
    good = {"in_features": 32, "codebook_size": 256, "sub_vector_len": 4}
    with pytest.raises(ShapeError, match=message):
        Layout(**(good | changes))


def test_default_group_order():
    assert default_group_order(1152, 4) == GroupOrder.MMA16
    assert default_group_order(1152, 8) == GroupOrder.MMA32
    assert default_group_order(24, 4) == GroupOrder.CONTIGUOUS
    assert default_group_order(1152, 2) == GroupOrder.CONTIGUOUS


@pytest.mark.parametrize("bits", CONFIGURATIONS)
def test_configurations_have_their_bits_per_weight(bits):
    codebook_size, sub_vector_len = CONFIGURATIONS[bits]
    layout = Layout(in_features=1152, codebook_size=codebook_size, sub_vector_len=sub_vector_len)
    assert 8 * layout.bytes_per_row / layout.in_features == bits


@pytest.mark.parametrize("bits", CONFIGURATIONS)
def test_layout_of_a_named_configuration(bits):
    layout = layout_from_bits(1152, bits, AssignmentLayout.FOUR_MAJOR)
    assert (layout.codebook_size, layout.sub_vector_len) == CONFIGURATIONS[bits]
    assert layout.group_order == default_group_order(1152, layout.sub_vector_len)
    assert layout.assignment_layout is AssignmentLayout.FOUR_MAJOR
    assert layout_from_bits(8, bits).assignment_layout is AssignmentLayout.ROWS
    with pytest.raises(ShapeError, match="9"):
        layout_from_bits(9, bits)
