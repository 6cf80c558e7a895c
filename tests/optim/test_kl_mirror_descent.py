"""KLMirrorDescent: its law and the parameters, its arguments, C9 and C15."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from mcmcopt import BetaBinomial, Gaussian, KLMirrorDescent, Laplace, SpikeSlab
from mcmcopt.bounds import gaussian_spike_slab_kl
from tests.optim.problems import bits, make_closure, make_model

CONFIGS = {
    "gaussian-gates": {},
    "binary-gates": {"gates": "binary", "samples": 3, "prior": SpikeSlab(0.3, slab=Gaussian(0.5))},
    "dense": {"prior": Gaussian(0.5), "samples": 1},
    "squared": {"hessian": "squared_gradient", "batch_size": 16},
    "centred": {"center": "initial", "init_inclusion": 0.2},
}
EACH = pytest.mark.parametrize("config", CONFIGS)


def closure_of(model, optimizer):
    inner = make_closure(model, backward=True)

    def closure():
        optimizer.zero_grad()
        return inner()

    return closure


def make(config, dtype=torch.float32, **options):
    model = make_model(dtype=dtype)
    optimizer = KLMirrorDescent(model.parameters(), **({"lam": 100.0, "lr": 5.0} | CONFIGS[config] | options))
    return model, optimizer, closure_of(model, optimizer)


def everything(model, optimizer):
    return (
        {name: bits(tensor) for name, tensor in model.state_dict().items()},
        [{key: bits(value) for key, value in optimizer.state[p].items()} for p in model.parameters()],
        [{key: repr(value) for key, value in g.items() if key != "params"} for g in optimizer.param_groups],
    )


def through_a_file(content):
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@EACH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_it_starts_at_the_parameters_and_after_a_step_they_hold_the_mean(config, dtype):
    model, optimizer, closure = make(config, dtype)
    before = copy.deepcopy(model.state_dict())
    optimizer.mean()
    for name, value in model.state_dict().items():
        assert torch.allclose(value, before[name], rtol=1e-2 if dtype == torch.bfloat16 else 1e-6)
    loss = optimizer.step(closure)
    assert loss.dtype == dtype
    assert not loss.requires_grad
    for param in model.parameters():
        state, alpha = optimizer.state[param], optimizer.inclusion(param)
        expected = alpha * state["mean"] + state.get("center", 0.0)
        assert torch.equal(param, expected.to(dtype))
        assert alpha.shape == param.shape
        assert bool((alpha == 1).all()) == (param.dim() < 2 or config == "dense")
        assert bool((state["precision"] > 0).all())
        assert all(value.dtype == (dtype if dtype == torch.float64 else torch.float32) for value in state.values())


@EACH
def test_it_trains(config):
    _, optimizer, closure = make(config, lam=3000.0, lr=150.0)
    before = float(closure().detach())
    for _ in range(150):
        optimizer.step(closure)
    assert float(closure().detach()) < 0.6 * before


def test_the_closure_is_called_once_for_each_network_and_gates_reach_it():
    model, optimizer, closure = make("binary-gates", init_inclusion=0.5)
    seen = []

    def watched():
        seen.append(model.first.weight.detach().clone())
        return closure()

    optimizer.step(watched)
    assert len(seen) == 3
    assert all(0 < int((weights == 0).sum()) < weights.numel() for weights in seen)
    assert not torch.equal(seen[0], seen[1])


def test_antithetic_draws_have_the_mean_in_their_middle():
    model, optimizer, closure = make("gaussian-gates")
    mean, seen = model.first.weight.detach().clone(), []

    def watched():
        seen.append(model.first.weight.detach().clone())
        return closure()

    optimizer.step(watched)
    assert torch.allclose((seen[0] + seen[1]) / 2, mean, atol=1e-6)
    assert (seen[0] - seen[1]).abs().max() > 1e-3


@EACH
def test_samples_have_the_moments_that_are_said_and_leave_no_trace(config):
    model, optimizer, _ = make(config, dtype=torch.float64, init_inclusion=0.4, init_scale=0.3)
    before = {name: bits(tensor) for name, tensor in model.state_dict().items()}
    weight, draws = model.first.weight, []
    for _ in range(2000):
        with optimizer.sample():
            draws.append(weight.detach().clone())
    assert {name: bits(tensor) for name, tensor in model.state_dict().items()} == before
    stacked = torch.stack(draws)
    error = (optimizer.variance(weight) / 2000).sqrt()
    assert bool(((stacked.mean(0) - weight).abs() < 5 * error).all())
    assert torch.allclose(stacked.var(0), optimizer.variance(weight), rtol=0.25)
    spike = optimizer.state[weight].get("center", torch.zeros_like(weight))
    share = (stacked != spike).double().mean(0)
    assert bool(((share - optimizer.inclusion(weight)).abs() < 0.06).all())


def test_kl_is_that_of_its_factors_and_comes_from_the_prior():
    model, optimizer, closure = make("gaussian-gates", dtype=torch.float64)
    optimizer.step(closure)
    total = 0.0
    for param in model.parameters():
        state, p = optimizer.state[param], 0.1 if param.dim() > 1 else 1.0
        alpha = optimizer.inclusion(param).detach()
        total += float(gaussian_spike_slab_kl(alpha, state["mean"], 1 / state["precision"], p, 1.0))
    assert float(optimizer.kl()) == pytest.approx(total, rel=1e-12)


def test_without_a_loss_it_becomes_the_prior():
    model, optimizer, _ = make("gaussian-gates", dtype=torch.float64)
    optimizer.param_groups[0]["lr"] = 100.0

    def nothing():
        optimizer.zero_grad()
        loss = sum((param * 0).sum() for param in model.parameters())
        loss.backward()
        return loss

    for _ in range(80):
        optimizer.step(nothing)
    assert float(optimizer.kl()) == pytest.approx(0, abs=1e-8)
    assert optimizer.inclusion(model.first.weight) == pytest.approx(torch.full((6, 4), 0.1, dtype=torch.float64))


def test_the_centre_is_where_a_weight_goes_that_is_not_included():
    model, optimizer, _ = make("centred", dtype=torch.float64)
    initial = model.first.weight.detach().clone()
    optimizer.param_groups[0]["lr"] = 1e6
    with optimizer.sample():
        off = model.first.weight == initial
        assert 0 < int(off.sum()) < off.numel()
    assert torch.equal(model.first.weight, initial)


@EACH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_resumed_from_a_file_it_is_the_run_that_was_not_interrupted(config, dtype):
    model, optimizer, closure = make(config, dtype)
    for _ in range(2):
        optimizer.step(closure)
    with optimizer.sample():
        pass
    saved = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    second_model, second, other = make(config, dtype, seed=9)
    second.step(other)
    second_model.load_state_dict(saved["model"])
    second.load_state_dict(saved["optimizer"])
    drawn = []
    for mine, opt, step in ((model, optimizer, closure), (second_model, second, other)):
        for _ in range(2):
            opt.step(step)
        with opt.sample():
            drawn.append([bits(param) for param in mine.parameters()])
    assert drawn[0] == drawn[1]
    assert everything(model, optimizer) == everything(second_model, second)


@EACH
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_continue_and_leave_the_original_alone(config, way):
    model, optimizer, closure = make(config)
    optimizer.step(closure)
    before = everything(model, optimizer)
    pair = (model, optimizer)
    twin, second = copy.deepcopy(pair) if way == "deepcopy" else pickle.loads(pickle.dumps(pair))  # noqa: S301
    second.step(closure_of(twin, second))
    assert everything(model, optimizer) == before
    optimizer.step(closure)
    assert everything(model, optimizer) == everything(twin, second)


def test_the_seed_decides_and_global_random_states_do_not():
    before, runs = (torch.get_rng_state(), np.random.get_state()[1].copy()), []  # noqa: NPY002
    for seed in (1, 1, 2):
        model, optimizer, closure = make("binary-gates", seed=seed)
        optimizer.step(closure)
        runs.append(everything(model, optimizer)[0])
    assert runs[0] == runs[1] != runs[2]
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.mark.parametrize(
    "schedule", [lambda o: LambdaLR(o, lambda t: float(t > 0)), lambda o: CosineAnnealingLR(o, 5, eta_min=0.0)]
)
def test_schedulers_set_the_rate_and_at_zero_nothing_moves(schedule):
    model, optimizer, closure = make("gaussian-gates")
    scheduler = schedule(optimizer)
    for _ in range(6):
        before = everything(model, optimizer)[:2]
        optimizer.step(closure)
        assert (everything(model, optimizer)[:2] == before) == (optimizer.param_groups[0]["lr"] == 0)
        scheduler.step()


def test_tensor_learning_rates_hooks_and_groups():
    model = make_model()
    groups = [
        {"params": list(model.first.named_parameters()), "prior": SpikeSlab(0.5, slab=Gaussian(0.2))},
        {"params": list(model.second.named_parameters()), "prior": Gaussian(0.3), "lr": 0.0},
    ]
    optimizer = KLMirrorDescent(groups, 50.0, torch.tensor(2.0))
    optimizer.add_param_group({"params": [("norm.weight", model.norm.weight)]})
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    second = model.second.weight.detach().clone()
    optimizer.step(closure_of(model, optimizer))
    assert calls == ["pre", "post"]
    assert torch.equal(model.second.weight, second)
    assert "prior: SpikeSlab(inclusion=Bernoulli(p=0.5)" in repr(optimizer)
    saved = through_a_file(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    assert isinstance(optimizer.param_groups[1]["prior"], Gaussian)


def test_frozen_unused_and_empty_parameters():
    model = make_model()
    model.first.weight.requires_grad_(False)
    unused, empty = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.zeros(0, 4))
    optimizer = KLMirrorDescent([*model.parameters(), unused, empty], 50.0, 5.0)
    frozen = model.first.weight.detach().clone()
    optimizer.step(closure_of(model, optimizer))
    with optimizer.sample():
        assert torch.equal(model.first.weight, frozen)
    assert torch.equal(model.first.weight, frozen)
    model.first.weight.add_(1.0)
    optimizer.mean()
    assert torch.equal(model.first.weight, frozen + 1)
    assert torch.equal(unused, torch.ones(3, 2))
    assert float(optimizer.kl()) > 0


def test_tied_weights_are_one_parameter():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    optimizer = KLMirrorDescent(model.parameters(), 50.0, 5.0)
    x = torch.linspace(-1, 1, 20).view(5, 4)

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert len(optimizer.param_groups[0]["params"]) == 3
    assert torch.equal(model[2].weight, optimizer.inclusion(model[0].weight) * optimizer.state[model[0].weight]["mean"])


@pytest.mark.parametrize("what", ["raises", "nan"])
def test_a_step_that_fails_changes_nothing(what):
    model, optimizer, closure = make("gaussian-gates")
    optimizer.step(closure)
    before, calls = everything(model, optimizer), []

    def broken():
        calls.append(1)
        loss = closure()
        if len(calls) == 2 and what == "raises":
            raise RuntimeError("the machine is tired")
        return loss * float("nan") if len(calls) == 2 else loss

    with pytest.raises((RuntimeError, ValueError), match=r"tired|the loss of a network drawn .* is nan"):
        optimizer.step(broken)
    assert everything(model, optimizer) == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lam": 0.0}, ValueError, "lam must be a positive"),
        ({"lr": -1.0}, ValueError, "lr must be a finite number of at least 0"),
        ({"prior": SpikeSlab(0.1, slab=Laplace(1.0))}, ValueError, r"the slab must be Gaussian.*Laplace"),
        ({"prior": SpikeSlab(inclusion=BetaBinomial(1, 1))}, ValueError, r"inclusion must be Bernoulli.*BetaBinomial"),
        ({"prior": Laplace(1.0)}, TypeError, "prior must be SpikeSlab"),
        ({"prior": 0.1}, TypeError, "prior must be SpikeSlab"),
        ({"center": "here"}, ValueError, "center must be"),
        ({"samples": 0}, ValueError, "samples must be an integer of at least 1, got 0"),
        ({"gates": "soft"}, ValueError, "gates must be"),
        ({"hessian": "exact"}, ValueError, "hessian must be"),
        ({"hessian": "squared_gradient"}, ValueError, "give batch_size"),
        ({"batch_size": 4}, ValueError, "give batch_size"),
        ({"init_inclusion": 1.0}, ValueError, "init_inclusion must lie strictly"),
        ({"init_scale": 0.0}, ValueError, "init_scale must be a positive"),
        ({"seed": -1}, ValueError, "seed must be"),
    ],
)
def test_arguments_are_checked(options, error, message):
    settings = {"lam": 10.0, "lr": 1.0} | options
    with pytest.raises(error, match=message):
        KLMirrorDescent(make_model().parameters(), **settings)


def test_other_misuse_is_refused():
    model, optimizer, closure = make("gaussian-gates")
    with pytest.raises(TypeError, match="needs a closure"):
        optimizer.step()
    with pytest.raises(TypeError, match=r"params must be floating.*int64"):
        KLMirrorDescent([torch.zeros(3, dtype=torch.int64)], 1.0, 1.0)
    with pytest.raises(ValueError, match=r"shape \(7,\) is none of this optimizer's parameters"):
        optimizer.inclusion(torch.zeros(7))
    state = optimizer.state_dict()
    before = everything(model, optimizer)
    for options, message in (({"prior": SpikeSlab(0.2)}, "prior="), ({"center": "initial"}, "center=")):
        other = KLMirrorDescent(make_model().parameters(), 100.0, 5.0, **options)
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(state)
    state["state"][0]["mean"] = torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r"parameter 0 has 'mean' as shape \(2, 4\)"):
        optimizer.load_state_dict(state)
    assert everything(model, optimizer) == before
    optimizer.step(closure)
