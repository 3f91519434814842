"""check_model accepts what export writes and names the fault of every damaged file."""

import onnx
import pytest
from support_export import random_source

from vq4dit.errors import ArtifactError
from vq4dit.export.check import check_model
from vq4dit.export.step import build_step_model
from vq4dit.plugins.schema import DOMAIN


@pytest.fixture(params=["function", "plugin"])
def step(request, tmp_path):
    return build_step_model(random_source(), tmp_path, form=request.param)


def damage(step, change):
    """Load the model, let `change` alter it, write it back; returns the path."""
    model = onnx.load(str(step.path), load_external_data=False)
    change(model)
    step.path.write_bytes(model.SerializeToString())
    return step.path


def first_codebook_node(model):
    return next(node for node in model.graph.node if node.domain == DOMAIN)


def external(model):
    return [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]


def set_external(tensor, key, value):
    next(entry for entry in tensor.external_data if entry.key == key).value = value


def attribute(node, name):
    return next(a for a in node.attribute if a.name == name)


def test_the_model_comes_back_without_its_weights(step):
    model = check_model(step.path)
    assert external(model)
    assert not any(t.raw_data for t in external(model))


def test_external_data_is_aligned_and_does_not_overlap(step):
    places = []
    for tensor in external(onnx.load(str(step.path), load_external_data=False)):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        offset, length = int(entries["offset"]), int(entries["length"])
        assert offset % (4096 if length >= 4096 else 64) == 0
        places.append((offset, offset + length))
    places.sort()
    assert all(a[1] <= b[0] for a, b in zip(places, places[1:], strict=False))
    assert places[-1][1] == step.data_path.stat().st_size


def test_truncated_data(step):
    step.data_path.write_bytes(step.data_path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"behind the end of .*cut short"):
        check_model(step.path)


def test_missing_data(step):
    step.data_path.unlink()
    with pytest.raises(ArtifactError, match="step.onnx.data is missing"):
        check_model(step.path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"not a model"])
def test_not_a_model(tmp_path, content):
    path = tmp_path / "step.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="step.onnx"):
        check_model(path)


def test_no_file(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be read"):
        check_model(tmp_path / "step.onnx")


@pytest.mark.parametrize(
    "key, value, found",
    [
        ("location", "../step.onnx.data", "needed a file beside the model"),
        ("location", "/etc/passwd", "needed a file beside the model"),
        ("location", "", "needed a file beside the model"),
        ("offset", "-4096", "behind the end"),
        ("offset", "99999999999", "behind the end"),
        ("offset", "zero", "not a number"),
        ("length", "1", "length is 1 bytes, needed"),
    ],
)
def test_hostile_external_data(step, key, value, found):
    path = damage(step, lambda model: set_external(external(model)[0], key, value))
    with pytest.raises(ArtifactError, match=found):
        check_model(path)


def set_attribute(name, value):
    def change(model):
        target = attribute(first_codebook_node(model), name)
        target.CopyFrom(onnx.helper.make_attribute(name, value))

    return change


def rename_op(model):
    first_codebook_node(model).op_type = "CodebookConv"


def drop_attribute(model):
    node = first_codebook_node(model)
    node.attribute.remove(attribute(node, "group_order"))


def drop_input(model):
    del first_codebook_node(model).input[-1]


@pytest.mark.parametrize(
    "change, found",
    [
        (set_attribute("codebook_size", 128), "codebook has shape"),
        (set_attribute("in_features", 128), "assignments have shape"),
        (set_attribute("group_order", 7), "group_order|7 is not a valid"),
        (set_attribute("activation", "relu"), "activation is b'relu'"),
        (set_attribute("plugin_namespace", "other"), "plugin_namespace"),
        (rename_op, "CodebookConv"),
        (drop_attribute, "attributes"),
        (drop_input, "needed x, codebook, assignments, bias|inputs"),
    ],
)
def test_a_node_against_the_schema(tmp_path, change, found):
    step = build_step_model(random_source(), tmp_path, form="plugin")
    with pytest.raises(ArtifactError, match=found) as error:
        check_model(damage(step, change))
    assert "blocks.adaLN_modulation.1" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_node_without_its_function(tmp_path):
    step = build_step_model(random_source(), tmp_path)

    def change(model):
        kept = [f for f in model.functions if f.name != "CodebookGemm"]
        del model.functions[:]
        model.functions.extend(kept)

    with pytest.raises(ArtifactError, match="CodebookGemm"):
        check_model(damage(step, change))


def test_a_tensor_without_a_shape(tmp_path):
    step = build_step_model(random_source(), tmp_path, form="plugin")

    def change(model):
        del model.graph.value_info[:]

    with pytest.raises(ArtifactError, match="step.onnx"):
        check_model(damage(step, change))
