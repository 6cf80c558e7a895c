"""C15 and C9 for optimizers that follow gradients: the contract of `torch.optim.Optimizer`, resuming bit for bit."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, ReduceLROnPlateau

from tests.optim.gradient_problems import (
    GRADIENT_OPTIMIZERS,
    STILL,
    make,
    make_descent,
    record,
    snapshot,
    steps,
)
from tests.optim.problems import bits, make_model

EACH = pytest.mark.parametrize("name", GRADIENT_OPTIMIZERS)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])


def through_a_file(content):
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@EACH
@DTYPES
def test_steps_move_every_parameter_keep_dtypes_and_return_the_loss(name, dtype):
    model, optimizer, closure = make(name, dtype)
    before = {key: param.detach().clone() for key, param in model.named_parameters()}
    loss = optimizer.step(closure)
    assert loss.shape == ()
    assert loss.dtype == dtype
    steps(optimizer, closure, 9)
    moved = {key for key, param in model.named_parameters() if not torch.equal(param, before[key])}
    movable = set(before) - set(STILL.get(name, ()))
    assert moved == movable if dtype != torch.bfloat16 else moved  # small steps round away in bfloat16
    assert all(param.dtype == dtype and bool(param.isfinite().all()) for param in model.parameters())
    assert set(optimizer.state) <= set(model.parameters())


@EACH
def test_the_closure_runs_with_gradients_also_where_the_caller_has_none(name):
    model, optimizer, closure = make(name)
    twin, second, other = make(name)
    optimizer.step(closure)
    with torch.no_grad():
        second.step(other)
    assert snapshot(model, optimizer) == snapshot(twin, second)


@EACH
def test_a_closure_that_fails_changes_nothing(name):
    model, optimizer, closure = make(name)
    optimizer.step(closure)
    before = snapshot(model, optimizer)

    def fails():
        closure()
        raise KeyError("the closure's own")

    with pytest.raises(KeyError, match="the closure's own"):
        optimizer.step(fails)
    assert snapshot(model, optimizer) == before


@EACH
def test_the_global_random_states_are_untouched(name):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    _, optimizer, closure = make(name)
    optimizer.step(closure)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


SCHEDULERS = {
    "lambda": lambda o: LambdaLR(o, lambda t: 0.5**t),
    "cosine": lambda o: CosineAnnealingLR(o, 4),
    "plateau": lambda o: ReduceLROnPlateau(o, factor=0.5, patience=0, threshold=1e9),
    "one cycle": lambda o: OneCycleLR(o, 0.1, total_steps=8, cycle_momentum="momentum" in o.defaults),
}


@EACH
@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
def test_schedulers_set_the_rate_of_all_groups_and_it_counts(name, kind):
    model, optimizer, closure = make(name)
    twin, second, other = make(name)
    scheduler = SCHEDULERS[kind](optimizer)
    rates = []
    for _ in range(4):
        rates.append([group["lr"] for group in optimizer.param_groups])
        loss = float(optimizer.step(closure).detach())
        second.step(other)
        scheduler.step(*([loss] if kind == "plateau" else []))
    assert all(min(group) >= 0 for group in rates)
    assert len({tuple(group) for group in rates}) > 1
    assert snapshot(model, optimizer)["model"] != snapshot(twin, second)["model"]


@EACH
def test_groups_added_later_join_and_an_empty_group_is_one(name):
    model = make_model()
    optimizer = GRADIENT_OPTIMIZERS[name]([{"params": list(model.first.parameters())}])
    closure = make_descent(model, optimizer)
    optimizer.step(closure)
    added = GRADIENT_OPTIMIZERS[name](model.second.parameters()).param_groups[0]  # in the domain
    group = {"params": added["params"], "lr": 0.01}
    optimizer.add_param_group(group)
    optimizer.add_param_group({"params": []})
    assert set(group) == {"params", "lr"}  # the caller's own
    before = {key: param.detach().clone() for key, param in model.named_parameters()}
    closure_all = make_descent(model, optimizer)
    steps(optimizer, closure_all, 2)
    changed = {key for key, param in model.named_parameters() if not torch.equal(param, before[key])}
    assert changed == {"first.weight", "first.bias", "second.weight", "second.bias"}
    assert [group["lr"] for group in optimizer.param_groups][1:2] == [0.01]
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [model.first.weight]})
    assert len(optimizer.param_groups) == 3
    saved = through_a_file(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    steps(optimizer, closure_all, 1)


@EACH
@pytest.mark.parametrize("done", [0, 2])
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_go_on_alike_without_touching_the_original(name, done, way):
    model, optimizer, closure = make(name)
    steps(optimizer, closure, done)
    before = snapshot(model, optimizer)
    pair = (model, optimizer)
    twin, second = copy.deepcopy(pair) if way == "deepcopy" else pickle.loads(pickle.dumps(pair))  # noqa: S301
    assert type(second) is type(optimizer)
    steps(second, make_descent(twin, second), 2)
    assert snapshot(model, optimizer) == before
    steps(optimizer, closure, 2)
    assert snapshot(model, optimizer) == snapshot(twin, second)


@EACH
def test_the_repr_shows_class_and_settings(name):
    _, optimizer, _ = make(name)
    text = repr(optimizer)
    assert text.startswith(f"{type(optimizer).__name__} (")
    assert "lr: " in text
    assert " object at 0x" not in text


@EACH
def test_hooks_of_steps_and_of_states_run_once_each(name):
    _, optimizer, closure = make(name)
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
    assert len(optimizer._optimizer_load_state_dict_pre_hooks) == 1


@EACH
def test_frozen_parameters_stay_and_thawed_ones_move(name):
    model = make_model()
    everything = GRADIENT_OPTIMIZERS[name](model.parameters())  # puts them into the domain
    model.first.requires_grad_(False)
    before = bits(model.first.weight)
    optimizer = GRADIENT_OPTIMIZERS[name](model.parameters()) if name not in STILL else everything
    closure = make_descent(model, optimizer)
    inside = bits(model.first.weight)
    assert inside == before or "entropy" in name  # the table's function writes, the optimizer does not
    steps(optimizer, closure, 2)
    assert bits(model.first.weight) == inside
    model.first.requires_grad_(True)
    steps(optimizer, closure, 2)
    assert bits(model.first.weight) != inside


@EACH
def test_tied_parameters_are_one(name):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.linspace(-0.5, 0.7, param.numel()).view_as(param))
    model[2].weight = model[0].weight
    optimizer = GRADIENT_OPTIMIZERS[name](model.parameters())
    before = model[0].weight.detach().clone()
    steps(optimizer, make_descent(model, optimizer), 2)
    assert model[2].weight is model[0].weight
    assert len(optimizer.param_groups[0]["params"]) == 3
    assert not torch.equal(model[0].weight, before)


@EACH
def test_named_parameters_and_parameters_train_alike(name):
    model, optimizer, closure = make(name)
    twin, second, other = make(name, named=True)
    assert second.param_groups[0]["param_names"] == [key for key, _ in twin.named_parameters()]
    steps(optimizer, closure, 3)
    steps(second, other, 3)
    assert snapshot(model, optimizer) == snapshot(twin, second)


@EACH
def test_parameters_without_entries_or_without_gradients_do_no_harm(name):
    model = make_model()
    model.empty, model.unused = nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.rand(2, 2) + 0.1)
    optimizer = GRADIENT_OPTIMIZERS[name](model.parameters())
    unused = bits(model.unused)
    closure = make_descent(model, optimizer)
    inner = optimizer.step(lambda: closure() + 0 * model.empty.sum())
    assert bool(inner.isfinite())
    assert bits(model.unused) == unused


@EACH
@DTYPES
@pytest.mark.parametrize("order", ["model first", "optimizer first"])
def test_training_resumed_from_a_file_is_training_that_was_not_interrupted(name, dtype, order):
    model, optimizer, closure = make(name, dtype)
    steps(optimizer, closure, 3)
    saved = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    kept = record(saved)
    steps(optimizer, closure, 3)

    resumed, second, other = make(name, dtype)
    steps(second, other, 1)  # whatever it did before is forgotten
    parts = [(resumed, "model"), (second, "optimizer")]
    for thing, part in parts if order == "model first" else parts[::-1]:
        thing.load_state_dict(saved[part])
    assert record({"model": resumed.state_dict(), "optimizer": second.state_dict()}) == kept
    steps(second, other, 3)
    assert snapshot(resumed, second) == snapshot(model, optimizer)
    assert record(saved) == kept  # shares no memory with either


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("disk", [False, True])
@pytest.mark.filterwarnings("ignore::UserWarning:torch.distributed", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_training_resumes_bitwise_through_distributed_state_dicts(name, dtype, flatten, disk, tmp_path):
    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    model, optimizer, closure = make(name, dtype)
    steps(optimizer, closure, 2)

    def states(model, optimizer):
        return {
            "model": get_model_state_dict(model),
            "optimizer": get_optimizer_state_dict(model, optimizer, options=options),
        }

    saved = states(model, optimizer)
    if disk:
        dcp.save(saved, checkpoint_id=tmp_path, no_dist=True)
    else:
        saved["model"] = {key: tensor.clone() for key, tensor in saved["model"].items()}
    steps(optimizer, closure, 2)

    resumed, second, other = make(name, dtype)
    if disk:
        saved = states(resumed, second)
        dcp.load(saved, checkpoint_id=tmp_path, no_dist=True)
    set_model_state_dict(resumed, saved["model"])
    set_optimizer_state_dict(resumed, second, saved["optimizer"], options=options)
    steps(second, other, 2)
    assert snapshot(resumed, second) == snapshot(model, optimizer)
