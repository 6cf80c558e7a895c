"""C9: a saved chain continues bit for bit, and a state that belongs to another chain changes nothing."""

import copy
import io

import pytest
import torch

from mcmcopt import BirthDeath, Gaussian, GeometricAnnealing, GreedyMCMC, RandomWalk, SpikeSlab, Swap
from tests.optim.problems import CONFIGS, chain, make, make_closure, make_model, snapshot

EACH = pytest.mark.parametrize("config", CONFIGS)


def through_a_file(content):
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def steps(optimizer, closure, n):
    for _ in range(n):
        optimizer.step(closure)


@EACH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("order", ["model first", "optimizer first"])
@pytest.mark.filterwarnings("ignore:lam=")
def test_a_chain_resumed_from_a_file_is_the_chain_that_was_not_interrupted(config, dtype, order):
    model, optimizer, closure = make(config, dtype=dtype)
    steps(optimizer, closure, 3)
    saved = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    steps(optimizer, closure, 3)

    resumed, second, other = make(config, seed=99, dtype=dtype)
    steps(second, other, 1)  # whatever it did before is forgotten
    parts = [(resumed, "model"), (second, "optimizer")]
    for thing, name in parts if order == "model first" else parts[::-1]:
        thing.load_state_dict(saved[name])
    steps(second, other, 3)
    assert chain(resumed, second) == chain(model, optimizer)


@EACH
def test_state_keeps_its_dtypes_whatever_the_parameter_s(config):
    _, optimizer, closure = make(config, dtype=torch.bfloat16, lam=1.0)
    optimizer.step(closure)
    _, second, _ = make(config, dtype=torch.bfloat16, lam=1.0)
    for current in (optimizer, second):
        current.load_state_dict(through_a_file(optimizer.state_dict()))
        for entry in current.state.values():
            dtypes = {name: tensor.dtype for name, tensor in entry.items()}
            assert dtypes.pop("order", torch.int32) == torch.int32
            assert dtypes.pop("active", torch.int64) == torch.int64
            assert dtypes.pop("second_moment", torch.float64) == torch.float64
            assert dtypes.pop("gradients_seen", torch.int64) == torch.int64
            expected = {"rms": torch.float64, "log_scale": torch.float64, "adaptations": torch.int64}
            assert dtypes == expected
            assert all(tensor.device.type == "cpu" for tensor in entry.values())


@EACH
@pytest.mark.parametrize("copied", [False, True])
def test_states_can_be_loaded_many_times_also_by_copies(config, copied):
    model, optimizer, closure = make(config)
    if copied:
        model, optimizer = copy.deepcopy((model, optimizer))
        closure = make_closure(model)
    optimizer.step(closure)
    weights, state = copy.deepcopy(model.state_dict()), optimizer.state_dict()
    ends = []
    for _ in range(3):
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
        steps(optimizer, closure, 2)
        ends.append(chain(model, optimizer))
    assert ends[0] == ends[1] == ends[2]


def test_a_saved_state_shares_no_memory_with_either_optimizer():
    model, optimizer, closure = make("scalar")
    state = optimizer.state_dict()
    kept = copy.deepcopy(state)
    steps(optimizer, closure, 2)
    optimizer.load_state_dict(state)
    model.load_state_dict(make("scalar")[0].state_dict())
    steps(optimizer, closure, 2)
    assert repr(state) == repr(kept)


def test_groups_and_frozen_parameters_resume():
    def build(seed):
        model = make_model()
        model.norm.requires_grad_(False)
        groups = [
            {"params": list(model.first.named_parameters()), "prior": SpikeSlab(0.3), "lr": 0.5},
            {"params": list(model.norm.named_parameters())},
            {"params": list(model.second.named_parameters()), "blocks": "row", "prior": SpikeSlab(0.5)},
        ]
        return model, GreedyMCMC(groups, 20.0, n_proposals=25, seed=seed)

    model, optimizer = build(0)
    steps(optimizer, make_closure(model), 2)
    saved = through_a_file([model.state_dict(), optimizer.state_dict()])
    steps(optimizer, make_closure(model), 2)
    resumed, second = build(1)
    resumed.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    steps(second, make_closure(resumed), 2)
    assert chain(resumed, second) == chain(model, optimizer)


def test_a_schedule_of_lam_goes_on_where_it_was():
    schedule = GeometricAnnealing(1.0, 16.0, 4)
    _, optimizer, closure = make("dense", lam=schedule)
    steps(optimizer, closure, 2)
    assert optimizer.info.lam == schedule(1)
    _, second, other = make("dense", lam=schedule)
    second.load_state_dict(through_a_file(optimizer.state_dict()))
    second.step(other)
    assert second.info.lam == schedule(2) == 4.0
    assert second.info.step == 3


