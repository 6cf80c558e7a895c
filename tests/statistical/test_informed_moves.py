"""C1-C5, C11, C13 for moves that use the gradient, and the matrix of planted errors × these tests."""

import numpy as np
import pytest

from tests.statistical import informed_detectors as detectors
from tests.statistical.exact import imbalance
from tests.statistical.informed_detectors import DETECTORS, FLIPS, INVARIANCE, PRIORS, REGRESSIONS
from tests.statistical.informed_planted import AGNOSTIC, ERRORS, HARMLESS, caught_by, verdict
from tests.statistical.planted import replaced

LONG = {"one": 10_000, "two and swaps": 9_000, "blocks": 6_000}
"""Steps of 16 proposals."""


@pytest.mark.parametrize("name", DETECTORS)
def test_the_package_passes(name):
    found = DETECTORS[name]()
    assert found.passed, found.detail


@pytest.mark.parametrize("temperature", [1.0, "auto", "rank"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_flips_of_binary_weights_are_in_balance_over_ordered_sequences(k, temperature):
    log_target, P = detectors.informed_flips(k, temperature)
    assert imbalance(log_target, P) <= 1e-8
    np.testing.assert_allclose(P.sum(1), 1.0)


@pytest.mark.parametrize("name", [name for name, case in PRIORS.items() if case.pattern])
def test_the_prior_is_recovered_at_lam_zero(name):
    found = detectors.prior_recovery(name, lam=0.0)
    assert found.passed, found.detail


@pytest.mark.parametrize("error", ERRORS)
def test_planted_error_is_caught(error):
    assert caught_by(ERRORS[error].changes, ERRORS[error].caught_by[:1])


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS)
def test_planted_error_is_caught_by_all_that_should(error):
    names = ERRORS[error].caught_by
    assert caught_by(ERRORS[error].changes, names) == list(names)


def test_every_detector_is_called_upon():
    assert {name for error in ERRORS.values() for name in error.caught_by} == set(DETECTORS)


HELD_TO = {
    "the way back keeps the order": ("C4 prior two of two layers", "C3 inclusion two and swaps"),  # C1 has it reversed
    "gain of flips without its factor 2": ("C1 antisymmetry", "C4 prior flip and langevin"),
    "all candidates alike": ("C1 antisymmetry", "C5 invariance two births"),
    "births without drift at all": ("C1 antisymmetry", "C3 inclusion one"),
    "Langevin without the slab's score": ("C1 antisymmetry", "C13 moments"),
    "Langevin with twice the drift": ("C1 antisymmetry", "C5 invariance preconditioned"),
}


@pytest.mark.parametrize("change", HARMLESS)
def test_another_proposal_made_alike_in_draws_and_densities_leaves_the_law(change):
    with replaced(*HARMLESS[change]):
        for name in HELD_TO[change]:
            found = verdict(name)
            assert found.passed, (name, found.detail)


@pytest.mark.slow
@pytest.mark.parametrize("change", HARMLESS)
def test_another_proposal_leaves_the_law_by_all_tests_of_the_law(change):
    own_way_back = change == "the way back keeps the order"
    names = [
        name for name in DETECTORS if name.startswith(AGNOSTIC) and not (own_way_back and name == "C1 antisymmetry")
    ]
    assert not caught_by(HARMLESS[change], names)


@pytest.mark.slow
@pytest.mark.parametrize("name", REGRESSIONS)
def test_inclusion_probabilities_in_long_runs(name):
    found = detectors.inclusion_probabilities(name, steps=LONG[name], thin=16, precision=0.02)
    assert found.passed, found.detail


@pytest.mark.slow
@pytest.mark.parametrize("name", INVARIANCE)
def test_joint_law_is_invariant_in_many_replicas(name):
    found = detectors.invariance(name, first=1000)
    assert found.passed, found.detail


@pytest.mark.slow
@pytest.mark.parametrize("name", PRIORS)
def test_prior_is_recovered_in_long_runs(name):
    found = detectors.prior_recovery(name, steps=2500)
    assert found.passed, found.detail


@pytest.mark.slow
def test_other_long_runs():
    for found in (
        *(detectors.transitions(name, steps=6000, n_proposals=n) for name in FLIPS for n in (1, 3)),
        detectors.acceptance(steps=150),
        detectors.proposals(steps=300),
        detectors.adaptation_target(learn=300, measure=200, n_proposals=100),
        *(detectors.moments(precondition, steps=6000) for precondition in (False, True)),
    ):
        assert found.passed, found.detail
