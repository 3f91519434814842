"""Settings that no stage can take are refused before any work, by their name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vq4dit.calibrate.recipe import RECIPES, recipe_by_name
from vq4dit.errors import OptionError


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("kmeans_iterations", -1, 0),
        ("kmeans_sample", 0, 1),
        ("num_candidates", 0, 1),
        ("soft_steps", -1, 0),
        ("batch_size", 0, 1),
        ("distill_steps", -1, 0),
        ("distill_batch_size", 0, 1),
        ("num_trajectories", 0, 1),
        ("trajectory_steps", 1, 2),
        ("pool_tokens", 0, 1),
    ],
)
def test_counts_have_a_least_value(name, value, least):
    with pytest.raises(OptionError, match=f"recipe: {name} is {value}, needed at least {least}"):
        replace(RECIPES["vq4dit"], **{name: value})
    assert getattr(replace(RECIPES["vq4dit"], **{name: least}), name) == least


@pytest.mark.parametrize(
    "name", ["assignment_start", "ratio_start", "ratio_loss", "scope", "optimizer"]
)
def test_unknown_ways_are_named(name):
    with pytest.raises(OptionError, match=f"{name.replace('_', ' ')} 'best' is unknown; needed"):
        replace(RECIPES["vq4dit"], **{name: "best"})


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_shares_are_between_0_and_1(share):
    with pytest.raises(OptionError, match="null share"):
        replace(RECIPES["vq4dit"], null_share=share)


def test_a_sample_may_be_all():
    assert replace(RECIPES["vq4dit"], kmeans_sample=None).kmeans_sample is None
    with pytest.raises(OptionError, match="'best' is unknown; needed one of vq4dit, paper"):
        recipe_by_name("best")
