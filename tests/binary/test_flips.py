"""Binary layers under a chain: flips keep them binary bit for bit, real parameters walk, all losses agree."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mcmcopt import Gaussian, GreedyMCMC, IncrementalLoss, RandomWalk, SignFlip
from mcmcopt.binary import binary_layers, check_binary
from mcmcopt.loss.incremental.affine import Conv, Linear
from tests.loss.walks import walk


def problem(scale="learnt", dtype=torch.float64, bias=True):
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3)
    model = binary_layers(nn.Sequential(*layers).to(dtype), scale, bias)
    return model, torch.randn(60, 2, 6, 6, dtype=dtype), torch.randint(3, (60,))


def make(model, lam=600.0, n_proposals=100):
    named = list(model.named_parameters())
    groups = [
        {"params": [p for p in named if p[0].endswith("weight")], "moves": [SignFlip(k=1), SignFlip(k=3)]},
        {"params": [p for p in named if not p[0].endswith("weight")], "moves": [RandomWalk(k=1)]},
    ]
    return GreedyMCMC(groups, lam=lam, n_proposals=n_proposals, prior=Gaussian(1.0))


def bound(model, x, y, layout="auto"):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no incremental rule")
        return IncrementalLoss(model, nn.CrossEntropyLoss(reduction="none"), layout=layout).bind(x, y)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:lam=")
def test_flips_keep_weights_binary_bit_for_bit_while_real_parameters_walk(dtype):
    model, x, y = problem(dtype=dtype)
    before = copy.deepcopy(model.state_dict())
    optimizer = make(model)
    first = float(cross_entropy(model(x), y).detach())
    for _ in range(8):
        optimizer.step(lambda: cross_entropy(model(x).float(), y, reduction="none"))
        check_binary(model)
    assert float(cross_entropy(model(x), y).detach()) < 0.8 * first
    for name, after in model.state_dict().items():
        assert not torch.equal(before[name], after), name
        if name.endswith("weight"):
            assert torch.equal(after.abs(), torch.ones_like(after))


def test_a_walk_on_binary_weights_is_noticed():
    model, x, y = problem()
    optimizer = GreedyMCMC(model.named_parameters(), lam=600.0, n_proposals=50, moves=[RandomWalk(k=1)])
    optimizer.step(lambda: cross_entropy(model(x), y, reduction="none"))
    with pytest.raises(ValueError, match=r"weight must be -1 or \+1 everywhere"):
        check_binary(model)


@pytest.mark.parametrize("scale", ["learnt", "fixed", "none"])
def test_the_incremental_loss_makes_the_decisions_of_the_closure(scale):
    model, x, y = problem(scale)
    twin = copy.deepcopy(model)
    chains = make(model), make(twin)
    objective = bound(twin, x, y)
    for _ in range(4):
        chains[0].step(lambda: cross_entropy(model(x), y, reduction="none"))
        chains[1].step(objective)
    assert chains[0].info.accepted == chains[1].info.accepted
    for (name, a), b in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        if name.endswith("weight"):
            assert torch.equal(a, b)
        else:
            torch.testing.assert_close(a, b)
    check_binary(twin)


@pytest.mark.parametrize("scale", ["learnt", "fixed", "none"])
@pytest.mark.parametrize("layout", ["tiles", "major"])
def test_changes_of_every_kind_are_scored_as_the_whole_model_scores_them(scale, layout):
    model, x, y = problem(scale)
    assert walk(bound(model, x, y, layout), 36, torch.Generator().manual_seed(0)) > 20


def test_binary_maps_are_followed_by_the_rules_of_linear_and_convolutional_layers():
    model, x, y = problem()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no incremental rule")
        objective = IncrementalLoss(model, nn.CrossEntropyLoss())
        objective.bind(x, y)
    kinds = [type(rule) for rule in objective._rules]
    assert kinds.count(Conv) == 1
    assert kinds.count(Linear) == 2
