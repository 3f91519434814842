"""The schedule against the public sampler's rules, written out step by step."""

import numpy as np
import pytest
from tolerances import FP64_RELATIVE

from vq4dit.errors import OptionError
from vq4dit.runtime.schedule import (
    SPACINGS,
    linear_alpha_bar,
    spaced_schedule,
    spaced_timesteps,
)


def _public_timesteps(num_steps):
    """The public sampler's rule: add up the stride, round, keep the set."""
    stride = 1 if num_steps <= 1 else 999 / (num_steps - 1)
    position, kept = 0.0, set()
    for _ in range(num_steps):
        kept.add(round(position))
        position += stride
    return sorted(kept, reverse=True)


def test_alpha_bar_is_the_product_of_one_minus_beta():
    product, expected = 1.0, []
    for i in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * i / 999)
        expected.append(product)
    assert np.allclose(linear_alpha_bar(), expected, rtol=FP64_RELATIVE, atol=0)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 10, 20, 25, 50, 100, 250, 500, 1000])
def test_usual_step_counts_are_the_public_samplers(num_steps):
    assert spaced_timesteps(num_steps).tolist() == _public_timesteps(num_steps)


def test_all_step_counts_are_distinct_and_within_one_of_the_public_samplers():
    different = 0
    for num_steps in range(1, 1001):
        found, public = spaced_timesteps(num_steps), np.array(_public_timesteps(num_steps))
        assert len(found) == num_steps and (np.diff(found) < 0).all()
        assert np.abs(found - public).max() <= 1
        different += bool((found != public).any())
    assert different == 278


def test_respaced_betas_give_back_the_kept_alpha_bars():
    schedule = spaced_schedule(50, linear_alpha_bar())
    rebuilt = np.cumprod(1 - schedule.beta[::-1])[::-1]
    assert np.allclose(rebuilt, schedule.alpha_bar, rtol=FP64_RELATIVE, atol=0)
    assert schedule.alpha_bar_prev[-1] == 1.0 and schedule.posterior_variance[-1] == 0.0


def test_all_steps_are_the_training_schedule():
    schedule = spaced_schedule(1000, linear_alpha_bar())
    assert schedule.timesteps.tolist() == list(range(999, -1, -1))
    # 1 - a ratio of numbers near 1: rounding of 1e-16 in a beta of 1e-4.
    assert np.allclose(schedule.beta[::-1], np.linspace(1e-4, 0.02, 1000), rtol=FP64_RELATIVE)


@pytest.mark.parametrize("num_steps", [0, -3, 1001, 2.5, True, "10"])
def test_bad_step_counts(num_steps):
    with pytest.raises(OptionError, match=r"steps is .*1\.\.1000"):
        spaced_timesteps(num_steps)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_count_of_every_spacing_is_diffusers(spacing):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(timestep_spacing=spacing)
    for num_steps in range(1, 1001):
        scheduler.set_timesteps(num_steps)
        theirs = scheduler.timesteps.numpy()[:num_steps]  # its "trailing" may add one that is -1
        found = spaced_timesteps(num_steps, spacing=spacing)
        assert found.tolist() == theirs.tolist(), num_steps
        assert len(found) == num_steps and (np.diff(found) < 0).all() and found[-1] >= 0


def test_own_timesteps():
    alpha_bar = linear_alpha_bar()
    schedule = spaced_schedule([999, 500, 3], alpha_bar)
    assert schedule.timesteps.tolist() == [999, 500, 3] and schedule.timesteps.dtype == np.int64
    assert schedule.alpha_bar_prev.tolist() == [alpha_bar[500], alpha_bar[3], 1.0]
    same = spaced_schedule(np.array([999, 500, 3], np.int32), alpha_bar)
    assert np.array_equal(same.timesteps, schedule.timesteps)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "needed one integer or a list"),
        ([1.5, 0.5], "dtype float64"),
        ([[3, 2], [1, 0]], r"shape \(2, 2\)"),
        ([3, 3], "descending integers in 0..999"),
        ([3, 5], "descending"),
        ([1000, 5], "descending"),
        ([5, -1], "descending"),
        ("10", "needed an integer"),
    ],
)
def test_bad_timesteps(steps, message):
    with pytest.raises(OptionError, match=message):
        spaced_schedule(steps, linear_alpha_bar())


def test_unknown_spacing():
    with pytest.raises(OptionError, match="'quad' is unknown; needed one of linspace, leading"):
        spaced_timesteps(10, spacing="quad")
