from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support_calibrate import (
    LONGER,
    TINY,
    output_error,
    random_model,
    random_vq_linear,
    save_checkpoint,
)

from vq4dit.calibrate.artifact import Artifact
from vq4dit.calibrate.ratio_training import freeze_layers, ratio_optimizer
from vq4dit.calibrate.recipe import RECIPES
from vq4dit.calibrate.run import calibrate
from vq4dit.errors import ArtifactError, OptionError


@pytest.fixture
def checkpoint(tmp_path):
    return save_checkpoint(tmp_path / "dit.safetensors")


#: Wide enough that 256 codewords are few.
WIDE = replace(TINY, hidden_size=96)


def test_calibration_beats_plain_kmeans(tmp_path):
    checkpoint = save_checkpoint(tmp_path / "dit.safetensors", WIDE)
    recipe = replace(LONGER, kmeans_iterations=10, pool_tokens=1024)
    calibrate(checkpoint, tmp_path / "k.vq.safetensors", recipe="kmeans")
    summary = calibrate(checkpoint, tmp_path / "c.vq.safetensors", recipe=recipe)
    assert output_error(tmp_path / "c.vq.safetensors") < 0.5 * output_error(
        tmp_path / "k.vq.safetensors"
    )
    assert summary.distill[-1] < summary.distill[0]
    assert set(summary.seconds) == {"trajectories", "blocks", "distillation"}
    assert len(summary.soft) == 2 * LONGER.soft_steps
    assert set(summary.weight_error) == set(random_model().config.block_linear_shapes())


@pytest.mark.parametrize("name", ["paper", "reference", "vq4dit", "kmeans"])
def test_every_recipe_ends_in_a_whole_artifact(checkpoint, tmp_path, name):
    recipe = replace(
        RECIPES[name],
        kmeans_iterations=2,
        soft_steps=5,
        distill_steps=min(RECIPES[name].distill_steps, 3),
        num_trajectories=2,
        trajectory_steps=4,
        pool_tokens=128,
        batch_size=8,
    )
    path = tmp_path / "x.vq.safetensors"
    seen = []
    calibrate(
        checkpoint,
        path,
        recipe=recipe,
        progress=lambda stage, done, total, **values: seen.append((stage, done, total)),
    )
    artifact = Artifact(path)
    for layer_name in artifact.config.block_linear_shapes():
        layer = artifact.quantized_layer(layer_name)
        assert layer.row_groups == (3 if layer_name.endswith("attn.qkv") else 1)
    assert artifact.info.calibration["recipe"]["name"] == name
    blocks = [(done, total) for stage, done, total in seen if stage == "blocks"]
    assert blocks == sorted(blocks)
    assert blocks[-1] == (2 * recipe.block_steps, 2 * recipe.block_steps)
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_more_bits_less_error(checkpoint, tmp_path, bits):
    # 32 columns are too few for 256 codewords to be an honest 2 bits, but the order must hold.
    path = tmp_path / "x.vq.safetensors"
    calibrate(checkpoint, path, bits=bits, recipe=replace(RECIPES["kmeans"], kmeans_iterations=5))
    limit = {1: 0.9, 2: 0.5, 3: 0.2, 4: 0.05}[bits]
    assert output_error(path) < limit


def test_model_scope_decides_by_ratios(checkpoint, tmp_path):
    recipe = replace(
        RECIPES["reference"],
        kmeans_iterations=2,
        soft_steps=40,
        num_trajectories=2,
        trajectory_steps=4,
        ratio_lr=0.5,
    )
    summary = calibrate(checkpoint, tmp_path / "x.vq.safetensors", recipe=recipe)
    shares = [row["frozen_share"] for row in summary.soft]
    assert shares == sorted(shares)
    assert shares[-1] > 0.9
    assert summary.soft[-1]["ratio_loss"] < summary.soft[0]["ratio_loss"]


def test_same_seed_same_bytes(checkpoint, tmp_path):
    for name in ("a", "b"):
        calibrate(checkpoint, tmp_path / f"{name}.vq.safetensors", recipe=LONGER, seed=3)
    first = (tmp_path / "a.vq.safetensors").read_bytes()
    assert first == (tmp_path / "b.vq.safetensors").read_bytes()
    calibrate(checkpoint, tmp_path / "c.vq.safetensors", recipe=LONGER, seed=4)
    assert first != (tmp_path / "c.vq.safetensors").read_bytes()


class _Stop(Exception):
    pass


def _stop_after(pieces):
    count = iter(range(pieces))

    def progress(stage, done, total, **values):
        if next(count, None) is None:
            raise _Stop

    return progress


