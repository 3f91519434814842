"""Every node that export writes has a part, whatever ONNX Runtime makes of its name."""

import onnx
import pytest
from support_export import TINY, random_source

from vq4dit.export.step import build_step_model
from vq4dit.runtime.profiling.parts import PARTS, clean_name, layer_of, part_of, parts_of

NAMES = [
    ("blocks.3.attn.qkv_kernel_time", "attention", "blocks.3.attn.qkv"),
    ("blocks.3.attn.scores/MatMulScaleFusion/", "attention", "blocks.3.attn"),
    ("blocks.11.attn.proj", "attention", "blocks.11.attn.proj"),
    ("blocks.0.mlp.fc1.product/MatMulAddFusion", "MLP", "blocks.0.mlp.fc1"),
    ("blocks.0.mlp.fc2", "MLP", "blocks.0.mlp.fc2"),
    ("blocks.adaLN_modulation.1", "adaLN", "blocks.adaLN_modulation.1"),
    ("blocks.2.adaLN_modulation.1.product", "adaLN", "blocks.2.adaLN_modulation.1"),
    ("blocks.modulation", "adaLN", "blocks.modulation"),
    ("blocks.7.norm2.scaled", "adaLN", "blocks.7.norm2"),
    ("x_embedder.proj_nchwc", "embedders", "x_embedder.proj"),
    ("t_embedder.mlp.0.silu/QuickGeluFusion/", "embedders", "t_embedder.mlp.0"),
    ("y_embedder", "embedders", "embedders"),
    ("condition.silu", "embedders", "embedders"),
    ("final_layer.adaLN_modulation.1.product", "final layer", "final_layer.adaLN_modulation.1"),
    ("final_layer.linear", "final layer", "final_layer.linear"),
    ("model_output", "final layer", "final layer"),
    ("model_output.parts", "sampler update", "sampler update"),
    ("guidance.null/GatherSliceToSplitFusion", "sampler update", "sampler update"),
    ("update.log_variance", "sampler update", "sampler update"),
    ("latent_out", "sampler update", "sampler update"),
    ("decoder.up_blocks.1.resnets.0.conv2_nchwc", "decoder", "decoder.up_blocks.1.resnets.0"),
    ("blocks.0.attn.qkv + blocks.0.attn.split", "attention", "blocks.0.attn.qkv"),
    ("__myl_Fc blocks.1.mlp.fc1", "MLP", "blocks.1.mlp.fc1"),
    ("{ForeignNode[blocks.0.norm2...blocks.0.mlp.fc1]}", "adaLN", "blocks.0.norm2"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "part", "layer"), NAMES)
def test_names(name, part, layer):
    assert part_of(name) == part
    assert layer_of(name, part) == layer


@pytest.mark.parametrize("name", ["ReorderOutput", "Squeeze_token_2", "Unsqueeze_2014", "", "x"])
def test_names_that_tell_nothing_join_the_node_before(name):
    assert part_of(name) is None
    assert parts_of([name, "blocks.0.attn.q", name]) == ["other", "attention", "attention"]


def test_appended_words_are_cut_off():
    assert clean_name("a.b/MatMulAddFusion/GemmTransposeFusion_token_12_nchwc_kernel_time") == "a.b"


@pytest.mark.parametrize("dense", [(), ("attn.qkv", "fc1", "fc2", "proj", "adaLN_modulation.1")])
@pytest.mark.parametrize("cfg", [True, False])
def test_every_exported_node_has_a_part(tmp_path, dense, cfg):
    built = build_step_model(random_source(TINY, dense=dense), tmp_path, cfg=cfg)
    nodes = onnx.load(built.path, load_external_data=False).graph.node
    assert [node.name for node in nodes if part_of(node.name) is None] == []
    assert {part_of(node.name) for node in nodes} == set(PARTS) - {"decoder", "other"}
