"""Zeros stay zero under every optimizer, and masks change when and as their schedule says."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from mcmcopt.sparsity import SNIP, DeepR, Gradual, GradualMagnitude, OneShot, Pruner, Random, RigL, SoftDeepR, weights

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.05),
    "adamw": lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.05, momentum=0.9),
}
PRUNERS = {
    "one shot": lambda: OneShot(0.3, at=0.4),
    "random": lambda: OneShot(0.3, at=0.4, criterion=Random(3)),
    "gradual": lambda: GradualMagnitude(0.3, start=0.1, end=0.8, every=2),
    "global": lambda: GradualMagnitude(0.3, start=0.1, end=0.8, every=2, scope="global"),
    "snip": lambda: OneShot(0.3, at=0, scope="global", criterion=SNIP(), rounds=3, n_batches=2, batch_size=7),
    "force": lambda: OneShot(0.3, at=0.4, criterion=SNIP(), rounds=3, revive=True, batch_size=7, shuffle=1),
    "gradual snip": lambda: Gradual(0.3, start=0.1, end=0.8, every=2, criterion=SNIP(), n_batches=2, batch_size=7),
    "rigl": lambda: RigL(0.3, every=2, drop=0.5, end=0.9),
    "erk": lambda: RigL(0.3, "erk", every=2, drop=0.5, end=0.9),
    "deepr": lambda: DeepR(0.3, l1=0.01, temperature=1e-4),
    "soft deepr": lambda: SoftDeepR(0.3, l1=0.01, temperature=1e-4),
}
STEPS = 20


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(54, 12), torch.nn.Linear(12, 3)
    )


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(30, 1, 5, 5, generator=generator), torch.randint(3, (30,), generator=generator)


def source(draw, size):
    """Return a batch that depends on the two numbers alone."""
    chosen = torch.randint(30, (size,), generator=torch.Generator().manual_seed(draw))
    return tuple(part[chosen] for part in data())


def trained(pruner: Pruner, make=OPTIMIZERS["momentum"], steps=STEPS, model=None, first=0, optimizer=None):
    """Train, yielding after each step the model and the masks."""
    model = network() if model is None else model
    optimizer = make(model.parameters()) if optimizer is None else optimizer
    x, y = data()
    if first == 0:
        pruner.begin(model, optimizer, STEPS, cross_entropy, source)
    for t in range(first + 1, steps + 1):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        pruner.mask_gradients()
        optimizer.step()
        pruner.after_step(t)
        yield model, optimizer


def active(model):
    return {name: w.detach() != 0 for name, w in weights(model).items()}


def number(model):
    return sum(int(mask.sum()) for mask in active(model).values())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("pruner", PRUNERS)
def test_what_is_off_is_exactly_zero_after_every_step(pruner, optimizer):
    own = PRUNERS[pruner]()
    for model, _ in trained(own, OPTIMIZERS[optimizer]):
        for name, mask in own.masks.items():
            assert not weights(model)[name][~mask].any()
    assert own.masks


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "adamw"])
def test_moments_of_what_is_off_do_not_grow(optimizer):
    own = OneShot(0.3, at=0)
    for model, torch_optimizer in trained(own, OPTIMIZERS[optimizer]):
        for name, mask in own.masks.items():
            for value in torch_optimizer.state[weights(model)[name]].values():
                if value.shape == mask.shape:
                    assert not value[~mask].any()


@pytest.mark.parametrize("pruner", PRUNERS)
def test_biases_are_not_touched(pruner):
    plain = network()
    masked = PRUNERS[pruner]()
    masked.begin(plain, OPTIMIZERS["sgd"](plain.parameters()), STEPS, cross_entropy, source)
    assert all("bias" not in name for name in masked.masks)
    assert torch.equal(plain[0].bias, network()[0].bias)


@pytest.mark.parametrize("pruner", PRUNERS)
def test_resumed_is_the_same(pruner):
    whole = PRUNERS[pruner]()
    *_, (model, _) = trained(whole)
    cut = PRUNERS[pruner]()
    *_, (half, optimizer) = trained(cut, steps=9)
    state, torch_state, weights_then = cut.state_dict(), optimizer.state_dict(), copy.deepcopy(half.state_dict())
    again, fresh = PRUNERS[pruner](), network()
    resumed = OPTIMIZERS["momentum"](fresh.parameters())
    again.begin(fresh, resumed, STEPS, cross_entropy, source)
    fresh.load_state_dict(weights_then)
    resumed.load_state_dict(torch_state)
    again.load_state_dict(state)
    *_, (fresh, _) = trained(again, first=9, model=fresh, optimizer=resumed)
    for one, two in zip(model.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_state_of_another_model_is_refused():
    own = OneShot(0.3, at=0)
    list(trained(own, steps=1))
    other = torch.nn.Linear(4, 2)
    again = OneShot(0.3, at=0)
    again.begin(other, OPTIMIZERS["sgd"](other.parameters()), 5)
    with pytest.raises(ValueError, match="the saved masks are of"):
        again.load_state_dict(own.state_dict())


def test_use_before_begin_and_models_without_weights_are_named():
    with pytest.raises(RuntimeError, match=r"OneShot\.begin"):
        OneShot(0.5, at=0.0).after_step(0)
    with pytest.raises(ValueError, match="no linear or convolutional layer"):
        OneShot(0.5).begin(torch.nn.ReLU(), OPTIMIZERS["sgd"]([torch.zeros(1, requires_grad=True)]), 5)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        OneShot(0.5).begin(network(), OPTIMIZERS["sgd"](network().parameters()), 0)


@pytest.mark.parametrize("pruner", PRUNERS)
def test_reprs_name_the_settings(pruner):
    assert "density=0.3" in repr(PRUNERS[pruner]())
