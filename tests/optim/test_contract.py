"""C15: the contract of `torch.optim.Optimizer`, over a table of optimizers."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, ReduceLROnPlateau

from mcmcopt import GreedyMCMC, RandomWalk, SpikeSlab
from tests.optim.problems import CONFIGS, chain, make, make_closure, make_model, snapshot

EACH = pytest.mark.parametrize("config", CONFIGS)


@EACH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:lam=")
def test_a_step_keeps_dtypes_and_returns_the_loss_of_the_state_that_remains(config, dtype):
    model, optimizer, closure = make(config, dtype=dtype)
    for _ in range(3):
        loss = optimizer.step(closure)
        assert torch.equal(loss, closure().detach())
        assert loss.dtype == dtype
        assert not loss.requires_grad
    assert optimizer.info.accepted > 0
    assert all(param.dtype == dtype and param.grad is None for param in model.parameters())


@EACH
def test_the_mask_is_where_the_weights_are_after_every_step(config):
    model, optimizer, closure = make(config)
    for _ in range(6):
        for param in model.parameters():
            mask = optimizer.mask(param)
            assert (mask.shape, mask.dtype, mask.device) == (param.shape, torch.bool, param.device)
            assert bool((param[~mask] == 0).all())
            assert bool((param[mask] != 0).any()) == bool(mask.any()) or param.dim() < 2
            assert param.dim() >= 2 or bool(mask.all())
        optimizer.step(closure)


@EACH
def test_the_same_seed_gives_the_same_chain_and_another_seed_another(config):
    runs = []
    for seed in (3, 3, 4):
        model, optimizer, closure = make(config, seed=seed)
        for _ in range(3):
            optimizer.step(closure)
        runs.append({key: value for key, value in chain(model, optimizer).items() if key != "groups"})
    assert runs[0] == runs[1]
    assert runs[0]["weights"] != runs[2]["weights"]


@EACH
def test_the_global_random_states_are_untouched(config):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    _, optimizer, closure = make(config)
    optimizer.step(closure)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


@EACH
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_continue_the_chain_without_touching_the_original(config, steps, way):
    model, optimizer, closure = make(config)
    for _ in range(steps):
        optimizer.step(closure)
    before = snapshot(model, optimizer)
    pair = (model, optimizer)
    twin, second = copy.deepcopy(pair) if way == "deepcopy" else pickle.loads(pickle.dumps(pair))  # noqa: S301
    other = make_closure(twin)
    for _ in range(2):
        second.step(other)
    assert snapshot(model, optimizer) == before
    for _ in range(2):
        optimizer.step(closure)
    assert chain(model, optimizer) == chain(twin, second)


@EACH
def test_the_repr_shows_the_settings_as_they_were_given(config):
    _, optimizer, _ = make(config)
    text = repr(optimizer)
    assert text.startswith("GreedyMCMC (")
    for key in ("prior", "blocks", "moves"):
        if key in CONFIGS[config]:
            assert f"{key}: {CONFIGS[config][key]}" in text


def test_hooks_of_steps_and_of_states_run_once_each():
    _, optimizer, closure = make("scalar")
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("step-pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("step-post"))
    optimizer.register_state_dict_pre_hook(lambda *_: calls.append("save-pre"))
    optimizer.register_state_dict_post_hook(lambda *_: calls.append("save-post"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: calls.append("load-pre"))
    optimizer.register_load_state_dict_post_hook(lambda *_: calls.append("load-post"))
    optimizer.step(closure)
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == ["step-pre", "step-post", "save-pre", "save-post", "load-pre", "load-post"]


def test_a_scheduler_s_learning_rate_is_the_proposal_scale():
    _, optimizer, closure = make("frozen-scales", lr=1.0)
    scheduler = LambdaLR(optimizer, lambda t: 0.5**t)
    scales = []
    for _ in range(3):
        optimizer.step(closure)
        scales.append(optimizer.info.layers["0.0"].scales["RandomWalk(k=1)"])
        scheduler.step()
    assert scales == pytest.approx([scales[0], scales[0] / 2, scales[0] / 4])


@pytest.mark.parametrize("scheduler", [lambda o: CosineAnnealingLR(o, 3), lambda o: LambdaLR(o, lambda t: float(t))])
def test_schedulers_may_reach_zero_where_nothing_moves_and_nothing_adapts(scheduler):
    model, optimizer, closure = make("scalar")
    schedule = scheduler(optimizer)
    for _ in range(5):
        before = chain(model, optimizer)
        optimizer.step(closure)
        if optimizer.param_groups[0]["lr"] == 0.0:
            after = chain(model, optimizer)
            assert (after["weights"], after["state"]) == (before["weights"], before["state"])
            assert optimizer.info.proposed == 0
            break
        schedule.step()
    else:
        pytest.fail("the schedule never reached zero")


def test_a_plateau_scheduler_and_a_tensor_learning_rate_are_accepted():
    _, optimizer, closure = make("dense", lr=torch.tensor(0.5))
    plateau = ReduceLROnPlateau(make("dense")[1], patience=0)
    for _ in range(2):
        plateau.step(float(optimizer.step(closure)))


@pytest.mark.parametrize("form", ["float", "scalar", "sample", "matrix", "numpy"])
def test_closures_may_return_a_number_a_scalar_or_one_loss_per_sample(form):
    model, optimizer, _ = make("scalar")
    each = make_closure(model, per_sample=True)
    forms = {
        "float": lambda: float(each().mean().detach()),
        "numpy": lambda: np.float64(each().mean().item()),
        "scalar": lambda: each().mean(),
        "sample": each,
        "matrix": lambda: each().view(4, 4),
    }
    loss = optimizer.step(forms[form])
    assert loss.shape == ()
    assert float(loss) == pytest.approx(float(each().mean().detach()), rel=1e-6)
    assert loss.dtype == (torch.float64 if form in ("float", "numpy") else torch.float32)


@EACH
@pytest.mark.parametrize("zero", [False, True])
def test_closures_with_backward_decide_alike_and_leave_gradients_alone(config, zero):
    model, optimizer, closure = make(config)
    twin, second, _ = make(config)
    for param in twin.parameters():
        param.grad = torch.zeros_like(param) if zero else None
    grads = snapshot(twin, second)["grads"]
    inner = make_closure(twin, backward=True)

    def backward():
        second.zero_grad()
        return inner()

    for _ in range(2):
        optimizer.step(closure)
        second.step(backward if not zero else inner)
    assert chain(model, optimizer) == chain(twin, second)
    assert snapshot(twin, second)["grads"] == grads
    assert (optimizer.grad, second.grad) == (False, True)


def test_step_needs_a_closure_and_says_what_to_do_also_under_a_grad_scaler():
    _model, optimizer, closure = make("dense")
    with pytest.raises(TypeError, match=r"needs a closure.*GradScaler"):
        optimizer.step()
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(closure()).backward()
    with pytest.raises(TypeError, match=r"needs a closure.*GradScaler"):
        scaler.step(optimizer)


@pytest.mark.parametrize("value", [None, "x", torch.tensor(1), True])
def test_a_closure_that_returns_no_loss_is_refused(value):
    _model, optimizer, _ = make("dense")
    with pytest.raises(TypeError, match="the closure must return its loss"):
        optimizer.step(lambda: value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_at_the_start_is_refused(value):
    _, optimizer, _ = make("dense")
    with pytest.raises(ValueError, match=f"the loss at the present parameters is {value}"):
        optimizer.step(lambda: value)


def test_losses_whose_form_changes_during_a_step_are_refused():
    _, optimizer, _ = make("dense")
    shapes = iter([(4,), (4,), (3,)])
    with pytest.raises(ValueError, match=r"shape \(3,\) after one of shape \(4,\)"):
        optimizer.step(lambda: torch.ones(next(shapes)))


def test_a_zero_dimensional_parameter_moves():
    scale = nn.Parameter(torch.tensor(3.0))
    optimizer = GreedyMCMC([scale], 1e4, n_proposals=50, prior=SpikeSlab(0.1), blocks=(2, 2))
    for _ in range(10):
        optimizer.step(lambda: (scale - 1).square())
    assert float(scale.detach()) == pytest.approx(1, abs=0.1)
    assert optimizer.mask(scale).shape == ()


def test_channels_last_parameters_move_alike():
    runs = []
    for form in (torch.contiguous_format, torch.channels_last):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Conv2d(3, 4, 2).double().to(memory_format=form)
        x = torch.linspace(-1, 1, 96, dtype=torch.float64).view(2, 3, 4, 4)
        optimizer = GreedyMCMC(model.parameters(), 1.0, n_proposals=40, prior=SpikeSlab(0.3), blocks=(2, 5))
        for _ in range(3):
            optimizer.step(lambda model=model, x=x: model(x).square().mean())
        assert model.weight.is_contiguous(memory_format=form)
        assert bool((model.weight[~optimizer.mask(model.weight)] == 0).all())
        runs.append(model.weight.detach().flatten().tolist())
    assert runs[0] == pytest.approx(runs[1])


def test_a_mask_of_a_foreign_tensor_is_refused():
    _, optimizer, _ = make("dense")
    with pytest.raises(ValueError, match=r"shape \(7,\) is none of this optimizer's parameters"):
        optimizer.mask(torch.zeros(7))


def test_an_optimizer_without_a_single_parameter_or_with_integers_is_refused():
    with pytest.raises(ValueError, match="empty parameter list"):
        GreedyMCMC([], 1.0)
    with pytest.raises(TypeError, match=r"params must be floating.*int64.*\(3,\)"):
        GreedyMCMC([torch.zeros(3, dtype=torch.int64)], 1.0)


def test_improve_never_lowers_the_log_target():
    _model, optimizer, closure = make("climb", dtype=torch.float64)
    target = -30.0 * float(closure().detach()) + optimizer.log_prior()
    for _ in range(10):
        optimizer.step(closure)
        assert optimizer.info.log_target >= target - 1e-9
        target = optimizer.info.log_target
    assert optimizer.info.accepted > 0


def test_metropolis_lowers_the_log_target_at_times():
    _, optimizer, closure = make("scalar", dtype=torch.float64, moves=RandomWalk(k=1), n_proposals=5)
    targets = []
    for _ in range(30):
        optimizer.step(closure)
        targets.append(optimizer.info.log_target)
    assert any(later < earlier for earlier, later in itertools.pairwise(targets))


def test_the_model_trains():
    model = make_model()
    closure = make_closure(model)
    optimizer = GreedyMCMC(model.parameters(), 1e4, prior=SpikeSlab(0.5))
    before = float(closure().detach())
    for _ in range(10):
        loss = float(optimizer.step(closure))
    assert loss < before / 2
