"""C13: moments of a Gaussian posterior, and a law cut off where the loss is not finite."""

import pytest

from tests.statistical import detectors


def test_moments_of_a_dense_regression():
    verdict = detectors.moments()
    assert verdict.passed, verdict.detail


def test_nothing_is_accepted_where_the_loss_is_not_finite():
    verdict = detectors.not_finite()
    assert verdict.passed, verdict.detail


@pytest.mark.slow
def test_moments_of_a_dense_regression_in_long_runs():
    verdict = detectors.moments(steps=9000)
    assert verdict.passed, verdict.detail
