from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel
from safetensors.torch import load_file, save_file
from support_export import run_model, step_inputs
from tolerances import STEP_RELATIVE

from vq4dit.calibrate.checkpoint import Checkpoint, CheckpointOptions
from vq4dit.calibrate.dit import DiT
from vq4dit.calibrate.run import calibrate
from vq4dit.calibrate.source import open_checkpoint, open_weights
from vq4dit.calibrate.tensor_files import open_tensor_file
from vq4dit.cli import main
from vq4dit.errors import ArtifactError, OptionError
from vq4dit.export.step import build_step_model
from vq4dit.model_config import ModelConfig

SAFETENSORS = "diffusion_pytorch_model.safetensors"
BIN = "diffusion_pytorch_model.bin"
QKV_PART = "transformer_blocks.1.attn1.to_k.weight"
COPY = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_2.weight"


def random_diffusers_model(
    *,
    sample_size: int = 8,
    patch_size: int = 2,
    learn_sigma: bool = True,
    num_layers: int = 2,
    heads: tuple[int, int] = (2, 16),
    seed: int = 0,
) -> DiTTransformer2DModel:
    """Two blocks of width 32 (2 heads of 16); random weights, one embedder copied to each block."""
    model = DiTTransformer2DModel(
        num_attention_heads=heads[0],
        attention_head_dim=heads[1],
        in_channels=4,
        out_channels=8 if learn_sigma else None,
        num_layers=num_layers,
        sample_size=sample_size,
        patch_size=patch_size,
        num_embeds_ada_norm=5,
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.1 if name.endswith("bias") else parameter[0].numel() ** -0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        embedder = model.transformer_blocks[0].norm1.emb.state_dict()
        for block in model.transformer_blocks:
            block.norm1.emb.load_state_dict(embedder)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer's folder as diffusers writes it."""
    path = tmp_path_factory.mktemp("diffusers") / "transformer"
    random_diffusers_model().save_pretrained(path)
    return path


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(saved, tmp_path / "transformer"))


def change_json(path: Path, **values: object) -> None:
    """Set keys of a JSON file; a value of `...` removes its key."""
    content = {**(json.loads(path.read_text()) if path.exists() else {}), **values}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def relative_error(found: torch.Tensor, needed: torch.Tensor) -> float:
    return float((found - needed).abs().max() / needed.abs().max())


@pytest.mark.parametrize("learn_sigma", [True, False])
@pytest.mark.parametrize(("sample_size", "patch_size"), [(32, 2), (64, 2), (32, 4), (64, 8)])
def test_forward_is_that_of_diffusers_at_frequency_shift_0(
    tmp_path, sample_size, patch_size, learn_sigma
):
    """256x256 pictures (latents of 32) and 512x512 (64); seeds 0 and 1."""
    theirs = random_diffusers_model(
        sample_size=sample_size, patch_size=patch_size, learn_sigma=learn_sigma
    )
    theirs.save_pretrained(tmp_path)
    checkpoint = Checkpoint(tmp_path)
    ours = DiT(checkpoint.config)
    ours.load_state_dict(checkpoint.state_dict())
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(3, 4, sample_size, sample_size, generator=generator)
    timestep, label = torch.tensor([999, 500, 1]), torch.tensor([0, 3, 5])

    with torch.no_grad():
        found = ours(latent, timestep, label)
        shift_1 = theirs(latent, timestep=timestep, class_labels=label).sample
        for block in theirs.transformer_blocks:
            block.norm1.emb.time_proj.downscale_freq_shift = 0
        shift_0 = theirs(latent, timestep=timestep, class_labels=label).sample

    assert found.shape == (3, 8 if learn_sigma else 4, sample_size, sample_size)
    assert relative_error(found, shift_0) <= STEP_RELATIVE
    assert relative_error(found, shift_1) > 100 * STEP_RELATIVE
    assert torch.equal(checkpoint.torch_tensor("pos_embed"), theirs.pos_embed.pos_embed)


@pytest.mark.parametrize("sample_size", [32, 64])
def test_forward_at_the_width_of_dit_xl(tmp_path, sample_size):
    """One block with the sizes of the public 256x256 and 512x512 models; seeds 0 and 1."""
    theirs = random_diffusers_model(sample_size=sample_size, num_layers=1, heads=(16, 72))
    theirs.save_pretrained(tmp_path)
    theirs.transformer_blocks[0].norm1.emb.time_proj.downscale_freq_shift = 0
    checkpoint = Checkpoint(tmp_path)
    ours = DiT(checkpoint.config)
    ours.load_state_dict(checkpoint.state_dict())
    latent = torch.randn(1, 4, sample_size, sample_size, generator=torch.Generator().manual_seed(1))
    timestep, label = torch.tensor([321]), torch.tensor([2])
    with torch.no_grad():
        found = ours(latent, timestep, label)
        needed = theirs(latent, timestep=timestep, class_labels=label).sample
    assert relative_error(found, needed) <= STEP_RELATIVE


