"""Both kinds of function bodies against the NumPy reference, in ONNX Runtime."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support_export import random_layer, relative_error, run_model
from tolerances import FP16_BODY_RELATIVE, FP32_RELATIVE

from vq4dit.export.functions import function_body
from vq4dit.export.specialized import overload_name, specialized_function
from vq4dit.plugins import reference, schema
from vq4dit.plugins.layout import AssignmentLayout, GroupOrder, Layout
from vq4dit.plugins.packing import change_assignment_layout

ROWS, FOUR_MAJOR = AssignmentLayout.ROWS, AssignmentLayout.FOUR_MAJOR

#: (in_features, codebook_size, sub_vector_len): the four named configurations, 4-bit indices, and
#: awkward sizes: one codeword, one value per sub-vector, padding behind the last index.
SIZES = [
    (32, 256, 4),
    (64, 256, 8),
    (32, 64, 2),
    (32, 256, 2),
    (32, 16, 4),
    (20, 256, 4),
    (10, 64, 2),
    (9, 16, 3),
    (6, 1, 1),
]


@pytest.fixture(params=["general", "specialized"])
def kind(request):
    return request.param


def op_model(tmp_path, kind, op, layer, activation, dtype=TensorProto.FLOAT, leading=("M",)):
    """A file with one node of ours and its function; weights are initializers."""
    layout, rows = layer.layout, layer.out_features
    function = function_body(op)
    if kind == "specialized":
        function = specialized_function(
            op, layout, row_groups=layer.row_groups, activation=activation,
            is_matrix=op is schema.CODEBOOK_GEMM and len(leading) == 1,
        )  # fmt: skip
    node = helper.make_node(
        op.name, op.inputs, ["y"], domain=schema.DOMAIN, overload=function.overload,
        **schema.attributes_from_layout(op, layout, activation=activation),
    )  # fmt: skip
    shapes = {
        "x": [*leading, layout.in_features],
        "gate": ["B", rows],
        "residual": [*leading, rows],
    }
    types = {"x": dtype, "gate": dtype, "residual": TensorProto.FLOAT}
    inputs = [
        helper.make_tensor_value_info(n, types[n], shapes[n]) for n in op.inputs if n in shapes
    ]
    out_type = TensorProto.FLOAT if op is schema.CODEBOOK_GEMM_RESIDUAL else dtype
    out_shape = [rows, layout.in_features] if not inputs else [*leading, rows]
    float_type = helper.tensor_dtype_to_np_dtype(dtype)
    weights = {
        "codebook": layer.codebook.astype(float_type),
        "assignments": layer.assignments,
        "bias": layer.bias.astype(float_type),
    }
    graph = helper.make_graph(
        [node], "g", inputs, [helper.make_tensor_value_info("y", out_type, out_shape)],
        [onnx.numpy_helper.from_array(v, k) for k, v in weights.items() if k in op.inputs],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(schema.DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[function])
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "op.onnx")
    return tmp_path / "op.onnx"


def layer_of(size, row_groups, assignment_layout, seed, rows=12):
    columns, codebook_size, length = size
    layer = random_layer(
        np.random.default_rng(seed), rows, columns, row_groups=row_groups,
        codebook_size=codebook_size, sub_vector_len=length,
    )  # fmt: skip
    changed = change_assignment_layout(layer.assignments, layer.layout, assignment_layout)
    layout = replace(layer.layout, assignment_layout=assignment_layout)
    return replace(layer, assignments=changed, layout=layout)


@pytest.mark.ort
@pytest.mark.parametrize("assignment_layout", [ROWS, FOUR_MAJOR])
@pytest.mark.parametrize("row_groups", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_decode_is_exact(tmp_path, kind, size, row_groups, assignment_layout):
    layer = layer_of(size, row_groups, assignment_layout, seed=1)
    path = op_model(tmp_path, kind, schema.CODEBOOK_DECODE, layer, "none")
    np.testing.assert_array_equal(run_model(path, {})[0], layer.weight().astype(np.float32))


@pytest.mark.ort
@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
@pytest.mark.parametrize("leading", [("M",), ("B", "S")])
def test_gemm(tmp_path, kind, activation, leading):
    layer = layer_of((64, 64, 2), 3, FOUR_MAJOR, seed=2)
    x = np.random.default_rng(3).standard_normal((*range(2, 2 + len(leading)), 64))
    x = x.astype(np.float32)
    path = op_model(tmp_path, kind, schema.CODEBOOK_GEMM, layer, activation, leading=leading)
    wanted = reference.codebook_gemm(
        x, layer.codebook, layer.assignments, layer.bias, layout=layer.layout, activation=activation
    )
    found = run_model(path, {"x": x})[0]
    assert found.dtype == np.float32
    assert relative_error(found, wanted) < FP32_RELATIVE


@pytest.mark.ort
@pytest.mark.parametrize(
    "dtype, tolerance",
    [(TensorProto.FLOAT, FP32_RELATIVE), (TensorProto.FLOAT16, FP16_BODY_RELATIVE)],
)
def test_gemm_residual_keeps_a_float32_stream(tmp_path, kind, dtype, tolerance):
    layer = layer_of((64, 256, 4), 1, ROWS, seed=4)
    rng = np.random.default_rng(5)
    float_type = helper.tensor_dtype_to_np_dtype(dtype)
    x, gate = rng.standard_normal((2, 3, 64)), rng.standard_normal((2, 12))
    residual = rng.standard_normal((2, 3, 12)).astype(np.float32)
    x, gate = x.astype(float_type), gate.astype(float_type)
    op = schema.CODEBOOK_GEMM_RESIDUAL
    path = op_model(tmp_path, kind, op, layer, "none", dtype, leading=("B", "S"))
    wanted = reference.codebook_gemm_residual(
        x.astype(np.float32), layer.codebook, layer.assignments, layer.bias,
        gate.astype(np.float32), residual, layout=layer.layout,
    )  # fmt: skip
    found = run_model(path, {"x": x, "gate": gate, "residual": residual})[0]
    assert found.dtype == np.float32
    assert relative_error(found, wanted) < tolerance


@pytest.mark.ort
def test_one_general_body_serves_several_configurations(tmp_path):
    """Two nodes of one op in one file, of other sizes, bits, layouts and activations."""
    rng = np.random.default_rng(6)
    layers = [
        layer_of((64, 256, 4), 1, ROWS, seed=7, rows=20),
        layer_of((20, 64, 2), 2, FOUR_MAJOR, seed=8, rows=6),
    ]
    activations = ["gelu_tanh", "none"]
    nodes, weights = [], []
    for i, (layer, activation) in enumerate(zip(layers, activations, strict=True)):
        attributes = schema.attributes_from_layout(
            schema.CODEBOOK_GEMM, layer.layout, activation=activation
        )
        names = [f"{name}{i}" for name in schema.CODEBOOK_GEMM.inputs]
        nodes.append(
            helper.make_node("CodebookGemm", names, [f"y{i}"], domain=schema.DOMAIN, **attributes)
        )
        arrays = (layer.codebook.astype(np.float32), layer.assignments, layer.bias)
        weights += [
            onnx.numpy_helper.from_array(array, name)
            for array, name in zip(arrays, names[1:], strict=True)
        ]
    nodes[1].input[0] = "y0"
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [info("x0", 1, ["M", 64])], [info("y1", 1, ["M", 6])], weights
    )
    model = helper.make_model(
        graph, ir_version=10, functions=[function_body(schema.CODEBOOK_GEMM)],
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(schema.DOMAIN, 1)],
    )  # fmt: skip
    onnx.save(model, tmp_path / "two.onnx")
    x = rng.standard_normal((3, 64)).astype(np.float32)
    wanted = x
    for layer, activation in zip(layers, activations, strict=True):
        wanted = reference.codebook_gemm(
            wanted, layer.codebook, layer.assignments, layer.bias, layout=layer.layout,
            activation=activation,
        )  # fmt: skip
    found = run_model(tmp_path / "two.onnx", {"x0": x})[0]
    assert relative_error(found, wanted) < FP32_RELATIVE


def test_each_configuration_has_its_own_overload():
    base = Layout(in_features=32, codebook_size=256, sub_vector_len=4)
    layouts = [
        base,
        replace(base, in_features=64),
        replace(base, codebook_size=64),
        replace(base, sub_vector_len=2),
        replace(base, group_order=GroupOrder.MMA16),
        replace(base, assignment_layout=FOUR_MAJOR),
    ]
    names = {
        overload_name(layout, row_groups=groups, activation=activation, is_matrix=is_matrix)
        for layout in layouts
        for groups in (1, 3)
        for activation in reference.ACTIVATIONS
        for is_matrix in (False, True)
    }
    assert len(names) == len(layouts) * 4 * len(reference.ACTIVATIONS)


@pytest.mark.parametrize("op", schema.OPS.values(), ids=schema.OPS)
def test_a_body_declares_every_attribute_and_has_inner_names_of_its_own(op):
    layout = Layout(in_features=32, codebook_size=64, sub_vector_len=2)
    for function in (function_body(op), specialized_function(op, layout, row_groups=2)):
        assert list(function.attribute) == list(op.attributes)
        inner = [name for node in function.node for name in node.output]
        assert len(set(inner)) == len(inner)
        assert all(name.startswith("vq") for name in inner)


def test_no_body_for_what_the_op_has_not():
    layout = Layout(in_features=32, codebook_size=64, sub_vector_len=2)
    with pytest.raises(ValueError, match="relu"):
        specialized_function(schema.CODEBOOK_GEMM, layout, row_groups=1, activation="relu")
