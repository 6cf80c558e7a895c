"""What the optimizer makes of its parameters before the first step: scales, defaults, initial masks."""

import math

import pytest
import torch
from torch import nn

from mcmcopt import Gaussian, GreedyMCMC, SpikeSlab
from mcmcopt.optim.setup import default_moves


def test_the_unit_of_scales_is_the_root_mean_square_or_else_one_over_the_root_of_the_fan_in():
    full = nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    zero, bias, constant = nn.Parameter(torch.zeros(5, 3, 2)), nn.Parameter(torch.zeros(5)), nn.Parameter(torch.ones(5))
    optimizer = GreedyMCMC([nn.Parameter(torch.zeros(2)), full, zero, bias, constant], 1.0)
    rms = [float(entry["rms"]) for entry in optimizer.state.values()]
    assert rms == pytest.approx([1.0, 2.5, 1 / math.sqrt(6), 1 / math.sqrt(6), 1.0])


def test_the_unit_is_taken_before_the_prior_s_mask_zeroes_weights():
    weight = nn.Parameter(torch.full((40, 40), 0.5))
    optimizer = GreedyMCMC([weight], 1.0, prior=SpikeSlab(0.1), init="prior")
    assert float(optimizer.state[weight]["rms"]) == 0.5
    assert 80 < int(optimizer.mask(weight).sum()) < 240


@pytest.mark.parametrize("prior", [None, Gaussian(1.0), SpikeSlab(0.1)])
def test_default_moves_apply_to_the_prior(prior):
    (group,) = GreedyMCMC([torch.zeros(3, 3)], 1.0, prior=prior).param_groups
    assert repr(group["moves"]) == repr(default_moves(group["prior"]))
    assert any(move.changes_support for move in group["moves"]) == isinstance(prior, SpikeSlab)


def test_initial_masks_of_layers_of_one_shape_differ():
    layers = [nn.Parameter(torch.ones(10, 10)) for _ in range(2)]
    optimizer = GreedyMCMC(layers, 1.0, prior=SpikeSlab(0.5), init="prior")
    assert not torch.equal(*(optimizer.mask(layer) for layer in layers))


@pytest.mark.parametrize("blocks", ["scalar", "row", (3, 4)])
def test_state_is_plain_tensors_on_the_cpu(blocks):
    weight, bias = nn.Parameter(torch.ones(7, 9)), nn.Parameter(torch.ones(7))
    optimizer = GreedyMCMC([weight, bias], 1.0, prior=SpikeSlab(0.5), blocks=blocks)
    assert set(optimizer.state[weight]) == {"rms", "log_scale", "adaptations", "order", "active"}
    assert set(optimizer.state[bias]) == {"rms", "log_scale", "adaptations"}
    count = {"scalar": 63, "row": 7, (3, 4): 9}[blocks]
    assert optimizer.state[weight]["order"].shape == (count,)
    assert int(optimizer.state[weight]["active"]) == count
