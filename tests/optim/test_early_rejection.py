"""C10: what is rejected without a look at its loss would have been rejected with one."""

import math
import random

import pytest
import torch

from mcmcopt import Gaussian, RandomWalk
from mcmcopt.chain.accept import log_acceptance, loss_decrease
from mcmcopt.chain.random import Streams
from mcmcopt.optim import sweep
from mcmcopt.optim.sweep import Sweep
from tests.optim.problems import make, make_closure, snapshot
from tests.optim.scored import Bounded, Scored, trajectory
from tests.statistical.planted import replaced

_hopeless = Sweep._hopeless


@pytest.mark.parametrize("config", ["scalar", "row", "climb", "hot"])
@pytest.mark.parametrize("speculate", [1, 5, 16])
def test_the_same_holds_with_early_rejections_and_losses_per_sample(config, speculate):
    options = {"per_sample": True, "lam": 0.5}
    closure, _, _ = trajectory(config, 1, objective=lambda closure: closure, **options)
    assert trajectory(config, speculate, **options)[0] == closure
    early, _, _ = trajectory(config, 1, objective=Bounded, **options)
    windows, _, _ = trajectory(config, speculate, objective=Bounded, **options)
    assert windows == early
    assert any(record["info"].early for record in early)


@pytest.mark.parametrize("config", ["dense", "scalar", "climb", "hot", "tile"])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_lower_bound_saves_evaluations_and_changes_no_decision(config, per_sample, dtype):
    options = {"per_sample": per_sample, "dtype": dtype, "lam": 0.0 if config == "hot" else 0.5}
    full, _, every = trajectory(config, 1, objective=Scored, **options)
    early, _, fewer = trajectory(config, 1, objective=Bounded, **options)
    saved = sum(record["info"].early for record in early)
    assert saved > 20
    assert sum(record["info"].early for record in full) == 0
    assert fewer.calls == every.calls - saved
    for one, other in zip(full, early, strict=True):
        assert other["info"].evaluations == one["info"].evaluations - other["info"].early
        assert other["info"].proposed == one["info"].proposed
        for record in (one["info"], other["info"]):
            record.evaluations = record.early = 0
            for layer in record.layers.values():
                for move in layer.moves.values():
                    move.probability = 0.0
    assert early == full


def test_at_temperature_infinity_a_bounded_loss_is_evaluated_for_acceptances_only():
    for record in trajectory("hot", 1, objective=Bounded)[0]:
        info = record["info"]
        assert info.early > 0
        assert info.proposed == info.accepted + info.early


class Ball(Gaussian):
    """A slab without mass beyond 1; the ratio of a point outside is minus infinity, or not a number."""

    outside = -math.inf

    def log_ratio(self, new, old):
        return self.outside if float(new.abs().max()) > 1 else 0.0


@pytest.mark.parametrize("rule", ["metropolis", "improve"])
@pytest.mark.parametrize("outside", [-math.inf, math.nan])
def test_what_the_prior_forbids_is_rejected_without_a_look_at_the_loss(rule, outside):
    prior = Ball()
    prior.outside = outside
    model, optimizer, _ = make("dense", prior=prior, rule=rule, moves=RandomWalk(k=1), lr=3.0)
    for param in model.parameters():
        param.data.clamp_(-0.9, 0.9)
    seen = []

    def closure():
        seen.append(max(float(param.detach().abs().max()) for param in model.parameters()))
        return make_closure(model)()

    optimizer.step(closure)
    assert max(seen) <= 1
    assert optimizer.info.early > 5
    assert len(seen) == 2 + optimizer.info.proposed - optimizer.info.early
    assert optimizer.info.accepted > 0


class Bound:
    """An objective with a lower bound and nothing to score."""

    def __init__(self, lower_bound):
        self.lower_bound = lower_bound


def mistakes(rule, lower=0.0):
    """Return how many acceptances an early look would miss, and how many rejections it sees, around the threshold."""
    rng, missed, seen = random.Random(0), 0, 0
    for case in range(3000):
        lam, n = 10 ** rng.uniform(-3, 6), rng.choice([1, 3, 100])
        losses = [lower + 10 ** rng.uniform(-6, 3) for _ in range(n)]
        prior, q = (rng.gauss(0, 10 ** rng.uniform(-3, 3)) for _ in range(2))
        current = torch.tensor(losses, dtype=torch.float64) if n > 1 else torch.tensor(losses[0], dtype=torch.float64)
        best = torch.full_like(current, lower)  # no proposal has less
        decrease = loss_decrease(current, best)
        if rule == "improve":  # on the threshold, one unit to either side
            prior = -lam * decrease
            prior = (prior, math.nextafter(prior, math.inf), math.nextafter(prior, -math.inf))[case % 3]
            log_a, log_u = log_acceptance(lam, decrease, prior + q), -1.0
            accepted = log_a > -math.inf and lam * decrease + prior > 0
        else:
            log_a = log_acceptance(lam, decrease, prior + q)
            log_u = (log_a, math.nextafter(log_a, -math.inf), log_a + 1e-6 * (1 + abs(log_a)))[case % 3]
            accepted = log_u < log_a
        look = Sweep(Bound(lower), [], Streams(0), rule)
        look._stand_at(current)
        hopeless = look._hopeless(lam, log_u, prior, prior + q)
        missed += hopeless and accepted
        seen += look._hopeless(lam, log_u + 1e-2 * abs(log_u), prior - 1e-2 * abs(prior), 0.99 * prior + q - abs(q))
    return missed, seen


@pytest.mark.parametrize("rule", ["metropolis", "improve"])
@pytest.mark.parametrize("lower", [0.0, -1.5, 2.0])
def test_no_acceptance_is_missed_at_the_threshold(rule, lower):
    missed, seen = mistakes(rule, lower)
    assert missed == 0
    assert seen > 1000


@pytest.mark.parametrize("bound", [math.nan, math.inf, "0", None, True])
def test_a_bad_lower_bound_is_refused(bound):
    class Bad(Scored):
        lower_bound = bound

    _, optimizer, closure = make("dense")
    with pytest.raises(ValueError, match=r"lower_bound must be a number below infinity, got"):
        optimizer.step(Bad(closure))


def test_a_present_loss_below_the_lower_bound_is_refused():
    model, optimizer, _ = make("dense")
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match=r"lower_bound must lie below every loss, got 0\.0 with a loss of -1\.5"):
        optimizer.step(Bounded(lambda: torch.tensor(-1.5)))
    assert snapshot(model, optimizer) == before
    optimizer.step(Bounded(lambda: torch.tensor(0.0)))


@pytest.mark.parametrize("rule", ["metropolis", "improve"])
@pytest.mark.parametrize("slack", [-1e-9, -1e-6, -1e-3])
def test_a_margin_of_the_wrong_sign_misses_acceptances(rule, slack):
    with replaced((sweep, "SLACK", slack)):
        assert mistakes(rule)[0] > 100


def test_a_bound_of_the_wrong_sign_changes_decisions():
    def swapped(self, lam, *rest):
        return _hopeless(self, -lam, *rest)

    right, _, _ = trajectory("scalar", 1, objective=Bounded)
    with replaced((Sweep, "_hopeless", swapped)):
        wrong, _, _ = trajectory("scalar", 1, objective=Bounded)
    assert wrong[-1]["weights"] != right[-1]["weights"]
