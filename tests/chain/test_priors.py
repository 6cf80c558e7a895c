"""log π(w, γ), and its ratio for a proposal: the same number as the difference of two full passes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mcmcopt.chain.inclusion import AlquierLounici, Bernoulli, BetaBinomial, Complexity, RigolletTsybakov, SoftCap
from mcmcopt.chain.moves import BirthDeath, RandomWalk, SignFlip, Swap, Toggle
from mcmcopt.chain.priors import SpikeSlab, log_prior, log_prior_ratio
from mcmcopt.chain.slabs import DalalyanTsybakov, Gaussian, Laplace, StudentT
from tests.chain.states import accept, layers, make_layer

INCLUSIONS = (Bernoulli(0.2), BetaBinomial(), Complexity(), AlquierLounici(), RigolletTsybakov(), SoftCap(0.3, 9.0))
SLABS = (Gaussian(0.5), StudentT(3.0, 0.4), Laplace(1.5))
MOVES = (RandomWalk(), RandomWalk(k=3), SignFlip(k=2), BirthDeath(), Toggle(), Swap())


@given(layer=layers(INCLUSIONS, SLABS), move=st.sampled_from(MOVES), seed=st.integers(0, 10**6))
def test_the_ratio_is_the_difference_of_two_full_passes(layer, move, seed):
    edits = move.draw(layer, 0.6, np.random.default_rng(seed))
    if edits is None:
        return
    ratio, before = log_prior_ratio(edits), log_prior([layer])
    accept(edits)
    assert ratio == pytest.approx(log_prior([layer]) - before, abs=1e-9)


@given(
    first=layers(INCLUSIONS[1:2], SLABS[:1]),
    second=layers(INCLUSIONS[1:2], SLABS[:1]),
    moves=st.lists(st.sampled_from(MOVES), min_size=1, max_size=2),
    seed=st.integers(0, 10**6),
)
def test_layers_that_share_a_pool_count_their_blocks_together(first, second, moves, seed):
    first.pool = second.pool = (first, second)
    rng = np.random.default_rng(seed)
    drawn = [move.draw(layer, 0.6, rng) for move, layer in zip(moves, (first, second), strict=False)]
    edits = [edit for edits in drawn if edits for edit in edits]
    ratio, before = log_prior_ratio(edits), log_prior([first, second])
    accept(edits)
    assert ratio == pytest.approx(log_prior([first, second]) - before, abs=1e-9)


def test_log_prior_is_the_sum_of_slab_and_pattern():
    layer = make_layer((4, 6), (2, 3), active=[0, 3], slab=Gaussian(0.7), inclusion=Bernoulli(0.3))
    bias = make_layer((5,), dense=True, slab=Gaussian(0.7), seed=1)
    weights = layer.param[layer.mask()].numpy()
    assert len(weights) == 12
    expected = stats.norm(scale=0.7).logpdf(weights).sum() + math.log(0.3**2 * 0.7**2)
    assert log_prior([layer]) == pytest.approx(expected)
    expected += stats.norm(scale=0.7).logpdf(bias.param.numpy()).sum()
    assert log_prior([layer, bias]) == pytest.approx(expected)


def test_log_prior_of_pools_counts_each_pool_once():
    one, two, three = (make_layer((2, 3), active=[i], inclusion=BetaBinomial(), seed=i) for i in range(3))
    one.pool = two.pool = (one, two)
    slab = sum(float(stats.norm(scale=0.7).logpdf(layer.param[layer.mask()].numpy()).sum()) for layer in (one, two))
    slab += float(stats.norm(scale=0.7).logpdf(three.param[three.mask()].numpy()).sum())
    expected = slab + BetaBinomial().log_prob(2, 12) + BetaBinomial().log_prob(1, 6)
    assert log_prior([one, two, three]) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_log_prior_is_summed_in_float64(dtype):
    layer = make_layer((100, 100), dense=True, dtype=dtype)
    expected = stats.norm(scale=0.7).logpdf(layer.param.double().numpy()).sum()
    assert log_prior([layer]) == pytest.approx(expected, rel=1e-12)


def test_p_is_short_for_bernoulli_and_the_slab_defaults_to_the_standard_normal():
    assert repr(SpikeSlab(0.1)) == repr(SpikeSlab(inclusion=Bernoulli(0.1), slab=Gaussian(1.0)))
    text = "SpikeSlab(inclusion=BetaBinomial(a=1.0, b=1.0), slab=DalalyanTsybakov(tau=0.5), per='group')"
    prior = SpikeSlab(inclusion=BetaBinomial(), slab=DalalyanTsybakov(0.5), per="group")
    assert repr(prior) == text == repr(eval(text))  # noqa: S307


@pytest.mark.parametrize(
    ("arguments", "error", "parts"),
    [
        ({}, ValueError, ("p=None", "inclusion=None")),
        ({"p": 0.1, "inclusion": Bernoulli(0.1)}, ValueError, ("p=0.1", "inclusion=Bernoulli(p=0.1)")),
        ({"p": 0}, ValueError, ("p must", "0")),
        ({"p": "x"}, ValueError, ("p must", "'x'")),
        ({"p": True}, ValueError, ("p must", "True")),
        ({"p": math.nan}, ValueError, ("p must", "nan")),
        ({"inclusion": 0.1}, TypeError, ("inclusion must", "0.1")),
        ({"inclusion": Bernoulli}, TypeError, ("inclusion must", "Bernoulli")),
        ({"p": 0.1, "slab": 1.0}, TypeError, ("slab must", "1.0")),
        ({"p": 0.1, "slab": Gaussian}, TypeError, ("slab must", "Gaussian")),
        ({"p": 0.1, "per": "network"}, ValueError, ("per must", "'network'")),
    ],
)
def test_bad_arguments_are_refused_by_name_and_value(arguments, error, parts):
    with pytest.raises(error) as caught:
        SpikeSlab(**arguments)
    assert all(part in str(caught.value) for part in parts)
