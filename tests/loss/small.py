"""A small network, its loss and a batch, and how an objective is held to them."""

import copy

import torch
from torch import nn

from mcmcopt.loss.objective import ClosureObjective, write
from tests.loss.walks import plain, same

LOSS = nn.CrossEntropyLoss()


def mlp(*more):
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), *more, nn.Linear(6, 3)).double()


def batch(n=70, *shape):
    return torch.randn(n, *(shape or (5,)), dtype=torch.float64), torch.randint(3, (n,))


def ask(param, value=0.7):
    return {param: (torch.tensor([0]), torch.full((1,), value, dtype=param.dtype))}


def assert_right(bound, model, param, x, y):
    """Compare the present loss, that of a proposal and that after its commit with the model's."""
    same(bound.evaluate(), plain(model, LOSS, x, y), 1e-12)
    change = ask(param, float(param.detach().reshape(-1)[0]) + 0.5)
    want = plain(model if isinstance(bound, ClosureObjective) else copy.deepcopy(model), LOSS, x, y)
    got = bound.propose(change)
    write(change)
    bound.commit()
    want, before = plain(model, LOSS, x, y), want
    assert abs(float(want - before)) > 1e-6
    same(got, want, 1e-12)
    same(bound.evaluate(), want, 1e-12)
