"""Scores from samplers against the test's own run of the same chain, and where the truth is known."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from mcmcopt import GreedyMCMC, IncrementalLoss, KLMirrorDescent, RandomWalk, SpikeSlab, Swap, Toggle
from mcmcopt.loss.objective import ClosureObjective
from mcmcopt.sparsity import AcceptanceCounts, Inclusion, weights
from mcmcopt.sparsity.posterior import Counting

INFORMATIVE = (1, 4)


def regression(n=60):
    """Return inputs of which two matter, and what they make."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 6, generator=generator)
    y = 2 * x[:, [1]] - 1.5 * x[:, [4]] + 0.1 * torch.randn(n, 1, generator=generator)
    return x, y


def halves():
    x, y = regression()
    return [(x[:40], y[:40]), (x[40:], y[40:])]


def linear():
    torch.manual_seed(0)
    return nn.Linear(6, 1)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1))


CHAIN = partial(GreedyMCMC, lam=60.0, prior=SpikeSlab(0.3), seed=5)
LAW = partial(KLMirrorDescent, lam=60.0, lr=6.0, prior=SpikeSlab(0.3), samples=4, seed=5)
ONE = partial(GreedyMCMC, lam=60.0, prior=SpikeSlab(0.3), seed=5, n_proposals=1, moves=[RandomWalk(), Toggle(), Swap()])


@pytest.mark.parametrize("burn_in", [0.0, 0.25, 0.5])
def test_inclusion_is_the_average_mask_of_the_chain(burn_in):
    model, repeats = network(), 6
    twin = copy.deepcopy(model).eval()
    optimizer = CHAIN(list(twin.named_parameters()), n_proposals=15)
    objective = IncrementalLoss(twin, mse_loss)
    masks = []
    for x, y in halves():
        for _ in range(repeats):
            optimizer.step(objective.bind(x, y))
            masks.append({n: optimizer.mask(w).double() for n, w in weights(twin).items()})
    masks = masks[round(burn_in * len(masks)) :]
    scores = Inclusion(partial(CHAIN, n_proposals=15), repeats, burn_in)(model, mse_loss, halves())
    magnitudes, rest = [], []
    for name, weight in weights(twin).items():
        counts = sum(mask[name] for mask in masks)
        assert torch.equal(scores[name].floor(), counts)
        magnitudes.append(weight.detach().abs().flatten().double())
        rest.append((scores[name] - counts).flatten())
    magnitudes, rest = torch.cat(magnitudes), torch.cat(rest)
    assert 0 <= float(rest.min()) <= float(rest.max()) < 0.5
    order = magnitudes.argsort()
    assert (rest[order].diff() >= 0).all()  # ties are broken by |w|, over all layers
    assert float(rest.max()) > 0
    assert any(0 < c < len(masks) for score in scores.values() for c in score.floor().flatten().tolist())


def test_a_single_step_counts_whatever_the_burn_in():
    x, y = regression()
    sampler = partial(CHAIN, n_proposals=15)
    score = Inclusion(sampler)(linear(), mse_loss, [(x, y)])["weight"]
    twin = linear()
    optimizer = sampler(list(twin.named_parameters()))
    optimizer.step(IncrementalLoss(twin, mse_loss).bind(x, y))
    assert torch.equal(score.floor().bool(), optimizer.mask(twin.weight))


