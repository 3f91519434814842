"""The packaged demonstration model: whole, small, and what its description says."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open

from vq4dit import demo
from vq4dit.errors import ArtifactError
from vq4dit.model_config import ModelConfig


def test_checkpoint_holds_the_tensors_that_its_configuration_asks_for():
    config = ModelConfig.from_dict(demo.config()["model"])
    with safe_open(demo.checkpoint_path(), framework="numpy") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    assert shapes == config.tensor_shapes()
    assert ModelConfig.from_dict(json.loads(metadata["config"])) == config
    assert tuple(json.loads(metadata["class_names"])) == demo.label_names()
    assert float(metadata["scaling_factor"]) == demo.config()["latent_scaling_factor"]


def test_label_names_are_fashion_mnists():
    assert len(demo.label_names()) == 10
    assert demo.label_names()[0] == "T-shirt/top"
    assert demo.label_names()[9] == "Ankle boot"


def test_package_data_stays_below_its_limit():
    folder = demo.checkpoint_path().parent
    sizes = [p.stat().st_size for p in folder.rglob("*") if p.suffix in (".safetensors", ".json")]
    assert len(sizes) == 6
    assert sum(sizes) < 22e6


def test_reference_statistics_are_a_mean_and_a_covariance():
    mean, covariance = demo.reference_statistics()
    assert mean.shape == (128,)
    assert covariance.shape == (128, 128)
    assert mean.dtype == covariance.dtype == np.float64
    np.testing.assert_array_equal(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > -1e-9
    assert mean.min() >= 0  # features come out of a ReLU


def test_vae_config_agrees_with_the_model():
    values = json.loads((demo.vae_path() / "config.json").read_text())
    assert values["latent_channels"] == demo.config()["model"]["in_channels"]
    assert values["scaling_factor"] == demo.config()["latent_scaling_factor"]


def test_a_missing_data_file_is_named(monkeypatch):
    monkeypatch.setattr(demo, "CHECKPOINT_NAME", "absent.safetensors")
    with pytest.raises(ArtifactError, match=r"absent\.safetensors: .* install vq4dit again"):
        demo.checkpoint_path()


def test_import_loads_no_torch():
    code = "import sys, vq4dit.demo; vq4dit.demo.label_names(); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
