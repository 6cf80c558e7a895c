"""Bop: its rule by hand, the contract of torch.optim over binary parameters, and what it refuses."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, ReduceLROnPlateau

from mcmcopt import Bop
from mcmcopt.binary import BinaryLinear, check_binary

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])


def signs(*shape, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return nn.Parameter((2 * torch.randint(2, shape, generator=g) - 1).to(dtype))


def problem(dtype=torch.float32, seed=0, **settings):
    """A network of binary layers with fixed scales and a zero-dimensional sign; its optimizer and a closure."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = (BinaryLinear(n, m, bias=False, scale="fixed", dtype=dtype) for n, m in ((10, 64), (64, 3)))
        model = nn.Sequential(next(layers), nn.ReLU(), next(layers))
        model.turn = nn.Parameter(torch.tensor(1.0, dtype=dtype))
        x = torch.randn(100, 10)
        y = (x @ torch.randn(10, 3)).argmax(1)
    optimizer = Bop(model.named_parameters(), **{"threshold": 1e-5, "adaptivity": 0.05} | settings)
    return model, optimizer, closure_of(model, optimizer, x.to(dtype), y)


def closure_of(model, optimizer, x, y):
    def closure():
        optimizer.zero_grad()
        loss = cross_entropy((model(x) * model.turn).float(), y)
        loss.backward()
        return loss

    closure.data = x, y
    return closure


def state(model, optimizer):
    values = [*model.parameters(), *(s["average"] for s in optimizer.state.values())]
    return [(v.dtype, v.detach().double().tolist()) for v in values]


@DTYPES
def test_flips_are_those_of_the_paper_s_algorithm(dtype):
    """By plain Python numbers; gradients that keep, change and lose their direction, and a threshold that counts."""
    w = signs(7, dtype=dtype)
    optimizer = Bop([w], threshold=0.04, adaptivity=0.25)
    values, average = w.tolist(), [0.0] * 7
    g = torch.Generator().manual_seed(1)
    flips = 0
    for _ in range(40):
        w.grad = (0.2 * torch.randn(7, generator=g)).to(dtype)
        for j, grad in enumerate(w.grad.tolist()):
            average[j] = 0.75 * average[j] + 0.25 * grad
            if abs(average[j]) > 0.04 and average[j] * values[j] > 0:
                values[j], flips = -values[j], flips + 1
        optimizer.step()
        assert w.tolist() == values
        assert optimizer.state[w]["average"].tolist() == pytest.approx(average, rel=1e-5, abs=1e-7)
    assert 20 < flips < 200


def test_a_weight_flips_down_the_gradient_and_only_beyond_the_threshold():
    w = nn.Parameter(torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0]))
    w.grad = torch.tensor([2.0, -2.0, 2.0, -2.0, 0.5])
    Bop([w], threshold=1.0, adaptivity=1.0).step()
    assert w.tolist() == [-1.0, 1.0, -1.0, 1.0, 1.0]  # at +1 with a positive gradient: downhill is -1


def test_the_average_starts_at_zero_and_is_not_corrected():
    w = nn.Parameter(torch.ones(1))
    optimizer = Bop([w], threshold=0.3, adaptivity=0.1)
    at = None
    for step in range(1, 10):
        w.grad = torch.ones(1)
        optimizer.step()
        if float(w.detach()) == -1 and at is None:
            at = step
    assert at == 4  # 1 - 0.9^t is above 0.3 from the fourth step


@DTYPES
def test_weights_stay_binary_and_the_loss_falls(dtype):
    model, optimizer, closure = problem(dtype)
    first = float(optimizer.step(closure).detach())
    for _ in range(60):
        last = optimizer.step(closure)
        check_binary(model)
    assert float(last.detach()) < 0.7 * first
    assert all(param.dtype == dtype for param in model.parameters())


@DTYPES
def test_a_saved_run_goes_on_bit_for_bit(dtype):
    model, optimizer, closure = problem(dtype)
    for _ in range(5):
        optimizer.step(closure)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other, second, twin_closure = problem(dtype, seed=9)
    other.load_state_dict(saved["model"])
    second.load_state_dict(saved["optimizer"])
    twin_closure = closure_of(other, second, *closure.data)
    other[0].scale.copy_(model[0].scale)
    assert state(model, optimizer) == state(other, second)
    for _ in range(5):
        optimizer.step(closure)
        second.step(twin_closure)
    assert state(model, optimizer) == state(other, second)
    kept = [s["average"].clone() for s in optimizer.state.values()]
    second.step(twin_closure)
    assert all(torch.equal(a, s["average"]) for a, s in zip(kept, optimizer.state.values(), strict=True))


def test_states_that_are_saved_or_loaded_are_shared_with_nobody():
    model, optimizer, closure = problem()
    optimizer.step(closure)
    twin, second, _ = problem()
    second.load_state_dict(optimizer.state_dict())
    before = state(model, optimizer)
    second.step(closure_of(twin, second, *closure.data))
    assert state(model, optimizer) == before
    saved = optimizer.state_dict()
    kept = [s["average"].tolist() for s in saved["state"].values()]
    optimizer.step(closure)
    assert [s["average"].tolist() for s in saved["state"].values()] == kept
    assert state(model, optimizer) != before


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_go_on_as_the_original_would(way):
    model, optimizer, closure = problem()
    for _ in range(3):
        optimizer.step(closure)
    pair = (model, optimizer)
    twin, second = copy.deepcopy(pair) if way == "deepcopy" else pickle.loads(pickle.dumps(pair))  # noqa: S301
    before = state(model, optimizer)
    for _ in range(3):
        second.step(closure_of(twin, second, *closure.data))
    assert state(model, optimizer) == before
    for _ in range(3):
        optimizer.step(closure)
    assert state(model, optimizer) == state(twin, second)


