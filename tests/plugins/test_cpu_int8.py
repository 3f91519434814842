"""The CPU library's int8 mode against its reference, the exact product and its own promises."""

from dataclasses import replace

import numpy as np
import pytest
import tolerances
from op_models import (
    layout_of,
    one_op_model,
    ort_session,
    random_layer,
    random_x,
    relative_error,
    require_ort_library,
    run_gemm,
    run_residual,
)

from vq4dit.plugins import CONFIGURATIONS, GroupOrder, Layout, available_isas, default_group_order
from vq4dit.plugins.layout import PORTABLE_LAYOUTS, AssignmentLayout
from vq4dit.plugins.reference import codebook_gemm
from vq4dit.plugins.reference_int8 import codebook_gemm_int8
from vq4dit.plugins.schema import CODEBOOK_GEMM

require_ort_library()
pytestmark = pytest.mark.ort

EVERY_ISA = pytest.mark.parametrize("isa", available_isas())


def _reference(layer, x, **kwargs):
    return codebook_gemm_int8(
        x, layer.codebook, layer.assignments, layer.bias, layout=layer.layout, **kwargs
    )


@EVERY_ISA
@pytest.mark.parametrize("assignment_layout", PORTABLE_LAYOUTS)
@pytest.mark.parametrize("bits", CONFIGURATIONS)
def test_every_layout(bits, assignment_layout, isa):
    own = default_group_order(96, CONFIGURATIONS[bits][1])
    for order in {GroupOrder.CONTIGUOUS, own}:
        for in_features, out_features in ((96, 64), (160, 150), (96, 2)):
            layout = layout_of(
                bits, in_features, group_order=order, assignment_layout=assignment_layout
            )
            layer = random_layer(layout, out_features, row_groups=2, seed=in_features)
            x = random_x(1, 13, in_features)
            found = run_gemm(layer, x, accuracy="int8", isa=isa)
            assert relative_error(found, _reference(layer, x)) <= tolerances.FP32_RELATIVE


@EVERY_ISA
@pytest.mark.parametrize("codebook_size, sub_vector_len", [(5, 3), (16, 1), (17, 5), (256, 6)])
def test_awkward_sizes(codebook_size, sub_vector_len, isa):
    for count in (1, 7, 9):
        layout = Layout(
            in_features=count * sub_vector_len,
            codebook_size=codebook_size,
            sub_vector_len=sub_vector_len,
            assignment_layout=AssignmentLayout.FOUR_MAJOR,
        )
        layer = random_layer(layout, 70, seed=count)
        x = random_x(2, 5, layout.in_features)
        found = run_gemm(layer, x, accuracy="int8", isa=isa, activation="gelu_tanh")
        expected = _reference(layer, x, activation="gelu_tanh")
        assert relative_error(found, expected) <= tolerances.FP32_RELATIVE


@EVERY_ISA
def test_gate_and_residual(isa):
    layer = random_layer(layout_of(2, 64), 70)
    x, gate, residual = random_x(2, 5, 64), random_x(2, 70, seed=2), random_x(2, 5, 70, seed=3)
    found = run_residual(layer, x, gate, residual, accuracy="int8", isa=isa)
    expected = residual + gate[:, None] * _reference(layer, x)
    assert relative_error(found, expected) <= tolerances.FP32_RELATIVE


@EVERY_ISA
@pytest.mark.parametrize("bits", CONFIGURATIONS)
def test_a_row_does_not_depend_on_its_batch_or_on_threads(bits, isa):
    layer = random_layer(layout_of(bits, 64), 140, row_groups=2)
    x = random_x(1, 201, 64)
    model = one_op_model(CODEBOOK_GEMM, {"x": x, **layer.weights}, layer.layout)
    session = ort_session(model, accuracy="int8", isa=isa)
    (whole,) = session.run(None, {"x": x})
    for first, last in ((0, 1), (5, 6), (200, 201), (3, 11), (1, 19)):
        (part,) = session.run(None, {"x": x[:, first:last]})
        np.testing.assert_array_equal(part, whole[:, first:last])
    for threads in (2, 3):
        several = ort_session(model, accuracy="int8", isa=isa, threads=threads)
        np.testing.assert_array_equal(several.run(None, {"x": x})[0], whole)


def test_one_row_per_sample_keeps_the_fast_mode():
    layer = random_layer(layout_of(2, 64), 70)
    x = random_x(3, 64)
    fast = run_gemm(layer, x, accuracy="fast")
    np.testing.assert_array_equal(run_gemm(layer, x, accuracy="int8"), fast)
    assert np.any(run_gemm(layer, x[None], accuracy="int8") != fast)


@pytest.mark.parametrize("constants", [(), ("codebook", "assignments", "bias")])
def test_what_is_not_finite_stays_visible_in_its_row_only(constants):
    layer = random_layer(layout_of(2, 64), 70)
    clean = random_x(1, 9, 64)
    spoiled = clean.copy()
    spoiled[0, 2, 5], spoiled[0, 7, 63] = np.nan, -np.inf
    inputs = {"x": clean, **layer.weights}
    session = ort_session(
        one_op_model(CODEBOOK_GEMM, inputs, layer.layout, constants=constants), accuracy="int8"
    )
    names = {i.name for i in session.get_inputs()}
    feeds = {name: value for name, value in inputs.items() if name in names}
    expected = session.run(None, feeds)[0]
    found = session.run(None, feeds | {"x": spoiled})[0]
    assert np.isnan(found[0, [2, 7]]).all()
    others = [0, 1, 3, 4, 5, 6, 8]
    np.testing.assert_array_equal(found[0, others], expected[0, others])


def test_a_broken_codebook_and_tiny_rows():
    layer = random_layer(layout_of(2, 64), 70, row_groups=2)
    codebook = layer.codebook.copy()
    codebook[1, 17, 2] = np.inf
    found = run_gemm(replace(layer, codebook=codebook), random_x(1, 3, 64), accuracy="int8")
    assert np.isnan(found[..., 35:]).all() and np.isfinite(found[..., :35]).all()
    tiny = np.full((1, 3, 64), 1e-38, np.float32)
    np.testing.assert_array_equal(
        run_gemm(layer, tiny, accuracy="int8"), np.broadcast_to(layer.bias, (1, 3, 70))
    )


@pytest.mark.parametrize("in_features, out_features", [(1152, 3456), (4608, 1152)])
def test_error_on_the_shapes_of_dit_xl(in_features, out_features):
    layer = random_layer(layout_of(2, in_features), out_features)
    x = random_x(2, 40, in_features)
    found = run_gemm(layer, x, accuracy="int8")
    expected = codebook_gemm(
        x.astype(np.float64), layer.codebook, layer.assignments, layer.bias, layout=layer.layout
    )
    assert relative_error(found, expected) <= tolerances.INT8_RELATIVE
