"""Fits the cost model's efficiencies to measured launches of one GPU.

Minimises the mean of Huber's function of log(predicted / measured), one efficiency after the other
over a grid, coarse in the first round and fine around the best in the others. Efficiencies that no
measurement depends on keep their assumed value. `held_out_errors` tells how good the fit is on
launches that it did not see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vq4dit.errors import OptionError

from .efficiency import ASSUMED, Efficiencies
from .gpu_table import Gpu
from .measurement import Measurement

#: Fitted in this order: each binds other launches.
_SHARES = ("dram", "library_tensor", "codebook_tensor", "shared", "issue", "one_warp", "serial",
           "l2")  # fmt: skip
_SHARE_GRID = tuple(round(0.1 * i, 2) for i in range(1, 11))
_LAUNCH_GRID = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_FINE = (-0.06, -0.04, -0.02, 0.02, 0.04, 0.06)
_ROUNDS = 4
_HUBER = 0.2
_MIN_MEASUREMENTS = 8


def fit_efficiencies(
    gpu: Gpu,
    measurements: Sequence[Measurement],
    name: str,
    *,
    start: Efficiencies = ASSUMED,
) -> Efficiencies:
    """Calibrate to launches on this GPU.

    Args:
        gpu: the GPU that was measured.
        measurements: its launches, of any kernel and cuBLAS.
        name: what was measured where and when: every prediction will carry it.
        start: what the search begins with.
    Raises:
        OptionError: fewer than eight launches that the model predicts.
    """
    known = [m for m in measurements if m.predicted(gpu, start) is not None]
    if len(known) < _MIN_MEASUREMENTS:
        raise OptionError(
            f"{len(known)} of {len(measurements)} measured launches are known to the model, needed "
            f"{_MIN_MEASUREMENTS} or more; run benchmarks/gpu_acceptance.py on this GPU"
        )
    best = replace(start, calibration=name)
    loss = _loss(gpu, known, best)
    for number in range(_ROUNDS):
        for field in ("launch", *_SHARES):
            for value in _candidates(field, getattr(best, field), is_first=number == 0):
                values: dict[str, Any] = {field: value}
                candidate = replace(best, **values)
                found = _loss(gpu, known, candidate)
                if found < loss - 1e-9:
                    best, loss = candidate, found
    return best


def _candidates(field: str, value: float, *, is_first: bool) -> tuple[float, ...]:
    """Values of one efficiency to try: everywhere at first, then around the best one."""
    if is_first:
        return _LAUNCH_GRID if field == "launch" else _SHARE_GRID
    if field == "launch":
        return tuple(round(value * (1 + 2 * step), 4) for step in _FINE)
    return tuple(round(v, 4) for v in (value + step for step in _FINE) if 0 < v <= 1)


def relative_errors(
    gpu: Gpu, measurements: Sequence[Measurement], efficiencies: Efficiencies
) -> NDArray[np.float64]:
    """Predicted over measured, less one, of every launch that the model predicts."""
    pairs = [(m.predicted(gpu, efficiencies), m.seconds) for m in measurements]
    return np.array([p.seconds / seconds - 1 for p, seconds in pairs if p is not None])


def held_out_errors(
    gpu: Gpu, measurements: Sequence[Measurement], *, folds: int = 4
) -> NDArray[np.float64]:
    """Errors of launches whose (n, k) the fit did not see, by cross-validation over shapes.

    Raises:
        OptionError: too few launches or shapes.
    """
    shapes = sorted({(m.n, m.k) for m in measurements})
    if len(shapes) < folds:
        raise OptionError(f"{len(shapes)} shapes were measured, needed {folds} or more")
    errors = []
    for fold in range(folds):
        held_out = set(shapes[fold::folds])
        seen = [m for m in measurements if (m.n, m.k) not in held_out]
        unseen = [m for m in measurements if (m.n, m.k) in held_out]
        fitted = fit_efficiencies(gpu, seen, f"fold {fold}")
        errors.append(relative_errors(gpu, unseen, fitted))
    return np.concatenate(errors)


def _loss(gpu: Gpu, measurements: Sequence[Measurement], efficiencies: Efficiencies) -> float:
    ratio = np.abs(np.log1p(relative_errors(gpu, measurements, efficiencies)))
    return float(np.where(ratio < _HUBER, ratio**2, _HUBER * (2 * ratio - _HUBER)).mean())
