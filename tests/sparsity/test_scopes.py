"""Structures of one layer and over all of them, and the selection of the lowest, by sorting in plain Python."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mcmcopt.sparsity import Magnitude, keep_masks, prune

STRUCTURES = ("block", "filter", "unit")
SHAPES = st.one_of(st.tuples(st.integers(1, 6), st.integers(1, 6)), st.tuples(*[st.integers(1, 3)] * 4))
TILES = st.tuples(st.integers(1, 4), st.integers(1, 4))
SHARES = st.integers(0, 24).map(lambda n: n / 24)


@st.composite
def layers(draw):
    shapes = draw(st.lists(SHAPES, min_size=1, max_size=3))
    return {
        f"w{i}": torch.tensor(
            draw(st.lists(st.integers(0, 3), min_size=math.prod(s), max_size=math.prod(s))), dtype=torch.float32
        ).view(s)
        for i, s in enumerate(shapes)
    }


def structures(shape, kind, block):
    """Return the sets of flat indices, in order."""
    index = torch.arange(math.prod(shape)).view(shape)
    if kind == "filter":
        return [index[i].flatten().tolist() for i in range(shape[0])]
    if kind == "unit":
        return [index[:, j].flatten().tolist() for j in range(shape[1])]
    rows = index.flatten(1)
    r, c = block
    return [
        rows[i : i + r, j : j + c].flatten().tolist()
        for i in range(0, rows.shape[0], r)
        for j in range(0, rows.shape[1], c)
    ]


def expected(scored, among, share, kind, block, together):
    """Prune one by one, by sorting (mean, layer, number) of the structures that have a mark."""
    found = []
    for number, (name, score) in enumerate(scored.items()):
        values, marks = score.flatten().tolist(), among[name].flatten().tolist()
        for k, entries in enumerate(structures(score.shape, kind, block)):
            if any(marks[i] for i in entries):
                found.append((sum(values[i] for i in entries) / len(entries), number, k, name, entries))
    pools = [found] if together else [[f for f in found if f[3] == name] for name in scored]
    kept = {name: among[name].flatten().clone() for name in scored}
    for pool in pools:
        for *_, name, entries in sorted(pool)[: round(share * len(pool))]:
            kept[name][entries] = False
    return {name: mask.view(scored[name].shape) for name, mask in kept.items()}


@given(layers(), SHARES, st.sampled_from(STRUCTURES), TILES, st.booleans(), st.booleans())
def test_the_lowest_means_go_exactly_and_the_first_of_equals(scored, share, kind, block, together, remaining):
    among = {n: s > 0 if remaining else torch.ones_like(s, dtype=torch.bool) for n, s in scored.items()}
    scope = f"global-{kind}" if together else kind
    masks = keep_masks(scored, share, scope, among if remaining else None, block)
    wanted = expected(scored, among, share, kind, block, together)
    assert list(masks) == list(scored)
    for name, mask in masks.items():
        assert mask.dtype == torch.bool
        assert torch.equal(mask, wanted[name])


@given(layers(), SHARES, SHARES, st.sampled_from([*STRUCTURES, *(f"global-{s}" for s in STRUCTURES)]))
def test_masks_are_nested(scored, one, two, scope):
    few, many = (keep_masks(scored, share, scope) for share in (max(one, two), min(one, two)))
    assert all((few[name] <= many[name]).all() for name in scored)


@given(layers(), SHARES)
def test_tiles_of_one_entry_over_all_layers_are_the_global_scope(scored, share):
    one, two = keep_masks(scored, share, "global-block", block=(1, 1)), keep_masks(scored, share, "global")
    assert all(torch.equal(one[n], two[n]) for n in scored)


def test_a_unit_is_all_that_leaves_an_input():
    scored = {"conv": torch.ones(3, 4, 2, 2), "fc": torch.ones(5, 6)}
    scored["conv"][:, 2] = 0.1
    scored["fc"][:, [0, 5]] = 0.2
    masks = keep_masks(scored, 0.25, "unit")
    assert masks["conv"].all((0, 2, 3)).tolist() == [True, True, False, True]
    assert not masks["conv"][:, 2].any()
    assert masks["fc"].all(0).tolist() == [False, True, True, True, True, False]  # round(1.5) = 2
    masks = keep_masks(scored, 0.1, "global-unit")
    assert int((~masks["conv"]).sum()) == 12
    assert masks["fc"].all()


def test_over_all_layers_structures_count_and_not_weights():
    scored = {"wide": torch.full((2, 100), 1.0), "small": torch.full((6, 2), 2.0)}
    masks = keep_masks(scored, 0.5, "global-filter")
    assert masks["wide"].any(1).tolist() == [False, False]
    assert masks["small"].any(1).tolist() == [False, False, True, True, True, True]


def test_dtypes_of_layers_may_differ():
    scored = {
        "a": torch.tensor([[0.1, 0.4]], dtype=torch.float32),
        "b": torch.tensor([[0.3, 0.2]], dtype=torch.float64),
    }
    for scope in ("global", "global-unit"):
        masks = keep_masks(scored, 0.5, scope)
        assert masks["a"].tolist() == [[False, True]]
        assert masks["b"].tolist() == [[True, False]]


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("make", [torch.Tensor.float, torch.Tensor.double, torch.Tensor.half, torch.Tensor.long])
def test_the_selection_is_that_of_a_stable_sort(scope, make):
    generator = torch.Generator().manual_seed(0)
    values = make(torch.randint(-20, 20, (700,), generator=generator))
    for share in (0.0, 1e-3, 0.1, 0.333, 0.5, 0.99, 1.0):
        n = round(share * 700)
        wanted = torch.ones(700, dtype=torch.bool)
        wanted[values.sort(stable=True).indices[:n]] = False
        masks = keep_masks({"w": values.view(7, 100)}, share, scope)
        assert torch.equal(masks["w"].flatten(), wanted)


def test_infinities_and_signed_zeros():
    inf = math.inf
    score = torch.tensor([0.0, inf, -inf, -0.0, 1.0, -inf, inf, -1.0])
    order = [2, 5, 7, 0, 3, 4, 1, 6]  # zeros are equal, whatever their sign
    for n in range(9):
        for scope in ("layer", "global"):
            mask = keep_masks({"w": score}, n / 8, scope)["w"]
            assert (~mask).nonzero().flatten().tolist() == sorted(order[:n])


def test_views_of_other_strides_are_seen_as_they_are():
    score = torch.arange(12.0).view(3, 4).T
    mask = keep_masks({"w": score}, 0.5)["w"]
    assert torch.equal(mask, score > 5)
    assert torch.equal(keep_masks({"w": score}, 0.25, "unit")["w"], torch.ones(4, 3, dtype=torch.bool) & (score > 3))


def test_units_of_a_network_vanish_whole():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5))
    masks = prune(model, Magnitude(), 0.5, scope="unit")
    conv, fc = masks["0.weight"], masks["3.weight"]
    assert conv.flatten(2).all(2).all(0).sum() == 3 - round(1.5)
    assert conv.flatten(2).any(2).any(0).sum() == 3 - round(1.5)
    assert fc.all(0).sum() == fc.any(0).sum() == 12
