from __future__ import annotations

import pytest
import torch

from vq4dit.calibrate.codebook import assign, fit_codebook
from vq4dit.calibrate.error_feedback import candidates_with_feedback
from vq4dit.errors import OptionError, ShapeError


def _case(seed, rows=48, groups=40, length=4, row_groups=1):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, groups, length, generator=generator)
    parts = weight.reshape(row_groups, -1, length)
    codebook = torch.stack([fit_codebook(part, 16, seed=seed) for part in parts])
    inputs = torch.randn(600, 24, generator=generator) @ torch.randn(
        24, groups * length, generator=generator
    )
    inputs += 0.3 * torch.randn(inputs.shape, generator=generator)
    return weight, codebook, inputs.T @ inputs / len(inputs)


def _gather(codebook, assignments):
    rows_per_group = len(assignments) // len(codebook)
    group = torch.arange(len(assignments)) // rows_per_group
    return codebook[group[:, None], assignments]


def _output_error(weight, decoded, moment):
    error = (weight - decoded).flatten(1)
    return float(((error @ moment) * error).sum())


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("row_groups", [1, 3])
def test_output_error_is_far_below_nearest_codewords(seed, row_groups):
    weight, codebook, moment = _case(seed, row_groups=row_groups)
    candidates, _ = candidates_with_feedback(weight, codebook, moment, 1)
    nearest = torch.stack(
        [assign(part, codebook[r])[0] for r, part in enumerate(weight.reshape(row_groups, -1, 4))]
    ).reshape(len(weight), -1)
    with_feedback = _output_error(weight, _gather(codebook, candidates[..., 0]), moment)
    without = _output_error(weight, _gather(codebook, nearest), moment)
    assert with_feedback < 0.6 * without


def test_uncorrelated_inputs_need_no_feedback():
    weight, codebook, _ = _case(3)
    candidates, _ = candidates_with_feedback(weight, codebook, 2 * torch.eye(160), 1)
    assert torch.equal(candidates[..., 0].reshape(-1), assign(weight.flatten(0, 1), codebook[0])[0])


def test_blocks_of_columns_change_nothing(monkeypatch):
    from vq4dit.calibrate import error_feedback

    weight, codebook, moment = _case(4)
    once, _ = candidates_with_feedback(weight, codebook, moment, 1)
    monkeypatch.setattr(error_feedback, "_COLUMN_BLOCK", 4)
    lazily, _ = candidates_with_feedback(weight, codebook, moment, 1)
    assert (once == lazily).float().mean() > 0.99  # ties may fall otherwise by rounding


def test_candidates_are_sorted_and_start_with_the_chosen_one():
    weight, codebook, moment = _case(5)
    several, costs = candidates_with_feedback(weight, codebook, moment, 3)
    chosen, _ = candidates_with_feedback(weight, codebook, moment, 1)
    assert several.shape == (48, 40, 3)
    assert torch.equal(several[..., :1], chosen)
    assert (costs[..., 1:] >= costs[..., :-1]).all()
    assert (costs >= 0).all()


def test_wrong_moment_shape():
    weight, codebook, _ = _case(6)
    with pytest.raises(ShapeError, match=r"\(3, 3\), needed \(160, 160\)"):
        candidates_with_feedback(weight, codebook, torch.eye(3), 1)


@pytest.mark.parametrize("excess", [0, 1])
def test_no_more_candidates_than_codewords(excess):
    weight, codebook, moment = _case(7)
    size = codebook.shape[1]
    count = size + 1 if excess else 0
    with pytest.raises(OptionError, match=rf"candidates is {count}, needed 1\.\.{size}"):
        candidates_with_feedback(weight, codebook, moment, count)
