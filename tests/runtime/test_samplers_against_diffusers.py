"""Whole trajectories against diffusers' schedulers: every spacing, 1 to 1000 steps, with noise.

The schedulers are given our betas in float64; with their own float32 ones a DDIM trajectory moves
by 3e-7. What else differs is told in docs/sampling.md, and each difference that a trajectory shows
has its place below.
"""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from support_samplers import ALPHA_BAR, run_table, toy_model
from tolerances import SAMPLER_RELATIVE

from vq4dit.runtime.schedule import SPACINGS, spaced_schedule
from vq4dit.runtime.selftest import relative_error

BETAS = {"beta_start": 1e-4, "beta_end": 0.02}
SHAPE = (2, 3, 2, 2)

#: 1000 is not a multiple of 7, 15, 16 or 333; below 15 diffusers' solver has own rules.
STEPS = [1, 2, 7, 15, 16, 50, 333, 1000]


def ours(*args, **kwargs):
    """Latents (steps, ...) by the step model's formula."""
    return run_table(*args, **kwargs)[::2]


def in_float64(scheduler):
    """The scheduler with our alpha_bar."""
    is_solver = isinstance(scheduler, DPMSolverMultistepScheduler)  # it makes a NumPy array of it
    scheduler.alphas_cumprod = ALPHA_BAR if is_solver else torch.from_numpy(ALPHA_BAR)
    if hasattr(scheduler, "final_alpha_cumprod"):
        scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    if hasattr(scheduler, "one"):
        scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    return scheduler


def theirs(scheduler, x, step):
    """Latents (steps, ...) of a scheduler whose timesteps are set; step(i, v, ...) -> latent."""
    x, trajectory = torch.from_numpy(x), []
    for i, t in enumerate(scheduler.timesteps.tolist()):
        eps, v = (torch.from_numpy(part) for part in toy_model(x.numpy(), t))
        x = step(i, t, eps, v, x).to(torch.float64)
        trajectory.append(x.numpy())
    return np.stack(trajectory)


def start(steps, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(SHAPE), rng.standard_normal((steps, *SHAPE))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("steps", "spacing"),
    [(n, spacing) for n in (1, 2, 25, 50, 250) for spacing in ("leading", "trailing")]
    + [(n, "linspace") for n in (1, 1000)],
)
def test_ddim(steps, spacing, eta):
    """Where diffusers' stride, 1000 // steps, leads from each timestep to the next."""
    scheduler = in_float64(DDIMScheduler(clip_sample=False, timestep_spacing=spacing, **BETAS))
    scheduler.set_timesteps(steps)
    x, noise = start(steps, seed=steps)

    def step(i, t, eps, v, x):
        given = torch.from_numpy(noise[i])
        return scheduler.step(eps, t, x, eta=eta, variance_noise=given).prev_sample

    found = ours("ddim", steps, x, noise, spacing=spacing, eta=eta)
    assert relative_error(found, theirs(scheduler, x, step)) <= SAMPLER_RELATIVE


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", STEPS)
def test_ddim_of_any_count_is_their_first_order_solver(steps, spacing):
    """Without noise DDIM is DPM-Solver++ of first order, which takes any timesteps."""
    x, noise = start(steps, seed=steps)
    found = ours("ddim", steps, x, noise, spacing=spacing)
    assert relative_error(found, solver_trajectory(steps, x, spacing, 1)) <= SAMPLER_RELATIVE


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", STEPS)
def test_dpm_solver(steps, spacing):
    x, noise = start(steps, seed=steps)
    found = ours("dpm-solver++", steps, x, noise, spacing=spacing)
    assert relative_error(found, solver_trajectory(steps, x, spacing, 2)) <= SAMPLER_RELATIVE


def solver_trajectory(steps, x, spacing, order):
    """DPM-Solver++ of diffusers at our timesteps: its own sets have others, see below."""
    scheduler = in_float64(
        DPMSolverMultistepScheduler(
            solver_order=order, final_sigmas_type="zero", lower_order_final=False, **BETAS
        )
    )
    timesteps = spaced_schedule(steps, ALPHA_BAR, spacing).timesteps
    scheduler.set_timesteps(timesteps=timesteps.tolist())
    return theirs(scheduler, x, lambda i, t, eps, v, x: scheduler.step(eps, t, x).prev_sample)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [2, 20, 333])
def test_dpm_solver_at_the_timesteps_of_diffusers(steps, spacing):
    """For linspace and leading its solver takes steps + 1 timesteps and leaves the last one out."""
    scheduler = in_float64(
        DPMSolverMultistepScheduler(timestep_spacing=spacing, solver_order=2, **BETAS)
    )
    scheduler.set_timesteps(steps)
    own = scheduler.timesteps.tolist()
    x, noise = start(steps, seed=steps)
    found = ours("dpm-solver++", own, x, noise)
    expected = theirs(scheduler, x, lambda i, t, eps, v, x: scheduler.step(eps, t, x).prev_sample)
    assert relative_error(found, expected) <= SAMPLER_RELATIVE
    same_set = spaced_schedule(steps, ALPHA_BAR, spacing).timesteps.tolist() == own
    assert same_set == (spacing == "trailing")


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("variance", ["learned_range", "fixed_small"])
@pytest.mark.parametrize("steps", STEPS)
def test_ddpm(monkeypatch, steps, variance, spacing):
    scheduler = in_float64(
        DDPMScheduler(clip_sample=False, variance_type=variance, timestep_spacing=spacing, **BETAS)
    )
    scheduler.set_timesteps(steps)
    scheduler.timesteps = scheduler.timesteps[:steps]  # "trailing" may end on one that is -1
    x, noise = start(steps, seed=steps)
    # Its last step adds noise if its timestep is not 0, though nothing is left to add it to.
    noise[-1] = 0.0
    draws = iter(noise)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor",
        lambda *args, **kwargs: torch.from_numpy(next(draws)),
    )

    def step(i, t, eps, v, x):
        output = torch.cat([eps, v], dim=1) if variance == "learned_range" else eps
        return scheduler.step(output, t, x).prev_sample

    found = ours("ddpm", steps, x, noise, spacing=spacing, learned=variance == "learned_range")
    assert relative_error(found, theirs(scheduler, x, step)) <= SAMPLER_RELATIVE


@pytest.mark.slow
@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_number_of_steps(spacing):
    """All counts 1..1000 in turn would be 1.5 million steps; every seventh, and both ends."""
    for steps in [*range(1, 1001, 7), 1000]:
        x, noise = start(steps, seed=steps)
        for sampler, order in (("ddim", 1), ("dpm-solver++", 2)):
            found = ours(sampler, steps, x, noise, spacing=spacing)
            expected = solver_trajectory(steps, x, spacing, order)
            assert relative_error(found, expected) <= SAMPLER_RELATIVE, (sampler, steps)
