"""C6: Geweke's joint-distribution test and simulation-based calibration on a net of one hidden unit."""

import pytest

from tests.statistical import detectors


def test_successive_draws_have_the_moments_of_the_joint_law():
    verdict = detectors.geweke()
    assert verdict.passed, verdict.detail


def test_posterior_ranks_are_uniform():
    verdict = detectors.calibration()
    assert verdict.passed, verdict.detail


@pytest.mark.slow
def test_joint_law_in_long_runs():
    for verdict in (detectors.geweke(steps=8000), detectors.calibration(replicas=250)):
        assert verdict.passed, verdict.detail
