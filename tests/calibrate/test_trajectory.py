from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from support_calibrate import TINY, random_model

from vq4dit.calibrate.trajectory import (
    ALPHAS_CUMPROD,
    condition_moment,
    draw_batch,
    sample_trajectories,
)
from vq4dit.runtime.samplers import coefficient_table
from vq4dit.runtime.schedule import linear_alpha_bar, spaced_schedule


def _trajectories(**changes):
    settings = {"num_samples": 3, "num_steps": 5, "guidance_range": (1.0, 4.0), "seed": 1}
    return sample_trajectories(random_model(), **(settings | changes))


def test_schedule_is_the_runtime_s():
    np.testing.assert_allclose(ALPHAS_CUMPROD, linear_alpha_bar(1000, 1e-4, 0.02), rtol=1e-12)


def test_steps_are_the_runtime_s_ddim_with_guidance():
    points = _trajectories()
    schedule = spaced_schedule(5, linear_alpha_bar(1000, 1e-4, 0.02))
    table = coefficient_table("ddim", schedule, 0.0)
    eps, null_eps = points.outputs[:, :, :4], points.null_outputs[:, :, :4]
    guided = null_eps + points.guidance[None, :, None, None, None] * (eps - null_eps)
    for i in range(4):
        expected = table[i, 0] * points.latents[i] + table[i, 1] * guided[i]
        torch.testing.assert_close(points.latents[i + 1], expected.float(), rtol=1e-4, atol=1e-4)
    assert points.timesteps.tolist() == [999, 749, 500, 250, 0]
    assert points.num_points == 15


def test_outputs_are_the_teacher_s():
    points, teacher = _trajectories(), random_model()
    timestep = points.timesteps[2].float().repeat(3)
    null = torch.full((3,), TINY.null_label)
    torch.testing.assert_close(
        teacher(points.latents[2], timestep, points.labels), points.outputs[2]
    )
    torch.testing.assert_close(teacher(points.latents[2], timestep, null), points.null_outputs[2])


def test_same_seed_same_points():
    assert torch.equal(_trajectories().latents, _trajectories().latents)
    assert not torch.equal(_trajectories().latents, _trajectories(seed=2).latents)
    assert ((_trajectories().guidance >= 1) & (_trajectories().guidance <= 4)).all()


def test_batches_pair_inputs_with_the_right_answer():
    points, teacher = _trajectories(), random_model()
    batch = draw_batch(points, 64, null_label=TINY.null_label, null_share=0.5, seed=3)
    torch.testing.assert_close(
        teacher(batch.latent, batch.timestep, batch.label), batch.output, rtol=1e-4, atol=1e-4
    )
    is_null = batch.label == TINY.null_label
    assert 10 < int(is_null.sum()) < 54
    again = draw_batch(points, 64, null_label=TINY.null_label, null_share=0.5, seed=3)
    assert torch.equal(batch.latent, again.latent)


def test_condition_moment_is_of_silu_of_the_condition():
    teacher = random_model()
    moment = condition_moment(teacher, null_share=1.0, seed=0, count=2000)
    t = torch.arange(1000).float()
    rows = F.silu(teacher.embed(torch.zeros(1000, 4, 4, 4), t, torch.full((1000,), 3))[1])
    expected = rows.T @ rows / 1000
    assert (moment - expected).norm() < 0.1 * expected.norm()
