"""C4: at λ = 0 the chain returns the prior: the law of k and the law of the active weights."""

from dataclasses import replace

import pytest

from tests.statistical import detectors
from tests.statistical.detectors import GAUSSIAN, LAPLACE, PRIORS, STUDENT_T
from tests.statistical.exact import Pattern


@pytest.mark.parametrize("name", PRIORS)
def test_prior_is_recovered(name):
    verdict = detectors.prior_recovery(name)
    assert verdict.passed, verdict.detail


def test_prior_pooled_over_layers_is_recovered():
    verdict = detectors.prior_recovery_pooled()
    assert verdict.passed, verdict.detail


@pytest.mark.slow
@pytest.mark.parametrize("name", PRIORS)
def test_prior_is_recovered_in_long_runs(name):
    verdict = detectors.prior_recovery(name, steps=4000)
    assert verdict.passed, verdict.detail


@pytest.mark.slow
@pytest.mark.parametrize(
    "pattern", [case.pattern for case in PRIORS.values() if case.pattern][:4], ids=lambda p: p.name
)
@pytest.mark.parametrize("slab", [GAUSSIAN, LAPLACE, STUDENT_T], ids=lambda s: s.family)
def test_pattern_and_slab_are_recovered_together(pattern: Pattern, slab):
    case = replace(PRIORS["ragged"], pattern=pattern, slab=slab)
    verdict = detectors.prior_recovery(case, steps=1500)
    assert verdict.passed, verdict.detail
