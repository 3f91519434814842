"""The commands build, verify, sample and doctor, through `vq4dit.cli.main`."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support_export import random_source
from tiny_engine import NAMES, write_tiny_engine

from vq4dit.calibrate.artifact import ArtifactInfo, save_artifact
from vq4dit.cli import main
from vq4dit.engine_files import hash_file
from vq4dit.engines.manifest import MANIFEST_NAME
from vq4dit.runtime.pipeline import Pipeline

pytestmark = pytest.mark.ort


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    directory = tmp_path_factory.mktemp("engines") / "tiny"
    write_tiny_engine(directory)
    return directory


@pytest.fixture
def weights(monkeypatch):
    """What `open_weights` gives: by the file's name, a quantized or a dense source."""
    dense = random_source(dense=[""])
    sources = {"x.vq.safetensors": random_source(), "dit.pt": dense}
    monkeypatch.setattr("vq4dit.calibrate.source.open_weights", lambda path: sources[path.name])


def run(capsys, *arguments):
    """Exit code, standard output and standard error of one command."""
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_build_verify_and_parity(tmp_path, capsys, weights):
    engine = tmp_path / "engine"
    code, out, _ = run(capsys, "build", "x.vq.safetensors", "-o", engine, "--target", "onnx",
                       "--json")  # fmt: skip
    built = json.loads(out)
    assert code == 0 and built["target"] == "onnx" and 2 < built["mean_bits_per_weight"] < 8
    assert built["total_bytes"] == sum(built["files"].values())
    code, out, _ = run(capsys, "verify", engine, "--against", "x.vq.safetensors", "--json")
    checks = json.loads(out)["checks"]
    assert code == 0 and [c["ok"] for c in checks] == [True] * 3
    code, out, err = run(capsys, "verify", engine, "--against", "dit.pt")
    assert code == 1 and "FAILED parity with dit.pt" in out and out.endswith("FAILED\n")


def test_build_of_an_artifact_needs_no_torch(tmp_path):
    """On a Jetson it would be gigabytes."""
    source = random_source()
    layouts = {name: layer.layout for name, layer in source.layers.items()}
    info = ArtifactInfo(config=source.config, layouts=layouts, source_sha256="0" * 64)
    save_artifact(tmp_path / "x.vq.safetensors", info, source.layers, source.tensors)
    program = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(('torch', 'diffusers', 'scipy', 'matplotlib'))\n"
        "from vq4dit.cli import main\n"
        "sys.exit(main(['build', sys.argv[1], '--target', 'cpu', '-o', sys.argv[2]])\n"
        "         or main(['verify', sys.argv[2]]))\n"
    )
    command = [sys.executable, "-c", program, tmp_path / "x.vq.safetensors", tmp_path / "engine"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "self-test, fast" in done.stdout


def test_build_of_a_checkpoint_needs_weights_and_an_artifact_none(tmp_path, capsys, weights):
    out_dir = tmp_path / "engine"
    code, _, err = run(capsys, "build", "dit.pt", "-o", out_dir)
    assert code in (1, 2) and "calibrate it first" in err and "--weights fp32" in err
    code, _, err = run(capsys, "build", "x.vq.safetensors", "-o", out_dir, "--weights", "fp32")
    assert code in (1, 2) and "does not apply; leave it out" in err
    assert list(tmp_path.iterdir()) == []
    names = tmp_path / "names.txt"
    names.write_text("\n".join(NAMES[:5]))
    code, out, _ = run(
        capsys, "build", "dit.pt", "-o", out_dir, "--weights", "fp32", "--no-cfg", "--target",
        "onnx", "--label-names", names,
    )  # fmt: skip
    assert code == 0 and "32.000 bits per weight" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "gpu"], "target 'gpu' is unknown"),
        (["--target", "tensorrt"], "target 'tensorrt' is not available"),
        (["--cfg-channels", "0"], "argument --cfg-channels: '0'"),
        (["--cfg-channels", "some"], "needed a number from 1, or all"),
        (["--label-names", "no-such-file"], "no-such-file"),
    ],
)
def test_build_refuses_bad_options(tmp_path, capsys, weights, arguments, message):
    code, _, err = run(capsys, "build", "x.vq.safetensors", "-o", tmp_path / "e", *arguments)
    assert code != 0 and message in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_verify_finds_a_flipped_bit(tmp_path, capsys):
    write_tiny_engine(tmp_path / "tiny")
    path = tmp_path / "tiny" / "step.onnx"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    code, _, err = run(capsys, "verify", tmp_path / "tiny")
    assert code == 1 and "step.onnx: has SHA-256" in err


