"""When and how much: one shot and gradual pruning against arithmetic of the test's own."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from mcmcopt.sparsity import SNIP, Gradual, GradualMagnitude, OneShot, Random, count, prune, weights

from .test_masked import STEPS, active, network, number, source, trained


def test_one_shot_prunes_once_at_its_step_and_exactly():
    counts = [number(model) for model, _ in trained(OneShot(0.3, at=0.4))]
    sizes = [w.numel() for w in weights(network()).values()]
    kept = sum(n - round(0.7 * n) for n in sizes)
    assert counts[:7] == [count(network())] * 7
    assert counts[7:] == [kept] * (STEPS - 7)


@pytest.mark.parametrize(("at", "first"), [(0.0, 0), (0.01, 1), (1.0, STEPS)])
def test_one_shot_at_the_ends(at, first):
    own = OneShot(0.5, at=at)
    pruned = [t for t, _ in enumerate(trained(own), start=1) if own.masks]
    assert pruned == list(range(max(first, 1), STEPS + 1))


def test_one_shot_takes_the_smallest():
    *_, (model, _) = trained(OneShot(0.25, at=1.0))
    *_, (dense, _) = trained(OneShot(1.0, at=1.0))
    for name, weight in weights(dense).items():
        n = weight.numel()
        largest = weight.detach().abs().flatten().sort(descending=True).indices[: n - round(0.75 * n)]
        expected = torch.zeros(n, dtype=torch.bool)
        expected[largest] = True
        assert torch.equal(active(model)[name].flatten(), expected)


def test_random_pruning_ignores_the_weights():
    one, two = OneShot(0.3, at=0.5, criterion=Random(1)), OneShot(0.3, at=1.0, criterion=Random(1))
    list(trained(one)), list(trained(two))
    assert all(torch.equal(one.masks[name], two.masks[name]) for name in two.masks)


def test_gradual_pruning_follows_the_cubic():
    own = GradualMagnitude(0.2, start=0.1, end=0.8, every=3)
    sizes = {name: w.numel() for name, w in weights(network()).items()}
    sparsity = 0.0
    before = None
    for t, (model, _) in enumerate(trained(own), start=1):
        if (2 < t < 16 and (t - 2) % 3 == 0) or t == 16:
            sparsity = 0.8 * (1 - (1 - min(1.0, (t - 2) / 14)) ** 3)
        masks = active(model)
        assert {n: int(m.sum()) for n, m in masks.items()} == {n: k - round(sparsity * k) for n, k in sizes.items()}
        if before is not None:
            assert all(not (masks[n] & ~before[n]).any() for n in masks)  # pruned stays pruned
        before = masks
    assert sparsity == pytest.approx(0.8)


def test_gradual_pruning_over_all_layers_reaches_the_density_of_the_whole():
    *_, (model, _) = trained(GradualMagnitude(0.2, end=0.8, every=3, scope="global"))
    n = count(model)
    assert number(model) == n - round(0.8 * n)
    shares = [float(m.float().mean()) for m in active(model).values()]
    assert max(shares) - min(shares) > 0.05  # not the same in each layer


def test_a_weight_that_happens_to_be_zero_is_not_pruned_before_one_that_is_off():
    own = GradualMagnitude(0.5, start=0.0, end=1.0, every=5)
    model = torch.nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.arange(8.0))  # the first is zero, yet on
    own.begin(model, torch.optim.SGD(model.parameters(), 0.0), 20)
    own.masks = {"weight": torch.tensor([[1, 1, 0, 0, 1, 1, 1, 1]], dtype=torch.bool)}
    with torch.no_grad():
        model.weight[0, 2:4] = 0
    own.after_step(4)
    own.after_step(5)  # sparsity 0.289: two weights
    assert own.masks["weight"].flatten().tolist() == [True, True, False, False, True, True, True, True]


@pytest.mark.parametrize(("at", "first"), [(0.0, 0), (0.4, 8), (1.0, STEPS)])
@pytest.mark.parametrize("revive", [False, True])
def test_one_shot_by_a_criterion_on_data_is_the_loop_at_that_moment(at, first, revive):
    settings = {"scope": "global", "rounds": 3, "schedule": "cubic", "revive": revive}
    own = OneShot(0.2, at=at, criterion=SNIP(), n_batches=2, batch_size=5, **settings)
    *_, (model, _) = trained(own)
    dense = network()  # as it was before the step's pruning
    if first:
        *_, (dense, _) = trained(OneShot(1.0, at=1.0), steps=first)
    batches = [[source(2 * r + i, 5) for i in range(2)] for r in range(3)]  # fresh ones in each round
    expected = prune(dense, SNIP(), 1 - 0.2, cross_entropy, lambda r: batches[r], **settings)
    assert own.draws == 6
    assert all(torch.equal(own.masks[name], expected[name]) for name in expected)
    assert number(model) == count(model) - round(0.8 * count(model))


def test_a_shuffled_one_shot_has_the_densities_and_other_weights():
    plain, control, other = (OneShot(0.3, at=0, scope="global", criterion=SNIP(), shuffle=s) for s in (None, 1, 2))
    for own in (plain, control, other):
        list(trained(own))
    for name, mask in plain.masks.items():
        assert int(control.masks[name].sum()) == int(mask.sum())
        assert not torch.equal(control.masks[name], mask)
        assert not torch.equal(control.masks[name], other.masks[name])


@pytest.mark.parametrize("schedule", ["exponential", "cubic", "linear"])
def test_gradual_pruning_by_a_criterion_on_data_follows_its_schedule(schedule):
    own = Gradual(0.2, start=0.1, end=0.8, every=3, scope="global", criterion=SNIP(), schedule=schedule, batch_size=5)
    sparsity, n, before = 0.0, count(network()), None
    for t, (model, _) in enumerate(trained(own), start=1):
        if (2 < t < 16 and (t - 2) % 3 == 0) or t == 16:
            done = (t - 2) / 14
            sparsity = {"exponential": 1 - 0.2**done, "cubic": 0.8 * (1 - (1 - done) ** 3), "linear": 0.8 * done}[
                schedule
            ]
        masks = active(model)
        assert number(model) == n - round(sparsity * n)
        if before is not None:
            assert all((masks[name] <= before[name]).all() for name in masks)
        before = masks
    assert own.draws == 5  # t = 5, 8, 11, 14 and 16, one batch each


def test_a_criterion_without_its_data_is_named():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match="snip needs loss_fn"):
        OneShot(0.5, at=0, criterion=SNIP()).begin(model, optimizer, STEPS)
    with pytest.raises(ValueError, match="snip needs batches"):
        OneShot(0.5, at=0, criterion=SNIP()).begin(model, optimizer, STEPS, cross_entropy)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: OneShot(0.0), "density"),
        (lambda: OneShot(1.5), "density"),
        (lambda: OneShot(math.nan), "density"),
        (lambda: OneShot(0.5, at=1.1), "at"),
        (lambda: OneShot(0.5, scope="row"), "scope"),
        (lambda: OneShot(0.5, rounds=0), "rounds"),
        (lambda: OneShot(0.5, schedule="sudden"), "schedule"),
        (lambda: OneShot(0.5, n_batches=0), "n_batches"),
        (lambda: OneShot(0.5, batch_size=1.5), "batch_size"),
        (lambda: OneShot(0.5, shuffle=-1), "seed"),
        (lambda: OneShot(0.5, scope="block", block=(0, 4)), "block"),
        (lambda: OneShot(0.5, scope="block", block=4), "block"),
        (lambda: Gradual(0.5, schedule="sudden"), "schedule"),
        (lambda: Gradual(0.5, n_batches=True), "n_batches"),
        (lambda: Gradual(0.5, scope="block", block=(4,)), "block"),
        (lambda: GradualMagnitude(True), "density"),
        (lambda: GradualMagnitude(0.5, start=0.5, end=0.5), "start must be smaller"),
        (lambda: GradualMagnitude(0.5, end=1.2), "end"),
        (lambda: GradualMagnitude(0.5, every=0), "every"),
        (lambda: GradualMagnitude(0.5, scope="row"), "scope"),
    ],
)
def test_bad_settings_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()