@pytest.mark.ort
@pytest.mark.parametrize(("sample_size", "patch_size"), [(8, 2), (16, 4), (32, 8)])
def test_the_exported_step_predicts_what_diffusers_does(tmp_path, sample_size, patch_size):
    """Coefficients that make the step's latent_out its eps, without guidance."""
    theirs = random_diffusers_model(sample_size=sample_size, patch_size=patch_size)
    theirs.save_pretrained(tmp_path / "transformer")
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    checkpoint = Checkpoint(tmp_path / "transformer")
    inputs = step_inputs(checkpoint.config, 2)
    inputs["coefficients"] = np.tile(np.float32([0, 1, 0, 0, 0, 0, 0, 0]), (2, 1))
    step = build_step_model(checkpoint, tmp_path / "step", cfg=False)
    found, _ = run_model(step.path, inputs)
    latent, timestep, label = (
        torch.from_numpy(inputs[name]) for name in ("latent", "timestep", "label")
    )
    with torch.no_grad():
        needed = theirs(latent, timestep=timestep.long(), class_labels=label).sample
    assert relative_error(torch.from_numpy(found), needed[:, :4]) <= STEP_RELATIVE


def test_configuration_and_names(saved):
    checkpoint = open_weights(saved)
    assert checkpoint.config == ModelConfig(
        input_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        depth=2,
        num_heads=2,
        num_classes=5,
    )
    assert checkpoint.path == saved
    assert set(checkpoint.state_dict()) == set(checkpoint.config.tensor_shapes())
    assert checkpoint.label_names == ()
    assert checkpoint.latent_scaling_factor == 0.18215
    assert checkpoint.quantized_layer("blocks.0.attn.qkv") is None


