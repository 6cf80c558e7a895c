"""Ordered draws without replacement: probabilities add up to one, draws follow them, extremes do no harm."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mcmcopt.chain.moves.selection import check_temperature, draw, log_prob, weighted
from tests.statistical.informed_harness import sequence_log_prob

WEIGHTS = np.array([0.3, -1.2, 2.0, 0.0, -0.4])


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_probabilities_of_all_sequences_add_up_to_one(k):
    sequences = list(itertools.permutations(range(5), k))
    assert math.fsum(math.exp(log_prob(WEIGHTS, np.array(s))) for s in sequences) == pytest.approx(1, abs=1e-12)


@given(
    logs=st.lists(st.floats(-50, 50), min_size=1, max_size=9),
    data=st.data(),
)
def test_the_probability_is_the_product_draw_by_draw_and_ignores_a_constant(logs, data):
    logs = np.array(logs)
    k = data.draw(st.integers(1, len(logs)))
    order = data.draw(st.permutations(range(len(logs))))[:k]
    own = sequence_log_prob(logs, order)
    assert log_prob(logs, np.array(order)) == pytest.approx(own, rel=1e-10, abs=1e-10)
    assert log_prob(logs + 700.0, np.array(order)) == pytest.approx(own, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_draws_follow_the_probability_of_their_sequence(k):
    rng, n = np.random.default_rng(1), 4000
    counts = Counter(tuple(draw(WEIGHTS, k, rng).tolist()) for _ in range(n))
    sequences = list(itertools.permutations(range(5), k))
    expected = np.array([n * math.exp(sequence_log_prob(WEIGHTS, s)) for s in sequences])
    observed = np.array([counts[s] for s in sequences])
    assert observed.sum() == n
    often = expected >= 5
    observed = np.append(observed[often], observed[~often].sum() + 1e-9)
    expected = np.append(expected[often], expected[~often].sum() + 1e-9)
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4


def test_everything_can_be_drawn_and_nothing_twice():
    rng = np.random.default_rng(2)
    for n in (1, 2, 7):
        for k in range(1, n + 1):
            chosen = draw(np.zeros(n), k, rng)
            assert len(set(chosen.tolist())) == k
            assert chosen.dtype == np.int64


def test_what_is_left_over_keeps_its_digits_beside_a_giant():
    logs = np.array([800.0, 0.0, -1.0])
    left = -1.0 - math.log(math.exp(0.0) + math.exp(-1.0))
    assert log_prob(logs, np.array([0, 2])) == pytest.approx(left, rel=1e-12)  # by subtraction: 0/0
    assert log_prob(logs, np.array([2, 0])) == pytest.approx(-801.0, rel=1e-12)


def test_a_fixed_temperature_divides_and_the_automatic_one_caps_the_best_at_n_plus_one_average_ones():
    gains = np.array([0.0, 1.0, 500.0, -3.0])
    np.testing.assert_allclose(weighted(gains, 3, 5.0), gains / 10)
    logs = weighted(gains, 3, "auto")
    assert logs[2] - logs.mean() == pytest.approx(math.log(5), rel=1e-12)
    np.testing.assert_allclose(np.diff(logs) / np.diff(gains), (logs[1] - logs[0]) / 1.0)
    small = gains / 1000
    np.testing.assert_allclose(weighted(small, 3, "auto"), small / 2)  # never colder than 1


def test_by_rank_only_the_order_counts_and_ties_go_by_position():
    gains = np.array([5.0, 1e9, -2.0, 5.0])
    np.testing.assert_allclose(weighted(gains, 2, "rank"), -8 * np.log1p(np.array([1, 0, 3, 2]) / 2))
    np.testing.assert_array_equal(weighted(gains, 2, "rank"), weighted(np.arctan(gains), 2, "rank"))


@pytest.mark.parametrize("temperature", ["auto", "rank", 1.0])
def test_no_candidates_and_one_candidate_are_no_trouble(temperature):
    assert weighted(np.empty(0), 2, temperature).shape == (0,)
    assert weighted(np.array([3.0]), 1, temperature) == pytest.approx([0.0 if temperature == "rank" else 1.5])
    assert log_prob(np.array([3.0]), np.array([0])) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", ["auto", "rank", 1.0])
def test_gains_that_are_not_finite_raise_nothing(bad, temperature):
    with np.errstate(invalid="ignore"):
        logs = weighted(np.array([0.0, bad, 1.0]), 2, temperature)
        draw(logs, 2, np.random.default_rng(0))
        log_prob(logs, np.array([0, 2]))


@pytest.mark.parametrize("value", [0, 0.5, -1, math.inf, math.nan, "Auto", "x", None, True])
def test_a_bad_temperature_is_refused_with_its_value(value):
    with pytest.raises(ValueError, match='temperature must be a number of at least 1, "auto" or "rank"') as caught:
        check_temperature(value)
    assert repr(value) in str(caught.value)
    assert check_temperature(1) == 1.0
    assert (check_temperature("auto"), check_temperature("rank")) == ("auto", "rank")
