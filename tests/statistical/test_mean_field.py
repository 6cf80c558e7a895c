"""KLMirrorDescent against the mean-field optimum, computed independently, and that against the enumerated posterior.

What the family and the second-order gate lose is measured here too (C12).
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from mcmcopt import Gaussian, KLMirrorDescent, SpikeSlab
from mcmcopt.bounds import gaussian_spike_slab_kl
from mcmcopt.optim import mean_field
from mcmcopt.optim.mean_field import Factors
from tests.statistical.mean_field_gap import P, coordinate_ascent, gap, problems

EACH = pytest.mark.parametrize("name", ["orthogonal", "the tests' example", "all pairs at 0.5"])
RIGHT = mean_field.step


def descend(problem, step=mean_field.step, rate=0.1, steps=500):
    """Return α and m at the fixed point of steps with exact expectations of ℓ = -log p(y | β)/n, λ = n."""
    n, noise = len(problem.y), problem.noise**2
    G, b = (torch.from_numpy(x) for x in (problem.X.T @ problem.X, problem.X.T @ problem.y))
    prior_precision = problem.scale**-2
    mean, precision = torch.zeros(len(b), dtype=torch.float64), torch.full_like(b, 40.0)
    factors = Factors(mean, precision, mean_field.offset_at(0.5, mean, precision, prior_precision))
    for _ in range(steps):
        expected, _ = mean_field.moments(factors, prior_precision)
        factors = step(
            factors,
            (G @ expected - b) / (n * noise),
            G.diagonal() / (n * noise),
            lam=n,
            rate=rate,
            prior_precision=prior_precision,
            prior_log_odds=math.log(P / (1 - P)),
        )
    return factors.inclusion(prior_precision).numpy(), factors.mean.numpy()


def distance(problem, step=mean_field.step, **options):
    best = coordinate_ascent(problem, P, 500)
    alpha, mean = descend(problem, step, **options)
    return max(np.abs(alpha - best.alpha).max(), np.abs(mean - best.mean).max())


@EACH
@pytest.mark.parametrize(("rate", "steps"), [(0.02, 2000), (0.3, 300)])
def test_the_fixed_point_is_the_mean_field_optimum_whatever_the_rate(name, rate, steps):
    assert distance(problems()[name], rate=rate, steps=steps) < 1e-8


def tau_dropped(factors, slope, curvature, *, lam, rate, **prior):
    """The pull of the prior is missing: KL(ρ, π) without its weight."""
    natural = RIGHT(factors, slope, curvature, lam=lam, rate=rate, **prior)
    back = rate * (factors.precision - prior["prior_precision"]) / (1 + rate)
    return Factors(natural.mean, natural.precision + back, natural.offset)


def wrong_sign_of_prior_odds(factors, *args, prior_log_odds, **options):
    return RIGHT(factors, *args, prior_log_odds=-prior_log_odds, **options)


def no_occam_factor(factors, *args, prior_precision, prior_log_odds, **options):
    """Without ½ log(Λ₀/Λ), the log(τ/v) of the divergence."""
    after = RIGHT(factors, *args, prior_precision=prior_precision, prior_log_odds=prior_log_odds, **options)
    return Factors(
        after.mean, after.precision, prior_log_odds - 0.5 * (math.log(prior_precision) - after.precision.log())
    )


def slope_not_given_inclusion(factors, slope, curvature, *, prior_precision, **options):
    """E ℓ' where E[ℓ' | γ = 1] belongs: α is missing from the update of m."""
    alpha = factors.inclusion(prior_precision)
    return RIGHT(
        factors, slope - curvature * (1 - alpha) * factors.mean, curvature, prior_precision=prior_precision, **options
    )


def no_curvature(factors, slope, curvature, **options):
    return RIGHT(factors, slope, 0 * curvature, **options)


PLANTED = [tau_dropped, wrong_sign_of_prior_odds, no_occam_factor, slope_not_given_inclusion, no_curvature]


@EACH
@pytest.mark.parametrize("error", PLANTED)
def test_planted_errors_are_found(name, error):
    assert distance(problems()[name], error) > 0.01


def test_on_an_orthogonal_design_the_optimum_is_the_enumerated_posterior():
    found, inclusion, mean = gap(problems()["orthogonal"])
    assert found.alpha == pytest.approx(inclusion, abs=1e-10)
    assert found.alpha * found.mean == pytest.approx(mean, abs=1e-10)


@pytest.mark.parametrize(("name", "least", "most"), [("all pairs at 0.5", 0.1, 0.15), ("all pairs at 0.9", 0.2, 0.25)])
def test_on_correlated_designs_it_is_not_by_this_much(name, least, most):
    found, inclusion, _ = gap(problems()[name])
    assert least < np.abs(found.alpha - inclusion).max() < most


def trained(problem, loss, prior, steps, rates, **options):
    """Train a linear layer's row without bias; return it and its optimizer."""
    lam = float(len(problem.y))
    layer = nn.Linear(problem.X.shape[1], 1, bias=False).double()
    nn.init.zeros_(layer.weight)
    x = torch.from_numpy(problem.X)
    optimizer = KLMirrorDescent(
        layer.parameters(), lam, 1.0, prior, init_inclusion=0.5, init_scale=0.16, seed=3, **options
    )

    def closure():
        optimizer.zero_grad()
        value = loss(layer(x).squeeze(1))
        value.backward()
        return value

    for rate in np.geomspace(*rates, steps):
        optimizer.param_groups[0]["lr"] = float(lam * rate / (1 - rate))
        optimizer.step(closure)
    return layer, optimizer


