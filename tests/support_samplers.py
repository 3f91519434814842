"""The step model's formula on a toy model, for the tests of samplers."""

from __future__ import annotations

import numpy as np

from vq4dit.runtime.samplers import coefficient_table
from vq4dit.runtime.schedule import linear_alpha_bar, spaced_schedule

ALPHA_BAR = linear_alpha_bar()


def toy_model(x, t):
    """A smooth eps and a learned-range output v, both of x's shape."""
    return np.tanh(0.8 * x + t / 1000), np.sin(2 * x)


def run_table(sampler, steps, x, noise, *, spacing="linspace", eta=0.0, learned=True):
    """The step model's formula with a table; latent and x_start of each step in turn."""
    schedule = spaced_schedule(steps, ALPHA_BAR, spacing)
    history = np.zeros_like(x)
    trajectory = []
    for i, c in enumerate(coefficient_table(sampler, schedule, eta)):
        eps, v = toy_model(x, schedule.timesteps[i])
        f = (v + 1) / 2 if learned else 0.0
        deviation = np.exp(0.5 * (f * c[4] + (1 - f) * c[5]))
        x, history = (
            c[0] * x + c[1] * eps + c[2] * history + c[3] * deviation * noise[i],
            c[6] * x + c[7] * eps,
        )
        trajectory += [x, history]
    return np.stack(trajectory)
