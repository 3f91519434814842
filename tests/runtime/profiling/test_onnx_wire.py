"""The hand-written models are what onnx reads and ONNX Runtime runs."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vq4dit.runtime.profiling.onnx_wire import WireNode, _varint, model_bytes


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
