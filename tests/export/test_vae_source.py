"""AutoencoderTiny, and single files in every layout: the pictures of diffusers' own decoder."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from support_export import relative_error, run_model
from support_vae import WEIGHTS, decode, make_tiny_vae, make_vae, random_latent
from tolerances import FP16_BODY_RELATIVE, FP32_RELATIVE

from vq4dit.errors import ArtifactError
from vq4dit.export.check import check_model
from vq4dit.export.decoder import build_decoder_model
from vq4dit.export.vae_source import VaeSource

pytestmark = pytest.mark.ort

#: Single files say nothing of the number of groups: 32 as in Stable Diffusion's VAE.
SD_LIKE = {"widths": (32, 64, 64), "norm_num_groups": 32, "layers_per_block": 2}


def exported(vae_path, tmp_path, latent, **options):
    decoder = build_decoder_model(
        vae_path, tmp_path / "out", latent_size=latent.shape[-1], **options
    )
    check_model(decoder.path)
    return decoder, run_model(decoder.path, {"latent": latent})[0]


def latent_diffusion_name(name, last):
    """diffusers' name in the layout of the original Stable Diffusion VAE, written independently."""
    name = name.replace("mid_block.resnets.0", "mid.block_1")
    name = name.replace("mid_block.resnets.1", "mid.block_2")
    name = name.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
    for part, letter in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        name = name.replace(f"mid_block.attentions.0.{part}", f"mid.attn_1.{letter}")
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    name = name.replace(".upsamplers.0.conv", ".upsample.conv").replace(".resnets.", ".block.")
    return re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{last - int(m[1])}", name)


def decoder_tensors(folder):
    tensors = load_file(folder / WEIGHTS)
    return {n: t for n, t in tensors.items() if n.startswith(("decoder.", "post_quant_conv."))}


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, 5),
        ({"num_blocks": (1, 2), "widths": (4, 4), "out_channels": 1}, 4),
        ({"widths": (64,) * 4, "num_blocks": (3, 3, 3, 1)}, 3),  # TAESD's sizes
        ({"scaling_factor": 0.5, "shift_factor": 0.25}, 4),
        ({"upsampling_scaling_factor": 3, "latent_channels": 16}, 3),
    ],
    ids=str,
)
def test_tiny_equals_diffusers(tmp_path, options, size):
    vae = make_tiny_vae(tmp_path / "vae", **options)
    latent = 4 * random_latent(vae, size)  # so that its clamp has work to do
    wanted = decode(vae, latent)
    decoder, found = exported(tmp_path / "vae", tmp_path, latent)
    assert decoder.image_shape == wanted.shape[1:]
    assert relative_error(found, wanted) < FP32_RELATIVE


def test_tiny_takes_the_samplers_latents(tmp_path):
    """Whatever the weights' own factor is: TAESD was trained on scaled latents."""
    vae = make_tiny_vae(tmp_path / "vae")
    latent = random_latent(vae, 4)
    _, found = exported(tmp_path / "vae", tmp_path, latent, scaling_factor=0.18215)
    assert relative_error(found, decode(vae, latent)) < FP32_RELATIVE


def test_tiny_in_half_precision(tmp_path):
    vae = make_tiny_vae(tmp_path / "vae")
    latent = random_latent(vae, 4)
    _, found = exported(tmp_path / "vae", tmp_path, latent, weights="fp16")
    error = relative_error(found, decode(vae, latent))
    assert 0 < error < FP16_BODY_RELATIVE


def test_taesd_file_with_numbered_layers(tmp_path):
    vae = make_tiny_vae(tmp_path / "vae", num_blocks=(2, 1, 1))
    numbered = {
        re.sub(r"^decoder\.layers\.(\d+)", lambda m: str(int(m[1]) + 1), name): tensor
        for name, tensor in load_file(tmp_path / "vae" / WEIGHTS).items()
        if name.startswith("decoder.")
    }
    save_file(numbered, tmp_path / "taesd_decoder.safetensors")
    assert "3.conv.0.weight" in numbered
    latent = random_latent(vae, 4)
    _, found = exported(tmp_path / "taesd_decoder.safetensors", tmp_path, latent)
    assert relative_error(found, decode(vae, latent)) < FP32_RELATIVE


@pytest.mark.parametrize("kind", ["kl", "tiny"])
def test_diffusers_tensors_in_one_file(tmp_path, kind):
    make = make_vae if kind == "kl" else make_tiny_vae
    vae = make(tmp_path / "vae", **(SD_LIKE if kind == "kl" else {}))
    save_file(decoder_tensors(tmp_path / "vae"), tmp_path / "alone.safetensors")
    latent = random_latent(vae, 3)
    _, found = exported(tmp_path / "alone.safetensors", tmp_path, latent)
    assert relative_error(found, decode(vae, latent)) < FP32_RELATIVE
    with VaeSource(tmp_path / "vae") as folder, VaeSource(tmp_path / "alone.safetensors") as file:
        assert file.config == folder.config


