"""Samplers as tables of coefficients: the step model knows no sampler, it evaluates one formula.

    latent_out = c0 latent + c1 eps + c2 history + c3 exp((f c4 + (1 - f) c5) / 2) noise
    x_start    = c6 latent + c7 eps

f = (v + 1) / 2 from the model's learned range of the variance, 0 if it has none; history is the
x_start of the step before. Tables are (steps, 8) float64, first step first. A row with c3 = 0 needs
no noise, a row with c2 = 0 no history.

Sources: "ddpm" Ho et al. 2020 (arXiv 2006.11239) with the learned range of Nichol & Dhariwal 2021
(arXiv 2102.09672, equation 15); "ddim" Song et al. 2020 (arXiv 2010.02502, equations 12 and 16);
"dpm-solver++" Lu et al. 2022 (arXiv 2211.01095, algorithm 2: second order, multistep).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vq4dit.errors import OptionError

from .schedule import SpacedSchedule

Table = NDArray[np.float64]

NUM_COEFFICIENTS = 8


def ddpm_table(schedule: SpacedSchedule, eta: float = 0.0) -> Table:
    """Ancestral sampling; the variance is learned if the model has a range, else the posterior's.

    The posterior's log variance is clipped: at the last step, where it is 0, no noise is added.

    Raises:
        OptionError: eta is not 0: it belongs to "ddim".
    """
    _refuse_eta("ddpm", eta)
    abar, abar_prev, beta = schedule.alpha_bar, schedule.alpha_bar_prev, schedule.beta
    x_start_weight = np.sqrt(abar_prev) * beta / (1.0 - abar)
    latent_weight = np.sqrt(1.0 - beta) * (1.0 - abar_prev) / (1.0 - abar)
    table = _table_with_x_start(schedule)
    table[:, 0] = latent_weight + x_start_weight * table[:, 6]
    table[:, 1] = x_start_weight * table[:, 7]
    table[:-1, 3] = 1.0
    table[:-1, 4] = np.log(beta[:-1])
    table[:-1, 5] = np.log(schedule.posterior_variance[:-1])
    return table


def ddim_table(schedule: SpacedSchedule, eta: float = 0.0) -> Table:
    """Implicit sampling; eta = 0 adds no noise, eta = 1 as much as the posterior's variance.

    Raises:
        OptionError: eta is not in 0..1.
    """
    if not 0.0 <= eta <= 1.0:
        raise OptionError(f"eta is {eta}, needed 0..1")
    abar_prev = schedule.alpha_bar_prev
    sigma = eta * np.sqrt(schedule.posterior_variance)
    table = _table_with_x_start(schedule)
    eps_weight = np.sqrt(np.maximum(1.0 - abar_prev - sigma**2, 0.0))
    table[:, 0] = np.sqrt(abar_prev) * table[:, 6]
    table[:, 1] = np.sqrt(abar_prev) * table[:, 7] + eps_weight
    table[:, 3] = sigma
    return table


def dpm_solver_table(schedule: SpacedSchedule, eta: float = 0.0) -> Table:
    """DPM-Solver++(2M), data prediction; the first and the last step are of first order.

    Raises:
        OptionError: eta is not 0: it belongs to "ddim".
    """
    _refuse_eta("dpm-solver++", eta)
    abar, abar_prev = schedule.alpha_bar, schedule.alpha_bar_prev
    log_snr = _half_log_snr(abar)  # lambda at each step's own timestep
    step_len = np.diff(log_snr)  # h of steps 0 .. steps-2
    x_start_weight = np.ones(len(abar))  # at the last step sigma = 0, and the result is x_start
    x_start_weight[:-1] = -np.sqrt(abar_prev[:-1]) * np.expm1(-step_len)
    previous = np.zeros(len(abar))  # 1 / (2 r), r = h of the step before / h of this step
    previous[1:-1] = step_len[1:] / (2.0 * step_len[:-1])
    table = _table_with_x_start(schedule)
    now = x_start_weight * (1.0 + previous)
    table[:, 0] = np.sqrt((1.0 - abar_prev) / (1.0 - abar)) + now * table[:, 6]
    table[:, 1] = now * table[:, 7]
    table[:, 2] = -x_start_weight * previous
    return table


#: Name -> function of (schedule, eta) that gives the table.
SAMPLERS: dict[str, Callable[[SpacedSchedule, float], Table]] = {
    "ddim": ddim_table,
    "ddpm": ddpm_table,
    "dpm-solver++": dpm_solver_table,
}


def coefficient_table(sampler: str, schedule: SpacedSchedule, eta: float = 0.0) -> Table:
    """Table (steps, 8) of the sampler of this name; OptionError for an unknown one or a bad eta."""
    if sampler not in SAMPLERS:
        raise OptionError(f"sampler {sampler!r} is unknown; needed one of {', '.join(SAMPLERS)}")
    return SAMPLERS[sampler](schedule, eta)


def _table_with_x_start(schedule: SpacedSchedule) -> Table:
    """Zeros but for c6 and c7: x_start = (latent - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar)."""
    table = np.zeros((len(schedule.timesteps), NUM_COEFFICIENTS))
    table[:, 6] = np.sqrt(1.0 / schedule.alpha_bar)
    table[:, 7] = -np.sqrt(1.0 / schedule.alpha_bar - 1.0)
    return table


def _half_log_snr(alpha_bar: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lambda = log(alpha / sigma) = (log alpha_bar - log(1 - alpha_bar)) / 2."""
    return 0.5 * (np.log(alpha_bar) - np.log1p(-alpha_bar))


def _refuse_eta(sampler: str, eta: float) -> None:
    if eta != 0.0:
        raise OptionError(f"eta is {eta}, but sampler {sampler!r} has none; use it with 'ddim'")
