"""C14 for inclusion priors: they sum to one over all patterns, and draws and log-odds agree with `log_prob`."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import betaln, comb, logsumexp

from mcmcopt.chain.inclusion import AlquierLounici, Bernoulli, BetaBinomial, Complexity, RigolletTsybakov, SoftCap
from mcmcopt.chain.schedule import CubicDecay

PRIORS = [
    Bernoulli(0.01),
    Bernoulli(0.4),
    BetaBinomial(),
    BetaBinomial(0.5, 7.0),
    Complexity(),
    Complexity(a=0.3, c=0.5),
    AlquierLounici(),
    AlquierLounici(0.9),
    RigolletTsybakov(),
    SoftCap(0.0, 3.0),
    SoftCap(0.3, 40.0),
]
EACH = pytest.mark.parametrize("prior", PRIORS, ids=repr)


def closed_form(prior, k, size):
    """Return log π(γ), normalised by enumerating all patterns, from the formulas as the papers have them."""

    def weight(k):
        match prior:
            case Bernoulli(p=p):
                return p**k * (1 - p) ** (size - k)
            case BetaBinomial(a=a, b=b):
                return math.exp(betaln(a + k, b + size - k) - betaln(a, b))
            case Complexity(a=a, c=c):
                return c**-k * size ** (-a * k) / comb(size, k)
            case AlquierLounici(alpha=alpha):
                return alpha**k / comb(size, k)
            case SoftCap(density=density, strength=strength):
                return math.exp(-strength / 2 * size * max(0, k / size - density) ** 2)
            case RigolletTsybakov():
                return (k / (2 * math.e * size)) ** k

    patterns = [sum(pattern) for pattern in product((0, 1), repeat=size)]
    if isinstance(prior, RigolletTsybakov):
        others = sum(weight(j) for j in patterns if j < size)
        return math.log(0.5) if k == size else math.log(0.5 * weight(k) / others)
    return math.log(weight(k) / sum(weight(j) for j in patterns))


@EACH
@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_log_prob_is_the_closed_form(prior, size):
    for k in range(size + 1):
        assert prior.log_prob(k, size) == pytest.approx(closed_form(prior, k, size), abs=1e-9)


@EACH
@pytest.mark.parametrize("size", [0, 1, 2, 17, 1000, 20_000])
def test_patterns_sum_to_one(prior, size):
    k = np.arange(size + 1)
    log_choose = math.lgamma(size + 1) - np.array([math.lgamma(j + 1) + math.lgamma(size - j + 1) for j in k])
    total = logsumexp([prior.log_prob(int(j), size) for j in k] + log_choose)
    assert total == pytest.approx(0, abs=1e-7)


@given(prior=st.sampled_from(PRIORS), size=st.integers(1, 3000), data=st.data())
def test_log_odds_are_differences_of_log_prob(prior, size, data):
    k = data.draw(st.sampled_from(sorted({0, min(1, size - 1), size // 2, max(size - 2, 0), size - 1})))
    direct = prior.log_prob(k + 1, size) - prior.log_prob(k, size)
    assert prior.log_odds(k, size) == pytest.approx(direct, abs=1e-7)


@EACH
@pytest.mark.parametrize("size", [1, 6, 40])
def test_draws_of_k_follow_log_prob(prior, size):
    rng, n = np.random.default_rng(size), 4000
    counts = np.bincount([prior.sample(size, rng) for _ in range(n)], minlength=size + 1)
    assert len(counts) == size + 1
    expected = np.array([n * comb(size, k) * math.exp(prior.log_prob(k, size)) for k in range(size + 1)])
    rare = expected < 5
    observed, expected = (np.append(c[~rare], c[rare].sum()) for c in (counts, expected))
    if expected[-1] < 1:  # too rare to test: such draws must be few
        assert observed[-1] <= 10
        observed, expected = observed[:-1], expected[:-1]
    if len(observed) > 1:
        assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4


def test_log_odds_of_the_formulas():
    assert Bernoulli(0.1).log_odds(5, 9) == pytest.approx(math.log(0.1 / 0.9))
    assert BetaBinomial(2, 3).log_odds(5, 9) == pytest.approx(math.log(7 / (3 + 9 - 5 - 1)))
    assert AlquierLounici(0.2).log_odds(5, 9) == pytest.approx(math.log(0.2) + math.log(6 / 4))
    assert Complexity(2, 3).log_odds(5, 9) == pytest.approx(-math.log(3) - 2 * math.log(9) + math.log(6 / 4))


@pytest.mark.parametrize("size", [1, 2, 50])
def test_rigollet_tsybakov_puts_half_its_mass_on_the_full_pattern(size):
    prior = RigolletTsybakov()
    assert prior.log_prob(size, size) == pytest.approx(math.log(0.5))
    ratio = prior.log_prob(1, 50) - prior.log_prob(0, 50)
    assert ratio == pytest.approx(math.log(1 / (2 * math.e * 50)))


@EACH
def test_extreme_sizes_give_finite_numbers(prior):
    for size in (1, 2, 10**6):
        for k in {0, 1, size // 2, size - 1} - {size}:
            assert math.isfinite(prior.log_odds(k, size))
            assert math.isfinite(prior.log_prob(k, size))


@EACH
def test_reprs_say_how_to_make_the_prior_again(prior):
    assert repr(eval(repr(prior))) == repr(prior)  # noqa: S307


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, math.nan, math.inf, "x", True, None])
@pytest.mark.parametrize(("make", "name"), [(Bernoulli, "p"), (AlquierLounici, "alpha")])
def test_bad_fractions_are_refused_by_name_and_value(make, name, value):
    with pytest.raises(ValueError, match=f"^{name} must lie strictly between 0 and 1") as caught:
        make(value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "x", True, None])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda v: BetaBinomial(a=v), "a"),
        (lambda v: BetaBinomial(b=v), "b"),
        (lambda v: Complexity(a=v), "a"),
        (lambda v: Complexity(c=v), "c"),
    ],
)
def test_bad_shape_parameters_are_refused_by_name_and_value(make, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a positive, finite number") as caught:
        make(value)
    assert repr(value) in str(caught.value)


def test_a_cap_costs_nothing_below_and_its_strength_times_the_excess_above():
    cap = SoftCap(0.25, 100.0)
    assert [cap.log_odds(k, 400) for k in (0, 50, 99)] == [0.0, 0.0, 0.0]
    # the odds of the block after k = 140, at densities 0.35 and 0.3525: 100 times 0.1 and 0.1025, and their mean
    assert cap.log_odds(140, 400) == pytest.approx(-100 * (0.1 + 0.1025) / 2)


def test_a_cap_on_a_schedule_is_the_cap_of_its_step():
    moving = SoftCap(CubicDecay(1.0, 0.2, steps=4, after=2), 50.0)
    shares = [1.0, 1.0, 1.0, 0.2 + 0.8 * 0.75**3, 0.2 + 0.8 / 8, 0.2 + 0.8 / 64, 0.2, 0.2]
    for step, share in enumerate(shares):
        now, fixed = moving.at(step), SoftCap(share, 50.0)
        assert now.density == pytest.approx(share)
        assert now.log_prob(30, 40) == pytest.approx(fixed.log_prob(30, 40))
        assert now.log_odds(30, 40) == pytest.approx(fixed.log_odds(30, 40))
    assert moving.log_prob(30, 40) == moving.at(0).log_prob(30, 40)
    assert moving.log_odds(30, 40) == moving.at(0).log_odds(30, 40) == 0
    assert Bernoulli(0.1).at(5).log_odds(3, 9) == Bernoulli(0.1).log_odds(3, 9)


@pytest.mark.parametrize("density", [-0.1, 1.5, math.nan, "x", True, None])
def test_bad_caps_are_refused(density):
    with pytest.raises(ValueError, match="density must be a share from 0 to 1") as caught:
        SoftCap(density, 1.0)
    assert repr(density) in str(caught.value)
    with pytest.raises(ValueError, match="density must be a share from 0 to 1"):
        SoftCap(lambda step: density, 1.0).at(0)


@pytest.mark.parametrize("strength", [0, -1.0, math.nan, math.inf, "x", None])
def test_bad_strengths_are_refused(strength):
    with pytest.raises(ValueError, match="strength must be a positive, finite number"):
        SoftCap(0.5, strength)