def test_frozen_adaptation_survives():
    model, optimizer, closure = make("scalar")
    optimizer.step(closure)
    optimizer.freeze_adaptation()
    scales = [entry["log_scale"].clone() for entry in optimizer.state.values()]
    resumed, second, other = make("scalar")
    resumed.load_state_dict(model.state_dict())
    second.load_state_dict(through_a_file(optimizer.state_dict()))
    for current, evaluate in ((optimizer, closure), (second, other)):
        steps(current, evaluate, 2)
        assert all(torch.equal(e["log_scale"], s) for e, s in zip(current.state.values(), scales, strict=True))


def test_numbers_of_numpy_do_not_get_in_the_way_of_safe_loading():
    numpy = pytest.importorskip("numpy")
    _, optimizer, closure = make("dense", lr=numpy.float64(0.5), lam=lambda step: numpy.float64(3.0))
    optimizer.step(closure)
    assert through_a_file(optimizer.state_dict())["param_groups"][0]["lr"] == 0.5


OTHERS = {
    "prior": ({"prior": SpikeSlab(0.3)}, {"prior": SpikeSlab(0.4)}),
    "slab": ({"prior": SpikeSlab(0.3)}, {"prior": SpikeSlab(0.3, slab=Gaussian(0.5))}),
    "moves": ({"moves": (RandomWalk(k=1), BirthDeath())}, {"moves": (RandomWalk(k=1), Swap())}),
    "blocks": ({"blocks": "row"}, {"blocks": (2, 2)}),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_state_of_another_chain_is_refused_by_naming_both_and_changes_nothing(what):
    mine, theirs = ({"prior": SpikeSlab(0.3)} | options for options in OTHERS[what])
    model, optimizer, closure = make("dense", **mine)
    _, other, other_closure = make("dense", **theirs)
    optimizer.step(closure)
    other.step(other_closure)
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match="saved state of parameter group 0 has") as caught:
        optimizer.load_state_dict(other.state_dict())
    key = "prior" if what == "slab" else what
    assert all(repr(options[key]) in str(caught.value) for options in (mine, theirs))
    assert snapshot(model, optimizer) == before
    optimizer.step(closure)


def damaged(kind, state):
    entry = state["state"][1]  # that of first.weight
    match kind:
        case "too long":
            entry["order"] = torch.arange(25, dtype=torch.int32)
        case "missing":
            del entry["log_scale"]
        case "no tensor":
            entry["rms"] = 1.0
        case "no entry":
            del state["state"][1]
        case "no permutation":
            entry["order"] = torch.zeros_like(entry["order"])
        case "count out of range":
            entry["active"] = torch.tensor(25)
        case "fewer parameters":
            state["param_groups"][0]["params"].pop()
        case "fewer groups":
            state["param_groups"].pop()
        case "more groups":
            state["param_groups"].append({**state["param_groups"][0], "params": []})
    return state


DAMAGES = {
    "too long": r"'order' as shape \(25,\), expected a tensor of torch\.int32 and shape \(24,\)",
    "missing": r"'log_scale' as None",
    "no tensor": r"'rms' as 1\.0",
    "no entry": r"parameter 1 has '.*' as None",
    "no permutation": "permutation of the 24 blocks",
    "count out of range": r"0\.\.24, got 25",
    "fewer parameters": r"groups of sizes \[6\], this optimizer of sizes \[7\]",
    "fewer groups": r"groups of sizes \[\], this",
    "more groups": r"groups of sizes \[7, 0\], this",
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_state_is_refused_and_changes_nothing(kind):
    model, optimizer, closure = make("scalar")
    optimizer.step(closure)
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.step(closure)
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match=DAMAGES[kind]):
        optimizer.load_state_dict(damaged(kind, state))
    assert snapshot(model, optimizer) == before
    optimizer.step(closure)


def test_a_hook_may_change_what_is_loaded():
    _, optimizer, closure = make("scalar")
    optimizer.step(closure)
    _model, second, _ = make("scalar")

    def warm(_, state):
        groups = [{**group, "lr": 0.125} for group in state["param_groups"]]
        return {**state, "param_groups": groups}

    second.register_load_state_dict_pre_hook(warm)
    second.load_state_dict(optimizer.state_dict())
    assert second.param_groups[0]["lr"] == 0.125
    assert len(second._optimizer_load_state_dict_pre_hooks) == 1
