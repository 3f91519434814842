"""Drift of whole trajectories, against a model with the quantized linears put in by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support_calibrate import QUICK, TINY, save_checkpoint

from vq4dit.calibrate.blocks import block_linears, load_block, replace_linear
from vq4dit.calibrate.compute import Compute
from vq4dit.calibrate.drift import kind_of, measure_drift
from vq4dit.calibrate.job import Job
from vq4dit.calibrate.losses import relative_error
from vq4dit.calibrate.sensitivity import apportioned
from vq4dit.calibrate.source import open_checkpoint
from vq4dit.calibrate.start import layer_spec, start_layer
from vq4dit.calibrate.streamed import outer_model
from vq4dit.calibrate.trajectory import draw_starts, guided_step, spaced_timesteps
from vq4dit.calibrate.workspace import Workspace

#: Wide enough that codebooks do not hold every sub-vector.
WIDE = replace(TINY, hidden_size=128)
VARIANTS = [("attn.qkv", 2), ("mlp.fc2", 1), ("mlp.fc2", 4)]


@pytest.fixture
def job(tmp_path):
    checkpoint = open_checkpoint(save_checkpoint(tmp_path / "dit.safetensors", WIDE))
    return Job(source=checkpoint, recipe=QUICK, seed=3, compute=Compute(threads=1))


def quick_layer(job, index, kind, bits):
    linear = block_linears(load_block(job.source, index, "cpu"))[kind]
    name = f"blocks.{index}.{kind}"
    spec = layer_spec(name, tuple(linear.weight.shape), bits)
    hard = replace(QUICK, num_candidates=1)
    return start_layer(linear, spec, hard, None, seed=index)


def drift(job, tmp_path, layers_of, **changes):
    workspace = Workspace(tmp_path / "x.vq.safetensors", {}, resume=True)
    told = []
    errors = measure_drift(
        job, changes.get("variants", VARIANTS), layers_of, workspace=workspace,
        progress=lambda *values, **_: told.append(values),
    )  # fmt: skip
    return errors, told


def followed(job, replaced):
    """Final latents by the whole model, with layers in the place of linears."""
    model = outer_model(job.source, "cpu")
    model.blocks = torch.nn.ModuleList(load_block(job.source, i, "cpu") for i in range(WIDE.depth))
    for (index, kind), layer in replaced.items():
        replace_linear(model.blocks[index], kind, layer)
    starts = draw_starts(WIDE, 16, QUICK.guidance_range, job.seed)
    latent, steps = starts.latent, spaced_timesteps(8)
    null = torch.full_like(starts.labels, WIDE.null_label)
    for t, following in zip(steps, [*steps[1:], None], strict=True):
        timestep = torch.full((len(latent),), float(t))
        with torch.no_grad():
            outputs = [model(latent, timestep, labels) for labels in (starts.labels, null)]
        latent = guided_step(latent, *outputs, starts.guidance, t, following)
    return latent


def test_each_variant_ends_where_the_model_by_hand_does(job, tmp_path):
    layers = {
        (index, kind, bits): quick_layer(job, index, kind, bits)
        for index in range(WIDE.depth)
        for kind, bits in VARIANTS
    }
    errors, told = drift(
        job, tmp_path, lambda index: {(k, b): layers[index, k, b] for k, b in VARIANTS}
    )
    teacher = followed(job, {})
    for kind, bits in VARIANTS:
        own = {(i, kind): layers[i, kind, bits] for i in range(WIDE.depth)}
        expected = float(relative_error(followed(job, own), teacher))
        assert expected > 0
        assert errors[kind, bits] == pytest.approx(expected, rel=1e-3)
    assert told[-1] == ("drift", 8 * WIDE.depth, 8 * WIDE.depth)


def test_a_kept_linear_does_not_drift(job, tmp_path):
    errors, _ = drift(job, tmp_path, lambda index: {})
    assert errors == dict.fromkeys(VARIANTS, 0.0)


def test_a_finished_measurement_is_not_made_again(job, tmp_path):
    first, _ = drift(job, tmp_path, lambda index: {})
    again, told = drift(job, tmp_path, lambda index: pytest.fail("measured again"))
    assert (again, told) == (first, [])


def test_what_leaves_all_bounds_counts_as_the_worst(job, tmp_path):
    broken = quick_layer(job, 0, "mlp.fc2", 1)
    with torch.no_grad():
        broken.bias.fill_(float("nan"))
    errors, _ = drift(
        job, tmp_path, lambda index: {("mlp.fc2", 1): broken} if index == 0 else {},
        variants=[("mlp.fc2", 1)],
    )  # fmt: skip
    assert errors == {("mlp.fc2", 1): 100.0}


def test_kinds():
    assert kind_of("blocks.12.adaLN_modulation.1") == "adaLN_modulation.1"
    assert {kind_of(name) for name in TINY.block_linear_shapes()} == {
        "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1"
    }  # fmt: skip


def test_a_kind_s_error_is_shared_out_by_single_errors():
    single = {
        "blocks.0.mlp.fc1": {1: 3.0, 2: 0.0},
        "blocks.1.mlp.fc1": {1: 1.0, 2: 0.0},
        "blocks.0.attn.qkv": {1: 5.0, 2: 2.0},
    }
    joint = {("mlp.fc1", 1): 8.0, ("mlp.fc1", 2): 1.0, ("attn.qkv", 1): 0.5, ("attn.qkv", 2): 0.25}
    assert apportioned(single, joint) == {
        "blocks.0.mlp.fc1": {1: 6.0, 2: 0.5},
        "blocks.1.mlp.fc1": {1: 2.0, 2: 0.5},
        "blocks.0.attn.qkv": {1: 0.5, 2: 0.25},
    }
