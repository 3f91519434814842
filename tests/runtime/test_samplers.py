"""Coefficient tables against samplers written out as in their papers, along whole trajectories."""

import math

import numpy as np
import pytest
from support_samplers import ALPHA_BAR, run_table, toy_model
from tolerances import FP64_RELATIVE, SAMPLER_RELATIVE

from vq4dit.errors import OptionError
from vq4dit.runtime.samplers import SAMPLERS, coefficient_table
from vq4dit.runtime.schedule import spaced_schedule
from vq4dit.runtime.selftest import relative_error

STEPS = [1, 2, 7, 50]


def run_ddpm(steps, x, noise, *, learned):
    """Nichol & Dhariwal's p_sample on a respaced chain of its own betas (no table, no 1/snr)."""
    kept = [int(t) for t in spaced_schedule(steps, ALPHA_BAR).timesteps[::-1]]
    betas, last = [], 1.0
    for t in kept:
        betas.append(1 - ALPHA_BAR[t] / last)
        last = ALPHA_BAR[t]
    abar = np.cumprod(1 - np.array(betas))
    trajectory = []
    for i, k in enumerate(reversed(range(steps))):
        eps, v = toy_model(x, kept[k])
        abar_prev = abar[k - 1] if k else 1.0
        x_start = (x - math.sqrt(1 - abar[k]) * eps) / math.sqrt(abar[k])
        mean = (
            math.sqrt(abar_prev) * betas[k] * x_start
            + math.sqrt(1 - betas[k]) * (1 - abar_prev) * x
        ) / (1 - abar[k])
        x = mean
        if k:
            low, high = betas[k] * (1 - abar_prev) / (1 - abar[k]), betas[k]
            f = (v + 1) / 2 if learned else 0.0
            x = mean + np.sqrt(high**f * low ** (1 - f)) * noise[i]
        trajectory += [x, x_start]
    return np.stack(trajectory)


def run_ddim(steps, x, noise, *, eta):
    """Song et al. equations 12 and 16 on np.linspace timesteps."""
    kept = np.linspace(0, 999, steps).round().astype(int)[::-1]
    trajectory = []
    for i, t in enumerate(kept):
        a, prev = ALPHA_BAR[t], (ALPHA_BAR[kept[i + 1]] if i + 1 < steps else 1.0)
        eps, _ = toy_model(x, t)
        x_start = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
        sigma = eta * math.sqrt((1 - prev) / (1 - a)) * math.sqrt(1 - a / prev)
        x = math.sqrt(prev) * x_start + math.sqrt(1 - prev - sigma**2) * eps + sigma * noise[i]
        trajectory += [x, x_start]
    return np.stack(trajectory)


def run_dpm_solver(steps, x):
    """Lu et al. algorithm 2 in its own variables lambda, h, r and D; last step of first order."""
    schedule = spaced_schedule(steps, ALPHA_BAR)
    alpha, sigma = np.sqrt(schedule.alpha_bar), np.sqrt(1 - schedule.alpha_bar)
    lam = np.log(alpha / sigma)
    trajectory, last_x0, last_h = [], None, None
    for i, t in enumerate(schedule.timesteps):
        eps, _ = toy_model(x, t)
        x0 = (x - sigma[i] * eps) / alpha[i]
        if i + 1 == steps:
            x = x0
        else:
            h = lam[i + 1] - lam[i]
            d = x0
            if last_x0 is not None:
                r = last_h / h
                d = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * last_x0
            x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * (math.exp(-h) - 1) * d
            last_h = h
        last_x0 = x0
        trajectory += [x, x0]
    return np.stack(trajectory)


def _start(steps, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((3, 4)), rng.standard_normal((steps, 3, 4))


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("learned", [True, False])
def test_ddpm(steps, learned):
    x, noise = _start(steps)
    found = run_table("ddpm", steps, x, noise, learned=learned)
    assert relative_error(found, run_ddpm(steps, x, noise, learned=learned)) <= FP64_RELATIVE


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim(steps, eta):
    x, noise = _start(steps)
    found = run_table("ddim", steps, x, noise, eta=eta)
    assert relative_error(found, run_ddim(steps, x, noise, eta=eta)) <= FP64_RELATIVE


@pytest.mark.parametrize("steps", STEPS)
def test_dpm_solver(steps):
    x, noise = _start(steps)
    found = run_table("dpm-solver++", steps, x, noise)
    assert relative_error(found, run_dpm_solver(steps, x)) <= FP64_RELATIVE


def test_ddim_with_eta_one_is_ddpm_with_the_posterior_variance():
    x, noise = _start(20)
    ddim = run_table("ddim", 20, x, noise, eta=1.0)
    ddpm = run_table("ddpm", 20, x, noise, learned=False)
    assert relative_error(ddim, ddpm) <= FP64_RELATIVE


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_tables_are_finite_and_end_without_noise(sampler, steps):
    table = coefficient_table(sampler, spaced_schedule(steps, ALPHA_BAR))
    assert table.shape == (steps, 8) and np.isfinite(table).all()
    assert np.isfinite(table.astype(np.float32)).all()
    assert (table[-1, 2:6] == 0).all()
    # The last step lands on x_start in every sampler.
    assert np.allclose(table[-1, :2], table[-1, 6:], rtol=FP64_RELATIVE)


def test_second_order_is_nearer_to_the_limit_than_ddim():
    x, noise = _start(1000)
    limit = run_table("ddim", 1000, x, noise)[-2]
    errors = {s: relative_error(run_table(s, 20, x, noise)[-2], limit) for s in SAMPLERS}
    assert errors["dpm-solver++"] < errors["ddim"] / 2


def _run_diffusers(scheduler, steps, x):
    """A diffusers scheduler on the toy eps; returns its timesteps and the latents."""
    import torch

    scheduler.set_timesteps(steps)
    x, trajectory = torch.from_numpy(x), []
    for t in scheduler.timesteps:
        eps = torch.from_numpy(toy_model(x.numpy(), int(t))[0])
        x = scheduler.step(eps, int(t), x).prev_sample
        trajectory.append(x.numpy())
    return scheduler.timesteps.numpy(), np.stack(trajectory)


def test_ddim_agrees_with_diffusers_as_it_is():
    """With its float32 schedule; test_samplers_against_diffusers.py gives it a float64 one."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        clip_sample=False, set_alpha_to_one=True, timestep_spacing="linspace", beta_start=1e-4,
        beta_end=0.02,
    )  # fmt: skip
    x, noise = _start(1000)
    timesteps, theirs = _run_diffusers(scheduler, 1000, x[..., None])
    ours = run_table("ddim", 1000, x[..., None], noise[..., None])[::2]
    assert timesteps.tolist() == list(range(999, -1, -1))
    assert relative_error(ours, theirs) <= SAMPLER_RELATIVE


@pytest.mark.parametrize(
    ("sampler", "eta", "message"),
    [
        ("euler", 0.0, "sampler 'euler' is unknown; needed one of ddim, ddpm, dpm-solver"),
        ("ddim", -0.1, r"eta is -0.1, needed 0\.\.1"),
        ("ddim", float("nan"), "eta is nan"),
        ("ddpm", 1.0, "has none"),
        ("dpm-solver++", 1.0, "has none"),
    ],
)
def test_bad_options(sampler, eta, message):
    with pytest.raises(OptionError, match=message):
        coefficient_table(sampler, spaced_schedule(4, ALPHA_BAR), eta)
