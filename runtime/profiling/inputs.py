"""Inputs of one sampling step to measure with: seeded, of any batch size."""

from __future__ import annotations

import numpy as np

from vq4dit.engines.manifest import Manifest
from vq4dit.runtime.noise import INITIAL_STEP, gaussian_noise
from vq4dit.runtime.request import DEFAULT_CFG_SCALE
from vq4dit.runtime.samplers import coefficient_table
from vq4dit.runtime.schedule import linear_alpha_bar, spaced_schedule
from vq4dit.runtime.session import StepInputs

_SEED = 0
_NUM_STEPS = 50
_STEP = 25


def step_inputs(manifest: Manifest, batch: int) -> StepInputs:
    """Step 26 of 50 of a DDIM run for `batch` samples; the time does not depend on the values."""
    s = manifest.schedule
    alpha_bar = linear_alpha_bar(s.num_timesteps, s.beta_start, s.beta_end)
    schedule = spaced_schedule(min(_NUM_STEPS, s.num_timesteps), alpha_bar)
    step = min(_STEP, len(schedule.timesteps) - 1)
    row = coefficient_table("ddim", schedule)[step]
    samples = np.arange(batch)
    latent = gaussian_noise(_SEED, samples, INITIAL_STEP, manifest.latent_shape)
    return StepInputs(
        latent=latent,
        timestep=np.full(batch, schedule.timesteps[step], np.float32),
        label=samples % manifest.model.num_classes,
        cfg_scale=np.full(batch, DEFAULT_CFG_SCALE if manifest.cfg else 1.0, np.float32),
        coefficients=np.tile(row.astype(np.float32), (batch, 1)),
        noise=np.zeros_like(latent),
        history=np.zeros_like(latent),
    )