def test_groups_have_settings_of_their_own_and_can_be_added():
    a, b, c = signs(4), signs(4, seed=1), signs(4, seed=2)
    optimizer = Bop([{"params": [a]}, {"params": [b], "threshold": 10.0}], threshold=0.0, adaptivity=1.0)
    optimizer.add_param_group({"params": [c], "adaptivity": 0.5})
    before = [p.detach().clone() for p in (a, b, c)]
    for param in (a, b, c):
        param.grad = param.detach().clone()
    optimizer.step()
    assert torch.equal(a, -before[0])
    assert torch.equal(b, before[1])
    assert torch.equal(c, -before[2])
    assert torch.equal(optimizer.state[c]["average"], 0.5 * before[2])
    assert "threshold: 10.0" in repr(optimizer)
    assert repr(optimizer).startswith("Bop (")


def test_the_learning_rate_multiplies_the_adaptivity():
    pairs = [(signs(50), {"adaptivity": 0.3, "lr": 0.5}), (signs(50), {"adaptivity": 0.15})]
    for w, settings in pairs:
        optimizer = Bop([w], threshold=0.05, **settings)
        g = torch.Generator().manual_seed(0)
        for _ in range(5):
            w.grad = torch.randn(50, generator=g)
            optimizer.step()
    assert torch.equal(pairs[0][0], pairs[1][0])
    assert not torch.equal(pairs[0][0], signs(50))


def test_schedulers_change_it_and_at_zero_nothing_changes():
    model, optimizer, closure = problem()
    schedule = CosineAnnealingLR(optimizer, 3)
    for _ in range(3):
        optimizer.step(closure)
        schedule.step()
    before = state(model, optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.0
    optimizer.step(closure)
    assert state(model, optimizer) == before
    plateau = ReduceLROnPlateau(problem()[1], patience=0)
    plateau.step(1.0)
    model, optimizer, closure = problem(lr=torch.tensor(0.5))
    optimizer.step(closure)
    assert state(model, optimizer) == _after_one(lr=0.5)
    rising = problem(adaptivity=1.0)
    schedule = LambdaLR(rising[1], lambda t: 1.0 + t)
    rising[1].step(rising[2])
    schedule.step()
    with pytest.raises(ValueError, match=r"lr times adaptivity must lie in \[0, 1\], got 2\.0"):
        rising[1].step(rising[2])


def _after_one(**settings):
    model, optimizer, closure = problem(**settings)
    optimizer.step(closure)
    return state(model, optimizer)


def test_frozen_and_unused_parameters_stay_and_tied_ones_are_one():
    model, optimizer, closure = problem()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    for _ in range(10):
        optimizer.step(closure)
    assert torch.equal(model[0].weight, before)
    assert model[0].weight not in optimizer.state
    tied = nn.Sequential(BinaryLinear(4, 4, scale="none", bias=False), BinaryLinear(4, 4, scale="none", bias=False))
    tied[1].weight = tied[0].weight
    optimizer = Bop(tied.parameters(), threshold=0.0, adaptivity=1.0)
    assert len(optimizer.param_groups[0]["params"]) == 1
    tied(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    check_binary(tied)


def test_hooks_run_and_the_closure_may_be_left_out():
    _, optimizer, closure = problem()
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    assert optimizer.step(closure).requires_grad
    closure()
    assert optimizer.step() is None
    assert calls == ["pre", "post"] * 2
    with torch.no_grad():
        optimizer.step(closure)  # gradients are on inside the closure


def test_the_layout_in_memory_and_its_strides_play_no_part():
    a = signs(6, 5)
    b = nn.Parameter(a.detach().t().contiguous().t())
    for w in (a, b):
        optimizer = Bop([w], threshold=0.1, adaptivity=0.5)
        for seed in range(4):
            w.grad = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))
            optimizer.step()
    assert torch.equal(a, b)


@pytest.mark.parametrize("value", [0.5, 0.0, float("nan")])
def test_parameters_that_are_not_binary_are_refused_where_they_enter(value):
    w = signs(3, 2)
    optimizer = Bop([w])
    bad = nn.Parameter(torch.tensor([1.0, value]))
    with pytest.raises(ValueError, match=r"params must be -1 or \+1 everywhere, got"):
        Bop([bad])
    with pytest.raises(ValueError, match="real parameters need another optimizer"):
        optimizer.add_param_group({"params": [bad]})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(TypeError, match="must be floating"):
        Bop([nn.Parameter(torch.ones(3, dtype=torch.int64), requires_grad=False)])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"threshold": -1.0}, "threshold must be a finite number of at least 0"),
        ({"threshold": float("nan")}, "threshold"),
        ({"adaptivity": 0.0}, r"adaptivity must lie in \(0, 1\]"),
        ({"adaptivity": 1.5}, r"adaptivity must lie in \(0, 1\]"),
        ({"lr": -0.1}, "lr must be a finite number of at least 0"),
        ({"lr": 3.0, "adaptivity": 0.5}, "lr times adaptivity"),
    ],
)
def test_settings_out_of_range_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Bop([signs(2)], **settings)


def test_gradients_that_cannot_be_averaged_are_refused():
    w = signs(3)
    optimizer = Bop([w])
    w.grad = torch.tensor([0.0, float("inf"), 0.0])
    with pytest.raises(ValueError, match="is not finite"):
        optimizer.step()
    embedding = nn.Embedding(4, 2, sparse=True)
    with torch.no_grad():
        embedding.weight.fill_(1.0)
    optimizer = Bop(embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="dense gradients"):
        optimizer.step()
