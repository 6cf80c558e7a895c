"""The running mean of squared gradients: the recursion, what does not enter, and the way back."""

import numpy as np
import pytest
import torch

from mcmcopt import Gaussian, GreedyMCMC, InformedBirthDeath, Langevin, RandomWalk, SpikeSlab
from mcmcopt.chain.moments import Moments


def fresh(n=6):
    return Moments(torch.zeros(n, dtype=torch.float64), torch.tensor(0))


def test_the_recursion_is_the_stated_one_and_the_first_gradient_counts_whole():
    rng, moments, own = np.random.default_rng(0), fresh(), np.zeros(6)
    for t in range(9):
        gradient = rng.standard_normal((2, 3))
        own += (t + 1) ** -0.6 * (gradient.ravel() ** 2 - own)
        moments.see(torch.from_numpy(gradient))
        np.testing.assert_allclose(moments.mean.numpy(), own, rtol=1e-12)
        assert int(moments.seen) == t + 1


def test_it_settles_at_the_mean_square():
    rng, moments = np.random.default_rng(1), fresh(2000)
    for _ in range(400):
        moments.see(torch.from_numpy(3 * rng.standard_normal(2000)))
    assert float(moments.mean.mean()) == pytest.approx(9, rel=0.02)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_does_not_enter(bad):
    moments = fresh()
    moments.see(torch.ones(6))
    before = moments.snapshot()
    gradient = torch.ones(6)
    gradient[2] = bad
    moments.see(gradient)
    assert torch.equal(moments.mean, before[0])
    assert int(moments.seen) == 1


def test_a_snapshot_is_a_copy_and_restoring_writes_into_the_shared_tensors():
    moments = fresh()
    mean, seen = moments.mean, moments.seen
    moments.see(torch.full((6,), 2.0, dtype=torch.bfloat16))
    kept = moments.snapshot()
    moments.see(torch.ones(6))
    assert not torch.equal(mean, kept[0])
    moments.restore(kept)
    assert moments.mean is mean
    assert moments.seen is seen
    assert torch.equal(mean, torch.full((6,), 4.0, dtype=torch.float64))
    assert int(seen) == 1


def chain(moves, **options):
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3))
    optimizer = GreedyMCMC([weight], 2.0, prior=SpikeSlab(0.5, slab=Gaussian(0.5)), moves=moves, **options)
    return weight, optimizer, lambda: ((weight - 0.3) ** 2).sum()


@pytest.mark.parametrize("moves", [[Langevin(precondition=True)], [InformedBirthDeath(saliency="obd"), RandomWalk()]])
def test_a_step_lets_them_see_one_gradient_that_it_starts_from(moves):
    weight, optimizer, closure = chain(moves, n_proposals=12)
    own = torch.zeros(6, dtype=torch.float64)
    for t in range(4):
        own += (t + 1) ** -0.6 * ((2 * (weight.detach() - 0.3)).view(-1) ** 2 - own)
        optimizer.step(closure)
        state = optimizer.state[weight]
        assert int(state["gradients_seen"]) == t + 1
        torch.testing.assert_close(state["second_moment"], own, rtol=1e-12, atol=1e-12)


def test_frozen_they_stay_and_gradients_are_not_computed_for_them():
    weight, optimizer, closure = chain([InformedBirthDeath(saliency="obd", weight=1e-9), RandomWalk()])
    optimizer.step(closure)
    assert optimizer.info.gradients == 1
    before = optimizer.state[weight]["second_moment"].clone()
    optimizer.freeze_adaptation()
    optimizer.step(closure)
    weight.grad = torch.ones_like(weight)
    optimizer.observe_gradients()
    assert optimizer.info.gradients == 0
    assert torch.equal(optimizer.state[weight]["second_moment"], before)


def test_gradients_of_others_enter_where_they_are():
    weight, optimizer, _ = chain([Langevin(precondition=True)])
    optimizer.observe_gradients()  # no gradient yet
    assert int(optimizer.state[weight]["gradients_seen"]) == 0
    weight.grad = torch.full_like(weight, 3.0)
    optimizer.observe_gradients()
    assert bool((optimizer.state[weight]["second_moment"] == 9).all())


def test_there_are_none_without_a_move_that_goes_by_them():
    weight, optimizer, closure = chain([Langevin(), InformedBirthDeath()])
    optimizer.step(closure)
    assert set(optimizer.state[weight]) == {"rms", "log_scale", "adaptations", "order", "active"}
