"""RigL against algorithm 1 written out weight by weight, and its layer densities against their definition."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from mcmcopt.sparsity import RigL, count, weights
from mcmcopt.sparsity.rigl import layer_densities

from .test_masked import STEPS, active, data, network, number, trained


def rewired(mask, weight, gradient, number):
    """Return the mask after dropping and growing, entry by entry."""
    on = [i for i, m in enumerate(mask) if m]
    dropped = sorted(on, key=lambda i: abs(weight[i]))[:number]
    kept = set(on) - set(dropped)
    candidates = sorted((i for i in range(len(mask)) if i not in kept), key=lambda i: -abs(gradient[i]))
    return [i in kept | set(candidates[:number]) for i in range(len(mask))]


def test_every_rewiring_is_algorithm_1():
    own, model = RigL(0.3, every=3, drop=0.5, end=0.8), network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    x, y = data()
    own.begin(model, optimizer, STEPS)
    changed = 0
    for t in range(1, STEPS + 1):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        gradients = {name: w.grad.clone() for name, w in weights(model).items()}
        own.mask_gradients()
        optimizer.step()
        stepped = {name: w.detach().clone() for name, w in weights(model).items()}
        before = {name: mask.clone() for name, mask in own.masks.items()}
        own.after_step(t)
        for name, mask in own.masks.items():
            expected = before[name].flatten().tolist()
            if t % 3 == 0 and t < 16:
                share = 0.25 * (1 + math.cos(math.pi * t / 16))
                size = min(math.floor(share * sum(expected)), len(expected) - sum(expected))
                flat = (stepped[name].flatten().tolist(), gradients[name].flatten().tolist())
                expected = rewired(expected, *flat, size)
            assert mask.flatten().tolist() == expected
            new = mask & ~before[name]
            changed += int(new.sum())
            assert not weights(model)[name][new].any()  # grown at zero, with no momentum
            assert not optimizer.state[weights(model)[name]]["momentum_buffer"][new].any()
            stay = mask & before[name]
            assert torch.equal(weights(model)[name][stay], stepped[name][stay])
    assert changed > 20


@pytest.mark.parametrize("distribution", ["uniform", "erk"])
def test_the_number_of_weights_never_changes(distribution):
    own = RigL(0.3, distribution, every=2, drop=0.5)
    counts = [{n: int(m.sum()) for n, m in own.masks.items()} for _ in trained(own)]
    assert all(other == counts[0] for other in counts)
    assert sum(counts[0].values()) == pytest.approx(0.3 * count(network()), abs=3)


def test_sparse_from_the_first_step_on():
    own = RigL(0.3)
    model = network()
    own.begin(model, torch.optim.SGD(model.parameters(), 0.1), STEPS)
    assert number(model) == sum(n - round(0.7 * n) for n in (w.numel() for w in weights(model).values()))


def test_first_masks_follow_the_seed_alone():
    def masks(seed):
        own, model = RigL(0.3, seed=seed), network()
        torch.rand(seed)  # whatever the global generator did
        own.begin(model, torch.optim.SGD(model.parameters(), 0.1), STEPS)
        return active(model)

    one, again, other = masks(1), masks(1), masks(2)
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert any(not torch.equal(one[n], other[n]) for n in one)


SHAPES = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "fc1": (500, 800), "fc2": (10, 500)}


@pytest.mark.parametrize("density", [0.01, 0.02, 0.1, 0.5, 0.97, 1.0])
def test_erk_densities_make_the_whole_and_are_proportional_where_they_are_not_dense(density):
    found = layer_densities(SHAPES, density, "erk")
    sizes = {name: math.prod(shape) for name, shape in SHAPES.items()}
    assert sum(found[n] * sizes[n] for n in SHAPES) == pytest.approx(density * sum(sizes.values()))
    assert all(0 < d <= 1 + 1e-12 for d in found.values())
    ratios = [found[n] / (sum(SHAPES[n]) / sizes[n]) for n in SHAPES if found[n] < 1 - 1e-9]
    assert all(r == pytest.approx(ratios[0]) for r in ratios)
    raw = {n: sum(SHAPES[n]) / sizes[n] for n in SHAPES}
    for name in SHAPES:  # what is dense would have had more than 1
        if found[name] == 1 and ratios:
            assert ratios[0] * raw[name] >= 1 - 1e-9


def test_uniform_densities_are_equal():
    assert layer_densities(SHAPES, 0.1) == dict.fromkeys(SHAPES, 0.1)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"density": 0}, "density"),
        ({"distribution": "er"}, "distribution"),
        ({"every": 0}, "every"),
        ({"drop": 1.5}, "drop"),
        ({"end": -1}, "end"),
    ],
)
def test_bad_settings_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        RigL(**{"density": 0.1, **arguments})
