from __future__ import annotations

import numpy as np
import pytest
import torch
from support_calibrate import random_vq_linear

from vq4dit.calibrate.candidates import nearest_candidates, starting_logits
from vq4dit.calibrate.losses import ratio_loss, relative_error
from vq4dit.errors import OptionError
from vq4dit.plugins.packing import weight_from_sub_vectors


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("row_groups", [1, 3])
def test_hard_weight_equals_the_storedrandom_vq_linear(bits, row_groups):
    layer = random_vq_linear(bits, row_groups)
    layer.harden()
    np.testing.assert_array_equal(layer.weight().detach().numpy(), layer.quantized().weight())
    x = torch.randn(5, 64)
    expected = x @ layer.weight().T + layer.bias
    torch.testing.assert_close(layer(x), expected)


def test_soft_weight_is_the_average_by_ratios():
    layer = random_vq_linear(candidates=3)
    ratios = layer.ratio_logits.softmax(-1).detach().numpy()  # (O * G, n)
    codebook, group = layer.codebook.detach().numpy(), np.arange(12) // 4
    codewords = codebook[group[:, None, None], layer.candidates.numpy()]  # (O, G, n, d)
    parts = (ratios[..., None] * codewords.reshape(*ratios.shape, -1)).sum(1)
    expected = weight_from_sub_vectors(parts.reshape(12, -1, 4), layer.layout)
    np.testing.assert_allclose(layer.weight().detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_row_groups_use_their_own_codebook():
    layer = random_vq_linear(row_groups=3, rows=12)
    layer.harden()
    with torch.no_grad():
        layer.codebook[1:] = 0
    weight = layer.weight()
    assert (weight[:4] != 0).any()
    assert (weight[4:] == 0).all()


def test_frozen_sub_vectors_are_one_hot_and_get_no_gradient():
    layer = random_vq_linear()
    share = layer.freeze(0.8)
    assert 0 < share < 1
    best = layer.ratio_logits.softmax(-1).max(-1).values
    assert torch.equal(layer.frozen, best > 0.8)
    ratios = layer.ratios()
    assert (ratios[layer.frozen].max(-1).values == 1).all()
    layer.weight().square().sum().backward()
    assert (layer.ratio_logits.grad[layer.frozen] == 0).all()
    assert (layer.ratio_logits.grad[~layer.frozen] != 0).any()
    assert layer.freeze(2.0) == share  # what is frozen stays frozen


def test_harden_takes_the_highest_ratio():
    layer = random_vq_linear()
    best = layer.ratio_logits.argmax(-1).reshape(12, -1, 1)
    expected = layer.candidates.gather(2, best)[..., 0]
    layer.harden()
    assert not layer.is_soft
    assert torch.equal(layer.assignments, expected)
    assert layer.freeze(0.5) == 1.0


def test_candidates_are_the_nearest_in_order():
    generator = torch.Generator().manual_seed(1)
    v, c = torch.randn(500, 4, generator=generator), torch.randn(32, 4, generator=generator)
    candidates, distances = nearest_candidates(v, c, 3)
    table = (v[:, None] - c).square().sum(-1)
    torch.testing.assert_close(distances, table.sort(dim=1).values[:, :3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(table.gather(1, candidates), distances, rtol=1e-4, atol=1e-5)
    with pytest.raises(OptionError, match="33, needed 1..32"):
        nearest_candidates(v, c, 33)


def test_starting_ratios():
    distances = torch.tensor([[1.0, 3.0], [0.5, 0.5]])
    torch.testing.assert_close(starting_logits(distances, "uniform").softmax(-1)[0, 0].item(), 0.5)
    ratios = starting_logits(distances, "inverse_distance").softmax(-1)
    torch.testing.assert_close(ratios[0], torch.tensor([0.75, 0.25]), rtol=1e-4, atol=1e-4)
    ratios = starting_logits(torch.ones(2, 3), "chosen").softmax(-1)
    torch.testing.assert_close(ratios[1], torch.tensor([0.9, 0.05, 0.05]))
    with pytest.raises(OptionError, match="'best' is unknown"):
        starting_logits(distances, "best")


def test_ratio_losses_are_zero_when_decided_and_highest_when_open():
    decided = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    undecided = torch.full((2, 2), 0.5)
    nothing = torch.zeros(2, dtype=torch.bool)
    assert ratio_loss(decided, nothing, "paper") == 0
    assert ratio_loss(decided, nothing, "reference") == 0
    assert ratio_loss(undecided, nothing, "paper") == 2  # eq. 9: n * (1 - |2 r - 1|)
    assert ratio_loss(undecided, nothing, "reference") == 0.5  # 2 r (1 - r)
    half = torch.tensor([True, False])
    mixed = torch.tensor([[0.5, 0.5], [0.9, 0.1]])
    torch.testing.assert_close(ratio_loss(mixed, half, "reference").item(), 0.18)
    with pytest.raises(OptionError, match="'mine' is unknown"):
        ratio_loss(mixed, half, "mine")


def test_relative_error():
    teacher = torch.tensor([[3.0, 4.0]])
    assert relative_error(teacher, teacher) == 0
    assert relative_error(torch.zeros(1, 2), teacher) == 1