def test_sample_writes_a_grid_that_tells_how(tmp_path, capsys, tiny):
    path = tmp_path / "out.png"
    code, out, err = run(capsys, "sample", tiny, "-o", path, "--labels", "1,class 2", "--num", 3,
                         "--steps", 2, "--seed", 5, "--columns", 3, "--spacing", "leading",
                         "--json")  # fmt: skip
    result = json.loads(out)
    assert code == 0 and result["num_images"] == 3 and result["files"] == [str(path)]
    assert "sampling: 100%" in err
    with Pipeline(tiny, threads=1) as pipeline:
        expected = pipeline([1, 2, 1], steps=2, seed=5, spacing="leading")
    with Image.open(path) as image:
        pixels, text = np.asarray(image), image.text
    assert pixels.shape == (16, 3 * 18 - 2)
    assert all(np.array_equal(pixels[:, 18 * i : 18 * i + 16], expected[i, ..., 0]) for i in (0, 2))
    assert (text["seed"], text["steps"], text["cfg_scale"]) == ("5", "2", "4")
    assert (text["labels"], text["samples"]) == ("1,2,1", "0-2")
    assert text["engine_sha256"] == hash_file(tiny / MANIFEST_NAME)


def test_sample_separate_files(tmp_path, capsys, tiny):
    code, out, err = run(capsys, "sample", tiny, "-o", tmp_path / "a.png", "--labels", "0,3",
                         "--steps", 1, "--separate", "--quiet")  # fmt: skip
    assert (code, out, err) == (0, "", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-0000.png", "a-0001.png"]
    with Image.open(tmp_path / "a-0001.png") as image:
        assert (image.text["labels"], image.text["samples"]) == ("3", "1")
        assert image.size == (16, 16)


def test_sample_draws_one_picture_again(tmp_path, capsys, tiny):
    common = ["--steps", 3, "--seed", 5, "--sampler", "ddpm", "--quiet"]
    run(capsys, "sample", tiny, "-o", tmp_path / "a.png", "--labels", "0,3,4", "--separate",
        *common)  # fmt: skip
    with Image.open(tmp_path / "a-0002.png") as image:
        wanted, text = np.asarray(image), image.text
    code, _, _ = run(capsys, "sample", tiny, "-o", tmp_path / "b.png", "--labels", text["labels"],
                     "--first-sample", text["samples"], *common)  # fmt: skip
    with Image.open(tmp_path / "b.png") as image:
        assert code == 0 and np.array_equal(np.asarray(image), wanted) and image.text == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "10"], "label 10 is out of range 0..9"),
        (["--labels", "cat"], "label 'cat' is unknown"),
        (["--labels", "1,,2"], "separated by commas"),
        (["--labels", "1", "--steps", "0"], "steps is 0"),
        (["--labels", "1", "--sampler", "magic"], "sampler 'magic' is unknown"),
        (["--labels", "1", "--columns", "0"], "--columns is 0"),
        (["--labels", "1", "-o", "no/such/folder/a.png"], "make it first"),
        (["--labels", "1", "-o", "picture.jpg"], "ends in .png"),
    ],
)
def test_sample_refuses_bad_options(tmp_path, capsys, tiny, arguments, message):
    code, _, err = run(capsys, "sample", tiny, "-o", tmp_path / "a.png", *arguments)
    assert code in (1, 2) and message in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_doctor(capsys):
    code, out, _ = run(capsys, "doctor")
    assert code == 0 and "target cpu" in out and "native kernels" in out
    code, out, _ = run(capsys, "doctor", "--json")
    found = json.loads(out)
    assert code == 0 and found["targets"]["cpu"]["works"]
    tensorrt = found["targets"]["tensorrt"]
    assert tensorrt["builds"] is (tensorrt["why_not_built"] is None)
    assert set(found["missing"]) >= {name for name, v in found["modules"].items() if v is None}