def test_inclusion_of_a_mean_field_law_is_its_own():
    model = network()
    twin = network()
    optimizer = LAW(list(twin.named_parameters()))
    for x, y in halves():
        for _ in range(3):

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = mse_loss(twin(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)
    scores = Inclusion(LAW, repeats=3)(model, mse_loss, halves())
    for name, weight in weights(twin).items():
        assert scores[name].dtype == torch.float64
        assert torch.equal(scores[name], optimizer.inclusion(weight).double())


def test_acceptance_counts_are_the_moves_that_the_weights_made():
    model, repeats = network(), 60
    twin = copy.deepcopy(model).eval()
    optimizer = ONE(list(twin.named_parameters()))
    objective = IncrementalLoss(twin, mse_loss)
    counts = {n: torch.zeros(w.shape, dtype=torch.float64) for n, w in weights(twin).items()}
    for x, y in halves():
        for _ in range(repeats):
            before = {n: (w.detach().clone(), optimizer.mask(w)) for n, w in weights(twin).items()}
            optimizer.step(objective.bind(x, y))  # one proposal: what differs now was in it, and it was accepted
            for name, weight in weights(twin).items():
                counts[name] += (weight.detach() != before[name][0]) | (optimizer.mask(weight) != before[name][1])
    scores = AcceptanceCounts(ONE, repeats)(model, mse_loss, halves())
    assert sum(int(c.sum()) for c in counts.values()) > 20
    for name, count in counts.items():
        assert torch.equal(scores[name].floor(), count)
        assert float((scores[name] - count).max()) < 0.5


@pytest.mark.parametrize("incremental", [False, True])
def test_counting_leaves_the_chain_as_it_is_and_counts_what_moved(incremental):
    x, y = regression()
    plain, counted = network(), network()
    optimizers = [ONE(model.parameters()) for model in (plain, counted)]
    counts, expected = {}, {p: torch.zeros(p.shape, dtype=torch.float64) for p in counted.parameters()}
    for model, optimizer in zip((plain, counted), optimizers, strict=True):
        objective = IncrementalLoss(model, mse_loss).bind(x, y)
        if not incremental:
            objective = ClosureObjective(lambda m=model: (m(x) - y).square().flatten(), model.parameters(), False)
        for _ in range(80):
            before = [p.detach().clone() for p in model.parameters()]
            optimizer.step(objective if model is plain else Counting(objective, counts))
            if model is counted:
                for p, old in zip(counted.parameters(), before, strict=True):
                    expected[p] += p.detach() != old
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), counted.parameters(), strict=True))
    assert optimizers[0].info.evaluations == optimizers[1].info.evaluations
    for p, own in expected.items():
        assert torch.equal(counts.get(p, torch.zeros_like(own)), own)
    assert sum(float(c.sum()) for c in counts.values()) > 20


def test_a_swap_counts_at_both_its_ends():
    x, y = regression()
    sampler = partial(GreedyMCMC, lam=0.0, prior=SpikeSlab(0.5), moves=Swap(), init="prior", seed=3)
    counts = AcceptanceCounts(sampler)(linear(), mse_loss, [(x, y)])["weight"].floor()
    twin = linear()
    optimizer = sampler(list(twin.named_parameters()))
    optimizer.step(IncrementalLoss(twin, mse_loss).bind(x, y))
    accepted = sum(m.accepted for layer in optimizer.info.layers.values() for m in layer.moves.values())
    assert accepted > 0
    assert int(counts.sum()) == 2 * accepted


@pytest.mark.parametrize(
    "criterion",
    [Inclusion(CHAIN, repeats=10), Inclusion(LAW, repeats=60), AcceptanceCounts(partial(CHAIN, n_proposals=400), 5)],
    ids=["chain", "mean field", "acceptance"],
)
def test_informative_inputs_rank_first(criterion):
    model = linear()
    with torch.no_grad():
        model.weight.fill_(0.01)
    scores = criterion(model, mse_loss, [regression()])["weight"].flatten()
    assert set(scores.argsort(descending=True)[:2].tolist()) == set(INFORMATIVE)


def test_equal_seeds_give_equal_scores_and_others_do_not():
    one, two, other = (
        AcceptanceCounts(partial(CHAIN, seed=s))(network(), mse_loss, halves())["0.weight"] for s in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Inclusion(CHAIN, repeats=0), "repeats"),
        (lambda: Inclusion(CHAIN, repeats=True), "repeats"),
        (lambda: Inclusion(CHAIN, burn_in=1.0), "burn_in"),
        (lambda: Inclusion(CHAIN, burn_in=-0.1), "burn_in"),
        (lambda: Inclusion(CHAIN, burn_in="half"), "burn_in"),
        (lambda: AcceptanceCounts(CHAIN, repeats=1.5), "repeats"),
    ],
)
def test_bad_settings_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_samplers_of_another_kind_are_named():
    sgd = partial(torch.optim.SGD, lr=0.1)
    for criterion in (Inclusion(sgd), AcceptanceCounts(sgd), AcceptanceCounts(LAW)):
        with pytest.raises(TypeError, match="sampler must make a GreedyMCMC"):
            criterion(linear(), mse_loss, halves())
