"""Births, deaths, toggles and swaps: closed forms with scipy's densities, uniform choice, the law of births."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mcmcopt.chain import adapt
from mcmcopt.chain.layer import Kind
from mcmcopt.chain.moves import BirthDeath, Swap, Toggle
from tests.chain.states import layers, make_layer

LAWS = {"normal": stats.norm, "student_t": lambda scale: stats.t(3.0, scale=scale), "laplace": stats.laplace}


def law(density, scale):
    return LAWS[density](scale=scale)


@given(
    layer=layers(),
    birth=st.sampled_from([0.2, 0.5, 0.9]),
    density=st.sampled_from(sorted(LAWS)),
    scale=st.sampled_from([0.3, 2.0]),
    seed=st.integers(0, 10**6),
)
def test_ratios_are_the_closed_forms(layer, birth, density, scale, seed):
    g, size, k = law(density, scale), layer.tiling.count, layer.active
    for move in (BirthDeath(birth, density), Toggle(density), Swap(density)):
        edits = move.draw(layer, scale, np.random.default_rng(seed))
        if edits is None:
            continue
        selection = 0.0
        if isinstance(move, BirthDeath) and edits[0].kind is Kind.BIRTH:
            selection = math.log((1 - birth) / (k + 1)) - math.log(birth / (size - k))
        elif isinstance(move, BirthDeath):
            selection = math.log(birth / (size - k + 1)) - math.log((1 - birth) / k)
        died = sum(g.logpdf(e.old.numpy()).sum() for e in edits if e.kind is Kind.DEATH)
        born = sum(g.logpdf(e.new.numpy()).sum() for e in edits if e.kind is Kind.BIRTH)
        assert move.log_q_ratio(edits, scale) == pytest.approx(selection + died - born, abs=1e-10, rel=1e-11)


@pytest.mark.parametrize("density", LAWS)
@pytest.mark.parametrize("move", [BirthDeath, Toggle, Swap])
def test_births_follow_the_birth_density_at_the_scale(move, density):
    layer, rng = make_layer((40, 50), "row", active=range(1)), np.random.default_rng(8)
    drawn = [move(density=density).draw(layer, 0.3, rng) for _ in range(80)]
    values = np.concatenate([e.new.numpy() for edits in drawn if edits for e in edits if e.kind is Kind.BIRTH])
    assert len(values) > 1000
    assert stats.kstest(values, law(density, 0.3).cdf).pvalue > 1e-4


@pytest.mark.parametrize(("move", "share"), [(BirthDeath(0.3), 0.3), (Toggle(), 7 / 12)], ids=repr)
def test_births_and_deaths_are_tried_with_their_probabilities_and_blocks_are_uniform(move, share):
    layer, rng = make_layer(active=[0, 3, 4, 8, 10]), np.random.default_rng(6)
    counts = Counter((e.kind, e.block) for _ in range(6000) for e in move.draw(layer, 1.0, rng))
    births = {block: n for (kind, block), n in counts.items() if kind is Kind.BIRTH}
    deaths = {block: n for (kind, block), n in counts.items() if kind is Kind.DEATH}
    assert set(deaths) == {0, 3, 4, 8, 10}
    assert set(births) == set(range(12)) - set(deaths)
    assert stats.binomtest(sum(births.values()), 6000, share).pvalue > 1e-4
    assert stats.chisquare(list(births.values())).pvalue > 1e-4
    assert stats.chisquare(list(deaths.values())).pvalue > 1e-4


def test_a_swap_draws_every_pair_equally_often():
    layer, rng = make_layer((2, 3), active=[1, 4]), np.random.default_rng(6)
    counts = Counter()
    for _ in range(4000):
        death, birth = Swap().draw(layer, 1.0, rng)
        assert (death.kind, birth.kind) == (Kind.DEATH, Kind.BIRTH)
        counts[death.block, birth.block] += 1
    assert set(counts) == {(i, j) for i in (1, 4) for j in (0, 2, 3, 5)}
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


def test_labels_tell_births_from_deaths():
    layer = make_layer(active=range(6))
    drawn = [BirthDeath().draw(layer, 1.0, np.random.default_rng(seed)) for seed in range(20)]
    assert {BirthDeath().label(edits) for edits in drawn} == {"birth", "death"} == set(BirthDeath.labels)
    assert all(BirthDeath().label(edits) == edits[0].kind.value for edits in drawn)
    assert Toggle().label(drawn[0]) == "toggle"


@pytest.mark.parametrize("move", [BirthDeath(), Toggle(), Swap()], ids=repr)
@pytest.mark.parametrize("accepted", [False, True])
def test_the_birth_scale_learns_from_the_weights_that_deaths_show(move, accepted):
    layer = make_layer(active=range(6))
    drawn = [move.draw(layer, 1.0, np.random.default_rng(seed)) for seed in range(20)]
    assert any(edits[0].kind is Kind.DEATH for edits in drawn)
    for edits in drawn:
        adapted = move.adapt(0.3, 9, edits, accepted, 2.0)
        if edits[0].kind is Kind.DEATH:
            aim = math.log(float(edits[0].old.square().mean().sqrt()) / 2.0)
            assert adapted == pytest.approx(0.3 + adapt.gain(9) * (aim - 0.3))
        else:
            assert adapted is None
