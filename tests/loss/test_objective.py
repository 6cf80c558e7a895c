"""Scoring through a closure: everything that a proposal touches is put back bitwise, gradients included."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mcmcopt.loss.objective import ClosureObjective, Objective, as_loss, lent, write


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def rand(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


FORMS = {
    "contiguous": lambda: rand(4, 3, 2, 2),
    "channels-last": lambda: rand(4, 3, 2, 2).to(memory_format=torch.channels_last),
    "transposed": lambda: rand(8, 6).t(),
    "strided": lambda: rand(12, 8)[::2, 1::3],
    "vector": lambda: rand(24),
    "single": lambda: rand(1, 1),
    "scalar": lambda: rand(1)[0],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_change_is_written_in_logical_order_and_put_back_bitwise(form, dtype, deterministic):
    raw = FORMS[form]()
    param = nn.Parameter(raw.to(dtype))
    assert param.stride() == raw.stride() or form == "strided"
    n = param.numel()
    indices = torch.arange(n).flip(0)[: max(1, n // 2)]
    values = torch.arange(1.0, 1 + len(indices)).to(dtype)
    with torch.no_grad():
        param.view_as(param)[(0,) * param.dim()] = -0.0
    before, expected = bits(param), param.detach().clone().reshape(-1)
    expected[indices] = values
    torch.use_deterministic_algorithms(deterministic)
    try:
        with lent({param: (indices, values)}):
            assert torch.equal(param.detach().reshape(-1), expected)
        assert bits(param) == before
        with pytest.raises(KeyboardInterrupt), lent({param: (indices, values)}):
            raise KeyboardInterrupt
        assert bits(param) == before
        write({param: (indices, values)})
        assert torch.equal(param.detach().reshape(-1), expected)
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_change_of_several_parameters_is_put_back_also_when_writing_one_of_them_fails():
    one, two = nn.Parameter(rand(4)), nn.Parameter(rand(4))
    before = bits(one), bits(two)
    good, bad = (torch.tensor([1]), rand(1)), (torch.tensor([9]), rand(1))
    with pytest.raises((IndexError, RuntimeError)), lent({one: good, two: bad}):
        raise AssertionError("unreachable")
    assert (bits(one), bits(two)) == before


def test_a_write_is_seen_by_autograd():
    param = nn.Parameter(rand(3))
    loss = param.square().sum()
    write({param: (torch.tensor([0]), torch.tensor([9.0], dtype=torch.float64))})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class Complete:
    def evaluate(self): ...
    def propose(self, change): ...
    def commit(self): ...
    def rollback(self): ...


def test_the_protocol_asks_for_four_methods():
    assert isinstance(Complete(), Objective)
    assert isinstance(ClosureObjective(lambda: 0.0, [], None), Objective)
    assert not isinstance(lambda: 0.0, Objective)
    names = {"evaluate", "propose", "commit", "rollback"}
    for name in names:
        methods = {key: value for key, value in vars(Complete).items() if key in names - {name}}
        assert not isinstance(type("Partial", (), methods)(), Objective)


@pytest.mark.parametrize("value", [1.5, 2, np.float64(0.5)])
def test_numbers_become_float64_losses(value):
    assert torch.equal(as_loss(value), torch.tensor(float(value), dtype=torch.float64))


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3)])
def test_floating_tensors_are_losses_of_their_own_shape(shape):
    loss = as_loss(torch.ones(shape, requires_grad=True) * 2)
    assert loss.shape == shape
    assert not loss.requires_grad


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        ("x", "'x'"),
        (True, "True"),
        ([1.0], "[1.0]"),
        (torch.tensor(1), "torch.int64"),
        (torch.empty(0), "shape (0,)"),
        (torch.tensor(1j), "complex"),
        ((torch.tensor(1.0), 2), "tensor(1.)"),
    ],
)
def test_anything_else_is_refused_and_shown(value, text):
    with pytest.raises(TypeError, match="the closure must return its loss") as caught:
        as_loss(value)
    assert text in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_closure_may_return_the_same_memory_every_time(dtype):
    weight, out = nn.Parameter(torch.ones(2, dtype=dtype)), torch.empty((), dtype=dtype)
    objective = ClosureObjective(lambda: out.copy_(weight.detach().sum()), [weight], None)
    before = objective.evaluate()
    after = objective.propose({weight: (torch.tensor([0]), torch.tensor([5.0], dtype=dtype))})
    assert (float(before), float(after)) == (2.0, 6.0)


def test_a_proposal_scores_the_changed_parameters_and_leaves_them_as_they_were():
    weight = nn.Parameter(rand(5))
    before = bits(weight)
    objective = ClosureObjective(lambda: weight.sum(), [weight], None)
    change = {weight: (torch.tensor([3]), torch.tensor([100.0], dtype=torch.float64))}
    assert float(objective.propose(change)) == pytest.approx(float((weight.sum() - weight[3] + 100).detach()))
    objective.rollback()
    objective.commit()
    assert bits(weight) == before


@pytest.mark.parametrize("grad", [None, True])
@pytest.mark.parametrize("present", [False, True])
def test_a_closure_with_backward_leaves_the_gradients_untouched(grad, present):
    weight = nn.Parameter(rand(5))
    kept = weight.grad = rand(5) if present else None
    content = None if kept is None else kept.clone()

    def closure():
        loss = weight.square().sum()
        loss.backward()
        assert weight.grad is not kept or kept is None
        return loss

    objective = ClosureObjective(closure, [weight], grad)
    for _ in range(3):
        objective.evaluate()
        objective.propose({weight: (torch.tensor([3]), torch.tensor([100.0], dtype=torch.float64))})
    assert weight.grad is kept
    assert kept is None or torch.equal(kept, content)
    assert objective.grad is True
    assert not weight._backward_hooks


def test_without_backward_the_closure_runs_without_a_graph_from_the_second_evaluation_on():
    weight, enabled = nn.Parameter(rand(5)), []

    def closure():
        enabled.append(torch.is_grad_enabled())
        return weight.sum()

    objective = ClosureObjective(closure, [weight], None)
    for _ in range(3):
        assert not objective.evaluate().requires_grad
    assert enabled == [True, False, False]
    assert objective.grad is False


def test_an_error_while_finding_out_leaves_no_hook_no_gradient_and_no_conclusion():
    weight = nn.Parameter(rand(5))

    def closure():
        weight.sum().backward()
        raise KeyboardInterrupt

    objective = ClosureObjective(closure, [weight], None)
    with pytest.raises(KeyboardInterrupt):
        objective.evaluate()
    assert objective.grad is None
    assert weight.grad is None
    assert not weight._backward_hooks


def test_non_finite_losses_pass_through():
    assert math.isnan(as_loss(math.nan))
    assert math.isinf(as_loss(torch.tensor(math.inf)))
