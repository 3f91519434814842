"""`vq4dit inspect`: artifact, checkpoint, engine, shapes; JSON keys and lines for people."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from support_export import TINY, decoded, random_source

from vq4dit.calibrate.artifact import ArtifactInfo, save_artifact
from vq4dit.cli import main
from vq4dit.engines.build import build_engine

SOURCE = random_source(TINY, row_groups=3, dense=("1.mlp.fc2",))
LAYER_KEYS = {
    "name", "shape", "bits", "bytes", "codebook_size", "sub_vector_len", "row_groups",
    "group_order",
}  # fmt: skip


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "tiny.vq.safetensors"
    info = ArtifactInfo(
        config=TINY,
        layouts={name: layer.layout for name, layer in SOURCE.layers.items()},
        source_sha256="0" * 64,
        calibration={"method": "none"},
    )
    save_artifact(path, info, SOURCE.layers, SOURCE.tensors)
    return path


def inspect_json(capsys, *arguments):
    assert main(["inspect", "--json", *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


def test_artifact(artifact, capsys):
    values = inspect_json(capsys, artifact)
    assert values["kind"] == "artifact"
    assert values["unquantized_layers"] == ["blocks.1.mlp.fc2"]
    assert set(values["layers"][0]) >= LAYER_KEYS
    assert len(values["layers"]) == 5 * TINY.depth
    assert 0 < values["file_bytes"] - values["total_bytes"] < 10_000  # the header
    quantized = [layer for layer in values["layers"] if layer["codebook_size"]]
    assert {len(layer["sha256"]) for layer in quantized} == {64}
    assert values["calibration"] == {"method": "none"}


def test_artifact_for_people_fits_a_terminal(artifact, capsys):
    assert main(["inspect", str(artifact)]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert "artifact: 9 of 10 block linears quantized" in out
    assert "not quantized: blocks.1.mlp.fc2" in out
    assert "assignments + " in out


def test_engine_has_the_hashes_of_its_artifact(artifact, tmp_path, capsys):
    build_engine(SOURCE, tmp_path / "engine", target="onnx")
    of_engine = inspect_json(capsys, tmp_path / "engine")
    of_artifact = inspect_json(capsys, artifact)
    assert of_engine["kind"] == "engine"
    hashes = [[layer["sha256"] for layer in v["layers"]] for v in (of_engine, of_artifact)]
    assert hashes[0] == hashes[1]
    assert of_engine["num_codebook_nodes"] == 2 + 3 + 4


def test_damaged_engine_is_refused(tmp_path, capsys):
    build_engine(SOURCE, tmp_path / "engine", target="onnx")
    path = tmp_path / "engine" / "step.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert main(["inspect", str(tmp_path / "engine")]) == 1
    assert "SHA-256" in capsys.readouterr().err


@pytest.mark.parametrize(("dtype", "bits"), [(np.float16, 16), (np.float32, 32)])
def test_checkpoint_is_counted_as_it_is_stored(tmp_path, capsys, dtype, bits):
    path = tmp_path / "tiny.safetensors"
    tensors = {name: value.astype(dtype) for name, value in decoded(SOURCE).tensors.items()}
    save_file(tensors, path)
    values = inspect_json(capsys, path, "--num-heads", "2")
    assert values["kind"] == "checkpoint"
    assert values["bits_per_weight"] == bits
    assert values["total_bytes"] == sum(value.nbytes for value in tensors.values())
    assert len(values["unquantized_layers"]) == 10


def test_shapes_give_the_papers_number(capsys):
    values = inspect_json(capsys, "--shapes", "DiT-XL/2", "--bits", "2")
    assert values["kind"] == "shapes"
    assert round(values["paper_accounting_mib"], 2) == 162.08
    assert set(values["layers"][0]) >= LAYER_KEYS
    one_codebook = inspect_json(capsys, "--shapes", "DiT-XL/2", "--qkv-row-groups", "1")
    assert round(one_codebook["paper_accounting_mib"], 2) == 161.86


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "name either a PATH or --shapes"),
        (["x", "--shapes", "DiT-XL/2"], 2, "name either a PATH or --shapes"),
        (["--shapes", "DiT-Q/2"], 2, "is unknown; known are DiT-S/2"),
        (["--shapes", "DiT-XL/2", "--bits", "7"], 2, "bits is 7, needed one of"),
        (["absent.safetensors"], 1, "no such file"),
    ],
)
def test_refusals(arguments, code, message, capsys):
    assert main(["inspect", *arguments]) == code
    assert message in capsys.readouterr().err