def test_the_weights_of_a_folder_find_its_configuration(tmp_path):
    vae = make_vae(tmp_path / "vae", scaling_factor=0.5)  # 4 groups: no single file tells that
    latent = random_latent(vae, 4)
    _, found = exported(tmp_path / "vae" / WEIGHTS, tmp_path, latent)
    assert relative_error(found, decode(vae, latent)) < FP32_RELATIVE


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_latent_diffusion_layout(tmp_path, prefix):
    vae = make_vae(tmp_path / "vae", **SD_LIKE)
    renamed = {}
    for name, tensor in decoder_tensors(tmp_path / "vae").items():
        if "attentions" in name and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        renamed[prefix + latent_diffusion_name(name, last=2)] = tensor
    if prefix:
        renamed["model.diffusion_model.out.weight"] = np.zeros(3, np.float32)
    save_file(renamed, tmp_path / "sd.safetensors")
    assert f"{prefix}decoder.up.2.block.0.conv1.weight" in renamed
    latent = random_latent(vae, 3)
    _, found = exported(tmp_path / "sd.safetensors", tmp_path, latent)
    assert relative_error(found, decode(vae, latent)) < FP32_RELATIVE


def test_a_whole_stable_diffusion_vae_is_recognised_by_diffusers_too(tmp_path):
    """diffusers' own reader of single files gives the same decoder from the same file."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    vae = make_vae(tmp_path / "vae", **SD_LIKE)
    stored = {
        latent_diffusion_name(name, last=2): torch.from_numpy(tensor)
        for name, tensor in decoder_tensors(tmp_path / "vae").items()
        if "attentions" not in name
    }
    converted = convert_ldm_vae_checkpoint(dict(stored), dict(vae.config))
    ours = {n for n in decoder_tensors(tmp_path / "vae") if "attentions" not in n}
    assert {n for n in converted if n.startswith(("decoder.", "post_quant_conv."))} == ours


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"act_fn": "silu"}, "act_fn is 'silu', needed 'relu'"),
        ({"upsample_fn": "bilinear"}, "upsample_fn is 'bilinear'"),
        ({"num_decoder_blocks": [1]}, "needed lists of one length"),
        ({"decoder_block_out_channels": [8, 8, 4]}, "and one width"),
        ({"num_decoder_blocks": [2, 1, 2]}, "has shape|is missing"),
        ({"_class_name": "AutoencoderDC"}, "needed 'AutoencoderKL' or 'AutoencoderTiny'"),
    ],
)
def test_a_tiny_configuration_that_does_not_fit(tmp_path, changes, found):
    make_tiny_vae(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ArtifactError, match=found):
        build_decoder_model(tmp_path, tmp_path / "out", latent_size=4)
    assert not list((tmp_path / "out").glob("*"))


def _without(name):
    return lambda tensors: {n: t for n, t in tensors.items() if n != name}


@pytest.mark.parametrize(
    ("options", "change", "found"),
    [
        (SD_LIKE, _without("decoder.conv_out.weight"), "conv_out.weight is missing"),
        ({"widths": (8, 16)}, dict, "not multiples of 32.*config.json"),
        ({**SD_LIKE, "latent_channels": 16}, dict, "16 channels.*config.json"),
        (SD_LIKE, lambda t: {"a": np.zeros(3, np.float32)}, "not a VAE"),
        (SD_LIKE, _without("decoder.mid_block.resnets.0.conv1.bias"), "conv1.bias is missing"),
        (
            SD_LIKE,
            _without("decoder.up_blocks.1.resnets.0.conv1.weight"),
            r"up_blocks.1.resnets.0.conv1.weight is missing",
        ),
    ],
)
def test_files_that_do_not_tell_enough(tmp_path, options, change, found):
    make_vae(tmp_path / "vae", **options)
    save_file(change(decoder_tensors(tmp_path / "vae")), tmp_path / "a.safetensors")
    with pytest.raises(ArtifactError, match=found):
        build_decoder_model(tmp_path / "a.safetensors", tmp_path / "out", latent_size=4)


def test_numbered_layers_of_something_else(tmp_path):
    tensors = {"decoder.layers.5.bias": np.zeros(3, np.float32)}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ArtifactError, match="are not AutoencoderTiny's"):
        VaeSource(tmp_path / "a.safetensors")
