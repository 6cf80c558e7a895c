"""Hybrid: its parts do what they do alone, the chain's mask holds for all, and the whole is one torch optimizer."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from mcmcopt import (
    ElasticNet,
    GreedyMCMC,
    Hybrid,
    InformedBirthDeath,
    InformedSwap,
    KLMirrorDescent,
    MirrorDescent,
    RandomWalk,
    SpikeSlab,
)
from tests.optim.problems import bits, make_closure, make_model

JUMPS = (InformedBirthDeath(k=2, saliency="obd"), InformedSwap(), RandomWalk(k=2))


def sgd(params, lr=0.1):
    return SGD(params, lr=lr, momentum=0.9, weight_decay=1e-3)


def chain(params, lam=30.0, **options):
    return GreedyMCMC(params, lam, **({"n_proposals": 4, "prior": SpikeSlab(0.5), "moves": JUMPS} | options))


def disjoint(model):
    return Hybrid([sgd(model.first.parameters()), chain(model.second.parameters()), Adam([model.temperature])])


def alternating(model):
    return Hybrid([sgd(model.parameters()), chain([model.first.weight, model.second.weight])], every=[1, 3])


def rare(model):
    return Hybrid([sgd(model.parameters()), chain([model.first.weight], init="prior")], every=[2, 3])


HYBRIDS = {"disjoint": disjoint, "alternating": alternating, "rare": rare}
EACH = pytest.mark.parametrize("name", HYBRIDS)


def make(name, dtype=torch.float32):
    model = make_model(dtype=dtype)
    optimizer = HYBRIDS[name](model)
    inner = make_closure(model, backward=True)

    def closure():
        optimizer.zero_grad()
        return inner()

    return model, optimizer, closure


def content(value):
    if isinstance(value, torch.Tensor):
        return bits(value)
    if isinstance(value, dict):
        return {key: content(entry) for key, entry in value.items()}
    return [content(entry) for entry in value] if isinstance(value, list | tuple) else repr(value)


def state(model, optimizer):
    return content([dict(model.state_dict()), optimizer.state_dict()])


def run(optimizer, closure, steps):
    for _ in range(steps):
        optimizer.step(closure)


def through_a_file(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_gradient_parts_alone_are_what_they_are_by_themselves():
    model, twin = make_model(), make_model()
    together = Hybrid([sgd(model.first.parameters()), Adam(model.second.parameters())], every=[1, 2])
    one, two = sgd(twin.first.parameters()), Adam(twin.second.parameters())
    closure, other = make_closure(model, backward=True), make_closure(twin, backward=True)
    for t in range(1, 7):
        together.zero_grad()
        one.zero_grad()
        two.zero_grad()
        loss = together.step(closure)
        assert torch.equal(loss, other().detach())
        one.step()
        if t % 2 == 0:
            two.step()
    assert content(dict(model.state_dict())) == content(dict(twin.state_dict()))


def test_a_chain_alone_is_what_it_is_by_itself():
    model, twin = make_model(), make_model()
    together, alone = Hybrid([chain(model.parameters())]), chain(twin.parameters())
    closure, other = make_closure(model), make_closure(twin)
    for _ in range(4):
        assert torch.equal(together.step(closure), alone.step(other))
    assert content(dict(model.state_dict())) == content(dict(twin.state_dict()))


def test_beside_a_chain_that_holds_all_and_does_nothing_gradient_steps_are_as_ever():
    model, twin = make_model(), make_model()
    idle = GreedyMCMC(model.parameters(), 1.0, n_proposals=1, moves=RandomWalk(k=1), lr=0.0)
    together, alone = Hybrid([sgd(model.parameters()), idle]), sgd(twin.parameters())
    closure, other = make_closure(model, backward=True), make_closure(twin, backward=True)
    for _ in range(5):
        together.zero_grad()
        alone.zero_grad()
        together.step(closure)
        alone.step(other)
    assert content(dict(model.state_dict())) == content(dict(twin.state_dict()))


@EACH
def test_what_a_chain_leaves_out_stays_zero_and_what_it_lets_in_starts_without_momentum(name):
    _, optimizer, closure = make(name)
    (part,) = optimizer.chains
    shared = [p for g in part.param_groups for p in g["params"] if p.dim() >= 2]
    masks = {p: part.mask(p) for p in shared}
    born = 0
    for _ in range(30):
        optimizer.step(closure)
        for p in shared:
            assert bool((p[~part.mask(p)] == 0).all())
            new = part.mask(p) & ~masks[p]
            born += int(new.sum())
            for other in optimizer.optimizers:
                if other is not part and "momentum_buffer" in other.state.get(p, {}):
                    assert bool((other.state[p]["momentum_buffer"][new] == 0).all())
            masks[p] = part.mask(p)
    assert born > 0
    assert any(not bool(mask.all()) for mask in masks.values())


@EACH
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_hybrid_resumed_from_a_file_is_the_one_that_was_not_interrupted(name, steps):
    model, optimizer, closure = make(name)
    run(optimizer, closure, steps)
    saved = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    run(optimizer, closure, 6)

    again, second, other = make(name)
    run(second, other, 2)
    again.load_state_dict(saved["model"])
    second.load_state_dict(saved["optimizer"])
    run(second, other, 6)
    assert state(again, second) == state(model, optimizer)


@EACH
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:lam=")
def test_state_keeps_its_dtypes(name, dtype):
    model, optimizer, closure = make(name, dtype)
    run(optimizer, closure, 3)
    saved = through_a_file(optimizer.state_dict())
    before = content(saved["state"])
    optimizer.load_state_dict(saved)
    assert content(optimizer.state_dict()["state"]) == before
    assert all(p.dtype == dtype for p in model.parameters())


@EACH
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_go_on_alike_and_leave_the_original_alone(name, way):
    model, optimizer, closure = make(name)
    run(optimizer, closure, 2)
    before = state(model, optimizer)
    pair = (model, optimizer)
    twin, second = copy.deepcopy(pair) if way == "deepcopy" else pickle.loads(pickle.dumps(pair))  # noqa: S301
    inner = make_closure(twin, backward=True)

    def other():
        second.zero_grad()
        return inner()

    run(second, other, 4)
    assert state(model, optimizer) == before
    run(optimizer, closure, 4)
    assert state(model, optimizer) == state(twin, second)


@EACH
def test_schedulers_see_the_groups_of_all_parts(name):
    _, optimizer, closure = make(name)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert len(rates) == len(optimizer.optimizers)
    scheduler = LambdaLR(optimizer, lambda t: 0.5**t)
    CosineAnnealingLR(optimizer, 3)
    run(optimizer, closure, 1)
    scheduler.step()
    assert [part.param_groups[0]["lr"] for part in optimizer.optimizers] == pytest.approx([r / 2 for r in rates])
    saved = through_a_file(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    assert [part.param_groups[0]["lr"] for part in optimizer.optimizers] == pytest.approx([r / 2 for r in rates])
    scheduler.step()  # also of the groups that loading has replaced
    assert [part.param_groups[0]["lr"] for part in optimizer.optimizers] == pytest.approx([r / 4 for r in rates])


def test_hooks_run_once_each():
    _, optimizer, closure = make("alternating")
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


def test_the_closure_is_evaluated_once_for_gradients_and_the_objective_for_the_chain_alone():
    model, optimizer, inner = make("alternating")
    calls = {"closure": 0, "objective": 0}

    def closure():
        calls["closure"] += 1
        return inner()

    scored = make_closure(model, per_sample=True)

    def objective():
        calls["objective"] += 1
        return scored()

    for _ in range(3):
        optimizer.step(closure, objective)
    assert calls["closure"] == 3
    (part,) = optimizer.chains
    assert calls["objective"] >= part.info.evaluations > 0


def test_a_closure_in_the_place_of_an_objective_leaves_gradients_as_they_are():
    model, optimizer, closure = make("alternating")
    run(optimizer, closure, 2)
    kept = [p.grad.clone() for p in model.parameters()]
    optimizer.step(closure)  # the chain's turn follows the gradient step
    assert optimizer.chains[0].grad is True
    assert all(p.grad is not None and p.grad.shape == k.shape for p, k in zip(model.parameters(), kept, strict=True))


def test_groups_are_added_to_the_part_that_they_name():
    model, optimizer, closure = make("disjoint")
    extra = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match='must say "part"'):
        optimizer.add_param_group({"params": [extra]})
    with pytest.raises(ValueError, match="another part"):
        optimizer.add_param_group({"params": [model.temperature], "part": 0})
    optimizer.add_param_group({"params": [extra], "part": 1, "lam": 30.0})
    assert len(optimizer.optimizers[1].param_groups) == 2
    assert optimizer.param_groups[2]["params"] == [extra]
    run(optimizer, closure, 2)
    assert optimizer.optimizers[1].mask(extra).shape == (2, 2)


def test_what_cannot_be_a_hybrid_is_refused():
    model = make_model()
    with pytest.raises(ValueError, match="at least one part"):
        Hybrid([])
    with pytest.raises(TypeError, match="torch optimizers other than Hybrid"):
        Hybrid([Hybrid([sgd(model.parameters())])])
    with pytest.raises(TypeError, match="torch optimizers"):
        Hybrid([model])
    with pytest.raises(ValueError, match="two parts that are no chains may not share"):
        Hybrid([sgd(model.parameters()), Adam(model.first.parameters())])
    with pytest.raises(ValueError, match="two chains may not share"):
        Hybrid([chain(model.parameters()), chain([model.first.weight])])
    for every in ([1], [1, 0], [1, True], [1, 1.0]):
        with pytest.raises(ValueError, match="every must give an integer"):
            Hybrid([sgd(model.first.parameters()), chain(model.second.parameters())], every=every)
    with pytest.raises(TypeError, match="needs a closure"):
        Hybrid([sgd(model.parameters())]).step()


def test_the_state_of_other_parts_changes_nothing():
    model, optimizer, closure = make("disjoint")
    run(optimizer, closure, 2)
    before = state(model, optimizer)
    for wrong in (make("alternating")[1].state_dict(), sgd(model.parameters()).state_dict()):
        with pytest.raises(ValueError, match="groups of sizes"):
            optimizer.load_state_dict(wrong)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][1]["prior"] = "Gaussian(scale=3.0)"
    with pytest.raises(ValueError, match="prior"):
        optimizer.load_state_dict(saved)
    assert state(model, optimizer) == before


def test_a_part_that_calls_the_closure_itself_gets_it():
    model = make_model()
    law = KLMirrorDescent(model.first.parameters(), lam=50.0, lr=5.0, prior=SpikeSlab(0.5), samples=2)
    optimizer = Hybrid([law, chain(model.second.parameters())])
    inner, calls = make_closure(model, backward=True), []

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        return inner()

    scored = make_closure(model, per_sample=True)
    before = law.kl()
    for _ in range(3):
        assert float(optimizer.step(closure, scored)) > 0
    assert len(calls) == 6
    assert float(law.kl()) != float(before)


def test_gradient_methods_step_on_the_one_gradient_whatever_the_order():
    runs = []
    for order in (1, -1):
        model = make_model()
        law = KLMirrorDescent(model.first.parameters(), lam=50.0, lr=5.0, prior=SpikeSlab(0.5), samples=2)
        parts = [law, sgd(model.second.parameters())][::order]
        optimizer = Hybrid(parts)
        inner = make_closure(model, backward=True)

        def closure(optimizer=optimizer, inner=inner):
            optimizer.zero_grad()
            return inner()

        run(optimizer, closure, 3)
        runs.append(content(dict(model.state_dict())))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("kind", ["law", "dual"])
def test_weights_that_a_part_computes_from_its_own_state_are_not_shared(kind):
    model = make_model()
    if kind == "law":
        part = KLMirrorDescent(model.first.parameters(), lam=50.0, lr=5.0, prior=SpikeSlab(0.5))
    else:
        part = MirrorDescent(model.first.parameters(), lr=0.1, potential=ElasticNet(mu=0.01))
    with pytest.raises(ValueError, match="from a state of its own"):
        Hybrid([part, chain([model.first.weight])])
    optimizer = Hybrid([part, chain([model.second.weight])])
    before = content(optimizer.state_dict())
    with pytest.raises(ValueError, match="from a state of its own"):
        optimizer.add_param_group({"params": [model.first.weight], "part": 1, "lam": 1.0})
    assert content(optimizer.state_dict()) == before


def test_moments_of_layers_that_no_informed_move_reaches_are_left_alone():
    model = make_model()
    model.first.weight.requires_grad_(False)
    moves = (InformedBirthDeath(saliency="obd"), RandomWalk(k=1))
    part = GreedyMCMC(model.first.parameters(), 30.0, prior=SpikeSlab(0.5), moves=moves, n_proposals=5)
    part.step(make_closure(model))
    assert part.info.gradients == 0


def test_frozen_parameters_stay_and_an_exception_in_the_closure_passes():
    model, optimizer, closure = make("alternating")
    model.first.weight.requires_grad_(False)
    kept = model.first.weight.clone()
    run(optimizer, closure, 4)
    assert torch.equal(model.first.weight, kept)

    def broken():
        raise RuntimeError("no data")

    before = state(model, optimizer)
    with pytest.raises(RuntimeError, match="no data"):
        optimizer.step(broken)
    assert state(model, optimizer) == before


def test_running_moments_follow_the_gradients_of_the_gradient_steps():
    _, optimizer, closure = make("rare")
    run(optimizer, closure, 2)
    (part,) = optimizer.chains
    (entry,) = part.state.values()
    assert int(entry["gradients_seen"]) == 1
    assert bool((entry["second_moment"] > 0).any())


def test_a_masked_gradient_step_is_one_on_the_active_weights():
    model = make_model()
    part = chain([model.first.weight], init="prior")
    optimizer = Hybrid([SGD(model.parameters(), lr=0.1), part], every=[1, 100])
    mask, before = part.mask(model.first.weight), model.first.weight.detach().clone()
    closure = make_closure(model, backward=True)
    closure()
    gradient = model.first.weight.grad.clone()
    optimizer.zero_grad()
    optimizer.step(closure)
    assert torch.equal(model.first.weight.detach(), (before - 0.1 * gradient * mask) * mask)


def test_the_model_trains_sparsely():
    model = make_model()
    part = chain([model.first.weight, model.second.weight], lam=1e3)
    optimizer = Hybrid([sgd(model.parameters()), part], every=[1, 5])
    inner = make_closure(model, backward=True)

    def closure():
        optimizer.zero_grad()
        return inner()

    first = float(optimizer.step(closure))
    run(optimizer, closure, 150)
    assert float(optimizer.step(closure)) < first / 2
    assert float(part.info.share_active) < 1
