"""The resistance curve: what it reports, and that it leaves the model alone."""

import pytest
import torch
from torch import nn

from mcmcopt.sparsity import Magnitude, Random, count, nonzero, resistance_curve


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_bits(model, before):
    return all(
        torch.equal(tensor.view(torch.uint8) if tensor.dim() else tensor, old.view(torch.uint8) if old.dim() else old)
        for (_, tensor), old in zip(model.state_dict().items(), before.values(), strict=True)
    )


def spoil(model):
    """An evaluation without manners: trains batch statistics and changes the mode."""
    model.train()
    model(torch.randn(4, 10, generator=torch.Generator().manual_seed(0)))
    return nonzero(model)


@pytest.mark.parametrize("remaining", [False, True])
@pytest.mark.parametrize("scope", ["layer", "global", "block", "filter"])
@pytest.mark.parametrize("criterion", [Magnitude(), Random(1)])
def test_model_comes_back_bitwise(criterion, scope, remaining):
    model = network().eval()
    with torch.no_grad():
        model[0].weight[0, 0] = -0.0
    before, params = snapshot(model), list(model.parameters())
    curve = resistance_curve(model, spoil, criterion, scope, (0.0, 0.5, 1.0), remaining)
    assert same_bits(model, before)
    assert not model.training
    assert all(p is q for p, q in zip(params, model.parameters(), strict=True))
    assert [point.outcome for point in curve] == [point.weights_kept for point in curve]
    assert [point.requested for point in curve] == [0.0, 0.5, 1.0]
    assert curve[-1].weights_kept == 0
    assert curve[-1].reached == 1.0


def test_model_comes_back_when_evaluation_fails():
    model = network()
    before = snapshot(model)

    def fail(pruned):
        assert nonzero(pruned) < count(pruned)
        spoil(pruned)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        resistance_curve(model, fail, sparsities=(0.5,))
    assert same_bits(model, before)


def test_gradients_are_out_of_reach_and_come_back():
    model = network()
    model(torch.ones(4, 10)).sum().backward()
    grads = [(p.grad, p.grad.clone()) for p in model.parameters()]

    def descend(pruned):
        pruned(torch.ones(4, 10)).square().sum().backward()  # would add to what is there

    resistance_curve(model, descend, sparsities=(0.5,))
    for param, (grad, value) in zip(model.parameters(), grads, strict=True):
        assert param.grad is grad
        assert torch.equal(grad, value)


def test_bases_of_a_sparse_model():
    model = network()
    with torch.no_grad():
        model[0].weight[:, 2:] = 0.0  # 14 of 70 left
        model[3].weight[:, 1:] = 0.0  # 3 of 21 left
    everything = resistance_curve(model, nonzero, sparsities=(0.5, 0.9))
    assert [p.weights_kept for p in everything] == [17, 7 + 2]
    assert everything[0].reached == pytest.approx(1 - 17 / 91)  # more zeros than asked for
    left = resistance_curve(model, nonzero, sparsities=(0.0, 0.5), remaining=True)
    assert [p.weights_kept for p in left] == [17, 7 + 1]  # round(1.5) = 2
    assert left[1].reached == pytest.approx(1 - 8 / 17)
    assert {p.basis for p in everything + left} == {"all", "remaining"}


def test_magnitude_keeps_the_largest_over_all_layers():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -5.0], [2.0, 0.5]]))
        model[1].weight.copy_(torch.tensor([[-3.0, 4.0]]))
    read = [lambda m: (m[0].weight.tolist(), m[1].weight.tolist())] * 2
    whole = resistance_curve(model, read[0], scope="global", sparsities=(0.5,))[0]
    assert whole.outcome == ([[0, -5], [0, 0]], [[-3, 4]])
    each = resistance_curve(model, read[0], scope="layer", sparsities=(0.5,))[0]
    assert each.outcome == ([[0, -5], [2, 0]], [[0, 4]])


def test_empty_model_and_all_zero_model():
    with pytest.raises(ValueError, match="ReLU"):
        resistance_curve(nn.ReLU(), nonzero)
    model = nn.Linear(3, 2)
    nn.init.zeros_(model.weight)
    point = resistance_curve(model, nonzero, sparsities=(0.5,), remaining=True)[0]
    assert (point.weights_kept, point.reached) == (0, 1.0)
