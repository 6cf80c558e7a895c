"""C17: bounds against their formulas, a bisection that errs upwards, budgets that add up; an estimate."""

import itertools
import math

import pytest
import torch

from mcmcopt import bounds
from mcmcopt.bounds import Certificate

GRID = [0.0, 1e-12, 1e-3, 0.02, 0.3, 0.5, 0.9, 1 - 1e-9, 1.0]
COSTS = [0.0, 1e-14, 1e-6, 0.01, 0.5, 3.0, 50.0, 1e4, math.inf]


@pytest.mark.parametrize(("q", "c"), list(itertools.product(GRID, COSTS)))
def test_the_inverse_is_the_upper_bracket(q, c):
    p = bounds.kl_inverse(q, c)
    assert q <= p <= 1
    assert bounds.kl(q, p) >= c or p == 1  # 1 is no smaller than any risk
    if c > 0 and p > q:
        below = math.nextafter(p, 0)
        assert below <= q or bounds.kl(q, below) < c


def test_kl_of_two_coins_by_hand():
    assert bounds.kl(0.25, 0.5) == pytest.approx(math.log(2) - (0.25 * math.log(4) + 0.75 * math.log(4 / 3)))
    assert bounds.kl(0.3, 0.3) == 0
    assert bounds.kl(0, 0.2) == pytest.approx(-math.log(0.8))
    assert bounds.kl(1, 0.2) == pytest.approx(math.log(5))
    assert bounds.kl(0.1, 0) == bounds.kl(0.9, 1) == math.inf
    assert bounds.kl(0, 0) == bounds.kl(1, 1) == 0
    assert bounds.kl_inverse(0.0, 0.7) == pytest.approx(1 - math.exp(-0.7))


def test_each_bound_is_its_formula():
    r, divergence, n, delta = 0.1, 40.0, 1000, 0.05
    kappa = (40 + math.log(2 * math.sqrt(1000) / 0.05)) / 2000
    assert bounds.mcallester(r, divergence, n, delta) == pytest.approx(0.1 + kappa**0.5)
    assert bounds.quadratic(r, divergence, n, delta) == pytest.approx(((0.1 + kappa) ** 0.5 + kappa**0.5) ** 2)
    assert bounds.kl(r, bounds.kl_bound(r, divergence, n, delta)) == pytest.approx(2 * kappa)
    exponent = math.exp(-2 * 0.1 - (40 + math.log(20)) / 1000)
    assert bounds.catoni(r, divergence, n, delta, 2.0) == pytest.approx((1 - exponent) / (1 - math.exp(-2)))


def test_catoni_over_a_grid_pays_for_its_size():
    one = [bounds.catoni(0.1, 40.0, 1000, 0.05 / 3, c) for c in (0.5, 1.0, 2.0)]
    assert bounds.catoni(0.1, 40.0, 1000, 0.05, (0.5, 1.0, 2.0)) == min(one)
    assert min(one) > min(bounds.catoni(0.1, 40.0, 1000, 0.05, c) for c in (0.5, 1.0, 2.0))


@pytest.mark.parametrize("r", [0.0, 0.02, 0.4, 1.0])
@pytest.mark.parametrize("divergence", [0.0, 100.0, 1e5])
def test_the_kl_form_is_the_tightest_and_none_leaves_the_unit_interval(r, divergence):
    values = [f(r, divergence, 500, 0.05) for f in (bounds.mcallester, bounds.quadratic)]
    best = bounds.kl_bound(r, divergence, 500, 0.05)
    assert all(r <= best <= value + 1e-12 <= 1 + 1e-12 for value in values)
    assert r - 1e-12 <= bounds.catoni(r, divergence, 500, 0.05, 1.0) <= 1


def test_coverage_of_the_kl_form_for_one_classifier():
    n, delta, risk = 50, 0.2, 0.3
    misses = sum(
        math.comb(n, k) * risk**k * (1 - risk) ** (n - k)
        for k in range(n + 1)
        if bounds.kl_bound(k / n, 0.0, n, delta) < risk
    )
    assert misses <= delta


def test_coverage_of_the_monte_carlo_correction():
    draws, delta, risk = 40, 0.1, 0.15
    misses = sum(
        math.comb(draws, k) * risk**k * (1 - risk) ** (draws - k)
        for k in range(draws + 1)
        if bounds.monte_carlo_bound(k / draws, draws, delta) < risk
    )
    assert 0 < misses <= delta
    assert bounds.kl(0.1, bounds.monte_carlo_bound(0.1, 500, 0.01)) == pytest.approx(math.log(200) / 500)


