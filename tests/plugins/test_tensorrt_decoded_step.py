"""A whole step whose linears are decoded, computed with what TensorRT would be given for each node.

TensorRT's own bindings make the ahead-of-time plugin of every CodebookDecode of an exported model.
The emulator runs the PTX, launch size and integers that the plugin hands over; its weights take the
nodes' place, and what is left is standard ONNX.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from ptx import run_kernel
from support_export import TINY, random_source, relative_error, run_model, step_inputs, torch_step
from support_tensorrt import needs_bindings, run_with_bindings
from tolerances import FP16_STEP_RELATIVE

from vq4dit.export.linear_ways import DECODE, always
from vq4dit.export.step import build_step_model
from vq4dit.plugins import schema
from vq4dit.plugins.layout import AssignmentLayout

DRIVER = Path(__file__).parents[1] / "tensorrt_driver.py"
MIXED = {"adaLN": 1, "attn.qkv": 3, "blocks.1.mlp": 4}
SM = 80


@needs_bindings
@pytest.mark.ort
def test_the_step_is_that_of_the_weights(tmp_path):
    source = random_source(bits=MIXED, row_groups=3)
    step = build_step_model(
        source, tmp_path, form="plugin", weights="fp16",
        assignment_layout=AssignmentLayout.MMA_LANES, choose_way=always(DECODE),
    )  # fmt: skip
    model = onnx.load(step.path)
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.domain == schema.DOMAIN]
    assert len(nodes) == 5 * TINY.depth
    for node, launch in zip(nodes, launches(tmp_path, nodes, tensors), strict=True):
        weight = emulated(launch, [tensors[name] for name in node.input])
        layer = source.layers[node.name.removesuffix(".weight")]
        np.testing.assert_array_equal(weight, layer.weight())
        model.graph.node.remove(node)
        model.graph.initializer.append(numpy_helper.from_array(weight, node.output[0]))
    onnx.save(model, step.path)
    inputs = step_inputs(TINY, 2)
    for found, wanted in zip(run_model(step.path, inputs), torch_step(source, inputs), strict=True):
        assert relative_error(found, wanted) <= FP16_STEP_RELATIVE


def launches(folder, nodes, tensors):
    """The launch of each node as its plugin describes it to TensorRT."""
    cases = []
    for node in nodes:
        values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        values = {n: v.decode() if isinstance(v, bytes) else v for n, v in values.items()}
        shapes = [list(tensors[name].shape) for name in node.input]
        inputs = [list(pair) for pair in zip(("HALF", "INT8"), shapes, strict=True)]
        cases.append({"op": node.op_type, "attributes": values, "inputs": inputs, "ranges": {},
                      "sizes": [{}]})  # fmt: skip
    path = folder / "cases.json"
    path.write_text(json.dumps({"sm": SM, "cases": cases}))
    found = run_with_bindings(DRIVER, str(path))
    assert [case.get("error") for case in found] == [None] * len(nodes)
    return [
        case["launches"][0] | case["launches"][0]["at"][0] | {"shape": case["shapes"][0]}
        for case in found
    ]


def emulated(launch, inputs):
    """The weight (O, I) float16 that one launch writes."""
    weight = np.full(launch["shape"], np.nan, np.float16)
    stored = [x.view(np.uint16) if x.dtype == np.float16 else x for x in map(np.array, inputs)]
    run_kernel(
        launch["ptx"], launch["kernel"], launch["grid"], launch["block"],
        [*stored, *launch["scalars"], weight], launch["shared_bytes"],
    )  # fmt: skip
    return weight
