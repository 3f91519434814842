"""The training script: a few steps of every stage make the very files of the package."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from vq4dit import demo
from vq4dit.calibrate.checkpoint import Checkpoint
from vq4dit.demo.diffusion_loss import DiffusionLoss
from vq4dit.demo.initial_weights import sine_positions
from vq4dit.demo.schedules import shuffled_batches, warm_up_then_cosine
from vq4dit.demo.train import main
from vq4dit.demo.train_dit import CLASS_NAMES, DitTraining, train_dit


@pytest.fixture(scope="module")
def trained(data_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained")
    short = ["--classifier-steps", "2", "--vae-steps", "2", "--dit-steps", "2", "--depth", "1"]
    main(["--data", str(data_folder), "-o", str(output), "--processes", "1", *short])
    return output


def test_training_writes_the_files_of_the_package(trained):
    files = {str(p.relative_to(trained)) for p in trained.rglob("*") if p.is_file()}
    folder = demo.checkpoint_path().parent
    packaged = {str(p.relative_to(folder)) for p in folder.rglob("*.safetensors")}
    assert files == packaged | {"config.json", "vae/config.json", "latents.safetensors"}


def test_trained_checkpoint_is_one_that_calibrate_reads(trained):
    checkpoint = Checkpoint(trained / demo.CHECKPOINT_NAME)
    values = json.loads((trained / demo.CONFIG_NAME).read_text())
    assert checkpoint.config.to_dict() == values["model"]
    assert checkpoint.label_names == CLASS_NAMES == tuple(values["class_names"])
    assert checkpoint.latent_scaling_factor == values["latent_scaling_factor"] > 0
    assert all(torch.isfinite(t).all() for t in checkpoint.state_dict().values())


def test_trained_files_have_the_packages_names_shapes_and_dtypes(trained):
    for name in (
        demo.CLASSIFIER_NAME,
        demo.REFERENCE_NAME,
        "vae/diffusion_pytorch_model.safetensors",
    ):
        found, packaged = load_file(trained / name), load_file(demo._data_path(name))
        assert {k: (v.shape, v.dtype) for k, v in found.items()} == {
            k: (v.shape, v.dtype) for k, v in packaged.items()
        }


def test_two_processes_train_one_model(trained, data_folder, tmp_path):
    (tmp_path / "latents.safetensors").write_bytes((trained / "latents.safetensors").read_bytes())
    settings = DitTraining(steps=2, processes=2, batch_size=4, depth=1, hidden_size=64)
    train_dit(data_folder, tmp_path, settings)
    assert Checkpoint(tmp_path / demo.CHECKPOINT_NAME).config == settings.model_config()


def test_sine_positions_are_the_packaged_table():
    packaged = load_file(demo.checkpoint_path())["pos_embed"]
    table = sine_positions(packaged.shape[2], 4).numpy()
    np.testing.assert_array_equal(table.astype(np.float16), packaged)


def test_learning_rate_rises_holds_and_falls():
    rates = [warm_up_then_cosine(i, 100, warm_up=10, hold=0.5, floor=0.1) for i in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:51] == pytest.approx([1.0] * 41)
    assert rates[99] == pytest.approx(0.1, abs=0.01)
    assert np.all(np.diff(rates[51:]) < 0)


def test_shuffled_batches_use_every_sample_once_per_round():
    batches = shuffled_batches(10, 5)
    first_round = torch.cat([next(batches), next(batches)])
    assert sorted(first_round.tolist()) == list(range(10))
    with pytest.raises(ValueError, match="above the number of samples"):
        next(shuffled_batches(3, 4))


def test_loss_of_the_true_posterior_is_the_eps_error_alone():
    """A model that predicts the posterior's variance and the noise itself has loss 0."""
    start = torch.randn(8, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    loss = DiffusionLoss()

    def oracle(latent, timestep, label):
        noise = (latent - loss._signal[timestep] * start) / loss._noise[timestep]
        return torch.cat([noise, torch.full_like(noise, -1.0)], dim=1)

    torch.manual_seed(2)
    assert loss(oracle, start, torch.zeros(8, dtype=torch.int64)).item() == pytest.approx(
        0, abs=1e-5
    )
