"""The decoder's graph against diffusers on random weights, and what it refuses."""

import json

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file
from support_export import relative_error, run_model
from support_vae import WEIGHTS, decode, make_vae, random_latent
from tolerances import FP32_RELATIVE

from vq4dit.errors import ArtifactError
from vq4dit.export.check import check_model
from vq4dit.export.decoder import build_decoder_model


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    save_file(change(tensors), folder / WEIGHTS)


@pytest.mark.ort
@pytest.mark.parametrize(
    "widths, size, options",
    [
        ((8, 16), 5, {}),
        ((8, 12, 16), 4, {"mid_block_add_attention": False, "out_channels": 1}),
        ((8,), 3, {"layers_per_block": 2, "norm_num_groups": 8}),
        ((8, 8), 4, {"use_post_quant_conv": False, "use_quant_conv": False, "latent_channels": 16}),
        ((8, 16), 4, {"shift_factor": 0.1159, "scaling_factor": 0.3611}),
        # The sizes of the public sd-vae-ft decoders.
        ((128, 256, 512, 512), 3, {"layers_per_block": 2, "norm_num_groups": 32}),
    ],
    ids=str,
)
def test_equals_diffusers(tmp_path, widths, size, options):
    vae = make_vae(tmp_path / "vae", widths, **options)
    decoder = build_decoder_model(tmp_path / "vae", tmp_path / "out", latent_size=size)
    check_model(decoder.path)
    latent = random_latent(vae, size)
    wanted = decode(vae, latent)
    assert decoder.image_shape == wanted.shape[1:]
    assert relative_error(run_model(decoder.path, {"latent": latent})[0], wanted) < FP32_RELATIVE
    single = run_model(decoder.path, {"latent": latent[:1]})[0]
    assert relative_error(single, wanted[:1]) < FP32_RELATIVE


@pytest.mark.ort
def test_a_given_scaling_factor_counts(tmp_path):
    vae = make_vae(tmp_path)
    decoder = build_decoder_model(tmp_path, tmp_path / "out", latent_size=4, scaling_factor=2.0)
    latent = random_latent(vae, 4)
    wanted = decode(vae, latent * np.float32(vae.config.scaling_factor / 2))
    assert relative_error(run_model(decoder.path, {"latent": latent})[0], wanted) < FP32_RELATIVE


@pytest.mark.ort
@pytest.mark.parametrize("as_convolution", [False, True])
def test_old_attention_names(tmp_path, as_convolution):
    """Folders written before diffusers 0.18 name the attention's linears otherwise."""
    vae = make_vae(tmp_path)
    latent = random_latent(vae, 4)
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors):
        renamed = {}
        for name, value in tensors.items():
            for today, old in new.items():
                if f".{today}." in name:
                    name = name.replace(today, old)
                    if as_convolution and value.ndim == 2:
                        value = value[:, :, None, None]
            renamed[name] = value
        return renamed

    edit_weights(tmp_path, rename)
    decoder = build_decoder_model(tmp_path, tmp_path / "out", latent_size=4)
    found = run_model(decoder.path, {"latent": latent})[0]
    assert relative_error(found, decode(vae, latent)) < FP32_RELATIVE


@pytest.mark.ort
def test_half_precision_weights(tmp_path):
    vae = make_vae(tmp_path)
    edit_weights(tmp_path, lambda tensors: {k: v.astype(np.float16) for k, v in tensors.items()})
    latent = random_latent(vae, 4)
    wanted = decode(vae.half().float(), latent)
    decoder = build_decoder_model(tmp_path, tmp_path / "out", latent_size=4)
    assert relative_error(run_model(decoder.path, {"latent": latent})[0], wanted) < FP32_RELATIVE


def test_the_bytes_are_the_same_each_time(tmp_path):
    make_vae(tmp_path / "vae")
    contents = []
    for name in "ab":
        decoder = build_decoder_model(tmp_path / "vae", tmp_path / name, latent_size=4)
        contents.append((decoder.path.read_bytes(), decoder.data_path.read_bytes()))
    assert contents[0] == contents[1]
    model = onnx.load(str(decoder.path), load_external_data=False)
    assert str(tmp_path).encode() not in contents[0][0]
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


@pytest.mark.parametrize(
    "changes, found",
    [
        ({"up_block_types": ["AttnUpDecoderBlock2D"] * 2}, "up_block_types"),
        ({"_class_name": "AutoencoderDC"}, "AutoencoderDC"),
        ({"act_fn": "relu"}, "act_fn is 'relu'"),
        ({"latents_mean": [0.0]}, "latents_mean"),
        ({"block_out_channels": 8}, "block_out_channels"),
        ({"block_out_channels": [8, 15]}, "multiples of norm_num_groups"),
        ({"block_out_channels": [8, 20]}, "has shape"),
        ({"layers_per_block": 2}, "is missing"),
        ({"layers_per_block": -1}, "layers_per_block is -1"),
        ({"scaling_factor": 0}, "scaling_factor is 0"),
        ({"scaling_factor": float("nan")}, "scaling_factor is nan"),
        ({"shift_factor": "x"}, "shift_factor is 'x'"),
    ],
)
def test_a_configuration_that_does_not_fit(tmp_path, changes, found):
    make_vae(tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(ArtifactError, match=found):
        build_decoder_model(tmp_path, tmp_path / "out", latent_size=4)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def with_nan(tensors):
    tensors["decoder.conv_in.bias"][0] = np.nan
    return tensors


def without_a_tensor(tensors):
    return {k: v for k, v in tensors.items() if k != "decoder.conv_out.weight"}


def as_integers(tensors):
    return {**tensors, "decoder.conv_in.bias": np.zeros(16, np.int32)}


@pytest.mark.parametrize(
    "change, found",
    [
        (with_nan, "decoder.conv_in.bias has a value not finite"),
        (without_a_tensor, "decoder.conv_out.weight is missing"),
        (as_integers, "decoder.conv_in.bias has dtype int32"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, found):
    make_vae(tmp_path)
    edit_weights(tmp_path, change)
    with pytest.raises(ArtifactError, match=found):
        build_decoder_model(tmp_path, tmp_path / "out", latent_size=4)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff\xfe", b"{" * 100])
def test_damaged_files(tmp_path, name, content):
    make_vae(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=name):
        build_decoder_model(tmp_path, tmp_path / "out", latent_size=4)


def test_truncated_weights(tmp_path):
    make_vae(tmp_path)
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-10])
    with pytest.raises(ArtifactError, match=WEIGHTS):
        build_decoder_model(tmp_path, tmp_path / "out", latent_size=4)
