from __future__ import annotations

import os
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from support_calibrate import TINY, random_state, save_checkpoint

from vq4dit.calibrate.checkpoint import Checkpoint, CheckpointOptions
from vq4dit.calibrate.source import open_weights
from vq4dit.errors import ArtifactError, OptionError
from vq4dit.model_config import PRESETS

HEADS = CheckpointOptions(num_heads=2)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"ema": s, "model": {}, "opt": 1}])
def test_reads_torch_files_flat_and_under_ema(tmp_path, wrap):
    state = random_state()
    torch.save(wrap(state), tmp_path / "dit.pt")
    checkpoint = Checkpoint(tmp_path / "dit.pt", HEADS)
    assert checkpoint.config == TINY
    assert checkpoint.latent_scaling_factor == 0.18215
    for name, tensor in state.items():
        assert torch.equal(checkpoint.torch_tensor(name), tensor)
        assert (checkpoint.tensor(name) == tensor.numpy()).all()


def test_reads_safetensors_with_its_metadata(tmp_path):
    source = open_weights(save_checkpoint(tmp_path / "dit.safetensors"))
    assert source.config == TINY
    assert source.latent_scaling_factor == 1.0
    assert len(source.sha256) == 64
    assert source.quantized_layer("blocks.0.attn.qkv") is None


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_inferred_from_shapes(name, tmp_path):
    preset = replace(PRESETS[name], input_size=64 if name.endswith("/8") else 32)
    shapes = preset.tensor_shapes()
    state = {key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}
    from vq4dit.calibrate import checkpoint

    found = checkpoint._checked_config(tmp_path, state, {}, CheckpointOptions(model=name))
    assert found == preset


@pytest.mark.parametrize("patch", [2, 4, 8])
@pytest.mark.parametrize("learn_sigma", [True, False])
def test_patch_size_and_learned_sigma_are_inferred(tmp_path, patch, learn_sigma):
    config = replace(TINY, input_size=16, patch_size=patch, learn_sigma=learn_sigma)
    save_checkpoint(tmp_path / "dit.safetensors", config)
    assert Checkpoint(tmp_path / "dit.safetensors").config == config


def _damaged(state, kind):
    qkv = "blocks.1.attn.qkv.weight"
    if kind == "missing":
        del state[qkv]
    elif kind == "extra":
        state["blocks.0.attn.q_norm.weight"] = torch.ones(3)
    elif kind == "misshaped":
        state[qkv] = state[qkv][:-1].clone()
    elif kind == "nan":
        state[qkv][3, 4] = float("nan")
    elif kind == "integer":
        state[qkv] = torch.zeros(state[qkv].shape, dtype=torch.int32)
    elif kind == "tokens":
        state["pos_embed"] = torch.zeros(1, 5, 32)
    elif kind == "no patch":
        state["x_embedder.proj.weight"] = torch.zeros(32, 4, 0, 0)
    elif kind == "no width":
        state["x_embedder.proj.weight"] = torch.zeros(0, 4, 2, 2)
    elif kind == "not a DiT":
        state = {"conv.weight": torch.ones(3, 3)}
    elif kind == "no blocks":
        state = {k: v for k, v in state.items() if not k.startswith("blocks")}
    return state


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"missing \['blocks\.1\.attn\.qkv\.weight'\] \(1\)"),
        ("extra", r"unexpected \['blocks\.0\.attn\.q_norm\.weight'\]"),
        ("misshaped", r"blocks\.1\.attn\.qkv\.weight has shape \(95, 32\), needed \(96, 32\)"),
        ("nan", r"blocks\.1\.attn\.qkv\.weight holds 1 NaN or infinite"),
        ("integer", r"is torch.int32, needed floating point"),
        ("tokens", "5 tokens, needed a square number"),
        ("no patch", r"\(32, 4, 0, 0\), needed 4 dimensions, none of them empty"),
        ("no width", r"\(0, 4, 2, 2\), needed 4 dimensions, none of them empty"),
        ("not a DiT", "not a DiT checkpoint"),
        ("no blocks", r"no tensor blocks\.0\.mlp\.fc1\.weight"),
    ],
)
def test_bad_tensors_are_named(tmp_path, kind, message):
    torch.save(_damaged(random_state(), kind), tmp_path / "dit.pt")
    with pytest.raises(ArtifactError, match=message):
        Checkpoint(tmp_path / "dit.pt", HEADS).state_dict()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 7, 100, 5000])
def test_truncated_files_are_refused(tmp_path, suffix, keep):
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".pt":
        torch.save(random_state(), whole)
    else:
        save_checkpoint(whole)
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match=r"cut\.(pt|safetensors): "):
        open_weights(cut, HEADS)


def test_pickled_objects_are_never_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    (tmp_path / "dit.pt").write_bytes(pickle.dumps({"x": Attack()}, protocol=2))
    with pytest.raises(ArtifactError, match="plain tensors"):
        Checkpoint(tmp_path / "dit.pt")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [[1, 2], {"ema": 3}, {"a": "text"}])
def test_torch_files_without_a_state_dict_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "dit.pt")
    with pytest.raises(ArtifactError, match="state dict"):
        Checkpoint(tmp_path / "dit.pt")


def test_options_are_checked_against_the_file(tmp_path):
    path = save_checkpoint(tmp_path / "dit.safetensors")
    with pytest.raises(OptionError, match="is not DiT-S/2: hidden_size 32"):
        Checkpoint(path, CheckpointOptions(model="DiT-S/2"))
    with pytest.raises(OptionError, match="model 'DiT-Q/2' is unknown"):
        Checkpoint(path, CheckpointOptions(model="DiT-Q/2"))
    with pytest.raises(OptionError, match="latents of 4x4, the option says 64"):
        Checkpoint(path, CheckpointOptions(input_size=64))
    with pytest.raises(ArtifactError, match="2 label names, needed 3"):
        Checkpoint(path, CheckpointOptions(label_names=("a", "b")))


def test_unknown_width_needs_the_number_of_heads(tmp_path):
    save_file(random_state(), tmp_path / "dit.safetensors")
    with pytest.raises(OptionError, match="--num-heads"):
        Checkpoint(tmp_path / "dit.safetensors")


def test_missing_and_foreign_paths(tmp_path):
    with pytest.raises(ArtifactError, match="no such file"):
        open_weights(tmp_path / "none.pt")
    with pytest.raises(ArtifactError, match="a folder"):
        open_weights(tmp_path)
    (tmp_path / "x.onnx").write_text("x")
    with pytest.raises(ArtifactError, match="needed an artifact"):
        open_weights(tmp_path / "x.onnx")


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scaling_factor_that_is_none_is_refused(tmp_path, factor):
    path = save_checkpoint(tmp_path / "dit.safetensors")
    with pytest.raises(ArtifactError, match="scaling factor .*, needed a positive number"):
        Checkpoint(path, CheckpointOptions(latent_scaling_factor=factor))
    assert (
        Checkpoint(path, CheckpointOptions(latent_scaling_factor=0.5)).latent_scaling_factor == 0.5
    )
