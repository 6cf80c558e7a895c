"""C5: every reversible move leaves the joint law of (θ, γ, y) invariant (Gandy and Scott 2020), at α = 1e-5."""

import pytest

from tests.statistical.detectors import INVARIANCE, invariance


@pytest.mark.parametrize("name", INVARIANCE)
def test_joint_law_is_invariant(name):
    verdict = invariance(name)
    assert verdict.passed, verdict.detail


@pytest.mark.slow
@pytest.mark.parametrize("name", INVARIANCE)
def test_joint_law_is_invariant_in_many_replicas(name):
    verdict = invariance(name, first=1500)
    assert verdict.passed, verdict.detail