@pytest.mark.parametrize(("gates", "samples", "limit"), [("gaussian", 8, 0.025), ("binary", 12, 0.04)])
@pytest.mark.parametrize("name", ["orthogonal", "all pairs at 0.5"])
def test_with_sampled_gradients_it_comes_as_near_as_their_noise(name, gates, samples, limit):
    problem = problems()[name]
    y = torch.from_numpy(problem.y)
    layer, optimizer = trained(
        problem,
        lambda output: (output - y).square().mean() / (2 * problem.noise**2),
        SpikeSlab(P, slab=Gaussian(problem.scale)),
        500,
        (0.1, 0.002),
        gates=gates,
        samples=samples,
    )
    best = coordinate_ascent(problem, P)
    assert optimizer.inclusion(layer.weight)[0].numpy() == pytest.approx(best.alpha, abs=limit)
    assert layer.weight.detach()[0].numpy() == pytest.approx(best.alpha * best.mean, abs=limit)


NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(12)


def objective(vector, X, y, p):  # noqa: N803
    """Return λ E_ρ[ℓ] + KL(ρ, π) of logistic regression with two weights: gates enumerated, Gaussians by quadrature."""
    odds, mean, log_variance = vector.reshape(3, 2)
    alpha, variance = 1 / (1 + np.exp(-odds)), np.exp(log_variance)
    total = float(gaussian_spike_slab_kl(*(torch.from_numpy(v) for v in (alpha, mean, variance)), p, 1.0))
    grid = mean[:, None] + np.sqrt(variance)[:, None] * NODES
    w = WEIGHTS / WEIGHTS.sum()
    for gates in itertools.product((0, 1), repeat=2):
        chance = np.prod(np.where(gates, alpha, 1 - alpha))
        a, b = (grid[j] * gates[j] for j in range(2))
        margins = y * (X[:, 0] * a[:, None, None] + X[:, 1] * b[None, :, None])
        total += chance * float(w @ np.logaddexp(0, -margins).sum(-1) @ w)
    return total


@pytest.mark.parametrize(("prior", "most"), [(SpikeSlab(0.3), 0.05), (Gaussian(1.0), 0.002)])
def test_what_the_second_order_gate_loses_on_logistic_regression_in_nats(prior, most):
    """Nats of λ E_ρ[ℓ] + KL above the best of the family; without a spike nothing but noise."""
    rng = np.random.default_rng(4)
    X = rng.standard_normal((20, 2)) @ np.array([[1.0, 0.4], [0.0, 0.9]])
    y = np.sign(X @ np.array([1.2, -0.5]) + rng.logistic(size=20))

    class Problem:
        pass

    Problem.X, Problem.y = X, y
    signs = torch.from_numpy(y)
    layer, optimizer = trained(
        Problem, lambda out: nn.functional.softplus(-signs * out).mean(), prior, 500, (0.1, 0.003), samples=8
    )
    state = optimizer.state[layer.weight]
    spike = isinstance(prior, SpikeSlab)
    odds = torch.logit(optimizer.inclusion(layer.weight))[0].numpy() if spike else np.full(2, 40.0)
    p = prior.inclusion.p if spike else 1 - 1e-15
    found = np.stack([odds, state["mean"][0].numpy(), -state["precision"][0].log().numpy()])

    def free(vector):
        return objective(vector if spike else np.concatenate([np.full(2, 40.0), vector]), X, y, p)

    start = found if spike else found[1:]
    best = minimize(free, start.ravel(), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 2000})
    lost = free(start.ravel()) - best.fun
    assert -1e-6 < lost < most
    prior_alone = np.stack([np.full(2, math.log(p / (1 - p))), np.zeros(2), np.zeros(2)])
    assert objective(prior_alone.ravel(), X, y, p) - best.fun > 10 * most  # there is something to lose
