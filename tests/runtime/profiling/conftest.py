"""Inputs that several tests of profiling run a step with."""

import numpy as np
import pytest

from vq4dit.runtime.session import StepInputs


@pytest.fixture
def step_inputs_of_two():
    """A step of two samples of the tiny model of `support_export`."""
    latent = np.random.default_rng(0).standard_normal((2, 4, 8, 8), np.float32)
    return StepInputs(
        latent=latent,
        timestep=np.full(2, 500.0, np.float32),
        label=np.array([0, 3]),
        cfg_scale=np.full(2, 4.0, np.float32),
        coefficients=np.full((2, 8), 0.5, np.float32),
        noise=np.zeros_like(latent),
        history=np.zeros_like(latent),
    )
