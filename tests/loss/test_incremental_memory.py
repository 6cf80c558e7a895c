"""What the incremental loss keeps in memory, how much that is, and for how long."""

import copy
import warnings

import pytest
import torch
from torch import nn

from mcmcopt.loss.incremental import IncrementalLoss
from mcmcopt.loss.incremental.layout import Buffers, Codes
from mcmcopt.loss.objective import write
from tests.loss.small import LOSS, ask, assert_right, batch, mlp
from tests.loss.walks import plain, same
from tests.loss.zoo import CODES, MODELS


@pytest.fixture(autouse=True)
def _repeatable():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def allocated(bound):
    parts = [v.data if isinstance(v, Codes) else v for v in bound._values]
    kept = [
        v for v, node in zip(parts, bound.nodes, strict=True) if isinstance(v, torch.Tensor) and node.shape is not None
    ]
    own = [v for v in kept if v.data_ptr() != bound._x.data_ptr()]
    return sum(v.numel() * v.element_size() for v in own)


@pytest.mark.parametrize("layout", ["tiles", "major"])
@pytest.mark.parametrize("name", ["mlp", "residual", "cat", "gates of the batch", "view", "dropout"])
def test_memory_is_what_is_allocated(name, layout):
    maker, shape = MODELS[name]
    model, (x, y) = maker().double().eval(), batch(70, *shape)
    model(x)
    engine = IncrementalLoss(model, LOSS, layout=layout)
    bound = engine.bind(x, y)
    bound.evaluate()
    assert engine.memory(70) == bound.bytes == allocated(bound)
    assert engine.memory(64 * 9) == 9 * engine.memory(64)


@pytest.mark.parametrize("layout", ["tiles", "major"])
def test_integer_images_are_kept_as_bytes(layout):
    model, x = CODES["normalised"]().double(), torch.randint(256, (70, 2, 6, 7), dtype=torch.uint8)
    model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bound = IncrementalLoss(model, LOSS, layout=layout).bind(x, torch.randint(3, (70,)))
    bound.evaluate()
    codes = [v for v in bound._values if isinstance(v, Codes)]
    assert [code.data.dtype for code in codes] == ([torch.uint8] if layout == "tiles" else [])  # torch has no kernel
    assert bound.bytes == allocated(bound)


def test_memory_before_a_batch_is_bound_is_not_known():
    with pytest.raises(RuntimeError, match="bind a batch first"):
        IncrementalLoss(mlp(), LOSS).memory(10)


@pytest.mark.parametrize("layout", ["tiles", "major"])
def test_the_memory_budget_is_kept(layout):
    model, (x, y) = mlp(), batch(640)
    needed = IncrementalLoss(model, LOSS, layout=layout).bind(x, y).bytes
    assert IncrementalLoss(model, LOSS, layout=layout, memory_budget=needed).bind(x, y).bytes == needed
    engine = IncrementalLoss(model, LOSS, layout=layout, memory_budget=needed - 1)
    with pytest.raises(ValueError, match=f"take {needed} bytes and memory_budget is {needed - 1}") as caught:
        engine.bind(x, y)
    assert "bind at most about 576 samples" in str(caught.value)
    assert engine.bind(x[:576], y[:576]).bytes < needed


def test_one_batch_is_held_at_a_time():
    model, (x, y) = mlp(), batch()
    engine = IncrementalLoss(model, LOSS)
    first = engine.bind(x, y)
    first.evaluate()
    assert engine.bind(x, y) is first
    second = engine.bind(*batch(90))
    assert second is not first
    assert not any(isinstance(value, torch.Tensor) for value in first._values)
    assert_right(first, model, model[0].weight, x, y)  # it still works, at the price of its memory
    assert engine.bind(x, y.clone()) is not first


@pytest.mark.parametrize("layout", ["tiles", "major"])
def test_memory_does_not_grow(layout):
    (x, y), model = batch(), mlp(nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 6))
    bound = IncrementalLoss(model, LOSS, layout=layout).bind(x, y)
    held = []
    for _ in range(3):
        for _ in range(20):
            for param in model.parameters():
                at = torch.arange(param.numel())
                change = {param: (at, param.detach().take(at) * 0.99)}
                bound.propose_many([change, ask(param)])
                write(change)
                bound.commit()
        assert bound._commits % 20 == 0
        held.append(sum(len(free) for free in bound.backend.buffers._free.values()))
    assert held[0] == held[1] == held[2]


def test_forget_computes_all_afresh():
    model, (x, y) = mlp(), batch()
    engine = IncrementalLoss(model, LOSS)
    engine.forget()
    bound = engine.bind(x, y)
    right = bound.evaluate()
    bound._loss += 1.0
    assert not torch.equal(bound.evaluate(), right)
    engine.forget()
    assert torch.equal(bound.evaluate(), right)
    engine.forget()
    change = ask(model[0].weight)
    got = bound.propose(change)
    write(change)
    bound.commit()
    same(got, plain(copy.deepcopy(model), LOSS, x, y), 1e-12)
    same(bound.evaluate(), got, 1e-12)


def test_returned_losses_are_the_callers():
    model, (x, y) = mlp(), batch()
    bound = IncrementalLoss(model, nn.CrossEntropyLoss(reduction="none")).bind(x, y)
    first = bound.evaluate()
    first += 1.0
    assert not torch.equal(bound(), first)


def test_memory_kept_for_later_is_limited():
    buffers = Buffers(limit=1000)
    taken = [buffers.take((n,), torch.float32, torch.device("cpu")) for n in range(100, 200, 10)]
    for tensor in taken:
        buffers.give(tensor)
    assert 0 < sum(t.nbytes for free in buffers._free.values() for t in free) == buffers._held <= 1000
