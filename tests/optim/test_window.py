"""The automatic window: the best of all for given costs, and measured well enough to be found."""

import random

import pytest

from mcmcopt.optim import sweep
from mcmcopt.optim.speculation import LIMIT, AutoWindow, best_window, expected_decisions
from tests.optim.problems import make
from tests.optim.scored import Scored


@pytest.mark.parametrize("acceptance", [0.0, 1e-12, 0.01, 0.1, 0.3, 0.9, 1.0])
def test_expected_decisions_are_the_mean_of_their_law(acceptance):
    for window in (1, 2, 7, 30):
        law = [(1 - acceptance) ** (i - 1) * acceptance * i for i in range(1, window)]
        mean = sum(law) + (1 - acceptance) ** (window - 1) * window
        assert expected_decisions(window, acceptance) == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("acceptance", [0.0, 0.01, 0.1, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("extra", [-0.1, 0.0, 0.01, 0.1, 0.5, 0.99, 1.0, 2.0])
def test_the_best_window_is_the_best_of_all(acceptance, extra):
    gains = [expected_decisions(k, acceptance) / (1 + max(extra, 0) * (k - 1)) for k in range(1, LIMIT + 1)]
    assert gains[best_window(acceptance, extra) - 1] == pytest.approx(max(gains), rel=1e-12)
    assert best_window(acceptance, 1.0) == best_window(1.0, extra) == 1
    assert best_window(0.0, 0.0, limit=9) == 9


def simulate(window, acceptance, extra, n=3000, seed=0, hiccup=0.02):
    """Run an automatic window against planted timings; every so often an evaluation takes a hundred times as long."""
    rng, sizes = random.Random(seed), []
    for number in range(n):
        size = window.size()
        seconds = 1e-4 * (1 + extra * (size - 1)) * rng.uniform(0.9, 1.1)
        seconds *= 1e4 if number < 2 else 100 if rng.random() < hiccup else 1
        decided = next((i for i in range(1, size + 1) if rng.random() < acceptance), size + 1)
        window.observe(size, seconds, min(decided, size), decided <= size)
        sizes.append(size)
    return sizes[n // 2 :]


@pytest.mark.parametrize(("acceptance", "extra"), [(0.02, 0.1), (0.1, 0.1), (0.3, 0.05), (0.3, 1.2), (0.9, 0.5)])
def test_planted_timings_are_answered_with_nearly_the_best_window(acceptance, extra):
    sizes = simulate(AutoWindow(), acceptance, extra)
    usual = sorted(sizes)[len(sizes) // 2]
    best = best_window(acceptance, extra)

    def gain(k):
        return expected_decisions(k, acceptance) / (1 + extra * (k - 1))

    assert gain(usual) > 0.9 * gain(best)
    assert sum(size != 1 for size in sizes) > 0  # looks at others now and then
    assert sum(size == 1 for size in sizes) > 0


def test_timings_that_change_are_followed():
    window = AutoWindow()
    first, second, third = (simulate(window, 0.05, extra)[-1] for extra in (0.05, 1.5, 0.05))
    assert second <= 2 < min(first, third)


@pytest.mark.parametrize(("marginal", "grows"), [(0.05, True), (1.0, False)])
def test_the_optimizer_measures_what_a_window_costs(monkeypatch, marginal, grows):
    now = [0.0]
    monkeypatch.setattr(sweep, "perf_counter", lambda: now[0])

    class Timed(Scored):
        def _all(self, changes):
            now[0] += 1 + marginal * (len(changes) - 1)
            return super()._all(changes)

    _, optimizer, closure = make("dense", lam=1e3, speculate="auto", n_proposals=300)
    scored = Timed(closure)
    for _ in range(3):
        optimizer.step(scored)
    late = sorted(scored.windows[-40:])
    assert (late[len(late) // 2] > 2) == grows
    assert optimizer._auto.extra == pytest.approx(marginal)
