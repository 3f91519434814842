"""The hand-written models are what onnx reads and ONNX Runtime runs."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_export import TINY, random_source

from vq4dit.export.step import build_step_model
from vq4dit.runtime.profiling.onnx_wire import WireNode, _varint, model_bytes, read_nodes


def split_model():
    nodes = [
        WireNode(op="Split", inputs=["x"], outputs=["a", "b"], integers={"axis": 1}),
        WireNode(op="Concat", inputs=["b", "a"], outputs=["y"], integers={"axis": 1}),
    ]
    return model_bytes(nodes, inputs={"x": (2, 300)}, outputs={"y": (2, 300)})


def test_onnx_reads_it_whole():
    model = onnx.load_from_string(split_model())
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Split", "Concat"]
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [2, 300]


@pytest.mark.ort
def test_onnx_runtime_runs_it():
    session = onnxruntime.InferenceSession(split_model(), providers=["CPUExecutionProvider"])
    x = np.arange(600, dtype=np.float32).reshape(2, 300)
    found = session.run(None, {"x": x})[0]
    np.testing.assert_array_equal(found, np.concatenate([x[:, 150:], x[:, :150]], axis=1))


@given(st.integers(0, 2**63 - 1))
def test_varint_round_trip(value):
    data = _varint(value)
    assert sum((byte & 0x7F) << 7 * i for i, byte in enumerate(data)) == value
    assert all(byte & 0x80 for byte in data[:-1]) and not data[-1] & 0x80


def test_nodes_are_read_back():
    nodes = read_nodes(split_model())
    assert [(n.op, n.name, n.inputs, n.outputs) for n in nodes] == [
        ("Split", "probe.0", ["x"], ["a", "b"]),
        ("Concat", "probe.1", ["b", "a"], ["y"]),
    ]


def test_nodes_of_an_exported_model_are_those_that_onnx_reads(tmp_path):
    built = build_step_model(random_source(TINY), tmp_path)
    expected = [
        (n.op_type, n.name, list(n.input), list(n.output))
        for n in onnx.load(built.path, load_external_data=False).graph.node
    ]
    found = [(n.op, n.name, n.inputs, n.outputs) for n in read_nodes(built.path.read_bytes())]
    assert found == expected


@given(st.binary(max_size=80))
def test_other_bytes_are_read_or_refused(data):
    try:
        assert isinstance(read_nodes(data), list)
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize("length", [1, 10, 60])
def test_a_cut_off_model_is_refused(length):
    with pytest.raises(ValueError, match="late|within a number"):
        read_nodes(split_model()[:-length])
