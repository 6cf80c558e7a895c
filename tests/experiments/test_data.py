"""The split and the order of batches."""

import numpy as np
import pytest
import torch

from experiments.batches import Batches
from experiments.data import digits, portions
from experiments.models import mlp
from mcmcopt.sparsity import count


def rows(split):
    return {tuple(row) for row in torch.cat([split.x.flatten(1), split.y[:, None].float()], 1).tolist()}


@pytest.mark.parametrize("stratified", [True, False])
def test_split_is_fixed_by_its_seed_and_disjoint(stratified):
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002 -- must stay untouched
    data, again, other = (digits(1200, 197, 400, stratified, seed) for seed in (0, 0, 1))
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])
    assert torch.equal(data.train.x, again.train.x)
    assert not torch.equal(data.train.x, other.train.x)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1200, 197, 400]
    assert data.train.x.shape[1:] == (1, 8, 8)
    assert (float(data.train.x.min()), float(data.train.x.max())) == (0.0, 1.0)
    # every digit of the set is in exactly one part (the set has no two equal images with equal labels)
    parts = [rows(part) for part in (data.train, data.validation, data.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 1797


def test_stratified_parts_have_the_classes_in_proportion():
    data = digits(1200, 197, 400, True, 4)
    whole = sum(torch.bincount(part.y, minlength=10) for part in (data.train, data.validation, data.test))
    for part in (data.train, data.validation, data.test):
        assert (torch.bincount(part.y) - whole * len(part) / 1797).abs().max() <= 1.01


def test_portions_hold_every_sample_in_order():
    x, y = torch.arange(70).view(10, 7), torch.arange(10)
    parts = portions(x, y, values=22)
    assert [len(part) for _, part in parts] == [3, 3, 3, 1]
    assert torch.equal(torch.cat([part for part, _ in parts]), x)
    assert len(portions(x, y, values=1)) == 10


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match="1797"):
        digits(1200, 400, 400, True, 0)
    with pytest.raises(ValueError, match=r"data\.n_test"):
        digits(1200, 100, 0, True, 0)
    with pytest.raises(ValueError, match="batch_size"):
        Batches(10, 11, 0)
    with pytest.raises(ValueError, match="sizes"):
        mlp([3])


@pytest.mark.parametrize("taken", range(9))
def test_batches_continue_anywhere(taken):
    one, two = Batches(10, 4, 5), Batches(10, 4, 99)
    for _ in range(taken):
        one.take()
    two.load_state_dict(one.state_dict())
    assert all(torch.equal(one.take(), two.take()) for _ in range(7))


def test_an_epoch_holds_every_sample_once():
    batches = Batches(10, 4, 0)
    first = [batches.take() for _ in range(3)]
    assert batches.position == 0
    assert sorted(torch.cat(first).tolist()) == list(range(10))
    assert Batches(10, None, 0).take() == slice(None)


def test_the_default_model():
    assert count(mlp(), weights_only=False) == 64 * 32 + 32 + 32 * 10 + 10
    assert mlp()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
