"""What manifests say of plans."""

import json
from dataclasses import replace

import pytest
from tiny_engine import write_tiny_engine

from vq4dit.cli import main
from vq4dit.engines.manifest import MANIFEST_NAME, manifest_from_json, manifest_to_json
from vq4dit.errors import ArtifactError
from vq4dit.gpu_build import GpuBuild

pytestmark = pytest.mark.ort

BUILD = GpuBuild(
    version="10.16.2.10", compute_capabilities=("8.7",), gpu="Orin", cuda_version="13.2",
    driver_version="580.95", plugin="aot", version_compatible=False, batch_opt=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    plain = write_tiny_engine(tmp_path_factory.mktemp("engines") / "tiny")
    return replace(
        plain, target="tensorrt", form="plugin", compute_dtype="float16", batch_max=4,
        tensorrt=BUILD,
    )  # fmt: skip


def test_manifest_keeps_all_of_it(manifest):
    assert manifest_from_json(manifest_to_json(manifest)) == manifest
    assert MANIFEST_NAME == "manifest.json"


@pytest.mark.parametrize("version", ["10.3.0", "10.7.0.post1", "10.0.0b6", "11.4.0.106"])
def test_versions_as_bindings_tell_them(manifest, version):
    other = replace(manifest, tensorrt=replace(manifest.tensorrt, version=version))
    assert manifest_from_json(manifest_to_json(other)) == other


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", "new", "tensorrt.version is 'new'"),
        ("compute_capabilities", [], r"is \[\], needed a list such as"),
        ("version", "10.7.0/../..", "tensorrt.version is '10.7.0/"),
        ("compute_capabilities", ["sm_87"], r"is \['sm_87'\]"),
        ("compute_capabilities", ["8.7.0"], r"is \['8.7.0'\]"),
        ("plugin", "other", "plugin is 'other', needed one of none, aot, library"),
        ("version_compatible", 1, "version_compatible is 1, needed true or false"),
        ("batch_opt", 0, "batch_opt is 0"),
        ("more", 1, "unknown key 'more'"),
    ],
)
def test_bad_values_are_named(manifest, key, value, message):
    values = json.loads(manifest_to_json(manifest))
    values["tensorrt"][key] = value
    with pytest.raises(ArtifactError, match=message):
        manifest_from_json(json.dumps(values).encode())


def test_inspect_tells_what_the_manifest_says(tmp_path, manifest, capsys):
    directory = tmp_path / "tiny"
    write_tiny_engine(directory)
    bits = {name: 2.0 for name in manifest.model.block_linear_shapes()}
    bits["blocks.0.attn.proj"] = 16.0
    step = replace(manifest.files["step"], unpacked_bytes=12_345)
    changed = replace(manifest, bits_per_weight=bits, files={**manifest.files, "step": step})
    (directory / MANIFEST_NAME).write_bytes(manifest_to_json(changed))
    assert main(["inspect", str(directory)]) == 0
    out = capsys.readouterr().out
    assert "engine for tensorrt 10.16.2.10, compute capability 8.7 (Orin)" in out
    assert "4 of 5 block linears quantized" in out and "batch 1..4 (best at 2)" in out
    assert "packed plans in them of 12,345 bytes" in out
    assert main(["inspect", str(directory), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "engine" and len(found["layers"]) == 5
    assert 2 < found["bits_per_weight"] < 16


@pytest.mark.parametrize("target", ["tensorrt", "cpu"])
def test_plans_and_their_facts_belong_together(manifest, target):
    values = json.loads(manifest_to_json(manifest))
    values["target"] = target
    if target == "tensorrt":
        del values["tensorrt"]
    with pytest.raises(ArtifactError, match=f"target {target} (lacks|has) the key 'tensorrt'"):
        manifest_from_json(json.dumps(values).encode())


def test_decoded_linears_are_those_of_the_model(manifest):
    build = replace(BUILD, decoded_linears=("blocks.0.mlp.fc1",))
    changed = replace(manifest, tensorrt=build)
    assert manifest_from_json(manifest_to_json(changed)) == changed
    values = json.loads(manifest_to_json(changed))
    values["tensorrt"]["decoded_linears"] = ["blocks.7.mlp.fc1"]
    with pytest.raises(ArtifactError, match=r"decoded_linears names 'blocks\.7\.mlp\.fc1', which"):
        manifest_from_json(json.dumps(values).encode())
    del values["tensorrt"]["decoded_linears"]  # as older builds wrote it
    assert manifest_from_json(json.dumps(values).encode()) == manifest
