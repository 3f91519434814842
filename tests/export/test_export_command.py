"""`vq4dit export`: its files, its JSON object, and errors of one line."""

import json

import pytest
from diffusers import AutoencoderKL
from safetensors.numpy import save_file
from support_export import TINY, decoded, random_source

from vq4dit.cli import main
from vq4dit.export.check import check_model


@pytest.fixture
def checkpoint(tmp_path):
    """A full-precision checkpoint; heads of 32 are told by the metadata."""
    path = tmp_path / "dit.safetensors"
    metadata = {"config": json.dumps(TINY.to_dict())}
    save_file(dict(decoded(random_source()).tensors), path, metadata=metadata)
    return path


@pytest.fixture
def vae(tmp_path):
    AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).save_pretrained(tmp_path / "vae")  # fmt: skip
    return tmp_path / "vae"


def test_step_and_decoder(checkpoint, vae, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["export", str(checkpoint), "-o", str(out), "--vae", str(vae), "--json"]
    assert main([*arguments, "--cfg-channels", "all"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["form"] == "function"
    assert result["cfg_channels"] == 4
    assert result["image_shape"] == [3, 16, 16]
    names = ["decoder.onnx", "decoder.onnx.data", "step.onnx", "step.onnx.data"]
    assert sorted(path.name for path in out.iterdir()) == names == list(result["files"])
    for name in ("decoder.onnx", "step.onnx"):
        assert check_model(out / name).graph.node


def exit_code(arguments):
    """What the shell would see: argparse ends the program for options that it cannot parse."""
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize(
    "options, message, code",
    [
        (["--cfg-channels", "0"], "'0', needed a number from 1, or all", 2),
        (["--cfg-channels", "some"], "'some', needed a number from 1, or all", 2),
        (["--vae", "no-such-folder"], "no-such-folder: no such file", 1),
    ],
)
def test_bad_options_leave_nothing(checkpoint, tmp_path, capsys, options, message, code):
    assert exit_code(["export", str(checkpoint), "-o", str(tmp_path / "out"), *options]) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dit.safetensors"]


def test_a_vae_of_another_model(checkpoint, vae, tmp_path, capsys):
    config = json.loads((vae / "config.json").read_text())
    (vae / "config.json").write_text(json.dumps({**config, "latent_channels": 16}))
    assert main(["export", str(checkpoint), "-o", str(tmp_path / "out"), "--vae", str(vae)]) == 1
    assert "16 latent channels, the model 4" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_directory_in_use_is_left_alone(checkpoint, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "note").write_text("mine")
    assert main(["export", str(checkpoint), "-o", str(tmp_path / "out")]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert (tmp_path / "out" / "note").read_text() == "mine"
