"""Diagnostics against arviz, and what must hold without it."""

import math

import numpy as np
import pytest

from mcmcopt.diagnostics import ess, rhat


def autoregressive(phi, chains, draws, seed):
    rng = np.random.default_rng(seed)
    x = np.zeros((chains, draws))
    noise = rng.standard_normal((chains, draws))
    for t in range(1, draws):
        x[:, t] = phi * x[:, t - 1] + noise[:, t]
    return x


def traces():
    rng = np.random.default_rng(5)
    for chains in (2, 4):
        for draws in (4, 5, 6, 7, 8, 9, 25, 100, 501):
            for phi in (-0.9, 0.0, 0.5, 0.99):
                yield autoregressive(phi, chains, draws, draws)
            yield rng.integers(0, 3, (chains, draws)).astype(float)  # ties
            spike = autoregressive(0.9, chains, draws, 3)
            yield np.where(spike > 0, spike, 0.0)  # spike and slab
            yield np.arange(chains * draws, dtype=float).reshape(chains, draws)  # never mixes


def test_agrees_with_arviz():
    stats = pytest.importorskip("arviz_stats.base").array_stats
    for x in traces():
        np.testing.assert_allclose(ess(x), stats.ess(x, method="bulk"), rtol=1e-6, err_msg=str(x.shape))
        np.testing.assert_allclose(ess(x, "mean"), stats.ess(x, method="mean"), rtol=1e-6, err_msg=str(x.shape))
        with np.errstate(invalid="ignore", divide="ignore"):
            want = stats.rhat(x, method="rank")
        if math.isfinite(want):
            np.testing.assert_allclose(rhat(x), want, rtol=1e-6, err_msg=str(x.shape))


def test_autoregression_has_its_theoretical_sample_size():
    x = autoregressive(0.8, 4, 20_000, 0)
    assert ess(x, "mean") == pytest.approx(x.size * (1 - 0.8) / (1 + 0.8), rel=0.1)


def test_rhat_sees_a_shift_and_a_difference_in_spread():
    rng = np.random.default_rng(0)
    same = rng.standard_normal((4, 500))
    assert rhat(same) < 1.01
    assert rhat(same + np.array([0, 0, 0, 2])[:, None]) > 1.1
    assert rhat(same * np.array([1, 1, 1, 4])[:, None]) > 1.1


def test_monotone_maps_change_nothing_for_ranks():
    x = autoregressive(0.5, 3, 200, 1)
    assert ess(np.exp(x)) == ess(x)


def test_constants_and_values_that_are_not_finite():
    assert ess(np.full((2, 10), 3.0)) == 20
    assert math.isnan(rhat(np.full((2, 10), 3.0)))
    assert rhat(np.repeat([[0.0], [1.0]], 10, axis=1)) == math.inf
    broken = np.ones((2, 10))
    broken[0, 3] = math.nan
    assert math.isnan(ess(broken))
    assert math.isnan(rhat(broken))


def test_one_chain_is_split():
    x = autoregressive(0.5, 1, 400, 2)
    assert ess(x[0]) == ess(x)
    assert rhat(x[0]) == rhat(x)


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 10), (0, 10)])
def test_wrong_shapes_are_named(shape):
    with pytest.raises(ValueError, match="chains must be of shape"):
        ess(np.zeros(shape))
    with pytest.raises(ValueError, match="chains must be of shape"):
        rhat(np.zeros(shape))


def test_wrong_method_is_named():
    with pytest.raises(ValueError, match="'tail'"):
        ess(np.zeros((2, 10)), "tail")
