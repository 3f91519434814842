"""plugins/reference.py against the definition, written out with loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tolerances
from op_models import random_layer

from vq4dit.errors import ShapeError
from vq4dit.plugins import GroupOrder, Layout
from vq4dit.plugins.packing import column_order, unpack_assignments
from vq4dit.plugins.reference import codebook_decode, codebook_gemm, codebook_gemm_residual

LAYOUT = Layout(in_features=32, codebook_size=9, sub_vector_len=4, group_order=GroupOrder.MMA16)


def _decoded_by_loops(layer):
    layout = layer.layout
    indices = unpack_assignments(layer.assignments, layout)
    order = column_order(layout)
    rows_per_group = len(indices) // len(layer.codebook)
    weight = np.zeros((len(indices), layout.in_features), np.float32)
    for row in range(len(indices)):
        for place in range(layout.in_features):
            j, t = divmod(place, layout.sub_vector_len)
            weight[row, order[place]] = layer.codebook[row // rows_per_group, indices[row, j], t]
    return weight


@pytest.mark.parametrize("row_groups", [1, 3])
def test_decode_is_the_gather_of_codewords(row_groups):
    layer = random_layer(LAYOUT, 6, row_groups=row_groups, seed=1)
    weight = codebook_decode(layer.codebook, layer.assignments, layout=LAYOUT)
    np.testing.assert_array_equal(weight, _decoded_by_loops(layer))


@pytest.mark.parametrize("activation", ["none", "gelu_tanh", "silu"])
def test_gemm_is_the_linear_with_activation(activation):
    layer = random_layer(LAYOUT, 6, seed=2)
    x = np.random.default_rng(3).standard_normal((2, 3, 32))
    y = codebook_gemm(
        x, layer.codebook, layer.assignments, layer.bias, layout=LAYOUT, activation=activation
    )
    z = x @ _decoded_by_loops(layer).T.astype(np.float64) + layer.bias
    scalar = {
        "none": lambda v: v,
        "gelu_tanh": lambda v: (
            0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))
        ),
        "silu": lambda v: v / (1 + math.exp(-v)),
    }[activation]
    expected = np.vectorize(scalar)(z)
    assert y.shape == (2, 3, 6)
    np.testing.assert_allclose(y, expected, rtol=tolerances.FP32_RELATIVE, atol=1e-12)


def test_residual_adds_the_gated_linear():
    layer = random_layer(LAYOUT, 6, seed=4)
    rng = np.random.default_rng(5)
    x = rng.standard_normal((2, 3, 32))
    gate, residual = rng.standard_normal((2, 6)), rng.standard_normal((2, 3, 6))
    weights = (layer.codebook, layer.assignments, layer.bias)
    y = codebook_gemm_residual(x, *weights, gate, residual, layout=LAYOUT)
    linear = codebook_gemm(x, *weights, layout=LAYOUT)
    for sample in range(2):
        expected = residual[sample] + gate[sample] * linear[sample]
        np.testing.assert_allclose(y[sample], expected, rtol=tolerances.FP32_RELATIVE)


def test_wrong_inputs_are_named():
    layer = random_layer(LAYOUT, 6, seed=6)
    x = np.zeros((2, 32), np.float32)
    good = (x, layer.codebook, layer.assignments, layer.bias)
    bad = {
        "x has shape": (x[:, :31], *good[1:]),
        "codebook has shape": (x, layer.codebook[:, :8], *good[2:]),
        "assignments have shape": (x, layer.codebook, layer.assignments[:, :2], layer.bias),
        "bias has shape": (*good[:3], layer.bias[:5]),
        "not a multiple of R": (x, np.repeat(layer.codebook, 4, axis=0), *good[2:]),
    }
    for message, arguments in bad.items():
        with pytest.raises(ShapeError, match=message):
            codebook_gemm(*arguments, layout=LAYOUT)
    with pytest.raises(ValueError, match="'relu' is unknown"):
        codebook_gemm(*good, layout=LAYOUT, activation="relu")
    zeros = np.zeros((1, 2, 6), np.float32)
    with pytest.raises(ShapeError, match="gate has shape"):
        codebook_gemm_residual(x[None], *good[1:], zeros[0], zeros, layout=LAYOUT)
    with pytest.raises(ShapeError, match="residual has shape"):
        codebook_gemm_residual(x, *good[1:], zeros[0], zeros, layout=LAYOUT)
