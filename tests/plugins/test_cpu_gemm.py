"""The CPU library against plugins/reference.py, for every layout, mode and instruction set."""

from __future__ import annotations

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
    run_decode,
    run_gemm,
    run_residual,
)

from vq4dit.plugins import CONFIGURATIONS, GroupOrder, Layout, available_isas
from vq4dit.plugins.layout import PORTABLE_LAYOUTS
from vq4dit.plugins.reference import codebook_decode, codebook_gemm, codebook_gemm_residual
from vq4dit.plugins.schema import CODEBOOK_GEMM

require_ort_library()
pytestmark = pytest.mark.ort

ISAS = available_isas()
TOLERANCE = {"fast": tolerances.FAST_RELATIVE, "exact": tolerances.FP32_RELATIVE}
MODES = pytest.mark.parametrize("accuracy", TOLERANCE)
EVERY_ISA = pytest.mark.parametrize("isa", ISAS)

#: (in_features, out_features) of DiT-XL/2: qkv, proj, fc1, fc2, one adaLN, the final layer.
DIT_XL_SHAPES = [(1152, 3456), (1152, 1152), (1152, 4608), (4608, 1152), (1152, 6912), (1152, 32)]
ALL_ROWS = (1, 2, 3, 7, 8, 9, 16, 63, 512)


def _expected(layer, x: np.ndarray, **kwargs) -> np.ndarray:
    """The reference in float64."""
    return codebook_gemm(
        x.astype(np.float64),
        layer.codebook,
        layer.assignments,
        layer.bias,
        layout=layer.layout,
        **kwargs,
    )


@EVERY_ISA
@MODES
@pytest.mark.parametrize("assignment_layout", PORTABLE_LAYOUTS)
@pytest.mark.parametrize("bits", CONFIGURATIONS)
def test_every_layout(bits, assignment_layout, accuracy, isa):
    # 96 columns: both words of a block; 160: an odd number of words in one of the configurations.
    for in_features in (96, 160):
        preferred = layout_of(bits, in_features, assignment_layout=assignment_layout)
        for order in {preferred.group_order, GroupOrder.CONTIGUOUS}:
            layer = random_layer(replace(preferred, group_order=order), 21, row_groups=3, seed=bits)
            x = random_x(19, in_features)
            error = relative_error(
                run_gemm(layer, x, accuracy=accuracy, isa=isa), _expected(layer, x)
            )
            assert error <= TOLERANCE[accuracy], (in_features, order)


@EVERY_ISA
@MODES
@pytest.mark.parametrize(
    ("in_features", "codebook_size", "sub_vector_len", "out_features"),
    [
        (24, 256, 4, 5),
        (20, 7, 5, 1),
        (6, 1, 1, 9),
        (7, 3, 7, 8),
        (22, 100, 2, 17),
        (3, 64, 3, 3),
        (4, 33, 1, 16),
        (72, 256, 8, 7),
        (45, 20, 9, 6),
        (9, 16, 1, 2),
        (10, 40, 1, 4),
    ],
)
def test_awkward_sizes(in_features, codebook_size, sub_vector_len, out_features, accuracy, isa):
    for assignment_layout in PORTABLE_LAYOUTS:
        layout = Layout(
            in_features=in_features,
            codebook_size=codebook_size,
            sub_vector_len=sub_vector_len,
            assignment_layout=assignment_layout,
        )
        layer = random_layer(layout, out_features, seed=in_features)
        x = random_x(5, in_features)
        error = relative_error(run_gemm(layer, x, accuracy=accuracy, isa=isa), _expected(layer, x))
        assert error <= TOLERANCE[accuracy]


@MODES
@pytest.mark.parametrize(("in_features", "out_features"), DIT_XL_SHAPES)
def test_dit_xl_shapes(in_features, out_features, accuracy):
    layer = random_layer(layout_of(2, in_features), out_features)
    session = ort_session(_model(layer), accuracy=accuracy)
    x = random_x(18, in_features)
    expected = _expected(layer, x)
    for num_rows in (1, 18):
        (found,) = session.run(None, {"x": x[:num_rows]})
        assert relative_error(found, expected[:num_rows]) <= TOLERANCE[accuracy]


@EVERY_ISA
@MODES
@pytest.mark.parametrize("bits", CONFIGURATIONS)
def test_every_number_of_rows(bits, accuracy, isa):
    layer = random_layer(layout_of(bits, 128), 72, seed=bits)
    session = ort_session(_model(layer), accuracy=accuracy, isa=isa, threads=2)
    x = random_x(max(ALL_ROWS), 128)
    expected = _expected(layer, x)
    for num_rows in ALL_ROWS:
        (found,) = session.run(None, {"x": x[:num_rows]})
        assert relative_error(found, expected[:num_rows]) <= TOLERANCE[accuracy]


@MODES
def test_fused_adaln_with_one_codebook_per_block(accuracy):
    layer = random_layer(layout_of(2, 1152), 4 * 1728, row_groups=4)
    x = random_x(2, 1152)
    found = run_gemm(layer, x, accuracy=accuracy, threads=2)
    assert relative_error(found, _expected(layer, x)) <= TOLERANCE[accuracy]


