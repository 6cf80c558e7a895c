"""C11: adaptation follows its schedule, reaches its target and stays where it is frozen."""

import pytest

from tests.statistical import detectors


def test_every_adaptation_is_the_stated_one():
    verdict = detectors.adaptation_schedule()
    assert verdict.passed, verdict.detail


def test_frozen_scales_stay_as_they_were():
    verdict = detectors.adaptation_frozen()
    assert verdict.passed, verdict.detail


def test_target_acceptance_is_reached_on_a_gaussian():
    verdict = detectors.adaptation_target()
    assert verdict.passed, verdict.detail


@pytest.mark.slow
def test_target_acceptance_is_reached_in_long_runs():
    verdict = detectors.adaptation_target(learn=700, measure=150)
    assert verdict.passed, verdict.detail
