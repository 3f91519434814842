"""Devices and autocast. CUDA is a pretended one: support_fake_cuda says what that proves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support_calibrate import LONGER, TINY, output_error, save_checkpoint
from support_fake_cuda import fake_cuda

from vq4dit.calibrate.artifact import Artifact
from vq4dit.calibrate.checkpoint import Checkpoint
from vq4dit.calibrate.compute import Compute, compute_for
from vq4dit.calibrate.recipe import RECIPES
from vq4dit.calibrate.run import calibrate
from vq4dit.calibrate.streamed import StreamedDiT
from vq4dit.cli import main
from vq4dit.errors import ArtifactError, BackendUnavailable, OptionError

QUICK = replace(LONGER, soft_steps=6, distill_steps=8)
CUT = {"kmeans_iterations": 2, "num_trajectories": 2, "trajectory_steps": 4}


@pytest.fixture
def checkpoint(tmp_path):
    return save_checkpoint(tmp_path / "dit.safetensors")


def test_the_pretended_device_refuses_tensors_of_the_cpu():
    with fake_cuda():
        there, here = torch.ones(3).to("cuda"), torch.ones(3)
        assert there.device.type == "cuda"
        assert (there * 2 + torch.tensor(1.0)).cpu().tolist() == [3, 3, 3]
        with pytest.raises(AssertionError, match="mixes cuda with a CPU tensor"):
            there + here
        with pytest.raises(AssertionError, match="mixes cuda with a CPU tensor"):
            here[torch.zeros(1, dtype=torch.int64, device="cuda")]


@pytest.mark.parametrize(
    "options",
    [
        {"recipe": QUICK},
        {"recipe": replace(RECIPES["paper"], **CUT, soft_steps=4, distill_steps=2)},
        {"recipe": replace(RECIPES["reference"], **CUT, soft_steps=4)},
        {"recipe": replace(RECIPES["kmeans"], **CUT)},
        {
            "recipe": replace(QUICK, distill_steps=0),
            "independent_blocks": True,
            "target_bits": 8.2,
            "keep": [("*.mlp.*", "2"), ("*.attn.*", "2")],  # leaves two linears to be measured
        },
    ],
    ids=["vq4dit", "paper", "reference", "kmeans", "target, independent"],
)
def test_on_a_gpu_nothing_is_left_on_the_cpu(checkpoint, tmp_path, options):
    """Same draws, same arithmetic: the pretended device gives the CPU's bytes."""
    calibrate(checkpoint, tmp_path / "cpu.vq.safetensors", bits=3, device="cpu", **options)
    with fake_cuda():
        calibrate(checkpoint, tmp_path / "cuda.vq.safetensors", bits=3, **options)
    first = (tmp_path / "cpu.vq.safetensors").read_bytes()
    assert first == (tmp_path / "cuda.vq.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("recipe", "pieces"),
    [
        (QUICK, 25),
        (replace(RECIPES["reference"], **CUT, soft_steps=6, ratio_lr=0.5), 10),
    ],
)
def test_resumes_on_a_gpu(checkpoint, tmp_path, monkeypatch, recipe, pieces):
    monkeypatch.setattr("vq4dit.calibrate.stages._SAVE_EVERY", 3)
    count = iter(range(pieces))

    def stop(stage, done, total, **values):
        if next(count, None) is None:
            raise KeyboardInterrupt

    cut, whole = tmp_path / "cut.vq.safetensors", tmp_path / "whole.vq.safetensors"
    with fake_cuda():
        with pytest.raises(KeyboardInterrupt):
            calibrate(checkpoint, cut, bits=3, recipe=recipe, progress=stop)
        with pytest.raises(ArtifactError, match="differing: device"):
            calibrate(checkpoint, cut, bits=3, recipe=recipe, device="cpu", resume=True)
        calibrate(checkpoint, cut, bits=3, recipe=recipe, resume=True)
    calibrate(checkpoint, whole, bits=3, recipe=recipe)
    assert cut.read_bytes() == whole.read_bytes()


def test_session_asks_for_repeatable_kernels_on_cuda_and_restores():
    threads, convolutions = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    with fake_cuda():
        compute = compute_for("auto")
        assert compute.device == "cuda"
        with replace(compute, threads=threads + 1).session():
            assert torch.are_deterministic_algorithms_enabled()
            assert not torch.backends.cudnn.allow_tf32
            assert torch.get_num_threads() == threads + 1
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.allow_tf32 == convolutions
    assert torch.get_num_threads() == threads


def test_autocast_rounds_the_model_and_nothing_else(tmp_path):
    """Wide enough that calibration does something; bfloat16 has 8 bits of mantissa."""
    checkpoint = save_checkpoint(tmp_path / "dit.safetensors", replace(TINY, hidden_size=64))
    exact, rounded = tmp_path / "exact.vq.safetensors", tmp_path / "rounded.vq.safetensors"
    recipe = replace(QUICK, soft_steps=10, distill_steps=20)
    calibrate(checkpoint, exact, recipe=recipe)
    summary = calibrate(checkpoint, rounded, recipe=recipe, autocast="bf16")
    assert exact.read_bytes() != rounded.read_bytes()
    assert Artifact(rounded).info.calibration["autocast"] == "bf16"
    assert "autocast" not in Artifact(exact).info.calibration
    assert output_error(rounded) < 1.1 * output_error(exact)
    assert summary.distill[-1] < summary.distill[0]


def test_autocast_changes_the_teachers_output_by_its_rounding_alone(checkpoint):
    source = Checkpoint(checkpoint)
    generator = torch.Generator().manual_seed(2)
    latent = torch.randn(8, 4, 4, 4, generator=generator)
    inputs = (latent, torch.arange(8) * 100.0, torch.arange(8) % 4)
    exact = StreamedDiT(source, Compute())(*inputs)
    rounded = StreamedDiT(source, Compute(autocast="bf16"))(*inputs)
    error = float((rounded - exact).square().sum() / exact.square().sum())
    assert rounded.dtype == torch.float32
    assert 1e-8 < error < 1e-3


def test_resume_refuses_another_precision(checkpoint, tmp_path):
    def stop(stage, done, total, **values):
        raise KeyboardInterrupt

    path = tmp_path / "x.vq.safetensors"
    with pytest.raises(KeyboardInterrupt):
        calibrate(checkpoint, path, recipe=QUICK, progress=stop)
    with pytest.raises(ArtifactError, match="other settings .differing: autocast"):
        calibrate(checkpoint, path, recipe=QUICK, autocast="bf16", resume=True)


@pytest.mark.parametrize("device", ["gpu", "cpu:1", "cuda:x", "mps", ""])
def test_unknown_devices_are_refused(device):
    with pytest.raises(OptionError, match="needed cpu, cuda or cuda:N"):
        compute_for(device)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_devices_that_are_not_there_are_refused(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(BackendUnavailable, match="sees 0 CUDA devices here.*--device cpu"):
        compute_for(device)


def test_options_of_the_command(checkpoint, tmp_path, capsys):
    arguments = ["calibrate", str(checkpoint), "-o", str(tmp_path / "x.vq.safetensors"), "--quiet"]
    for options, message in (
        (["--device", "tpu"], "device 'tpu' is unknown"),
        (["--workers", "0"], "--workers is 0, needed at least 1"),
        (["--threads", "-2"], "--threads is -2, needed at least 1"),
        (["--recipe", "paper", "--independent-blocks"], "trains all blocks together"),
    ):
        assert main([*arguments, *options]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(OptionError, match="autocast 'fp8' is unknown"):
        compute_for("cpu", "fp8")
