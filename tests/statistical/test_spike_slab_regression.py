"""C3: inclusion probabilities of a spike-and-slab regression against the sum over all patterns in closed form."""

import pytest

from tests.statistical.detectors import REGRESSIONS, inclusion_probabilities

LONG = {"birth_death": 34_000, "birth_death_laplace": 31_000, "toggle": 29_000, "swap": 28_000, "blocks": 21_000}
"""Steps of 16 proposals for 4 standard errors of 0.01."""


@pytest.mark.parametrize("name", REGRESSIONS)
def test_inclusion_probabilities(name):
    verdict = inclusion_probabilities(name)
    assert verdict.passed, verdict.detail


@pytest.mark.slow
@pytest.mark.parametrize("name", REGRESSIONS)
def test_inclusion_probabilities_to_two_digits(name):
    verdict = inclusion_probabilities(name, steps=LONG[name], precision=0.01)
    assert verdict.passed, verdict.detail
