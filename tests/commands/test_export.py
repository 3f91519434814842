"""`vq4dit export --form plugin`: what it writes is what TensorRT's plugins take."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto
from support_export import TINY, random_source
from support_tensorrt import needs_bindings, run_with_bindings

from vq4dit.calibrate.artifact import ArtifactInfo, save_artifact
from vq4dit.cli import main
from vq4dit.plugins import schema
from vq4dit.plugins.layout import AssignmentLayout

DRIVER = Path(__file__).parents[1] / "tensorrt_driver.py"
MIXED = {"adaLN": 1, "attn.qkv": 3, "blocks.1.mlp": 4}
TRT_TYPES = {TensorProto.FLOAT16: "HALF", TensorProto.BFLOAT16: "BF16", TensorProto.INT8: "INT8",
             TensorProto.FLOAT: "FLOAT"}  # fmt: skip


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    source = random_source(bits=MIXED, row_groups=3)
    layouts = {name: layer.layout for name, layer in source.layers.items()}
    info = ArtifactInfo(config=TINY, layouts=layouts, source_sha256="0" * 64)
    path = tmp_path_factory.mktemp("artifact") / "x.vq.safetensors"
    save_artifact(path, info, source.layers, source.tensors)
    return path


def exported(artifact, folder, *options):
    """The nodes of our ops with their initializers: [(node, {input: tensor})]."""
    assert main(["export", str(artifact), "-o", str(folder), "--quiet", *options]) == 0
    model = onnx.load(folder / "step.onnx", load_external_data=False)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.domain == schema.DOMAIN:
            names = schema.OPS[node.op_type].inputs
            inputs = dict(zip(names, node.input, strict=True))
            found.append((node, {n: tensors[v] for n, v in inputs.items() if v in tensors}))
    return found


@pytest.mark.parametrize(
    "options, element, layout",
    [
        (["--form", "plugin"], TensorProto.FLOAT16, AssignmentLayout.MMA_LANES),
        (["--form", "plugin", "--weights", "bf16"], TensorProto.BFLOAT16, AssignmentLayout(2)),
        (["--form", "function"], TensorProto.FLOAT, AssignmentLayout.ROWS),
    ],
)
def test_element_type_and_byte_order(artifact, tmp_path, options, element, layout):
    nodes = exported(artifact, tmp_path / "out", *options)
    assert nodes
    for node, tensors in nodes:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert attributes["assignment_layout"] == layout
        assert {tensors[n].data_type for n in tensors if n != "assignments"} == {element}
        assert tensors["assignments"].data_type == TensorProto.INT8


@needs_bindings
@pytest.mark.parametrize(
    "weights, linears, ops",
    [
        ("fp16", "gather", {"CodebookGemm", "CodebookGemmResidual"}),
        ("bf16", "gather", {"CodebookGemm", "CodebookGemmResidual"}),
        ("fp16", "decode", {"CodebookDecode"}),
        ("bf16", "decode", {"CodebookDecode"}),
    ],
)
def test_every_node_is_taken_by_tensorrt(artifact, tmp_path, weights, linears, ops):
    """Attributes, types and shapes of a whole step model through TensorRT 11.4's bindings."""
    folder = tmp_path / "out"
    options = ("--form", "plugin", "--weights", weights, "--linears", linears)
    nodes = exported(artifact, folder, *options)
    cases = [plugin_case(node, tensors) for node, tensors in nodes]
    path = tmp_path / "cases.json"
    path.write_text(json.dumps({"sm": 80, "cases": cases}))
    for (node, _), found in zip(nodes, run_with_bindings(DRIVER, str(path)), strict=True):
        assert "error" not in found, (node.name, found)
        assert found["tactics"]
        if linears == "decode":
            (shape,), name = found["shapes"], node.name.removesuffix(".weight")
            assert tuple(shape) == TINY.block_linear_shapes()[name]
            assert found["outputs"] == ["HALF" if weights == "fp16" else "BF16"]
    assert {node.op_type for node, _ in nodes} == ops


def plugin_case(node, tensors):
    """The node as the parser hands it to TensorRT; what is not constant as the op needs it."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    attributes = {n: v.decode() if isinstance(v, bytes) else v for n, v in attributes.items()}
    known = {n: [TRT_TYPES[t.data_type], list(t.dims)] for n, t in tensors.items()}
    element = known["codebook"][0]
    rest = {}
    if node.op_type != "CodebookDecode":
        out = known["bias"][1][0]
        rest = {
            "x": [element, ["N", 4, attributes["in_features"]]],
            "gate": [element, ["N", out]],
            "residual": ["FLOAT", ["N", 4, out]],
        }
    names = schema.OPS[node.op_type].inputs
    return {
        "op": node.op_type, "attributes": attributes, "launch": [],
        "inputs": [known[n] if n in known else rest[n] for n in names],
        "ranges": {"N": [1, 2, 8]}, "sizes": [{"N": 2}],
    }  # fmt: skip
