"""Adaptation: a gain that decays at an admissible rate, scales that stay in their box and reach their target."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcmcopt.chain import adapt

SCALES = st.floats(adapt.LOG_SCALE_MIN, adapt.LOG_SCALE_MAX)


def test_the_gain_decays_with_a_power_between_one_half_and_one():
    gains = [adapt.gain(t) for t in range(1000)]
    assert all(earlier > later > 0 for earlier, later in itertools.pairwise(gains))
    power = -math.log(adapt.gain(10**8) / adapt.gain(10**7)) / math.log(10)
    assert 0.5 < power <= 1


@given(log_scale=SCALES, t=st.integers(0, 10**6), accepted=st.booleans(), target=st.sampled_from([0.44, 0.234, 0.574]))
def test_acceptance_raises_and_rejection_lowers_the_scale_within_the_box(log_scale, t, accepted, target):
    adapted = adapt.towards_acceptance(log_scale, t, accepted, target)
    free = log_scale + adapt.gain(t) * (accepted - target)
    assert adapted == min(max(free, adapt.LOG_SCALE_MIN), adapt.LOG_SCALE_MAX)


@given(log_scale=SCALES, t=st.integers(0, 10**6), log_rms=st.floats(-20, 20))
def test_values_draw_the_scale_towards_their_root_mean_square_without_passing_it(log_scale, t, log_rms):
    adapted = adapt.towards_values(log_scale, t, math.exp(2 * log_rms))
    low, high = sorted((log_scale, log_rms))
    low, high = max(low, adapt.LOG_SCALE_MIN), min(high, adapt.LOG_SCALE_MAX)
    assert min(low, adapt.LOG_SCALE_MAX) - 1e-9 <= adapted <= max(high, adapt.LOG_SCALE_MIN) + 1e-9


def test_values_that_are_all_zero_teach_nothing():
    assert adapt.towards_values(0.7, 3, 0.0) == 0.7


def test_the_scale_of_values_converges():
    rng, log_scale = np.random.default_rng(0), 5.0
    for t in range(20_000):
        log_scale = adapt.towards_values(log_scale, t, float(np.mean((0.3 * rng.standard_normal(50)) ** 2)))
    assert log_scale == pytest.approx(math.log(0.3), abs=0.03)


@pytest.mark.parametrize("start", [-6.0, 6.0])
def test_acceptance_converges_to_its_target_on_a_gaussian(start):
    rng, log_scale, x, decisions = np.random.default_rng(1), start, 0.0, []
    for t in range(30_000):
        step = x + math.exp(log_scale) * rng.standard_normal()
        accepted = -rng.standard_exponential() < (x * x - step * step) / 2
        x = step if accepted else x
        log_scale = adapt.towards_acceptance(log_scale, t, accepted, 0.44)
        decisions.append(accepted)
    assert np.mean(decisions[10_000:]) == pytest.approx(0.44, abs=0.03)
    assert log_scale == pytest.approx(math.log(2.4), abs=0.3)
