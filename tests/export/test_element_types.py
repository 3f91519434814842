"""Step models in float16 and bfloat16: what stays float32, and how far the numbers move."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from support_export import (
    TINY,
    decoded,
    random_source,
    relative_error,
    run_model,
    step_inputs,
    torch_step,
)
from support_vae import decode, make_vae, random_latent
from tolerances import FP16_STEP_RELATIVE

from vq4dit.errors import OptionError
from vq4dit.export.check import check_model
from vq4dit.export.decoder import build_decoder_model
from vq4dit.export.element_types import ELEMENT_TYPES, element_type
from vq4dit.export.step import build_step_model

SOURCE = random_source(bits={"adaLN": 3, "fc2": 4}, row_groups=3, dense=["attn.proj"])


@pytest.mark.ort
@pytest.mark.parametrize("form", ["function", "inlined"])
@pytest.mark.parametrize("source", [SOURCE, decoded(SOURCE)], ids=["quantized", "dense"])
def test_float16_steps_are_near_float32_ones(tmp_path, source, form):
    step = build_step_model(source, tmp_path, form=form, weights="fp16")
    check_model(step.path)
    inputs = step_inputs(TINY, 3)
    for found, wanted in zip(run_model(step.path, inputs), torch_step(source, inputs), strict=True):
        assert found.dtype == np.float32
        assert relative_error(found, wanted) <= FP16_STEP_RELATIVE


@pytest.mark.parametrize("weights", ["fp16", "bf16"])
@pytest.mark.parametrize("form", ["inlined", "plugin"])
def test_sensitive_parts_stay_float32(tmp_path, form, weights):
    step = build_step_model(SOURCE, tmp_path, form=form, weights=weights)
    model = onnx.shape_inference.infer_shapes(check_model(step.path), data_prop=True)
    types = {t.name: t.data_type for t in model.graph.initializer}
    for info in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        types[info.name] = info.type.tensor_type.elem_type
    narrow = ELEMENT_TYPES[weights].onnx_type
    for node in model.graph.node:
        if node.op_type in ("LayerNormalization", "Softmax"):
            assert types[node.output[0]] == TensorProto.FLOAT, node.name
        if node.op_type == "MatMul" and node.name != "final_layer.linear.product":
            assert types[node.output[0]] == narrow, node.name
    assert types["blocks.1.attn.qkv.codebook"] == narrow
    assert types["blocks.1.mlp.fc2"] == types["latent_out"] == types["x_start"] == TensorProto.FLOAT


@pytest.mark.ort
def test_float16_decoders_are_near_float32_ones(tmp_path):
    vae = make_vae(tmp_path / "vae", (8, 16))
    decoder = build_decoder_model(tmp_path / "vae", tmp_path / "out", latent_size=5, weights="fp16")
    model = check_model(decoder.path)
    types = {t.data_type for t in model.graph.initializer if t.name.endswith("conv1.weight")}
    assert types == {TensorProto.FLOAT16}
    latent = random_latent(vae, 5)
    (found,) = run_model(decoder.path, {"latent": latent})
    assert found.dtype == np.float32
    assert relative_error(found, decode(vae, latent)) <= FP16_STEP_RELATIVE


def test_weights_take_half_the_bytes(tmp_path):
    sizes = {
        weights: build_step_model(decoded(SOURCE), tmp_path / weights, weights=weights).num_bytes
        for weights in ELEMENT_TYPES
    }
    assert sizes["bf16"] == pytest.approx(sizes["fp16"], rel=1e-3)
    assert sizes["fp16"] < 0.62 * sizes["fp32"]  # the patch embedding and position stay float32


def test_bfloat16_bytes_are_the_rounded_float32_ones(tmp_path):
    step = build_step_model(decoded(SOURCE), tmp_path, weights="bf16")
    tensors = {t.name: t for t in onnx.load(step.path).graph.initializer}
    stored = onnx.numpy_helper.to_array(tensors["blocks.0.mlp.fc1.weight"]).astype(np.float32)
    wanted = decoded(SOURCE).tensors["blocks.0.mlp.fc1.weight"].T
    assert np.abs(stored - wanted).max() <= np.abs(wanted).max() * 2.0**-8
    assert not np.any(stored.view(np.uint32) & 0xFFFF)


def test_unknown_element_type():
    with pytest.raises(OptionError, match="'int8', needed one of fp32, fp16, bf16"):
        element_type("int8")
