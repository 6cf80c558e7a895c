"""The matrix of planted errors × detectors: every error is caught, and every detector catches something."""

import pytest

from tests.statistical.detectors import DETECTORS
from tests.statistical.planted import ERRORS, replaced, verdict


@pytest.mark.parametrize("error", ERRORS)
def test_planted_error_is_caught(error):
    planted = ERRORS[error]
    with planted.plant():
        found = verdict(planted.caught_by[0])
    assert not found.passed, found.detail


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS)
def test_planted_error_is_caught_by_all_that_should(error):
    planted = ERRORS[error]
    with planted.plant():
        silent = [name for name in planted.caught_by[1:] if verdict(name).passed]
    assert not silent


def test_every_detector_is_called_upon():
    assert {error.caught_by[0] for error in ERRORS.values()} == set(DETECTORS)


def test_planting_leaves_no_trace():
    class Parent:
        inherited = 1

    class Child(Parent):
        own = 2

    before = dict(vars(Child))
    with replaced((Child, "own", 3), (Child, "inherited", 4)):
        assert (Child.own, Child.inherited) == (3, 4)
    assert dict(vars(Child)) == before
