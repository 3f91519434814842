"""The manifest: round trip, and every kind of damage named."""

import json

import pytest
from tiny_engine import write_tiny_engine

from vq4dit.engines.manifest import (
    MANIFEST_NAME,
    load_manifest,
    manifest_from_json,
    manifest_to_json,
    verify_files,
)
from vq4dit.errors import ArtifactError

pytestmark = pytest.mark.ort


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    directory = tmp_path_factory.mktemp("engines") / "tiny"
    return directory, write_tiny_engine(directory)


def test_round_trip_and_stable_bytes(engine):
    directory, manifest = engine
    data = (directory / MANIFEST_NAME).read_bytes()
    assert load_manifest(directory) == manifest
    assert manifest_to_json(manifest_from_json(data)) == data
    verify_files(directory, manifest)


def _changed(data, path, value):
    """The JSON with the value at a dotted path replaced; `...` removes it."""
    values = json.loads(data)
    *parents, last = path.split(".")
    place = values
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(values).encode()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format_version", 2, "format_version is 2, this program reads 1"),
        ("format_version", True, "needed an integer"),
        ("target", 3, "manifest.target is 3, needed a string"),
        ("form", "binary", "form is 'binary', needed one of function"),
        ("form", ["function"], "needed one of function"),
        ("model", [], "model is \\[\\], needed an object"),
        ("model.depth", 0, "depth is 0"),
        ("model.depth", "8", "depth is '8'"),
        ("model.color", 1, "unknown keys"),
        ("model.num_heads", ..., "num_heads"),
        ("label_names", ["a", 1], "label_names is .* needed a list of strings"),
        ("label_names", ["a"], "label_names has 1 names, the model has 10 classes"),
        ("schedule.kind", "cosine", "needed one of linear"),
        ("schedule.beta_start", -1, "beta_start is -1"),
        ("schedule.beta_end", "0.02", "needed a number"),
        ("schedule.extra", 1, "schedule has the unknown key 'extra'"),
        ("latent_shape", [4, 8], "latent_shape is .* needed three positive integers"),
        ("latent_shape", [4, 8, 16], r"latent_shape is \(4, 8, 16\), the model needs"),
        ("image_shape", [1, 16, 10**9], "image_shape"),
        ("batch.min", 0, "batch.min is 0"),
        ("batch.max", 0, "batch.max is 0"),
        ("batch", {"min": 4, "max": 2}, "below batch.min"),
        ("dtypes.compute", "float64", "needed one of float32"),
        ("cfg", 1, "cfg is 1, needed true or false"),
        ("cfg_channels", 5, r"needed an integer in 0\.\.4"),
        ("latent_scaling_factor", 0, "latent_scaling_factor is 0"),
        pytest.param("latent_scaling_factor", 10**400, "needed a number in", id="huge"),
        ("files", {}, "files lacks the role 'step'"),
        ("files.other", {}, "unknown role 'other'"),
        ("files.step.name", "../step.onnx", "files.step.name is '../step.onnx'"),
        ("files.step.name", "/etc/passwd", "files.step.name"),
        ("files.step.name", "..", "files.step.name"),
        ("files.step.name", "a\\b", "files.step.name"),
        ("files.step.name", "step.onnx\n", "files.step.name"),
        ("files.step.name", "decoder.onnx", "names one file twice"),
        ("files.step.name", "manifest.json", "files names manifest.json itself"),
        ("files.step.unpacked_bytes", -1, "unpacked_bytes is -1"),
        ("files.step.unpacked_bytes", 1 << 40, "unpacked_bytes is .*, needed at most 64 times its"),
        ("files.step.sha256", "0" * 63, "files.step.sha256"),
        ("files.step.bytes", -1, "files.step.bytes is -1"),
        ("files.step.bytes", ..., "files.step lacks the key 'bytes'"),
        ("bits_per_weight", {"blocks.7.attn.qkv": 2.0}, "which the model does not have"),
        ("bits_per_weight", {"blocks.0.attn.qkv": None}, "needed a number"),
        ("source_sha256", None, "source_sha256 is None"),
        ("tool_versions", {"onnx": 1}, "needed a string"),
        ("surprise", 1, "unknown key 'surprise'"),
        ("cfg", ..., "lacks the key 'cfg'"),
    ],
)
def test_damage_is_named(engine, path, value, message):
    data = (engine[0] / MANIFEST_NAME).read_bytes()
    with pytest.raises(ArtifactError, match=message):
        manifest_from_json(_changed(data, path, value))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[1, 2]", "needed an object"),
        (b"[" * 100_000, "not JSON"),
        (b'{"format_version": NaN}', "NaN is not a JSON number"),
        (b'{"format_version": 1', "not JSON"),
    ],
)
def test_foreign_bytes_are_refused(data, message):
    with pytest.raises(ArtifactError, match=message):
        manifest_from_json(data)


def test_every_truncation_is_refused(engine):
    data = (engine[0] / MANIFEST_NAME).read_bytes().rstrip()
    for length in range(0, len(data), 97):
        with pytest.raises(ArtifactError):
            manifest_from_json(data[:length])


def test_error_names_the_file_and_the_way_out(tmp_path):
    (tmp_path / MANIFEST_NAME).write_text("{}")
    with pytest.raises(ArtifactError, match="manifest.json: manifest lacks .*; build the engine"):
        load_manifest(tmp_path)
    with (tmp_path / MANIFEST_NAME).open("wb") as stream:
        stream.truncate(17 << 20)
    with pytest.raises(ArtifactError, match="needed at most"):
        load_manifest(tmp_path)