@pytest.mark.parametrize("form", ["bin", "safetensors shards", "bin shards", "float16"])
def test_every_form_of_the_weights_reads_the_same(saved, folder, form):
    state = load_file(folder / SAFETENSORS)
    expected = Checkpoint(saved).state_dict()
    (folder / SAFETENSORS).unlink()
    if form == "bin":
        torch.save(state, folder / BIN)
    elif form == "float16":
        save_file({name: value.half() for name, value in state.items()}, folder / SAFETENSORS)
        expected = {
            name: value if name == "pos_embed" else value.half().float()
            for name, value in expected.items()
        }
    else:
        write_shards(folder, state, form.split()[0])
    found = Checkpoint(folder).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def write_shards(folder: Path, state: dict[str, torch.Tensor], suffix: str) -> None:
    names = sorted(state)
    weight_map = {}
    for number, part in enumerate([names[:7], names[7:]], start=1):
        shard = f"diffusion_pytorch_model-{number:05d}-of-00002.{suffix}"
        tensors = {name: state[name] for name in part}
        save = save_file if suffix == "safetensors" else torch.save
        save(tensors, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    index = folder / f"diffusion_pytorch_model.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_older_class_name_and_options_are_read(folder):
    change_json(
        folder / "config.json",
        _class_name="Transformer2DModel",
        norm_eps=...,
        cross_attention_dim=None,
        num_vector_embeds=None,
        only_cross_attention=False,
        use_linear_projection=False,
    )
    assert Checkpoint(folder).config.depth == 2


def test_hash_is_that_of_the_files(saved, folder):
    lines = "".join(
        f"{hashlib.sha256((saved / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("config.json", SAFETENSORS)
    )
    assert Checkpoint(saved).sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert Checkpoint(folder).sha256 == Checkpoint(saved).sha256
    change_json(folder / "config.json", dropout=0.5)
    assert Checkpoint(folder).sha256 != Checkpoint(saved).sha256


def pipeline_around(folder: Path) -> Path:
    """Give a transformer's folder the small files of a DiTPipeline."""
    pipeline = folder.parent
    labels = {str(label): f"thing {label}, item {label}" for label in range(5)}
    change_json(pipeline / "model_index.json", _class_name="DiTPipeline", id2label=labels)
    change_json(pipeline / "vae" / "config.json", scaling_factor=0.25, shift_factor=None)
    change_json(
        pipeline / "scheduler" / "scheduler_config.json",
        num_train_timesteps=1000,
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="linear",
    )
    return pipeline


def test_pipeline_tells_labels_and_scaling_factor(folder):
    checkpoint = open_checkpoint(pipeline_around(folder))
    assert checkpoint.label_names[3] == "thing 3, item 3"
    assert len(checkpoint.label_names) == 5
    assert checkpoint.latent_scaling_factor == 0.25
    assert len(checkpoint.files) == 5
    told = CheckpointOptions(label_names=tuple("abcde"), latent_scaling_factor=0.5)
    assert open_checkpoint(folder.parent, told).label_names == tuple("abcde")
    assert open_checkpoint(folder.parent, told).latent_scaling_factor == 0.5


def test_pipeline_without_its_small_files_is_read(folder):
    checkpoint = open_checkpoint(folder.parent)
    assert checkpoint.label_names == ()
    assert checkpoint.latent_scaling_factor == 0.18215


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("model_index.json", {"id2label": {"0": "a"}}, "one name for each label 0..4"),
        ("model_index.json", {"id2label": ["a"] * 5}, r"id2label \(list\)"),
        ("model_index.json", {"id2label": dict.fromkeys("01234", 7)}, "no text"),
        ("vae/config.json", {"scaling_factor": "big"}, "needed a positive number"),
        ("vae/config.json", {"scaling_factor": -1}, "needed a positive number"),
        ("vae/config.json", {"shift_factor": 0.1}, "shift_factor is 0.1, needed none"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "scaled_linear"}, "beta_schedule"),
        ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}, "'epsilon'"),
    ],
)
def test_bad_pipeline_files_are_named(folder, file, values, message):
    change_json(pipeline_around(folder) / file, **values)
    with pytest.raises(ArtifactError, match=message):
        open_checkpoint(folder.parent)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"_class_name": "PixArtTransformer2DModel"}, "_class_name 'PixArt"),
        ({"_class_name": ...}, "_class_name None"),
        ({"norm_type": "layer_norm"}, "norm_type is 'layer_norm', needed 'ada_norm_zero'"),
        ({"activation_fn": ...}, "activation_fn is missing, needed 'gelu-approximate'"),
        ({"norm_elementwise_affine": True}, "norm_elementwise_affine is True, needed False"),
        ({"norm_eps": 0.1}, "norm_eps is 0.1, needed 1e-05 or 1e-06"),
        ({"attention_bias": False}, "attention_bias is False"),
        ({"qk_norm": "rms_norm"}, r"unknown options \['qk_norm'\]"),
        ({"num_layers": 3}, "hold 2 blocks, config.json says num_layers 3"),
        ({"num_layers": 1 << 20}, "hold 2 blocks"),
        ({"num_layers": "2"}, "num_layers is '2', needed an integer"),
        ({"num_embeds_ada_norm": None}, "num_embeds_ada_norm is None"),
        ({"sample_size": True}, "sample_size is True"),
        ({"sample_size": 9}, "not a multiple of patch_size 2"),
        ({"sample_size": 1 << 20}, "524288 patches a side, needed at most 256"),
        ({"out_channels": 5}, "out_channels is 5, needed 4 or 8"),
        ({"out_channels": 4}, r"proj_out_2.weight has shape \(32, 32\), needed \(16, 32\)"),
        ({"attention_head_dim": 8}, r"needed \(16, 4, 2, 2\)|has shape"),
    ],
)
def test_bad_configurations_are_named(folder, values, message):
    change_json(folder / "config.json", **values)
    with pytest.raises(ArtifactError, match=message):
        Checkpoint(folder)


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000, '{"a": 1' + " " * (5 << 20)])
def test_config_files_that_are_no_json_objects_are_refused(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"config\.json: "):
        Checkpoint(folder)


def _damaged(state: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    if kind == "missing":
        del state[QKV_PART]
    elif kind == "extra":
        state["transformer_blocks.0.norm3.weight"] = torch.ones(32)
    elif kind == "misshaped":
        state[QKV_PART] = state[QKV_PART][:-1].clone()
    elif kind == "integer":
        state[QKV_PART] = torch.zeros(32, 32, dtype=torch.int32)
    elif kind == "nan":
        state[QKV_PART][3, 4] = float("nan")
    elif kind == "copies":
        state[COPY][1, 2] += 1
    return state


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", rf"missing \['{QKV_PART}'\] \(1\)"),
        ("extra", r"unexpected \['transformer_blocks.0.norm3.weight'\] \(1\)"),
        ("misshaped", rf"{QKV_PART} has shape \(31, 32\), needed \(32, 32\)"),
        ("integer", rf"{QKV_PART} is torch.int32, needed floating point"),
        ("nan", r"blocks\.1\.attn\.qkv\.weight holds 1 NaN"),
        ("copies", rf"{COPY} differs from transformer_blocks.0.* in 1 of 1024 values"),
    ],
)
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_bad_tensors_are_named(folder, kind, message, suffix):
    state = _damaged(load_file(folder / SAFETENSORS), kind)
    (folder / SAFETENSORS).unlink()
    if suffix == "bin":
        torch.save(state, folder / BIN)
    else:
        save_file(state, folder / SAFETENSORS)
    with pytest.raises(ArtifactError, match=message):
        Checkpoint(folder).state_dict()


