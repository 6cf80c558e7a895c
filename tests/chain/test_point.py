"""A point is the present state with a proposal laid over it, and hands out copies."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcmcopt.chain.moves import InformedBirthDeath, InformedFlip, InformedSwap, Langevin
from mcmcopt.chain.point import Point
from tests.chain.states import accept, layers, make_layer


def slopes(*among):
    rng = np.random.default_rng(5)
    return {layer.param: torch.from_numpy(rng.standard_normal(layer.param.shape)) for layer in among}


@pytest.mark.parametrize("move", [InformedBirthDeath(2), InformedSwap(), InformedFlip(2), Langevin()], ids=repr)
@settings(max_examples=20)
@given(layer=layers(), seed=st.integers(0, 10**6))
def test_the_point_of_a_proposal_is_the_present_once_it_is_accepted(move, layer, seed):
    gradients = slopes(layer)
    edits = move.draw(layer, 0.5, np.random.default_rng(seed), Point(1.0, gradients))
    if edits is None:
        return
    there = Point(1.0, gradients, edits)
    seen = there.values(layer), there.active(layer), there.active_entries(layer)
    untouched = layer.param.clone(), layer.support.mask().copy()
    assert torch.equal(layer.param, untouched[0])
    accept(edits)
    now = Point(1.0, gradients)
    for before, after in zip(seen, (now.values(layer), now.active(layer), now.active_entries(layer)), strict=True):
        assert np.array_equal(before, after)
    assert torch.equal(now.active_entries(layer), layer.mask().reshape(-1))
    assert torch.equal(now.values(layer), layer.param.view(-1))


def test_edits_of_other_layers_are_left_aside():
    one, two = make_layer(active=range(6)), make_layer(active=range(3), seed=1)
    one.group = two.group = (one, two)
    one.param.requires_grad_()
    two.param.requires_grad_()
    gradients = slopes(one, two)
    edits = Langevin("group").draw(one, 0.5, np.random.default_rng(0), Point(1.0, gradients))
    assert len(edits) == 2
    there = Point(1.0, gradients, edits[:1])
    assert not torch.equal(there.values(one), one.param.view(-1))
    assert torch.equal(there.values(two), two.param.view(-1))


@pytest.mark.parametrize("dense", [False, True])
def test_what_it_hands_out_is_nobody_else_s(dense):
    layer = make_layer(active=range(5), dense=dense)
    point = Point(1.0, slopes(layer))
    before = layer.param.clone()
    point.values(layer).zero_()
    point.active(layer)[:] = False
    assert torch.equal(layer.param, before)
    assert layer.active == (12 if dense else 5)


def test_a_gradient_that_nobody_asks_for_is_not_computed_and_one_that_is_only_once():
    layer, calls = make_layer(active=range(5)), []
    gradients = slopes(layer)
    point = Point(1.0, lambda: calls.append(1) or gradients)
    point.values(layer)
    point.active_entries(layer)
    assert not calls
    for _ in range(3):
        assert torch.equal(point.gradient(layer), gradients[layer.param].view(-1))
    assert calls == [1]


def test_gradients_and_values_are_float64_in_logical_order_whatever_the_memory_format():
    layer = make_layer((3, 2, 2, 2), "filter", dtype=torch.bfloat16)
    gradient = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    point = Point(1.0, {layer.param: gradient.to(memory_format=torch.channels_last)})
    assert point.gradient(layer).dtype == point.values(layer).dtype == torch.float64
    assert torch.equal(point.gradient(layer), gradient.double().view(-1))
    assert torch.equal(point.values(layer), layer.param.double().view(-1))
