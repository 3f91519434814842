"""Engines from random weights through the real export: self-test, parity, sampling, cleaning up."""

import errno
from dataclasses import replace

import numpy as np
import pytest
from op_models import require_ort_library
from support_export import TINY, random_source
from tolerances import FAST_STEP_RELATIVE, STEP_RELATIVE

from vq4dit.engines.build import build_engine
from vq4dit.engines.manifest import load_manifest, verify_files
from vq4dit.engines.parity import reference_step
from vq4dit.errors import ArtifactError, BackendUnavailable, OptionError
from vq4dit.runtime.pipeline import Pipeline
from vq4dit.runtime.selftest import load_selftest, relative_error, stored_inputs

pytestmark = pytest.mark.ort

NAMES = tuple("abcde")


@pytest.fixture(scope="module")
def source():
    return random_source(bits={"adaLN": 3, "fc2": 4}, row_groups=3)


@pytest.fixture(scope="module")
def engines(tmp_path_factory, source):
    """One engine per target, from the same weights."""
    root = tmp_path_factory.mktemp("engines")
    for target in ("cpu", "onnx"):
        build_engine(source, root / target, target=target, label_names=NAMES)
    return root


@pytest.mark.parametrize("target", ["cpu", "onnx"])
def test_engine_is_complete(engines, source, target):
    manifest = load_manifest(engines / target)
    verify_files(engines / target, manifest)
    assert (manifest.target, manifest.form) == (target, "function")
    assert (manifest.cfg, manifest.cfg_channels) == (True, 3)
    assert manifest.model == source.config and manifest.label_names == NAMES
    assert sorted(manifest.files) == ["selftest", "step", "step_data"]
    assert manifest.bits_per_weight["blocks.0.attn.proj"] == pytest.approx(
        source.quantized_layer("blocks.0.attn.proj").bits_per_weight
    )
    assert len({path.stat().st_mode for path in (engines / target).iterdir()}) == 1
    files = {path.name for path in (engines / target).iterdir()}
    assert files == {"manifest.json", *(entry.name for entry in manifest.files.values())}


@pytest.mark.parametrize("target", ["cpu", "onnx"])
def test_selftest_equals_torch(engines, source, target):
    manifest = load_manifest(engines / target)
    tensors = load_selftest(engines / target / "selftest.safetensors", manifest)
    expected = reference_step(source, manifest, stored_inputs(tensors))
    assert relative_error(tensors["latent_out"], expected[0]) <= STEP_RELATIVE
    assert relative_error(tensors["x_start"], expected[1]) <= STEP_RELATIVE


@pytest.mark.parametrize(
    ("accuracy", "limit"), [("exact", STEP_RELATIVE), ("fast", FAST_STEP_RELATIVE)]
)
def test_kernels_pass_the_selftest(engines, accuracy, limit):
    require_ort_library()
    with Pipeline(engines / "cpu", accuracy=accuracy, threads=1) as pipeline:
        tensors = load_selftest(engines / "cpu" / "selftest.safetensors", pipeline.manifest)
        result = pipeline.selftest(tensors)
    assert max(result.latent_out, result.x_start) <= limit


@pytest.mark.parametrize("target", ["cpu", "onnx"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_latents_do_not_depend_on_the_batch_size(engines, target, sampler):
    labels = [0, 1, 2, 3, 4, 0, 1, 2]
    options = {"steps": 3, "sampler": sampler, "seed": 3, "output": "latent"}
    with Pipeline(engines / target, threads=1) as pipeline:
        whole = pipeline(labels, batch_size=8, **options)
        for batch_size in (1, 3):
            assert np.array_equal(pipeline(labels, batch_size=batch_size, **options), whole)


def test_targets_agree(engines):
    options = {"steps": 4, "seed": 1, "output": "latent"}
    results = []
    for target in ("cpu", "onnx"):
        with Pipeline(engines / target, accuracy="exact", threads=1, verify=True) as pipeline:
            results.append(pipeline(["a", 4], **options))
    assert relative_error(results[0], results[1]) <= STEP_RELATIVE


@pytest.mark.parametrize(("cfg", "channels", "found"), [(False, 3, 0), (True, None, 4)])
def test_guidance_options_equal_torch(tmp_path, source, cfg, channels, found):
    manifest = build_engine(source, tmp_path / "e", target="onnx", cfg=cfg, cfg_channels=channels)
    assert (manifest.cfg, manifest.cfg_channels) == (cfg, found)
    tensors = load_selftest(tmp_path / "e" / "selftest.safetensors", manifest)
    expected = reference_step(source, manifest, stored_inputs(tensors))
    assert relative_error(tensors["latent_out"], expected[0]) <= STEP_RELATIVE


def test_unquantized_and_mixed_weights(tmp_path):
    names = TINY.block_linear_shapes()
    plain = random_source(dense=[name.split(".", 2)[2] for name in names])
    manifest = build_engine(plain, tmp_path / "plain", target="cpu")
    assert set(manifest.bits_per_weight.values()) == {32.0}
    mixed = build_engine(random_source(dense=["attn.proj"]), tmp_path / "mixed", target="onnx")
    assert mixed.bits_per_weight["blocks.1.attn.proj"] == 32.0
    assert mixed.bits_per_weight["blocks.1.mlp.fc1"] < 32.0


def test_same_source_gives_the_same_bytes(tmp_path, engines, source):
    again = build_engine(source, tmp_path / "again", target="cpu", label_names=NAMES)
    assert again == load_manifest(engines / "cpu")


def test_damaged_external_data_is_named(tmp_path, source):
    build_engine(source, tmp_path / "e", target="onnx")
    path = tmp_path / "e" / "step.onnx.data"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="step.onnx.data: has SHA-256"):
        Pipeline(tmp_path / "e")


def test_not_finite_weights_are_refused(tmp_path, source):
    bias = np.full_like(source.tensor("final_layer.linear.bias"), 3e38)
    damaged = replace(source, tensors={**source.tensors, "final_layer.linear.bias": bias})
    with pytest.raises(ArtifactError, match="NaN or infinite"):
        build_engine(damaged, tmp_path / "e", target="onnx")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_while_exporting_leaves_nothing(tmp_path, source, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vq4dit.engines.build.save", full)
    with pytest.raises(OSError, match="No space left.*nothing of it was left"):
        build_engine(source, tmp_path / "e", target="onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": "gpu"}, OptionError, "target 'gpu' is unknown"),
        ({"target": "tensorrt"}, BackendUnavailable, "not available"),
        ({"cfg_channels": 0}, OptionError, "cfg_channels is 0"),
        ({"label_names": ["a"]}, OptionError, "found 1 label names, the model has 5"),
        ({"label_names": ["a"] * 5}, OptionError, "occurs twice"),
    ],
)
def test_bad_options_leave_nothing(tmp_path, source, options, error, message):
    with pytest.raises(error, match=message):
        build_engine(source, tmp_path / "e", **{"target": "onnx", **options})
    assert list(tmp_path.iterdir()) == []
