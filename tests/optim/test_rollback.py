"""C7: what is rejected leaves no trace, and neither does a step that raises, wherever it does."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from mcmcopt import GreedyMCMC, SpikeSlab
from mcmcopt.loss.guards import ClosureError
from tests.optim.problems import CONFIGS, INFORMED, bits, chain, make, make_closure, make_model, snapshot

EACH = pytest.mark.parametrize("config", CONFIGS)


def with_grads(model):
    for i, param in enumerate(model.parameters()):
        param.grad = torch.full_like(param, float(i)) if i % 2 else None


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("worse", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_rejected_proposals_leave_weights_buffers_masks_and_gradients_bitwise(config, dtype, worse):
    model, optimizer, closure = make(config, dtype=dtype, lam=1.0)
    closure_loss = closure().detach().float()
    with_grads(model)
    with torch.no_grad():
        model.second.weight[0, 0] = -0.0
    before, calls, looks = snapshot(model, optimizer), [], []
    informed = config in INFORMED

    def only_the_first():  # and the second, by which the first step checks it
        calls.append(1)
        if len(calls) <= 2:
            return closure_loss
        if not informed:
            return torch.tensor(worse)
        if snapshot(model, optimizer)["weights"] == before["weights"]:  # for the gradient at the present state
            looks.append(1)
            return closure()
        return 0 * closure() + worse

    loss = optimizer.step(only_the_first)
    after = snapshot(model, optimizer)
    assert torch.equal(loss, closure_loss)
    proposed = len(calls) - 2 - len(looks)
    assert len(looks) == informed  # once: nothing was accepted
    assert (optimizer.info.accepted, optimizer.info.proposed) == (0, proposed)
    assert optimizer.info.non_finite == (0 if worse == 1e30 else proposed)
    assert len(calls) > 5
    for part in ("weights", "grads", "masks"):
        assert after[part] == before[part]
    for old, new in zip(before["state"], after["state"], strict=True):
        assert old.get("order") == new.get("order")


@EACH
@pytest.mark.parametrize("call", [1, 2, 7, -1])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_in_the_closure_undoes_the_whole_step(config, call, error):
    model, optimizer, closure = make(config)
    optimizer.step(closure)
    with_grads(model)
    twin, second = copy.deepcopy((model, optimizer))
    rehearsal, third = copy.deepcopy((model, optimizer))
    third.step(make_closure(rehearsal))
    last = third.info.evaluations
    before, calls = snapshot(model, optimizer), []

    def failing():
        calls.append(1)
        loss = closure()
        if len(calls) == (call if call > 0 else last):
            raise error("in the closure")
        return loss

    with pytest.raises(error, match="in the closure"):
        optimizer.step(failing)
    assert snapshot(model, optimizer) == before
    other = make_closure(twin)
    for _ in range(2):
        optimizer.step(closure)
        second.step(other)
    assert chain(model, optimizer) == chain(twin, second)


def test_the_last_evaluation_comes_after_births_deaths_and_adaptations():
    _, optimizer, closure = make("hot")
    optimizer.step(closure)
    moves = {name: m.accepted for layer in optimizer.info.layers.values() for name, m in layer.moves.items()}
    assert {"birth", "death", "toggle"} <= {name for name, accepted in moves.items() if accepted}


def test_an_exception_before_the_first_step_ever_leaves_the_optimizer_new():
    model, optimizer, closure = make("annealed")
    before = snapshot(model, optimizer)

    def failing():
        model(torch.zeros(2, 4)).sum().backward()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(failing)
    assert snapshot(model, optimizer) == before
    assert all(not param._backward_hooks for param in model.parameters())
    optimizer.step(closure)


def test_a_lam_schedule_that_fails_leaves_lam_as_it_was():
    model, optimizer, closure = make("dense", lam=lambda step: [1.0, float("nan")][step])
    optimizer.step(closure)
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match=r"lam must be .* got nan"):
        optimizer.step(closure)
    assert snapshot(model, optimizer) == before


class Objecting:
    """An objective that fails while it takes note of an accepted change."""

    def __init__(self, closure):
        self.evaluate, self.accepted = closure, 0

    def propose(self, change):
        return self.evaluate()

    def commit(self):
        self.accepted += 1
        if self.accepted == 3:
            raise RuntimeError("in commit")

    def rollback(self): ...


def test_an_objective_that_fails_in_commit_is_undone_too():
    model, optimizer, _ = make("hot")
    before = snapshot(model, optimizer)
    with pytest.raises(RuntimeError, match="in commit"):
        optimizer.step(Objecting(lambda: torch.tensor(1.0)))
    assert snapshot(model, optimizer) == before


def test_every_proposal_is_committed_or_rolled_back_exactly_once():
    model, optimizer, closure = make("scalar")
    log = []

    class Recording:
        def evaluate(self):
            log.append("evaluate")
            return closure().detach()

        def propose(self, change):
            log.append("propose")
            assert all(param.dtype == values.dtype for param, (_, values) in change.items())
            assert all(len(set(indices.tolist())) == len(values) for indices, values in change.values())
            weights = {param: param.detach().clone() for param in change}
            try:
                for param, (indices, values) in change.items():
                    param.detach().view(-1)[indices] = values
                return closure().detach()
            finally:
                for param, old in weights.items():
                    param.detach().copy_(old)

        def commit(self):
            log.append("commit")

        def rollback(self):
            log.append("rollback")

    twin, second, other = make("scalar")
    optimizer.step(Recording())
    second.step(other)
    assert chain(model, optimizer)["weights"] == chain(twin, second)["weights"]
    assert log[:2] == ["evaluate"] * 2  # once to see that it is a function
    assert log[2::2] == ["propose"] * optimizer.info.proposed
    assert log[3::2].count("commit") == optimizer.info.accepted
    assert set(log[3::2]) == {"commit", "rollback"}


def test_a_train_mode_batch_norm_stops_the_step_and_stays_bitwise_as_it_was():
    model, optimizer, closure = make("dense")
    model.train()
    before = snapshot(model, optimizer)
    with pytest.raises(ClosureError, match=r"norm\.running_mean"):
        optimizer.step(closure)
    assert snapshot(model, optimizer) == before


def test_dropout_stops_the_step_by_name():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))
    x = torch.linspace(-1, 1, 32).view(8, 4)
    optimizer = GreedyMCMC(model.parameters(), 1.0, prior=SpikeSlab(0.5))
    for closure in (lambda: model(x).mean(), lambda: functional.dropout(model.eval()(x), training=True).mean()):
        with pytest.raises(ClosureError, match=r"dropout is in train mode: 1 |draws random numbers"):
            optimizer.step(closure)
    optimizer.step(lambda: model.eval()(x).square().mean())


def test_foreign_weights_where_the_mask_is_false_are_refused_until_masked():
    model, optimizer, closure = make("scalar")
    for _ in range(2):
        optimizer.step(closure)
    mask, weight = optimizer.mask(model.first.weight), model.first.weight
    assert not mask.all()
    kept = bits(weight)
    with torch.no_grad():
        weight[~mask] = 1e-6
    for call in (lambda: optimizer.step(closure), optimizer.log_prior):
        with pytest.raises(ValueError, match=r"parameter '0\.1' has non-zero weights where mask\(\.\.\.\) is False"):
            call()
    with torch.no_grad():
        weight.mul_(mask)
    assert bits(weight) == kept
    optimizer.step(closure)
    other = make_model(7)
    model.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="Load the optimizer's state together with the model's"):
        optimizer.step(closure)


def test_writes_where_weights_are_active_are_anybody_s_right():
    model, optimizer, closure = make("row")
    with torch.no_grad():
        model.first.weight.mul_(2.0)
    assert torch.equal(optimizer.step(closure), closure().detach())
