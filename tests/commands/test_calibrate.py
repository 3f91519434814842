from __future__ import annotations

import json

import pytest
from PIL import Image
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


def test_kmeans_is_a_recipe_too(checkpoint, tmp_path):
    outputs = [tmp_path / f"{i}.vq.safetensors" for i in range(2)]
    for output, option in zip(outputs, ("--method", "--recipe"), strict=True):
        assert (
            main(["calibrate", str(checkpoint), "-o", str(output), option, "kmeans", "--quiet"])
            == 0
        )
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


@pytest.mark.parametrize("method", ["kmeans", "vq4dit"])
def test_ends_with_a_table_and_the_reports_files(checkpoint, tmp_path, capsys, method):
    output, report = tmp_path / "x.vq.safetensors", tmp_path / "report.png"
    arguments = ["calibrate", str(checkpoint), "-o", str(output), "--method", method]
    assert main([*arguments, "--report", str(report), "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80
    kinds = [line.split()[0] for line in lines[2:8]]
    assert kinds == ["adaLN", "qkv", "proj", "fc1", "fc2", "all"]
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert lines[7].split()[1] == str(len(numbers["weight_error"]))
    assert lines[7].split()[-1] == f"{sum(numbers['layer_bytes'].values()):,}"
    assert any(line.startswith("distillation: relative") for line in lines) == (method != "kmeans")
    assert any(line.startswith("peak memory") for line in lines)
    assert lines[-2:] == [str(report), str(tmp_path / "report.json")]
    with Image.open(report) as picture:
        assert picture.width > 500


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--method", "kmeans", "--recipe", "paper"], 2, "does not go with --recipe paper"),
        (["--method", "vq4dit", "--recipe", "kmeans"], 2, "does not go with --recipe kmeans"),
        (["--model", "DiT-XL/2"], 2, "is not DiT-XL/2: hidden_size 32 (needed 1152)"),
        (["--model", "nonsense"], 2, "known are DiT-S/2"),
        (["--label-names", "no-such-file"], 1, "no-such-file"),
        (["--num-heads", "3"], 2, "has 2 heads, the option says 3"),
        (["--report", "report.pdf"], 2, "name it FILE.png"),
        (["--report", "no/such/report.png"], 2, "the folder no/such does not exist"),
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