@pytest.mark.parametrize("keep", [0, 7, 100, 5000, -1])
@pytest.mark.parametrize("name", [SAFETENSORS, BIN])
def test_truncated_weights_are_refused(folder, name, keep):
    if name == BIN:
        torch.save(load_file(folder / SAFETENSORS), folder / BIN)
        (folder / SAFETENSORS).unlink()
    (folder / name).write_bytes((folder / name).read_bytes()[:keep])
    with pytest.raises(ArtifactError, match=rf"{name}: "):
        Checkpoint(folder)


def test_pickled_objects_are_never_run(folder, tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    (folder / SAFETENSORS).unlink()
    (folder / BIN).write_bytes(pickle.dumps({"pos_embed.proj.weight": Attack()}, protocol=2))
    with pytest.raises(ArtifactError, match="plain tensors"):
        Checkpoint(folder)
    torch.save({"pos_embed.proj.weight": torch.ones(1), "x": [1]}, folder / BIN)
    with pytest.raises(ArtifactError, match="are no tensors"):
        Checkpoint(folder)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({}, "no weight_map"),
        ({"a": "../" + SAFETENSORS}, "needed a file name of the same folder"),
        ({"a": "..\\" + SAFETENSORS}, "needed a file name of the same folder"),
        ({"a": 3}, "needed a file name of the same folder"),
        ({"a": BIN}, r"needed a name that ends in \.safetensors"),
        ({"a": "gone.safetensors"}, "gone.safetensors: no such file"),
        ({"a": "other.safetensors"}, r"are not those that .* lists"),
    ],
)
def test_bad_shard_indices_are_refused(folder, weight_map, message):
    (folder / SAFETENSORS).rename(folder / "other.safetensors")
    change_json(folder / f"{SAFETENSORS}.index.json", weight_map=weight_map)
    with pytest.raises(ArtifactError, match=message):
        Checkpoint(folder)


def test_folders_without_config_or_weights_are_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="without config.json"):
        open_weights(tmp_path / "empty")
    (folder / SAFETENSORS).rename(folder / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"found \['config.json', 'model.safetensors'\]"):
        open_weights(folder)


def test_options_are_checked_against_the_folder(saved):
    with pytest.raises(OptionError, match="has 2 heads, the option says 4"):
        open_checkpoint(saved, CheckpointOptions(num_heads=4))
    with pytest.raises(OptionError, match="is not DiT-S/2"):
        open_checkpoint(saved, CheckpointOptions(model="DiT-S/2"))
    assert open_checkpoint(saved, CheckpointOptions(num_heads=2)).config.num_heads == 2


def test_opening_reads_no_values(saved, monkeypatch):
    read = []
    monkeypatch.setattr(
        "vq4dit.calibrate.diffusers_folder.open_tensor_file",
        lambda path: _counted(open_tensor_file(path), read),
    )
    checkpoint = Checkpoint(saved)
    assert read == []
    checkpoint.tensor("blocks.1.attn.qkv.weight")
    assert len(read) == 3


def _counted(contents, read):
    """The same contents; each read appends to a list."""

    def counting(stored):
        return replace(stored, read=lambda: (read.append(stored.shape), stored.read())[1])

    return replace(contents, tensors={n: counting(s) for n, s in contents.tensors.items()})


def test_calibrates_from_a_pipeline(folder, tmp_path):
    calibrate(pipeline_around(folder), tmp_path / "x.vq.safetensors", recipe="kmeans")
    artifact = open_weights(tmp_path / "x.vq.safetensors")
    assert artifact.info.source_sha256 == Checkpoint(folder.parent).sha256
    assert artifact.label_names[0] == "thing 0, item 0"
    assert artifact.latent_scaling_factor == 0.25
    assert artifact.quantized_layer("blocks.1.attn.qkv") is not None


def test_inspect_counts_the_folders_files(folder, capsys):
    pipeline = pipeline_around(folder)
    assert main(["inspect", str(pipeline), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "checkpoint"
    assert told["model"]["num_heads"] == 2
    assert told["file_bytes"] == sum(f.stat().st_size for f in pipeline.rglob("*.*"))
