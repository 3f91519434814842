"""The external data file: bytes, alignment, and nothing left behind on an error."""

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vq4dit.export.external_data import ExternalData, write_model

DTYPES = ["float32", "float16", "int8", "int64"]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.integers(0, 3000)), min_size=1, max_size=6))
def test_tensors_come_back(tmp_path, described):
    rng = np.random.default_rng(len(described))
    arrays = [rng.integers(-99, 99, size).astype(dtype) for dtype, size in described]
    with ExternalData(tmp_path, "w.data") as data:
        tensors = [data.add(f"t{i}", array) for i, array in enumerate(arrays)]
        data.commit()
    for tensor, array in zip(tensors, arrays, strict=True):
        found = onnx.numpy_helper.to_array(tensor, base_dir=str(tmp_path)) if array.size else array
        np.testing.assert_array_equal(found, array)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert int(entries["offset"]) % (4096 if array.nbytes >= 4096 else 64) == 0
        assert int(entries["length"]) == array.nbytes


def test_a_view_is_written_in_its_own_order(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    with ExternalData(tmp_path, "w.data") as data:
        tensor = data.add("t", array)
        data.commit()
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor, base_dir=str(tmp_path)), array)


def test_an_error_leaves_nothing_and_keeps_the_older_file(tmp_path):
    (tmp_path / "w.data").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stop"), ExternalData(tmp_path, "w.data") as data:
        data.add("t", np.zeros(10))
        raise RuntimeError("stop")
    assert [path.name for path in tmp_path.iterdir()] == ["w.data"]
    assert (tmp_path / "w.data").read_bytes() == b"old"


def test_without_a_tensor_there_is_no_file(tmp_path):
    (tmp_path / "w.data").write_bytes(b"old")
    with ExternalData(tmp_path, "w.data") as data:
        data.commit()
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(OSError, match="m.onnx"):
        write_model(onnx.ModelProto(), tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
