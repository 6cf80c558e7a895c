"""C3: inclusion probabilities of a spike-and-slab regression against the sum over all patterns in closed form."""

import pytest

from tests.statistical.detectors import REGRESSIONS, inclusion_probabilities


@pytest.mark.parametrize("name", REGRESSIONS)
def test_inclusion_probabilities(name):
    verdict = inclusion_probabilities(name)
    assert verdict.passed, verdict.detail


@pytest.mark.slow
@pytest.mark.parametrize("name", REGRESSIONS)
def test_inclusion_probabilities_to_two_digits(name):
    verdict = inclusion_probabilities(name, steps=25_000, precision=0.01)
    assert verdict.passed, verdict.detail
