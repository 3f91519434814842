"""Quantized linears that are decoded before a product, beside those that are gathered."""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
from op_models import require_ort_library
from support_export import TINY, random_source, relative_error, run_model, step_inputs, torch_step
from support_tensorrt_rtx import build_engine
from tolerances import FP16_STEP_RELATIVE, STEP_RELATIVE

from vq4dit.export.check import check_model
from vq4dit.export.linear_ways import DECODE, GATHER, LinearUse, always
from vq4dit.export.step import build_step_model
from vq4dit.plugins import ort_library_path
from vq4dit.plugins.layout import AssignmentLayout
from vq4dit.plugins.schema import DOMAIN

MIXED = {"adaLN": 1, "attn.qkv": 3, "blocks.1.mlp": 4}
TOKENS = TINY.num_tokens
#: Wide enough for the order of the CUDA kernels.
WIDE = replace(TINY, hidden_size=128)


def decode_mlp(use):
    """Decode the linears of the MLPs only."""
    return DECODE if ".mlp." in use.name else GATHER


def ours(model):
    """Op and name of the nodes of our domain."""
    return [(node.op_type, node.name) for node in model.graph.node if node.domain == DOMAIN]


@pytest.mark.ort
@pytest.mark.parametrize(
    "form, weights, choose_way",
    [
        ("function", "fp32", decode_mlp),
        ("function", "fp16", always(DECODE)),
        ("inlined", "fp32", always(DECODE)),
        ("inlined", "fp16", decode_mlp),
    ],
    ids=["function-fp32-MLP", "function-fp16-all", "inlined-fp32-all", "inlined-fp16-MLP"],
)
def test_a_decoded_step_is_near_the_gathered_one(tmp_path, form, weights, choose_way):
    source = random_source(bits=MIXED, row_groups=3)
    inputs, limit = step_inputs(TINY, 3), STEP_RELATIVE
    if weights == "fp16":
        limit = FP16_STEP_RELATIVE
    options = {"form": form, "weights": weights}
    gathered = run_model(build_step_model(source, tmp_path / "g", **options).path, inputs)
    step = build_step_model(source, tmp_path / "d", **options, choose_way=choose_way)
    check_model(step.path)
    for found, near, wanted in zip(
        run_model(step.path, inputs), gathered, torch_step(source, inputs), strict=True
    ):
        assert found.dtype == np.float32
        assert relative_error(found, near) <= limit
        assert relative_error(found, wanted) <= limit


@pytest.mark.ort
@pytest.mark.parametrize("form", ["function", "plugin"])
def test_the_native_library_decodes(tmp_path, form):
    require_ort_library()
    library = ort_library_path()
    source = random_source(bits=MIXED, row_groups=3)
    step = build_step_model(source, tmp_path, form=form, choose_way=always(DECODE))
    inputs = step_inputs(TINY, 2)
    found = run_model(step.path, inputs, library=library)
    for a, b in zip(found, torch_step(source, inputs), strict=True):
        assert relative_error(a, b) < STEP_RELATIVE


@pytest.mark.parametrize("form", ["function", "plugin"])
def test_nodes_of_both_ways(tmp_path, form):
    source = random_source(row_groups=3, dense=("attn.proj",))
    step = build_step_model(source, tmp_path, form=form, choose_way=decode_mlp)
    model = check_model(step.path)
    expected = [("CodebookGemm", "blocks.adaLN_modulation.1")]
    for block in range(TINY.depth):
        expected.append(("CodebookGemm", f"blocks.{block}.attn.qkv"))
        for fc in ("fc1", "fc2"):
            expected.append(("CodebookDecode", f"blocks.{block}.mlp.{fc}.weight"))
    assert ours(model) == expected
    assert step.num_codebook_nodes == len(expected)
    num_bytes = 4 * TINY.hidden_size * TINY.mlp_size  # float32
    assert step.decoded == {
        f"blocks.{block}.mlp.{fc}": num_bytes
        for block in range(TINY.depth)
        for fc in ("fc1", "fc2")
    }
    functions = {function.name for function in model.functions}
    assert functions == ({"CodebookGemm", "CodebookDecode"} if form == "function" else set())


def test_every_linear_is_asked_for_with_its_sizes(tmp_path):
    asked = []

    def choose(use):
        asked.append(use)
        return GATHER

    layout = AssignmentLayout.MMA_LANES
    build_step_model(
        random_source(WIDE, row_groups=3), tmp_path, form="plugin", weights="fp16",
        assignment_layout=layout, choose_way=choose,
    )  # fmt: skip
    shapes = WIDE.block_linear_shapes()
    assert [use.name for use in asked] == [
        "blocks.adaLN_modulation.1",
        *(name for name in shapes if "adaLN" not in name),
    ]
    stack, *others = asked
    d = WIDE.hidden_size
    assert (stack.count, stack.rows_per_sample) == (WIDE.depth, 2)
    assert (stack.out_features, stack.row_groups) == (6 * d * WIDE.depth, WIDE.depth)
    for use in others:
        assert (use.out_features, use.layout.in_features) == shapes[use.name]
        assert use.rows_per_sample == 2 * TOKENS and use.count == 1
        assert use.row_groups == (3 if "qkv" in use.name else 1)
        assert use.is_residual == use.name.endswith(("attn.proj", "fc2"))
    assert {use.layout.assignment_layout for use in asked} == {layout}


def test_without_guidance_a_sample_is_one_row(tmp_path):
    rows = set()

    def choose(use: LinearUse) -> str:
        rows.add(use.rows_per_sample)
        return GATHER

    build_step_model(random_source(), tmp_path, cfg=False, choose_way=choose)
    assert rows == {1, TOKENS}


def test_decoded_adaln_linears_are_not_stacked(tmp_path):
    """All of them decoded at once would take memory for all blocks."""
    step = build_step_model(random_source(), tmp_path, form="plugin", choose_way=always(DECODE))
    model = check_model(step.path)
    assert [name for op, name in ours(model) if "adaLN" in name] == [
        f"blocks.{block}.adaLN_modulation.1.weight" for block in range(TINY.depth)
    ]
    assert step.num_codebook_nodes == len(step.decoded) == 5 * TINY.depth


@pytest.mark.parametrize("weights", ["fp16", "bf16"])
def test_the_plugin_form_stays_narrow_with_a_float32_residual(tmp_path, weights):
    step = build_step_model(
        random_source(WIDE), tmp_path, form="plugin", weights=weights,
        assignment_layout=AssignmentLayout.MMA_LANES, choose_way=always(DECODE),
    )  # fmt: skip
    model = onnx.shape_inference.infer_shapes(check_model(step.path), data_prop=True)
    types = {info.name: info.type.tensor_type.elem_type for info in model.graph.value_info}
    narrow = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[weights]
    for name in ("attn.qkv.weight", "mlp.fc1.product", "adaLN_modulation.1", "mlp.fc2"):
        assert types[f"blocks.1.{name}"] == narrow, name
    assert types["blocks.1.mlp.fc2.residual"] == onnx.TensorProto.FLOAT


@pytest.mark.slow
@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx")
def test_tensorrt_rtx_builds_the_inlined_form(tmp_path):
    step = build_step_model(
        random_source(WIDE), tmp_path, form="inlined", weights="fp16", choose_way=always(DECODE)
    )
    result = build_engine(step.path)
    assert result["parsed"] and not result["errors"], result
    assert result["engine_bytes"] > 0
