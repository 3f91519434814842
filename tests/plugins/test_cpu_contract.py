"""What the CPU library promises besides numbers: batch independence, checks, registration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from op_models import (
    one_op_model,
    ort_session,
    random_layer,
    require_ort_library,
    run_gemm,
)

from vq4dit.plugins import CONFIGURATIONS, Layout, available_isas, ort_library_path
from vq4dit.plugins.layout import PORTABLE_LAYOUTS, AssignmentLayout
from vq4dit.plugins.packing import pack_assignments
from vq4dit.plugins.schema import CODEBOOK_DECODE, CODEBOOK_GEMM, CODEBOOK_GEMM_RESIDUAL

require_ort_library()
pytestmark = pytest.mark.ort

LAYOUT = Layout(
    in_features=64,
    codebook_size=256,
    sub_vector_len=4,
    assignment_layout=AssignmentLayout.FOUR_MAJOR,
)
WEIGHTS = ("codebook", "assignments", "bias")


def _x(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _gemm_model(layer, **changes) -> bytes:
    x = np.empty((0, layer.layout.in_features), np.float32)
    return one_op_model(CODEBOOK_GEMM, {"x": x, **layer.weights}, layer.layout, **changes)


# ---- independence ------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("accuracy", ["fast", "exact"])
@pytest.mark.parametrize("bits", CONFIGURATIONS)
def test_a_row_does_not_depend_on_its_batch(bits, accuracy, isa):
    codebook_size, sub_vector_len = CONFIGURATIONS[bits]
    layout = replace(LAYOUT, codebook_size=codebook_size, sub_vector_len=sub_vector_len)
    model = _gemm_model(random_layer(layout, 40, row_groups=2), activation="silu")
    session = ort_session(model, accuracy=accuracy, isa=isa)
    x = _x(37, 64)
    (whole,) = session.run(None, {"x": x})
    for first, last in ((0, 1), (5, 6), (36, 37), (3, 11), (1, 17), (0, 32)):
        (part,) = session.run(None, {"x": x[first:last]})
        np.testing.assert_array_equal(part, whole[first:last])


@pytest.mark.parametrize("accuracy", ["fast", "exact"])
@pytest.mark.parametrize("out_features", [40, 4700])
def test_results_do_not_depend_on_the_number_of_threads(out_features, accuracy):
    model = _gemm_model(random_layer(LAYOUT, out_features))
    for num_rows in (1, 40):
        x = _x(num_rows, 64)
        results = [
            ort_session(model, accuracy=accuracy, threads=threads).run(None, {"x": x})[0]
            for threads in (1, 2, 3)
        ]
        np.testing.assert_array_equal(results[0], results[1])
        np.testing.assert_array_equal(results[0], results[2])


def test_assignment_layouts_and_ways_of_feeding_give_the_same_bits():
    rows = random_layer(replace(LAYOUT, assignment_layout=AssignmentLayout.ROWS), 40)
    four_major = random_layer(LAYOUT, 40)
    x = _x(5, 64)
    expected = run_gemm(four_major, x)
    np.testing.assert_array_equal(run_gemm(rows, x), expected)
    # Nothing constant: codebook and assignments are then checked and prepared at every run.
    inputs = {"x": x, **four_major.weights}
    session = ort_session(one_op_model(CODEBOOK_GEMM, inputs, LAYOUT, constants=()))
    np.testing.assert_array_equal(session.run(None, inputs)[0], expected)


# ---- shapes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0), (2, 3), (1, 2, 3), ()])
def test_any_rank_and_empty_batches(shape):
    layer = random_layer(LAYOUT, 40)
    x = _x(*shape, 64)
    found = run_gemm(layer, x)
    assert found.shape == (*shape, 40)
    np.testing.assert_array_equal(found.reshape(-1, 40), run_gemm(layer, x.reshape(-1, 64)))


def test_residual_of_an_empty_batch():
    layer = random_layer(LAYOUT, 40)
    for batch, tokens in ((0, 3), (2, 0)):
        feeds = {
            "x": np.zeros((batch, tokens, 64), np.float32),
            "gate": np.zeros((batch, 40), np.float32),
            "residual": np.zeros((batch, tokens, 40), np.float32),
        }
        model = one_op_model(CODEBOOK_GEMM_RESIDUAL, feeds | layer.weights, LAYOUT)
        assert ort_session(model).run(None, feeds)[0].shape == (batch, tokens, 40)


@pytest.mark.parametrize("assignment_layout", PORTABLE_LAYOUTS)
def test_output_shape_is_inferred_with_its_symbols(assignment_layout):
    layer = random_layer(replace(LAYOUT, assignment_layout=assignment_layout), 40)
    feeds = {"x": _x(2, 3, 64), "gate": _x(2, 40), "residual": _x(2, 3, 40)}
    for op in (CODEBOOK_GEMM, CODEBOOK_GEMM_RESIDUAL):
        model = one_op_model(op, feeds | layer.weights, layer.layout)
        assert ort_session(model).get_outputs()[0].shape == ["x_0", "x_1", 40]
    model = one_op_model(
        CODEBOOK_DECODE, layer.weights, layer.layout, constants=("codebook", "assignments")
    )
    assert ort_session(model).get_outputs()[0].shape == [40, 64]


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_features": 66}, "in_features is 66, needed a positive multiple of sub_vector_len 4"),
        ({"in_features": 0}, "in_features is 0"),
        ({"in_features": 128}, r"assignments have shape \(4, 40, 4\), needed \(8, O, 4\)"),
        ({"codebook_size": 0}, r"codebook_size is 0, needed 1\.\.256"),
        ({"codebook_size": 257}, r"codebook_size is 257, needed 1\.\.256"),
        ({"codebook_size": 255}, "codebook has shape|assignment at row"),
        ({"sub_vector_len": 0}, r"sub_vector_len is 0, needed 1\.\."),
        ({"sub_vector_len": 8}, "assignments have shape"),
        ({"group_order": 3}, r"group_order is 3, needed 0\.\.2"),
        ({"group_order": -1}, r"group_order is -1, needed 0\.\.2"),
        ({"group_order": 2}, "group_order 2 needs sub_vector_len 8"),
        ({"assignment_layout": 2}, r"assignment_layout is 2, needed 0\.\.1"),
        ({"assignment_layout": 0}, r"assignments have shape \(4, 40, 4\), needed \(O, 16\)"),
        ({"activation": "relu"}, "activation is 'relu', needed none, gelu_tanh or silu"),
        ({"plugin_namespace": "other"}, "plugin_namespace is 'other', needed 'vq4dit'"),
        ({"plugin_version": "2"}, "plugin_version is '2', needed '1'"),
        ({"codebook_size": None}, "attribute codebook_size is missing"),
        ({"activation": None}, "attribute activation is missing"),
        ({"in_features": 64.0}, "attribute in_features is missing or not an integer"),
    ],
)
def test_bad_attributes_stop_the_session(changes, message):
    attributes = {name: value for name, value in changes.items() if name != "activation"}
    layer = random_layer(LAYOUT, 40)
    model = onnx.load_from_string(_gemm_model(layer, **attributes))
    if "activation" in changes:
        (place,) = [
            i for i, a in enumerate(model.graph.node[0].attribute) if a.name == "activation"
        ]
        del model.graph.node[0].attribute[place]
        if changes["activation"] is not None:
            model.graph.node[0].attribute.append(
                onnx.helper.make_attribute("activation", changes["activation"])
            )
    with pytest.raises(Exception, match=message):
        ort_session(model.SerializeToString())


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("x", (2, 3, 63), r"x has shape \(2, 3, 63\), needed \(\.\.\., 64\)"),
        ("x", (6, 64), r"x has shape \(6, 64\), needed \(B, S, 64\)"),
        ("x", (), "x has shape"),
        ("codebook", (2, 255, 4), r"codebook has shape \(2, 255, 4\), needed \(R, 256, 4\)"),
        ("codebook", (2, 256, 2), "codebook has shape"),
        ("codebook", (256, 4), "codebook has shape"),
        ("codebook", (3, 256, 4), "out_features 40 is not a multiple of R = 3"),
        ("codebook", (0, 256, 4), "codebook has shape"),
        ("assignments", (3, 40, 4), r"assignments have shape \(3, 40, 4\), needed \(4, O, 4\)"),
        ("assignments", (4, 0, 4), "assignments have shape"),
        ("assignments", (40, 16), "assignments have shape"),
        ("bias", (39,), r"bias has shape \(39,\), needed \(40,\)"),
        ("bias", (1, 40), "bias has shape"),
        ("gate", (3, 40), r"gate has shape \(3, 40\), needed \(2, 40\)"),
        ("gate", (2, 1, 40), "gate has shape"),
        ("residual", (2, 4, 40), r"residual has shape \(2, 4, 40\), needed \(2, 3, 40\)"),
        ("residual", (2, 3, 1), "residual has shape"),
    ],
)
def test_bad_shapes_are_named(name, shape, message):
    layer = random_layer(LAYOUT, 40, row_groups=2)
    feeds = {
        "x": _x(2, 3, 64),
        **layer.weights,
        "gate": _x(2, 40),
        "residual": _x(2, 3, 40),
    }
    feeds[name] = np.zeros(shape, feeds[name].dtype)
    model = one_op_model(CODEBOOK_GEMM_RESIDUAL, feeds, LAYOUT, constants=())
    with pytest.raises(Exception, match=f"CodebookGemmResidual node 'layer': {message}"):
        ort_session(model).run(None, feeds)


@pytest.mark.parametrize("assignment_layout", PORTABLE_LAYOUTS)
@pytest.mark.parametrize(("codebook_size", "wide"), [(9, 16), (40, 64), (200, 256)])
def test_an_assignment_out_of_range_is_named(codebook_size, wide, assignment_layout):
    layout = replace(LAYOUT, codebook_size=codebook_size, assignment_layout=assignment_layout)
    layer = random_layer(layout, 40)
    indices = np.zeros((40, 16), int)
    indices[7, 13] = codebook_size
    bad = pack_assignments(indices, replace(layout, codebook_size=wide))
    message = rf"row 7, sub-vector 13 is {codebook_size}, needed 0\.\.{codebook_size - 1}"
    inputs = {"x": _x(2, 64), **layer.weights, "assignments": bad}
    with pytest.raises(Exception, match=message):  # constant: found when the session is made
        ort_session(one_op_model(CODEBOOK_GEMM, inputs, layout))
    session = ort_session(one_op_model(CODEBOOK_GEMM, inputs, layout, constants=()))
    with pytest.raises(Exception, match=message):
        session.run(None, inputs)


def test_an_index_in_the_padding_counts_as_zero():
    layout = Layout(
        in_features=5,
        codebook_size=3,
        sub_vector_len=1,
        assignment_layout=AssignmentLayout.FOUR_MAJOR,
    )
    layer = random_layer(layout, 9)
    spoiled = layer.assignments.copy()
    spoiled[1, :, 0] |= 0x70  # second nibble of the second word: position 5 of 0..4
    spoiled[1, :, 1] = 127
    x = _x(3, 5)
    for accuracy in ("fast", "exact"):
        found = run_gemm(replace(layer, assignments=spoiled), x, accuracy=accuracy)
        np.testing.assert_array_equal(found, run_gemm(layer, x, accuracy=accuracy))


def test_float16_is_refused_when_the_model_is_loaded():
    layer = random_layer(LAYOUT, 40)
    half = replace(layer, codebook=layer.codebook.astype(np.float16))
    with pytest.raises(Exception, match="float16"):
        ort_session(_gemm_model(half))


# ---- registration ------------------------------------------------------------------------------


def test_accuracy_key_is_read_when_the_library_is_registered():
    layer = random_layer(LAYOUT, 40)
    x = _x(3, 64)
    fast, exact, default = (run_gemm(layer, x, accuracy=a) for a in ("fast", "exact", None))
    np.testing.assert_array_equal(default, fast)
    assert not np.array_equal(fast, exact)


def test_accuracy_key_must_come_before_the_registration():
    layer = random_layer(LAYOUT, 40)
    x = _x(3, 64)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(ort_library_path()))
    options.add_session_config_entry("vq4dit.accuracy", "exact")
    session = onnxruntime.InferenceSession(_gemm_model(layer), options)
    np.testing.assert_array_equal(
        session.run(None, {"x": x})[0], run_gemm(layer, x, accuracy="fast")
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"accuracy": "precise"}, "vq4dit.accuracy is 'precise', needed 'fast', 'exact' or 'int8'"),
        ({"accuracy": ""}, "vq4dit.accuracy is ''"),
        ({"isa": "neon9"}, "vq4dit.isa is 'neon9'; this machine and build have: scalar"),
    ],
)
def test_unknown_session_values_are_named(keys, message):
    with pytest.raises(Exception, match=message):
        ort_session(_gemm_model(random_layer(LAYOUT, 40)), **keys)


def test_sessions_of_different_modes_live_side_by_side():
    layer = random_layer(LAYOUT, 40)
    x = _x(3, 64)
    model = _gemm_model(layer)
    sessions = {a: ort_session(model, accuracy=a) for a in ("fast", "exact")}
    alone = {a: run_gemm(layer, x, accuracy=a) for a in sessions}
    for accuracy, session in sessions.items():
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], alone[accuracy])


def test_scalar_kernels_are_always_there():
    assert available_isas()[0] == "scalar"