@pytest.mark.parametrize("pieces", [0, 6, 9, 15, 24, 33, 50])
def test_resume_after_a_stop_gives_the_same_bytes(checkpoint, tmp_path, pieces, monkeypatch):
    monkeypatch.setattr("vq4dit.calibrate.stages._SAVE_EVERY", 5)
    stages = _assert_resumes(checkpoint, tmp_path, LONGER, pieces)
    if pieces > 30:
        assert ("distillation", 1) not in stages


@pytest.mark.parametrize("pieces", [6, 13, 21])
@pytest.mark.parametrize("name", ["paper", "reference"])
def test_training_of_the_whole_model_resumes_too(checkpoint, tmp_path, name, pieces, monkeypatch):
    """Stopped behind the trajectories, early in the ratios, and late with some layers decided."""
    monkeypatch.setattr("vq4dit.calibrate.stages._SAVE_EVERY", 5)
    recipe = replace(
        RECIPES[name],
        kmeans_iterations=2,
        soft_steps=16,
        num_trajectories=2,
        trajectory_steps=4,
        ratio_lr=0.5,
        distill_steps=3,
    )
    stages = _assert_resumes(checkpoint, tmp_path, recipe, pieces)
    if pieces > 10:
        assert ("ratios", 5) not in stages


def _assert_resumes(checkpoint, tmp_path, recipe, pieces):
    """Stop a run, resume it, compare bytes and curves; what the resumed run reported."""
    whole, cut = tmp_path / "whole.vq.safetensors", tmp_path / "cut.vq.safetensors"
    expected = calibrate(checkpoint, whole, recipe=recipe)
    with pytest.raises(_Stop):
        calibrate(checkpoint, cut, recipe=recipe, progress=_stop_after(pieces))
    assert not cut.exists()
    stages = []
    found = calibrate(
        checkpoint,
        cut,
        recipe=recipe,
        resume=True,
        progress=lambda stage, done, total, **values: stages.append((stage, done)),
    )
    assert cut.read_bytes() == whole.read_bytes()
    assert len(found.distill) == recipe.distill_steps
    assert found.soft == expected.soft
    assert found.distill == expected.distill
    return stages


def test_resume_refuses_other_settings(checkpoint, tmp_path):
    path = tmp_path / "x.vq.safetensors"
    with pytest.raises(_Stop):
        calibrate(checkpoint, path, recipe=LONGER, progress=_stop_after(7))
    with pytest.raises(ArtifactError, match="other settings .differing: seed"):
        calibrate(checkpoint, path, recipe=LONGER, seed=9, resume=True)
    calibrate(checkpoint, path, recipe=LONGER, seed=9)  # without resume it starts anew
    assert Artifact(path).info.calibration["seed"] == 9


def test_damaged_unit_is_made_again(checkpoint, tmp_path):
    path, whole = tmp_path / "x.vq.safetensors", tmp_path / "whole.vq.safetensors"
    calibrate(checkpoint, whole, recipe=LONGER)
    with pytest.raises(_Stop):
        calibrate(checkpoint, path, recipe=LONGER, progress=_stop_after(25))
    unit = tmp_path / ".x.vq.safetensors.partial" / "block-001.safetensors"
    unit.write_bytes(unit.read_bytes()[:100])
    calibrate(checkpoint, path, recipe=LONGER, resume=True)
    assert path.read_bytes() == whole.read_bytes()


def test_bad_options(checkpoint, tmp_path):
    path = tmp_path / "x.vq.safetensors"
    with pytest.raises(OptionError, match="bits is 5"):
        calibrate(checkpoint, path, bits=5)
    with pytest.raises(OptionError, match="recipe 'best' is unknown"):
        calibrate(checkpoint, path, recipe="best")
    with pytest.raises(OptionError, match="does not exist"):
        calibrate(checkpoint, tmp_path / "none" / "x.vq.safetensors")
    with pytest.raises(OptionError, match="scope 'layer'"):
        replace(LONGER, scope="layer")


@pytest.mark.parametrize("joint", [True, False])
def test_codebooks_wait_for_their_layer_unless_joint(joint):
    recipe = replace(RECIPES["reference"], joint_codebook=joint)
    layer = random_vq_linear()
    optimizer = ratio_optimizer([layer], recipe)
    before = layer.codebook.detach().clone()

    def step():
        optimizer.zero_grad()
        layer.weight().square().sum().backward()
        optimizer.step()
        return not torch.equal(layer.codebook, before)

    assert step() == joint
    with torch.no_grad():
        layer.ratio_logits[:, 0] += 100
    freeze_layers([layer], recipe)
    assert not layer.is_soft
    assert step()