@EVERY_ISA
@pytest.mark.parametrize("kind", ["gaussian", "student_t3", "one_channel_x30"])
def test_fast_mode_keeps_its_error_on_hard_inputs(kind, isa):
    rng = np.random.default_rng(3)
    x = {
        "gaussian": lambda: random_x(64, 1152),
        "student_t3": lambda: rng.standard_t(3, (64, 1152)).astype(np.float32),
        "one_channel_x30": lambda: random_x(64, 1152) * np.where(np.arange(1152) == 5, 30, 1),
    }[kind]().astype(np.float32)
    layer = random_layer(layout_of(2, 1152), 288)
    error = relative_error(run_gemm(layer, x, accuracy="fast", isa=isa), _expected(layer, x))
    assert error <= tolerances.FAST_RELATIVE_PER_ROW_SCALE


@EVERY_ISA
@MODES
@pytest.mark.parametrize("scale", [1e-18, 1e-6, 1e6, 1e15])
def test_magnitude_of_x_does_not_matter(scale, accuracy, isa):
    layer = replace(random_layer(layout_of(2, 96), 16), bias=np.zeros(16, np.float32))
    x = random_x(4, 96)
    scaled = (x * scale).astype(np.float32)
    found = run_gemm(layer, scaled, accuracy=accuracy, isa=isa)
    expected = _expected(layer, scaled)
    if accuracy == "fast" and scale == 1e-18:  # documented: such blocks count as zero
        assert np.abs(found).max() <= 1e-15
    else:
        assert relative_error(found, expected) <= TOLERANCE[accuracy]


@EVERY_ISA
@pytest.mark.parametrize("sign", [1, -1])
def test_fast_mode_cannot_overflow(sign, isa):
    # Every entry at its largest: all codewords equal, x parallel to them, so that the
    # Cauchy-Schwarz bound is attained in every one of the eight positions of a block.
    layout = layout_of(2, 64, group_order=GroupOrder.CONTIGUOUS)
    layer = random_layer(layout, 8)
    codebook = np.full_like(layer.codebook, 0.7)
    layer = replace(layer, codebook=codebook, bias=np.zeros(8, np.float32))
    for x in (np.full((1, 64), 3.0 * sign), np.eye(64)[:1] * 5 * sign):
        x = x.astype(np.float32)
        found = run_gemm(layer, x, accuracy="fast", isa=isa)
        assert relative_error(found, _expected(layer, x)) <= tolerances.FAST_RELATIVE


@EVERY_ISA
@MODES
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_non_finite_value_stays_visible_in_its_row_only(value, accuracy, isa):
    layer = random_layer(layout_of(2, 96), 16)
    x = random_x(20, 96)
    clean = run_gemm(layer, x, accuracy=accuracy, isa=isa)
    x[3, 50] = value
    found = run_gemm(layer, x, accuracy=accuracy, isa=isa)
    assert not np.isfinite(found[3]).any()
    others = np.arange(20) != 3
    np.testing.assert_array_equal(found[others], clean[others])


@EVERY_ISA
@MODES
@pytest.mark.parametrize("activation", ["gelu_tanh", "silu"])
def test_activations_on_a_layer(activation, accuracy, isa):
    layer = random_layer(layout_of(2, 96), 21)
    x = random_x(9, 96)
    found = run_gemm(layer, x, activation=activation, accuracy=accuracy, isa=isa)
    assert relative_error(found, _expected(layer, x, activation=activation)) <= TOLERANCE[accuracy]


@EVERY_ISA
@pytest.mark.parametrize("activation", ["gelu_tanh", "silu"])
def test_activations_element_by_element(activation, isa):
    layout = Layout(in_features=1, codebook_size=1, sub_vector_len=1)
    layer = replace(
        random_layer(layout, 1),
        codebook=np.ones((1, 1, 1), np.float32),
        bias=np.zeros(1, np.float32),
    )
    x = np.concatenate([np.linspace(-12, 12, 2001), [0, 1e-6, -1e-6, 90, -90, 1e4, -1e4]])
    x = x.astype(np.float32)[:, None]
    found = run_gemm(layer, x, activation=activation, accuracy="exact", isa=isa)
    y = x.astype(np.float64)
    z = y if activation == "silu" else 2 * np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)
    expected = y * np.exp(-np.logaddexp(0, -z))
    # Results below 1e-30 are zero for every purpose; there e^z is clamped.
    np.testing.assert_allclose(found, expected, rtol=tolerances.ACTIVATION_RELATIVE, atol=1e-30)


@EVERY_ISA
@MODES
@pytest.mark.parametrize("out_features", [16, 21])
def test_residual(out_features, accuracy, isa):
    layer = random_layer(layout_of(2, 96), out_features)
    x = random_x(3, 7, 96)
    gate, residual = random_x(3, out_features, seed=2), random_x(3, 7, out_features, seed=3)
    found = run_residual(layer, x, gate, residual, accuracy=accuracy, isa=isa, threads=2)
    expected = codebook_gemm_residual(
        x.astype(np.float64),
        layer.codebook,
        layer.assignments,
        layer.bias,
        gate,
        residual.astype(np.float64),
        layout=layer.layout,
    )
    assert relative_error(found, expected) <= TOLERANCE[accuracy]


@pytest.mark.parametrize("assignment_layout", PORTABLE_LAYOUTS)
@pytest.mark.parametrize("bits", CONFIGURATIONS)
def test_decode_is_exact(bits, assignment_layout):
    layout = layout_of(bits, 96, assignment_layout=assignment_layout)
    layer = random_layer(layout, 130, row_groups=2)
    expected = codebook_decode(layer.codebook, layer.assignments, layout=layout)
    np.testing.assert_array_equal(run_decode(layer, threads=2), expected)


def _model(layer) -> bytes:
    x = np.empty((0, layer.layout.in_features), np.float32)
    return one_op_model(CODEBOOK_GEMM, {"x": x, **layer.weights}, layer.layout)
