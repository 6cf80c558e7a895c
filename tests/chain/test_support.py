"""The active set: a permutation with a pointer, which every operation keeps consistent and `restore` inverts."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mcmcopt.chain.support import Support


def consistent(support: Support, count: torch.Tensor, active: set[int]) -> None:
    assert sorted(support.order.tolist()) == list(range(support.size))
    assert support.position[support.order].tolist() == list(range(support.size))
    assert support.active == int(count) == len(active)
    assert set(support.order[: support.active].tolist()) == active
    assert set(np.flatnonzero(support.mask()).tolist()) == active
    assert all(support.is_active(b) == (b in active) for b in range(support.size))


@given(size=st.integers(1, 9), picks=st.lists(st.integers(0, 8), max_size=30))
def test_births_and_deaths_keep_the_permutation_and_undo_exactly(size, picks):
    order, count = Support.full(size)
    support, active, journal = Support(order, count), set(range(size)), []
    consistent(support, count, active)
    for block in (pick % size for pick in picks):
        before = (order.clone(), count.clone())
        came_from = support.deactivate(block) if block in active else support.activate(block)
        active ^= {block}
        consistent(support, count, active)
        journal.append((block, came_from, *before))
    for block, came_from, order_before, count_before in reversed(journal):
        support.restore(block, came_from)
        assert torch.equal(order, order_before)
        assert torch.equal(count, count_before)
        active ^= {block}
        consistent(support, count, active)


def test_a_support_looks_at_its_tensors_and_can_be_rebuilt_from_them():
    order, count = Support.full(6)
    support = Support(order, count)
    for block in (4, 0, 5):
        support.deactivate(block)
    support.activate(0)
    again = Support(order, count)
    assert (again.position == support.position).all()
    assert again.active == 4
    assert (order.dtype, count.dtype) == (torch.int32, torch.int64)


def test_draws_are_uniform_over_the_active_and_over_the_inactive_blocks():
    support, rng = Support(*Support.full(9)), np.random.default_rng(1)
    for block in (7, 2, 0, 5):
        support.deactivate(block)
    for draw, blocks in ((support.draw_active, {1, 3, 4, 6, 8}), (support.draw_inactive, {0, 2, 5, 7})):
        counts = Counter(draw(rng) for _ in range(4000))
        assert set(counts) == blocks
        assert stats.chisquare(list(counts.values())).pvalue > 1e-4


@pytest.mark.parametrize("order", [[0, 0, 2], [0, 1, 3], [-1, 1, 2], [1, 2, 3]])
def test_what_is_no_permutation_is_refused(order):
    with pytest.raises(ValueError, match="permutation of the 3 blocks"):
        Support(torch.tensor(order, dtype=torch.int32), torch.tensor(2))


@pytest.mark.parametrize("count", [-1, 4])
def test_a_count_out_of_range_is_refused(count):
    with pytest.raises(ValueError, match=rf"0\.\.3, got {count}"):
        Support(torch.arange(3, dtype=torch.int32), torch.tensor(count))


def test_the_empty_support():
    support = Support(*Support.full(0))
    assert support.size == support.active == 0
    assert support.mask().shape == (0,)
