"""C12: informed flips that reuse a step's first gradient, against their enumerated kernel and against the target.

Given the gradient each proposal is reversible; the gradient depends on the state that the step began with, so the
whole is not.  The kernel of a step is enumerated here, the package's transitions are compared with it, and what is
lost, the total variation between its law and the target, is measured and bounded.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from mcmcopt import Gaussian, GreedyMCMC, InformedFlip
from tests.statistical.detectors import binary_target
from tests.statistical.exact import metropolis

LAM, SIZE = 5.0, 0.7
X = np.array([[1.0, 0.5, -0.3], [-0.7, 1.0, 0.4], [0.2, -0.9, 1.1], [0.8, 0.3, 0.6], [-0.5, -0.4, 1.0]])
T = np.array([1.0, -1.0, 1.0, -1.0, 1.0])


def gradient(w):
    return -(T / (1 + np.exp(T * (X @ w)))) @ X / len(T)


def flips(states, slope, temperature):
    """Return q over the 8 states of one flip with log-weights of the gradient `slope`, which may be a function."""
    q = np.zeros((8, 8))
    for i, w in enumerate(states):
        g = slope(w) if callable(slope) else slope
        weights = np.exp(2 * LAM * w * g / (2 * temperature))
        for j in range(3):
            q[i, i ^ (1 << j)] = weights[j] / weights.sum()
    return q


def step_kernel(n, temperature, reuse):
    """Return the transition matrix of a step of n proposals."""
    states, log_target, _ = binary_target(LAM)
    if not reuse:
        return np.linalg.matrix_power(metropolis(log_target, flips(states, gradient, temperature)), n)
    rows = [
        np.linalg.matrix_power(metropolis(log_target, flips(states, gradient(w), temperature)), n)[i]
        for i, w in enumerate(states)
    ]
    return np.array(rows)


def law(transitions):
    values, vectors = np.linalg.eig(transitions.T)
    vector = np.real(vectors[:, np.argmax(np.real(values))])
    return vector / vector.sum()


def lost(n, temperature, reuse):
    """Return the total variation between the kernel's law and the target."""
    _, log_target, _ = binary_target(LAM)
    target = np.exp(log_target - log_target.max())
    return 0.5 * float(np.abs(law(step_kernel(n, temperature, reuse)) - target / target.sum()).sum())


def worst_z(n, temperature, reuse, claimed, steps=6000):
    """Return the largest deviation of the package's transitions from the enumerated ones, in standard errors."""
    states, _, _ = binary_target(LAM)
    param = nn.Parameter(torch.tensor(states[:1]))
    x, t = torch.tensor(X), torch.tensor(T)
    move = InformedFlip(temperature=temperature, reuse=reuse)
    chain = GreedyMCMC([param], LAM, n_proposals=n, prior=Gaussian(1.0), moves=move, seed=3, grad=False)
    codes = [0]
    for _ in range(steps):
        chain.step(lambda: torch.log1p(torch.exp(-t * (x @ param[0]))).mean())
        codes.append(int((param.detach().numpy()[0] < 0) @ np.array([1, 2, 4])))
    counts = np.zeros((8, 8))
    for a, b in itertools.pairwise(codes):
        counts[a, b] += 1
    expected = counts.sum(1, keepdims=True) * claimed
    usual = expected * (1 - claimed) >= 4
    return float((np.abs(counts - expected)[usual] / np.sqrt((expected * (1 - claimed))[usual])).max())


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_a_step_moves_as_enumerated(n, temperature):
    assert worst_z(n, temperature, True, step_kernel(n, temperature, True)) <= 7


def test_the_enumeration_tells_one_from_the_other():
    assert worst_z(4, 1.0, True, step_kernel(4, 1.0, False)) > 7


@pytest.mark.parametrize(("n", "most"), [(1, 0.06), (4, 0.02), (16, 0.002)])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_less_is_lost_the_longer_a_step_and_nothing_without_reuse(n, most, temperature):
    assert lost(n, temperature, False) <= 1e-10
    assert 1e-9 < lost(n, temperature, True) <= most


def test_less_is_lost_the_more_a_temperature_evens_the_choice():
    assert lost(1, 8.0, True) < lost(1, 1.0, True) / 2


def test_a_gradient_serves_a_whole_step():
    param = nn.Parameter(torch.ones(1, 8, dtype=torch.float64))
    target = torch.linspace(-1, 1, 8, dtype=torch.float64)
    for reuse, gradients in ((True, 1), (False, 13)):
        move = InformedFlip(temperature=1.0, reuse=reuse)
        chain = GreedyMCMC([param], 3.0, n_proposals=12, prior=Gaussian(1.0), moves=move, seed=0, grad=False)
        chain.step(lambda: (param - target).square().mean())
        assert chain.info.gradients == gradients
        assert math.isfinite(chain.info.loss)
