"""A cap that comes down with the steps: the chain follows it, worst blocks first, and resumes in the middle."""

import torch
from torch.nn.functional import mse_loss

from mcmcopt import BirthDeath, CubicDecay, Gaussian, GreedyMCMC, Piecewise, RandomWalk, SoftCap, SpikeSlab

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(200, 40, generator=GENERATOR, dtype=torch.float64)
TRUE = torch.linspace(3.0, 0.5, 40, dtype=torch.float64)[:, None]
Y = X @ TRUE


def chain(density, lam=500.0):
    model = torch.nn.Linear(40, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(TRUE.T)
    prior = SpikeSlab(inclusion=SoftCap(density, 100000.0), slab=Gaussian(1.0))
    moves = [RandomWalk(k=1), BirthDeath(birth=0.3, weight=2.0)]
    return model, GreedyMCMC(model.parameters(), lam=lam, n_proposals=400, prior=prior, moves=moves, seed=1)


def step(model, optimizer):
    return optimizer.step(lambda: mse_loss(model(X), Y, reduction="none").mean(1))


def test_the_chain_follows_the_cap_and_keeps_what_matters():
    model, optimizer = chain(CubicDecay(1.0, 0.2, steps=8, after=1))
    shares = []
    for _ in range(14):
        step(model, optimizer)
        shares.append(optimizer.info.share_active)
    assert shares[0] > 0.8
    assert shares[-1] <= 0.2 + 1 / 40
    kept = optimizer.mask(model.weight)[0].nonzero().flatten().tolist()
    assert sum(kept) / len(kept) < 10  # of 40, largest first; any eight would have 19.5
    assert not model.weight.detach()[~optimizer.mask(model.weight)].any()


def test_a_cap_that_rises_again_lets_blocks_be_born():
    model, optimizer = chain(Piecewise([(1, 1.0), (5, 0.2), (10, 0.2), (11, 0.6)]), lam=0.0)
    shares = []
    for _ in range(20):
        step(model, optimizer)
        shares.append(optimizer.info.share_active)
    assert min(shares[6:10]) <= 0.2 + 1 / 40 < 0.3 < shares[-1] <= 0.6 + 1 / 40


def test_resumed_on_its_way_down_it_is_the_same_chain():
    schedule = CubicDecay(1.0, 0.2, steps=8, after=1)
    model, optimizer = chain(schedule)
    for _ in range(10):
        step(model, optimizer)
    half, first = chain(schedule)
    for _ in range(4):
        step(half, first)
    state, weights = first.state_dict(), half.state_dict()
    again, second = chain(schedule)
    again.load_state_dict(weights)
    second.load_state_dict(state)
    for _ in range(6):
        step(again, second)
    assert torch.equal(again.weight, model.weight)
    assert torch.equal(second.mask(again.weight), optimizer.mask(model.weight))


def test_the_log_prior_between_steps_is_that_of_the_cap_in_force():
    model, optimizer = chain(CubicDecay(1.0, 0.2, steps=4, after=1))
    for _ in range(6):
        step(model, optimizer)
    active = int(optimizer.mask(model.weight).sum())
    fixed = SoftCap(0.2, 100000.0).log_prob(active, 40)
    slab = float(Gaussian(1.0).log_prob(model.weight.detach()[optimizer.mask(model.weight)]).sum())
    assert abs(optimizer.log_prior() - (fixed + slab)) < 1e-9