def test_the_certificate_corrects_first_and_its_budgets_add_up():
    parts = {"risk": 0.02, "draws": 1000, "kl": 300.0, "n": 30000, "delta": 0.04, "monte_carlo_delta": 0.01}
    certificate = Certificate(**parts)
    assert certificate.confidence == pytest.approx(0.95)
    assert certificate.corrected_risk == bounds.kl_inverse(0.02, math.log(2 / 0.01) / 1000)
    assert certificate.value == bounds.kl_bound(certificate.corrected_risk, 300.0, 30000, 0.04)
    assert certificate.value > bounds.kl_bound(0.02, 300.0, 30000, 0.04)
    catoni = Certificate(**parts, bound="catoni", C=(1.0, 2.0))
    assert catoni.value == bounds.catoni(certificate.corrected_risk, 300.0, 30000, 0.04, (1.0, 2.0))
    for part in ("0.0200", "1000 draws", "delta'=0.01", "KL 300.0", "n=30000", "delta=0.04", "probability 0.95"):
        assert part in repr(certificate)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": 0.6, "monte_carlo_delta": 0.5}, "delta . monte_carlo_delta must be below 1"),
        ({"bound": "magic"}, "bound must be one of"),
        ({"bound": "catoni"}, "give C"),
        ({"C": 1.0}, "give C"),
        ({"n": 7}, "n must be an integer of at least 8, got 7"),
        ({"risk": 1.2}, "risk must be a number from 0 to 1, got 1.2"),
        ({"risk": math.nan}, "risk must be a number"),
        ({"kl": -1.0}, "kl must be a finite number of at least 0"),
        ({"draws": 0}, "draws must be an integer of at least 1"),
        ({"delta": 0.0}, "delta must lie strictly between"),
    ],
)
def test_certificates_are_checked_at_the_door(change, message):
    parts = {"risk": 0.02, "draws": 100, "kl": 300.0, "n": 3000, "delta": 0.04, "monte_carlo_delta": 0.01}
    with pytest.raises(ValueError, match=message):
        Certificate(**(parts | change))


def test_other_arguments_are_checked_too():
    with pytest.raises(ValueError, match="c must be a number of at least 0"):
        bounds.kl_inverse(0.1, math.nan)
    with pytest.raises(ValueError, match="C must be a positive, finite number, got -1"):
        bounds.catoni(0.1, 1.0, 100, 0.05, -1)
    with pytest.raises(ValueError, match="empty"):
        bounds.catoni(0.1, 1.0, 100, 0.05, [])
    with pytest.raises(ValueError, match="k must be an integer from 0 to n_total=5, got 6"):
        bounds.sparse_quantised_kl(5, 6, 1)
    with pytest.raises(ValueError, match="log_size_prior"):
        bounds.sparse_quantised_kl(5, 2, 1, log_size_prior=0.1)
    with pytest.raises(ValueError, match="begin with 0"):
        bounds.gibbs_kl_estimate([1.0, 2.0], [0.1, 0.1])
    with pytest.raises(ValueError, match="one length"):
        bounds.gibbs_kl_estimate([0.0, 2.0], [0.1])


def test_a_sparse_quantised_network_is_a_point_of_a_countable_prior():
    total = sum(
        math.comb(6, k) * 2 ** (3 * k) * math.exp(-bounds.sparse_quantised_kl(6, k, 3)) for k in range(7)
    )  # patterns times codewords times their prior probabilities
    assert total == pytest.approx(1)
    assert bounds.sparse_quantised_kl(6, 2, 3, math.log(0.25)) == pytest.approx(
        math.log(15) + math.log(4) + 6 * math.log(2)
    )


def test_the_divergence_of_spike_and_slab_laws_by_quadrature():
    alpha, m, v, p, scale = 0.3, 0.4, 0.05, 0.2, 0.8
    x = torch.linspace(-3, 4, 200_001, dtype=torch.float64)
    q = alpha * torch.exp(-((x - m) ** 2) / (2 * v)) / math.sqrt(2 * math.pi * v)
    prior = p * torch.exp(-(x**2) / (2 * scale**2)) / math.sqrt(2 * math.pi * scale**2)
    slab = float(torch.trapezoid(torch.xlogy(q, q / prior), x))
    expected = slab + 0.7 * math.log(0.7 / 0.8)
    found = bounds.gaussian_spike_slab_kl(*(torch.tensor([value, value]) for value in (alpha, m, v)), p, scale)
    assert float(found) == pytest.approx(2 * expected, rel=1e-6)


def test_the_divergence_at_the_ends():
    one = torch.ones(3)
    same = bounds.gaussian_spike_slab_kl(0.2 * one, 0 * one, 0.25 * one, 0.2, 0.5)
    assert float(same) == pytest.approx(0, abs=1e-7)
    assert float(bounds.gaussian_spike_slab_kl(0 * one, 9 * one, one, 0.2, 0.5)) == pytest.approx(-3 * math.log(0.8))
    assert float(bounds.gaussian_spike_slab_kl(one, 0 * one, one, 1.0, 1.0)) == 0
    with pytest.raises(ValueError, match="p=1 puts no mass"):
        bounds.gaussian_spike_slab_kl(0.5 * one, one, one, 1.0, 1.0)
    with pytest.raises(ValueError, match="one shape"):
        bounds.gaussian_spike_slab_kl(one, one, torch.ones(2), 0.5, 1.0)
    with pytest.raises(ValueError, match="outside"):
        bounds.gaussian_spike_slab_kl(1.1 * one, one, one, 0.5, 1.0)
    with pytest.raises(ValueError, match="variance must be positive"):
        bounds.gaussian_spike_slab_kl(one, one, 0 * one, 0.5, 1.0)


def test_the_gibbs_estimate_on_a_law_that_can_be_enumerated():
    losses = torch.linspace(0, 1, 9, dtype=torch.float64) ** 2
    log_prior = torch.log_softmax(torch.linspace(1, -1, 9, dtype=torch.float64), 0)
    lams = [20 * (i / 400) ** 2 for i in range(401)]
    laws = [torch.log_softmax(log_prior - lam * losses, 0) for lam in lams]
    exact = [float((law.exp() * (law - log_prior)).sum()) for law in laws]
    means = [float((law.exp() * losses).sum()) for law in laws]
    assert bounds.gibbs_kl_estimate(lams, means) == pytest.approx(exact, abs=1e-4)
