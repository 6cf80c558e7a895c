"""Tiles and filters: exact counts, ties, ragged edges, what is among them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mcmcopt.chain.blocks import Tiling
from mcmcopt.sparsity import keep_masks, nonzero, resistance_curve
from mcmcopt.sparsity.structures import means, tiling

SHAPES = st.one_of(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.tuples(*[st.integers(1, 3)] * 4))
TILES = st.tuples(st.integers(1, 5), st.integers(1, 5))
SHARES = st.integers(0, 24).map(lambda n: n / 24)


@st.composite
def scored(draw):
    shape = draw(SHAPES)
    values = draw(st.lists(st.integers(0, 3), min_size=math.prod(shape), max_size=math.prod(shape)))  # many ties
    return torch.tensor(values, dtype=torch.float32).view(shape)


def structures(shape, scope, block):
    """Return lists of flat indices, row by row of tiles, by loops over the matrix."""
    rows, columns = shape[0], math.prod(shape[1:])
    r, c = (1, columns) if scope == "filter" else block
    return [
        [i * columns + j for i in range(top, min(top + r, rows)) for j in range(left, min(left + c, columns))]
        for top in range(0, rows, r)
        for left in range(0, columns, c)
    ]


def expected(scores, marked, share, scope, block):
    """Prune one by one, by sorting pairs (mean, number), in plain Python."""
    values, marked = scores.flatten().tolist(), marked.flatten().tolist()
    found = structures(scores.shape, scope, block)
    candidates = [n for n, entries in enumerate(found) if any(marked[i] for i in entries)]
    candidates.sort(key=lambda n: (sum(values[i] for i in found[n]) / len(found[n]), n))
    kept = {i for n in candidates[round(share * len(candidates)) :] for i in found[n]}
    return [i in kept and marked[i] for i in range(len(values))]


@given(scored(), SHARES, st.sampled_from(["block", "filter"]), TILES, st.booleans())
def test_the_lowest_means_go_exactly_and_lower_numbers_first(scores, share, scope, block, remaining):
    marked = scores > 0 if remaining else torch.ones_like(scores, dtype=torch.bool)
    masks = keep_masks({"w": scores}, share, scope, {"w": marked} if remaining else None, block)
    assert masks["w"].shape == scores.shape
    assert masks["w"].flatten().tolist() == expected(scores, marked, share, scope, block)


@given(scored(), st.sampled_from(["block", "filter"]), TILES)
def test_the_chain_numbers_its_blocks_alike(scores, scope, block):
    rows, columns = scores.shape[0], scores[0].numel()
    fits = (min(block[0], rows), min(block[1], columns))
    chain = Tiling(scores.shape, fits if scope == "block" else "filter")
    own = [scores.flatten()[chain.indices(n)].double().mean() for n in range(chain.count)]
    torch.testing.assert_close(means(scores, tiling(scores.shape, scope, block)), torch.stack(own))


@given(scored(), SHARES)
def test_tiles_of_one_entry_are_the_layer_scope(scores, share):
    one = keep_masks({"w": scores}, share, "block", block=(1, 1))["w"]
    assert torch.equal(one, keep_masks({"w": scores}, share, "layer")["w"])


def test_a_mean_is_one_per_entry_so_that_small_tiles_at_an_edge_do_not_go_first():
    scores = torch.tensor([[1.0, 1.0, 2.0]])  # tiles of two: means 1 and 2, sums 2 and 2
    assert keep_masks({"w": scores}, 0.5, "block", block=(1, 2))["w"].tolist() == [[False, False, True]]


def test_each_layer_loses_its_own_share_of_structures():
    scores = {"a": torch.full((4, 3), 0.1), "b": torch.full((10, 2), 9.0)}
    masks = keep_masks(scores, 0.5, "filter")
    assert masks["a"].any(1).tolist() == [False] * 2 + [True] * 2
    assert masks["b"].any(1).tolist() == [False] * 5 + [True] * 5


def test_curve_of_filters_counts_weights_and_leaves_biases():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(20, 4))
    rows = [model[0].weight.detach().abs().mean((1, 2, 3)), model[2].weight.detach().abs().mean(1)]

    def look(pruned):
        assert all(layer.bias.detach().all() for layer in (pruned[0], pruned[2]))
        return [set(w.detach().flatten(1).any(1).logical_not().nonzero().flatten().tolist()) for w in weights]

    weights = [model[0].weight, model[2].weight]
    point = resistance_curve(model, look, scope="filter", sparsities=(0.5,))[0]
    assert point.outcome == [set(row.argsort()[:2].tolist()) for row in rows]  # round(2.5) and 2
    assert point.weights_kept == 3 * 18 + 2 * 20
    assert point.reached == pytest.approx(1 - 94 / 170)
    assert (point.scope, point.requested) == ("filter", 0.5)


def test_remaining_tiles_are_those_with_a_weight():
    model = nn.Linear(6, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0, 0, 0, 1, 5, 5], [0, 0, 0, 0, 5, 5]]))
    every = resistance_curve(model, nonzero, scope="block", sparsities=(0.34, 0.5), block=(2, 2))
    assert [p.weights_kept for p in every] == [5, 4]  # round(1.02) = 1 empty tile, round(1.5) = 2 tiles of three
    left = resistance_curve(model, nonzero, scope="block", sparsities=(0.0, 0.34), remaining=True, block=(2, 2))
    assert [p.weights_kept for p in left] == [5, 4]  # round(0.68) = 1 of the two tiles that have weights
    assert [p.reached for p in left] == [0.0, pytest.approx(1 / 5)]


def test_infinite_scores_have_an_order_but_not_every_mean():
    inf = float("inf")
    scores = {"w": torch.tensor([[inf, 1.0], [2.0, 3.0], [-inf, 9.0]])}
    assert keep_masks(scores, 0.34, "layer")["w"].tolist() == [[True, False], [True, True], [False, True]]
    assert keep_masks(scores, 0.34, "filter")["w"].tolist() == [[True, True], [True, True], [False, False]]
    assert keep_masks(scores, 0.67, "filter")["w"].tolist() == [[True, True], [False, False], [False, False]]
    with pytest.raises(ValueError, match="scores of w have inf and -inf in one structure"):
        keep_masks(scores, 0.5, "block", block=(3, 1))


@pytest.mark.parametrize("block", [(0, 4), (4,), [4, 4], 4, (2.0, 2), (True, 2)])
def test_wrong_tile_is_named(block):
    with pytest.raises(ValueError, match="block must be a tile"):
        keep_masks({"w": torch.ones(3, 3)}, 0.5, "block", block=block)
