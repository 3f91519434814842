from __future__ import annotations

import json

import pytest
from support_calibrate import TINY, save_checkpoint

from vq4dit.calibrate.artifact import Artifact
from vq4dit.cli import main


@pytest.fixture
def checkpoint(tmp_path):
    return save_checkpoint(tmp_path / "dit.safetensors")


@pytest.mark.parametrize("method", ["kmeans", "vq4dit"])
def test_writes_an_artifact_and_tells_what_it_did(checkpoint, tmp_path, capsys, method):
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\nboot\n")
    output = tmp_path / "x.vq.safetensors"
    arguments = ["calibrate", str(checkpoint), "-o", str(output), "--method", method]
    arguments += ["--label-names", str(names), "--json", "--quiet", "--threads", "1"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["recipe"] == method
    assert result["total_bytes"] == output.stat().st_size
    assert set(result["weight_error"]) == set(TINY.block_linear_shapes())
    assert Artifact(output).label_names == ("cat", "dog", "boot")
    if method == "vq4dit":
        assert result["soft"][-1]["frozen_share"] > 0.9  # hardening went on, step by step
        assert result["distill"][-1] < result["distill"][0]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--model", "DiT-XL/2"], 2, "is not DiT-XL/2: hidden_size 32 (needed 1152)"),
        (["--model", "nonsense"], 2, "known are DiT-S/2"),
        (["--label-names", "no-such-file"], 1, "no-such-file"),
        (["--num-heads", "3"], 2, "has 2 heads, the option says 3"),
    ],
)
def test_bad_options(checkpoint, tmp_path, capsys, options, code, message):
    output = tmp_path / "x.vq.safetensors"
    assert main(["calibrate", str(checkpoint), "-o", str(output), *options]) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not output.exists()


def test_an_artifact_is_not_calibrated_again(checkpoint, tmp_path, capsys):
    output = str(tmp_path / "x.vq.safetensors")
    assert main(["calibrate", str(checkpoint), "-o", output, "--method", "kmeans", "--quiet"]) == 0
    assert main(["calibrate", output, "-o", output + "2"]) == 1
    assert "already quantized" in capsys.readouterr().err
