"""C2: proposals q, acceptance α and transitions P against laws enumerated without the package."""

import math

import numpy as np
import pytest

from tests.statistical import detectors
from tests.statistical.detectors import binary_proposals, binary_target, mask_chain
from tests.statistical.exact import imbalance, metropolis


def test_every_reported_acceptance_probability_is_the_one_of_four_densities():
    verdict = detectors.acceptance()
    assert verdict.passed, verdict.detail


def test_moves_blocks_and_values_are_proposed_as_stated():
    verdict = detectors.proposals()
    assert verdict.passed, verdict.detail


@pytest.mark.parametrize("k", [1, 2, 3])
def test_flips_of_binary_weights_are_in_balance(k):
    _, log_target, _ = binary_target(lam=5.0)
    P = metropolis(log_target, binary_proposals(k))
    assert imbalance(log_target, P) <= 1e-8
    np.testing.assert_allclose(P.sum(1), 1.0)


@pytest.mark.parametrize("move", ["birth_death", "toggle", "swap"])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_births_and_deaths_over_masks_are_in_balance(move, size):
    _, log_target, P = mask_chain(move, size)
    assert imbalance(log_target, P) <= 1e-8
    assert math.isclose(P.sum(), 2**size)


def test_binary_weights_move_as_enumerated():
    verdict = detectors.transitions_binary()
    assert verdict.passed, verdict.detail


def test_masks_move_as_enumerated():
    verdict = detectors.transitions_masks()
    assert verdict.passed, verdict.detail


@pytest.mark.slow
def test_long_runs_move_as_enumerated():
    for verdict in (
        detectors.acceptance(steps=600),
        detectors.proposals(steps=600),
        detectors.transitions_binary(steps=12_000, n_proposals=1),
        detectors.transitions_binary(steps=10_000, n_proposals=4),
        detectors.transitions_masks(steps=5000, n_proposals=1),
        detectors.transitions_masks(steps=4000, n_proposals=3),
    ):
        assert verdict.passed, verdict.detail
