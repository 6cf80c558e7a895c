"""The fine-tune after pruning: zeros stay, nothing outside the model moves, the same seed gives the same network."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from experiments.data import Split, digits
from experiments.finetune import finetune
from experiments.models import mlp
from mcmcopt.sparsity import Magnitude, apply_masks, keep_masks, resistance_curve, weights


def split(n=130):
    return digits(n, 10, 10, True, 0).train


def pruned(model, share=0.9):
    apply_masks(model, keep_masks(Magnitude()(model), share))
    return {name: weight.detach() == 0 for name, weight in weights(model).items()}


def network():
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10)]
    return nn.Sequential(*layers)


def test_zeros_stay_after_every_step_and_the_rest_learns():
    model, data = mlp(), split()
    zeros = pruned(model)
    before = {name: weight.detach().clone() for name, weight in weights(model).items()}
    seen = []

    def look(module, inputs):
        seen.append(all(bool((weight.detach()[zeros[name]] == 0).all()) for name, weight in weights(model).items()))

    handle = model.register_forward_pre_hook(look)
    finetune(model, data, epochs=3, lr=0.1, batch_size=32, seed=0)
    handle.remove()
    assert len(seen) == 3 * math.ceil(130 / 32)
    assert all(seen)
    for name, weight in weights(model).items():
        assert torch.equal(weight.detach() == 0, zeros[name])
        assert not torch.equal(weight.detach(), before[name])


def test_it_is_sgd_with_momentum_on_what_is_left():
    """Against a formula of its own: one batch of everything, so that the order does not matter."""
    model, data = mlp(), split(40)
    zeros = pruned(model)
    values = {name: p.detach().double() for name, p in model.named_parameters()}
    speed = {name: torch.zeros_like(v) for name, v in values.items()}
    twin = mlp().double()
    for _ in range(4):
        twin.load_state_dict(values, strict=False)
        loss = cross_entropy(twin(data.x.double()), data.y)
        grads = torch.autograd.grad(loss, list(twin.parameters()))
        for (name, value), grad in zip(values.items(), grads, strict=True):
            speed[name] = 0.9 * speed[name] + grad * ~zeros.get(name, torch.tensor(False))
            values[name] = value - 0.05 * speed[name]
    finetune(model, data, epochs=4, lr=0.05, batch_size=64, seed=3)
    for name, param in model.named_parameters():
        torch.testing.assert_close(param.detach().double(), values[name], rtol=1e-4, atol=1e-6)


def test_the_seed_alone_decides():
    data, results = split(), []
    for seed, noise in ((1, 0), (1, 99), (2, 0)):
        model = network()
        pruned(model)
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        finetune(model, data, 1, 0.1, 32, seed)
        assert torch.equal(torch.get_rng_state(), before)
        results.append(model[1].weight.detach().clone())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_batches_come_in_one_order_whatever_the_network_draws():
    seen = []
    for model in (network(), mlp()):
        batches = []
        model.register_forward_pre_hook(lambda module, inputs, batches=batches: batches.append(inputs[0]))
        finetune(model, split(), 2, 0.1, 32, 5)
        seen.append(torch.cat(batches))
    assert torch.equal(*seen)
    assert not torch.equal(seen[0][:130], seen[0][130:])
    assert torch.equal(seen[0][:130].sum(0), split().x.sum(0))


def test_dropout_and_batch_statistics_are_those_of_training():
    model = network().eval()
    pruned(model)
    mean = model[2].running_mean.clone()
    finetune(model, split(), 1, 0.1, 32, 0)
    assert model.training
    assert not torch.equal(model[2].running_mean, mean)


@pytest.mark.parametrize("n", [129, 65, 33])
def test_no_rest_of_one_sample_reaches_batch_statistics(n):
    finetune(network(), split(n), 1, 0.1, 32, 0)  # a batch of one would be an error there


def test_a_curve_gets_its_model_back_bitwise():
    model = network().eval()
    cross_entropy(model(split(20).x), split(20).y).backward()
    grads = [(p.grad, p.grad.clone()) for p in model.parameters()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def evaluate(pruned):
        finetune(pruned, split(), 1, 0.1, 32, 0)
        return pruned[1].weight.detach().clone()

    with torch.no_grad():  # whatever the caller's mode
        points = resistance_curve(model, evaluate, sparsities=(0.5, 0.9))
    assert [int(p.outcome.count_nonzero()) for p in points] == [512, 102]
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for param, (grad, value) in zip(model.parameters(), grads, strict=True):
        assert param.grad is grad
        assert torch.equal(grad, value)


def test_frozen_weights_stay():
    model = network()
    model[1].weight.requires_grad_(False)
    before = model[1].weight.detach().clone()
    finetune(model, split(), 1, 0.1, 32, 0)
    assert torch.equal(model[1].weight.detach(), before)


def test_a_batch_larger_than_the_data_is_all_of_it():
    data = split(20)
    one, other = network(), network()
    finetune(one, Split(data.x, data.y), 2, 0.1, 20, 0)
    finetune(other, Split(data.x, data.y), 2, 0.1, 64, 0)
    assert torch.equal(one[1].weight, other[1].weight)
