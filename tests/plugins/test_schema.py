"""plugins/schema.py: attributes round trip, shape inference."""

from __future__ import annotations

import pytest

from vq4dit.errors import ShapeError
from vq4dit.plugins import GroupOrder, Layout
from vq4dit.plugins.layout import AssignmentLayout
from vq4dit.plugins.schema import (
    CODEBOOK_DECODE,
    CODEBOOK_GEMM,
    CODEBOOK_GEMM_RESIDUAL,
    OPS,
    attributes_from_layout,
    layout_from_attributes,
    output_shape,
)

LAYOUT = Layout(
    in_features=32,
    codebook_size=256,
    sub_vector_len=4,
    group_order=GroupOrder.MMA16,
    assignment_layout=AssignmentLayout.FOUR_MAJOR,
)
WEIGHTS = ((3, 256, 4), (2, 6, 4), (6,))


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_attributes_round_trip(op):
    attributes = attributes_from_layout(op, LAYOUT)
    assert tuple(attributes) == op.attributes
    assert layout_from_attributes(attributes) == LAYOUT


def test_bad_attributes_are_named():
    with pytest.raises(ValueError, match="'relu' is unknown"):
        attributes_from_layout(CODEBOOK_GEMM, LAYOUT, activation="relu")
    attributes = attributes_from_layout(CODEBOOK_GEMM, LAYOUT)
    del attributes["codebook_size"]
    with pytest.raises(ShapeError, match="codebook_size"):
        layout_from_attributes(attributes)


def test_output_shapes():
    assert output_shape(CODEBOOK_GEMM, LAYOUT, [(2, 5, 32), *WEIGHTS]) == (2, 5, 6)
    shapes = [(2, 5, 32), *WEIGHTS, (2, 6), (2, 5, 6)]
    assert output_shape(CODEBOOK_GEMM_RESIDUAL, LAYOUT, shapes) == (2, 5, 6)
    assert output_shape(CODEBOOK_DECODE, LAYOUT, WEIGHTS[:2]) == (6, 32)


@pytest.mark.parametrize(
    ("place", "shape", "message"),
    [
        (0, (2, 5, 31), "x has shape"),
        (0, (), "x has shape"),
        (0, (10, 32), "residual has shape"),
        (1, (3, 255, 4), "codebook has shape"),
        (1, (4, 256, 4), "not a multiple of R"),
        (1, (0, 256, 4), "not a multiple of R"),
        (2, (6, 8), "assignments have shape"),
        (3, (5,), "bias has shape"),
        (4, (2, 5), "gate has shape"),
        (5, (2, 4, 6), "residual has shape"),
    ],
)
def test_shapes_that_do_not_fit_are_named(place, shape, message):
    shapes = [(2, 5, 32), *WEIGHTS, (2, 6), (2, 5, 6)]
    shapes[place] = shape
    with pytest.raises(ShapeError, match=message):
        output_shape(CODEBOOK_GEMM_RESIDUAL, LAYOUT, shapes)
