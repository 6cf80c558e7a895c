"""The proximal step solves its problem, and the merged network is the same function."""

import copy
import itertools
from collections import OrderedDict

import pytest
import torch
from scipy.optimize import minimize
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from mcmcopt.sparsity import LayerSparsity, count, merged
from mcmcopt.sparsity.layer_sparsity import candidates, negative_part, shrink, vanished


def network(sizes=(6, 5, 4, 7, 3), bias=True, seed=0):
    torch.manual_seed(seed)
    layers = OrderedDict(flatten=nn.Flatten())
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes), start=1):
        layers[f"fc{i}"] = nn.Linear(inputs, outputs, bias=bias, dtype=torch.float64)
        layers[f"relu{i}"] = nn.ReLU()
    layers.popitem()
    return nn.Sequential(layers)


@torch.no_grad()
def lift(model, *names):
    """Make layers nonnegative."""
    for name in names:
        for part in getattr(model, name).parameters():
            part.abs_()
    return model


def inputs(n=50, size=6, low=0.0):
    return low + torch.rand(n, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def kinds(model):
    return [type(module).__name__ for module in model]


def linear(rows):
    rows = torch.tensor(rows, dtype=torch.float64)
    layer = nn.Linear(rows.shape[1], rows.shape[0], bias=False, dtype=torch.float64)
    layer.weight.data.copy_(rows)
    return layer


# the proximal step


def test_penalty_is_the_norm_of_the_negative_parts():
    model = network()
    expected = 0.0
    for name in ("fc2", "fc3"):  # not fc1, of which nothing is known, and not the last
        layer = getattr(model, name)
        squares = sum(float(v) ** 2 for part in (layer.weight, layer.bias) for v in part.flatten().tolist() if v < 0)
        expected += 0.7 * squares**0.5
    assert LayerSparsity(0.7).penalty(model).item() == pytest.approx(expected, rel=1e-12)
    by_name = LayerSparsity({"fc3": 0.7}).penalty(model).item()
    assert by_name == pytest.approx(0.7 * torch.cat([p.flatten() for p in negative_part(model.fc3)]).norm().item())


def test_penalty_has_the_gradient_of_a_norm_and_none_where_the_layer_has_vanished():
    model = network()
    LayerSparsity(2.0).penalty(model).backward()
    weight, bias = (part.detach() for part in negative_part(model.fc2))
    norm = (weight.square().sum() + bias.square().sum()).sqrt()
    torch.testing.assert_close(model.fc2.weight.grad, 2 * weight / norm)
    torch.testing.assert_close(model.fc2.bias.grad, 2 * bias / norm)
    assert model.fc1.weight.grad is None
    flat = lift(network(), "fc2", "fc3")
    LayerSparsity(2.0).penalty(flat).backward()
    assert not flat.fc2.weight.grad.any()


@pytest.mark.parametrize("threshold", [0.1, 1.0, 3.0])
def test_shrink_minimises_its_problem(threshold):
    start = torch.tensor([[0.5, -1.2, 0.0], [-0.3, 2.0, -0.9]], dtype=torch.float64)
    layer = nn.Linear(3, 2, dtype=torch.float64)
    layer.weight.data.copy_(start)
    layer.bias.data.copy_(torch.tensor([-0.7, 0.4]))
    target = torch.cat([layer.weight.detach().flatten(), layer.bias.detach()]).numpy()
    shrink(layer, threshold)

    def cost(v):
        low = v.clip(max=0)
        return 0.5 * ((v - target) ** 2).sum() + threshold * (low @ low) ** 0.5

    found = torch.cat([layer.weight.detach().flatten(), layer.bias.detach()]).numpy()
    tries = [minimize(cost, v0, method="Powell", options={"xtol": 1e-10, "ftol": 1e-14}) for v0 in (target, 0 * target)]
    assert cost(found) <= min(one.fun for one in tries) + 1e-9
    norm = float(torch.tensor(target).clamp(max=0).norm())
    keep = max(0.0, 1 - threshold / norm)
    torch.testing.assert_close(
        torch.tensor(found), torch.tensor(target).clamp(min=0) + keep * torch.tensor(target).clamp(max=0)
    )


def test_shrink_gives_exact_zeros_at_the_threshold_and_not_before():
    layer = linear([[3.0, -3.0], [-4.0, 1.0]])
    shrink(layer, 4.999)
    assert (layer.weight < 0).sum() == 2
    layer = linear([[3.0, -3.0], [-4.0, 1.0]])
    shrink(layer, 5.0)
    assert layer.weight.tolist() == [[3.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("momentum", [{}, {"momentum": 0.8}, {"momentum": 0.8, "dampening": 0.5}])
def test_training_ends_where_loss_and_penalty_have_their_minimum(momentum):
    model = nn.Sequential(*(linear(torch.eye(3).tolist()) for _ in range(2)))
    model.insert(1, nn.ReLU())
    model[2].requires_grad_(False)
    x = 0.3 + 0.7 * inputs(40, 3)  # no output near the kink of its ReLU
    y = x @ torch.tensor([[1.0, -0.2, 0.4], [0.5, 1.0, -0.2], [0.1, 0.3, 1.0]], dtype=torch.float64).T
    pruner, steps = LayerSparsity(0.002, nonnegative_inputs=True), 800
    optimizer = torch.optim.SGD([model[0].weight], 1.5, **momentum)
    pruner.begin(model, optimizer, steps)
    for t in range(1, steps + 1):
        optimizer.zero_grad()
        mse_loss(model(x), y).backward()
        pruner.mask_gradients()
        optimizer.step()
        pruner.after_step(t)
    assert (model[0].weight < 0).any()  # else the penalty has no gradient to check
    optimizer.zero_grad()
    (mse_loss(model(x), y) + pruner.penalty(model)).backward()
    assert model[0].weight.grad.norm() < 1e-8


def trained(model, pruner, optimizer, first, last):
    x, y = inputs(30), torch.arange(30) % 3
    for t in range(first, last + 1):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        pruner.mask_gradients()
        optimizer.step()
        pruner.after_step(t)


MAKERS = {
    "sgd": lambda params: torch.optim.SGD(params, 0.1, momentum=0.9, weight_decay=1e-3),
    "adam": lambda params: torch.optim.Adam(params, 0.01),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_resumed_is_the_same(maker):
    whole = network()
    pruner, optimizer = LayerSparsity(0.3), MAKERS[maker](whole.parameters())
    pruner.begin(whole, optimizer, 40)
    trained(whole, pruner, optimizer, 1, 17)
    state = copy.deepcopy((whole.state_dict(), optimizer.state_dict(), pruner.state_dict()))
    trained(whole, pruner, optimizer, 18, 40)
    again, fresh = LayerSparsity(0.3), network(seed=5)
    resumed = MAKERS[maker](fresh.parameters())
    again.begin(fresh, resumed, 40)
    fresh.load_state_dict(state[0])
    resumed.load_state_dict(state[1])
    again.load_state_dict(state[2])
    trained(fresh, again, resumed, 18, 40)
    for one, two in zip(whole.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, two)


def test_layers_vanish_while_training_and_others_and_frozen_ones_are_not_touched():
    model = network()
    model.fc3.requires_grad_(False)
    frozen = model.fc3.weight.clone()
    plain = copy.deepcopy(model)
    pruner, optimizer = LayerSparsity(100.0), MAKERS["sgd"](model.parameters())
    pruner.begin(model, optimizer, 3)
    trained(model, pruner, optimizer, 1, 1)
    other = MAKERS["sgd"](plain.parameters())
    none = LayerSparsity(0.0)
    none.begin(plain, other, 3)
    trained(plain, none, other, 1, 1)
    assert vanished(model) == ["fc2"]
    assert torch.equal(model.fc2.weight, plain.fc2.weight.clamp(min=0))
    assert torch.equal(model.fc3.weight, frozen)
    for name in ("fc1", "fc4"):
        assert torch.equal(getattr(model, name).weight, getattr(plain, name).weight)


# which layers may vanish


def test_first_layer_takes_part_if_inputs_are_nonnegative_and_the_last_never():
    assert list(candidates(network())) == ["fc2", "fc3"]
    assert list(candidates(network(), nonnegative_inputs=True)) == ["fc1", "fc2", "fc3"]


def test_nothing_is_known_after_other_modules():
    model = network()
    between = nn.Sequential(OrderedDict(tanh=nn.Tanh(), **model._modules))
    assert list(candidates(between, nonnegative_inputs=True)) == ["fc2", "fc3"]
    shifted = nn.Sequential(model.fc1, nn.ReLU(), nn.LayerNorm(5), model.fc2, nn.ReLU(), model.fc3)
    assert not candidates(shifted, nonnegative_inputs=True)
    leaky = nn.Sequential(model.fc1, nn.LeakyReLU(), model.fc2, nn.ReLU(), model.fc3)
    assert not candidates(leaky)
    dropout = nn.Sequential(model.fc1, nn.ReLU(), nn.Dropout(), model.fc2, nn.ReLU(), model.fc3)
    assert list(candidates(dropout)) == ["3"]


def test_layers_with_hooks_stay_out():
    model = network()
    model.fc2.register_forward_hook(lambda module, args, out: out - 1)
    model.relu3.register_forward_hook(lambda module, args, out: out - 1)
    assert not candidates(model)
    model = network()
    nn.utils.parametrizations.weight_norm(model.fc2)
    assert list(candidates(model)) == ["fc3"]


# merging


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("gone", "first"), [(("fc2",), False), (("fc3",), False), (("fc2", "fc3"), False), (("fc1", "fc2", "fc3"), True)]
)
def test_merged_network_is_the_same_function_and_smaller(gone, first, bias):
    model = lift(network(bias=bias), *gone)
    assert vanished(model, first) == list(gone)
    small = merged(model, first)
    x = inputs(low=0.0 if first else -0.5)
    torch.testing.assert_close(small(x), model(x), rtol=0, atol=1e-10)
    sizes = [6, 5, 4, 7, 3]
    for name in reversed(gone):
        del sizes[int(name[-1])]
    expected = sum(a * b + bias * b for a, b in itertools.pairwise(sizes))
    assert count(small, weights_only=False) == expected < count(model, weights_only=False)
    assert [name for name, _ in small.named_children() if name.startswith("fc")] == [
        name for name in ("fc1", "fc2", "fc3", "fc4") if name not in gone
    ]
    assert kinds(small).count("ReLU") == 3 - len(gone)


def test_a_single_slightly_negative_entry_keeps_the_layer():
    for part in ("weight", "bias"):
        model = lift(network(), "fc2")
        with torch.no_grad():
            getattr(model.fc2, part).view(-1)[1] = -1e-30
        assert not vanished(model)
        assert count(merged(model), weights_only=False) == count(model, weights_only=False)


def test_a_layer_of_unknown_inputs_stays_and_would_change_the_function():
    model = lift(network(), "fc1")
    assert count(merged(model), weights_only=False) == count(model, weights_only=False)
    x = inputs(low=-2.0)
    assert torch.equal(merged(model)(x), model(x))
    assert not torch.allclose(merged(model, nonnegative_inputs=True)(x), model(x))


def test_one_bias_of_two_is_enough():
    for with_bias in (0, 1):
        model = lift(network(), "fc2")
        (model.fc2, model.fc3)[1 - with_bias].register_parameter("bias", None)
        assert vanished(model) == ["fc2"]
        torch.testing.assert_close(merged(model)(inputs()), model(inputs()), rtol=0, atol=1e-10)


def test_shared_modules_and_objects_are_followed_through_all_their_places():
    relu = nn.ReLU()
    square = nn.Linear(5, 5, dtype=torch.float64)
    model = network()
    again = nn.Sequential(model.fc1, relu, square, relu, square, relu, model.fc2)
    again = lift(nn.Sequential(OrderedDict(zip("abcdefg", again, strict=True))), "c")
    assert vanished(again) == ["c", "e"]
    torch.testing.assert_close(merged(again)(inputs()), again(inputs()), rtol=0, atol=1e-10)


def test_the_published_counts():
    model = nn.Sequential(nn.Linear(64, 32, bias=False), nn.ReLU(), nn.Linear(32, 10, bias=False))
    model[0].weight.data.abs_()
    assert (count(model), count(merged(model, nonnegative_inputs=True))) == (2368, 640)
    bottleneck = nn.Sequential(nn.Linear(64, 4, bias=False), nn.ReLU(), nn.Linear(4, 64, bias=False))
    bottleneck[0].weight.data.abs_()
    assert (count(bottleneck), count(merged(bottleneck, nonnegative_inputs=True))) == (512, 4096)


def test_merging_leaves_the_model_and_the_random_state_alone():
    model = lift(network(), "fc2").eval()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    small = merged(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert not small.training
    assert not small.fc3.training
    with torch.no_grad():
        for param in small.parameters():
            param.add_(1)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_merged_network_trains():
    small = merged(lift(network(), "fc2"))
    cross_entropy(small(inputs()), torch.arange(50) % 3).backward()
    assert all(param.grad is not None for param in small.parameters())


# bad arguments


@pytest.mark.parametrize("strength", [-0.1, float("inf"), float("nan"), "1", None, True, {"fc2": -1.0}])
def test_bad_strengths_are_refused(strength):
    with pytest.raises(ValueError, match="strength"):
        LayerSparsity(strength)


def test_models_without_such_layers_are_refused():
    shallow = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(shallow.parameters(), 0.1)
    with pytest.raises(ValueError, match="no layer that could vanish"):
        LayerSparsity(0.1).begin(shallow, optimizer, 3)
    with pytest.raises(ValueError, match="no layer that could vanish"):
        LayerSparsity(0.1).penalty(shallow)
    with pytest.raises(ValueError, match=r"strength names fc9; .* fc2, fc3"):
        LayerSparsity({"fc9": 0.1}).penalty(network())
    with pytest.raises(TypeError, match=r"nn\.Sequential"):
        LayerSparsity(0.1).begin(nn.Linear(3, 2), optimizer, 3)
    with pytest.raises(TypeError, match=r"nn\.Sequential"):
        merged(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="steps"):
        LayerSparsity(0.1, nonnegative_inputs=True).begin(shallow, optimizer, 0)


def test_repr_says_how_it_was_made():
    assert repr(LayerSparsity(0.1)) == "LayerSparsity(strength=0.1, nonnegative_inputs=False)"
