"""Masks in use: zeros under every optimizer, round trips through state dicts and torch.nn.utils.prune."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune as torch_prune

from mcmcopt.sparsity import (
    Magnitude,
    Random,
    apply_masks,
    count,
    freeze,
    from_state_dict,
    from_torch,
    keep_masks,
    nonzero,
    to_state_dict,
    to_torch,
    weights,
)

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.05, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.05, momentum=0.9, centered=True),
}


def network():
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3), nn.LeakyReLU(), nn.Flatten(), nn.Linear(36, 6), nn.LeakyReLU(), nn.Linear(6, 3))
    return nn.Sequential(*layers)


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(20, 1, 5, 5, generator=generator), torch.randint(3, (20,), generator=generator)


def backward(model):
    x, y = data()
    cross_entropy(model(x), y).backward()


def steps(model, optimizer, n):
    for _ in range(n):
        optimizer.zero_grad()
        backward(model)
        optimizer.step()
        yield


def remembered(optimizer, weight):
    return [v for v in optimizer.state[weight].values() if isinstance(v, torch.Tensor) and v.shape == weight.shape]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("trained", [0, 5])
@pytest.mark.parametrize("between", [False, True])
def test_zeros_stay_zero_and_are_not_remembered(name, trained, between):
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    list(steps(model, optimizer, trained))  # momentum from before the freeze
    if between:  # a backward pass and its step
        optimizer.zero_grad()
        backward(model)
    keep = keep_masks(Magnitude()(model), 0.6)
    frozen = freeze(model, keep, optimizer)
    own = weights(model)
    assert all(not own[n][~m].any() for n, m in keep.items())
    if between:
        optimizer.step()
    before = {n: w.detach().clone() for n, w in own.items()}
    for _ in steps(model, optimizer, 20):
        for n, mask in keep.items():
            assert not own[n][~mask].any()
            assert not own[n].grad[~mask].any()
            memory = remembered(optimizer, own[n])
            assert all(not value[~mask].any() for value in memory)
            assert len(memory) == len({"sgd": (), "momentum": "m", "nesterov": "m", "adamw": "mv"}.get(name, "mvx"))
    assert all(not torch.equal(own[n], before[n]) for n in keep)
    assert frozen.masks.keys() == keep.keys()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_left_trains_as_the_smaller_network_would(name):
    """Held zeros have no influence on the others: the same as a network whose dead units are cut out."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    small = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    with torch.no_grad():
        for mine, theirs in (
            (model[0].weight[:3], small[0].weight),
            (model[0].bias[:3], small[0].bias),
            (model[2].weight[:, :3], small[2].weight),
            (model[2].bias, small[2].bias),
        ):
            theirs.copy_(mine)
    keep = {"0.weight": torch.zeros(6, 4, dtype=torch.bool), "2.weight": torch.zeros(3, 6, dtype=torch.bool)}
    keep["0.weight"][:3] = True
    keep["2.weight"][:, :3] = True
    x, y = torch.randn(20, 4, dtype=torch.float64), torch.randint(3, (20,))
    optimizers = [OPTIMIZERS[name](m.parameters()) for m in (model, small)]
    freeze(model, keep, optimizers[0])
    for _ in range(10):
        for m, optimizer in zip((model, small), optimizers, strict=True):
            optimizer.zero_grad()
            cross_entropy(m(x), y).backward()
            optimizer.step()
    torch.testing.assert_close(model[0].weight[:3], small[0].weight)
    torch.testing.assert_close(model[2].weight[:, :3], small[2].weight)


def test_a_step_by_closure_and_an_optimizer_that_moves_without_gradients():
    class Noisy(torch.optim.SGD):
        def step(self, closure=None):
            loss = super().step(closure)
            with torch.no_grad():
                for group in self.param_groups:
                    for p in group["params"]:
                        p += 0.01
            return loss

    model = network()
    optimizer = Noisy(model.parameters(), 0.1)
    keep = keep_masks(Random(0)(model), 0.5)
    freeze(model, keep, optimizer)

    def closure():
        optimizer.zero_grad()
        x, y = data()
        loss = cross_entropy(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert nonzero(model) == sum(int(m.sum()) for m in keep.values())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_removed_they_move_again(name):
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    keep = keep_masks(Random(0)(model), 0.5)
    frozen = freeze(model, keep, optimizer)
    list(steps(model, optimizer, 3))
    frozen.remove()
    frozen.remove()
    assert nonzero(model) == sum(int(m.sum()) for m in keep.values())
    list(steps(model, optimizer, 1))
    assert nonzero(model) > sum(int(m.sum()) for m in keep.values())


def test_masks_are_copied_and_weights_without_one_are_free():
    model = network()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    keep = {"3.weight": keep_masks(Random(0)(model), 0.5)["3.weight"]}
    kept = keep["3.weight"].clone()
    others = {n: w.detach().clone() for n, w in weights(model).items() if n != "3.weight"}
    freeze(model, keep, optimizer)
    assert all(torch.equal(weights(model)[n], w) for n, w in others.items())
    keep["3.weight"].fill_(True)
    list(steps(model, optimizer, 2))
    assert torch.equal(model[3].weight.detach() != 0, kept)
    assert not torch.equal(model[0].weight, others["0.weight"])


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda keep, model: ({"bias": keep["3.weight"]}, model), "'bias'"),
        (lambda keep, model: ({**keep, "3.weight": keep["3.weight"][:1]}, model), "3.weight"),
        (lambda keep, model: ({**keep, "5.weight": keep["5.weight"].float()}, model), "5.weight"),
        (lambda keep, model: (keep, network()), "optimizer"),
    ],
    ids=["name", "shape", "dtype", "optimizer"],
)
def test_wrong_masks_and_optimizers_are_refused_before_anything_changes(spoil, named):
    model = network()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    list(steps(model, optimizer, 2))
    keep, holder = spoil(keep_masks(Magnitude()(model), 0.5), model)
    held = optimizer if holder is model else OPTIMIZERS["momentum"](holder.parameters())
    before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict()["state"])
    gradients = [p.grad.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=named):
        freeze(model, keep, held)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(after[i]["momentum_buffer"], state[i]["momentum_buffer"]) for i in state)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    list(steps(model, optimizer, 1))
    assert nonzero(model) == count(model)  # and no hook is left


def test_a_state_dict_goes_through_a_file_and_back():
    keep = keep_masks(Random(1)(network()), 0.5)
    state = to_state_dict(keep)
    assert list(state) == ["0.weight_mask", "3.weight_mask", "5.weight_mask"]
    file = io.BytesIO()
    torch.save({**network().state_dict(), **state}, file)
    file.seek(0)
    back = from_state_dict(torch.load(file, weights_only=True))
    assert list(back) == list(keep)
    assert all(back[n].dtype == torch.bool and torch.equal(back[n], keep[n]) for n in keep)
    state["0.weight_mask"].fill_(False)
    back["3.weight"].fill_(False)
    assert keep["0.weight"].any()  # copies
    assert keep["3.weight"].any()


def pruned(how):
    """Return a network that torch has pruned, and the masks that it must have, found from its weights."""
    model = network()
    if how == "l1":
        torch_prune.l1_unstructured(model[3], "weight", 0.4)
    elif how == "twice":
        torch_prune.l1_unstructured(model[3], "weight", 0.4)
        torch_prune.random_unstructured(model[3], "weight", 0.5)
    elif how == "global":
        layers = [(model[i], "weight") for i in (0, 3, 5)]
        torch_prune.global_unstructured(layers, pruning_method=torch_prune.L1Unstructured, amount=0.5)
    else:
        torch_prune.ln_structured(model[0], "weight", 0.5, n=2, dim=0)
    masks = {f"{i}.weight": model[i].weight.detach() != 0 for i in (0, 3, 5) if hasattr(model[i], "weight_orig")}
    return model, masks


@pytest.mark.parametrize("how", ["l1", "twice", "global", "ln"])
def test_networks_that_torch_pruned(how):
    model, masks = pruned(how)
    originals = {n: model.get_parameter(f"{n}_orig") for n in masks}
    x, _ = data()
    expected = model(x).detach()
    found = from_state_dict(model.state_dict())
    assert list(found) == list(masks)
    for name, mask in masks.items():
        assert found[name].dtype == torch.bool
        assert torch.equal(found[name], mask)
    for refused in (weights, count, nonzero, Magnitude()):
        with pytest.raises(ValueError, match=r"(0|3) is pruned by torch\.nn\.utils\.prune.*from_torch"):
            refused(model)
    made = from_torch(model)
    assert {n: m.tolist() for n, m in made.items()} == {n: m.tolist() for n, m in masks.items()}
    assert sorted(model.state_dict()) == sorted(network().state_dict())
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert all(weights(model)[n] is originals[n] for n in masks)  # an optimizer's parameters are still the model's
    assert torch.equal(model(x), expected)
    assert count(model) == count(network())
    assert nonzero(model) == count(model) - sum(int((~m).sum()) for m in masks.values())
    assert from_torch(model) == {}


def test_to_torch_computes_what_applied_masks_do_and_comes_back():
    model, applied = network(), network()
    keep = keep_masks(Random(1)(model), 0.6)
    to_torch(model, keep)
    apply_masks(applied, keep)
    x, y = data()
    assert torch.equal(model(x), applied(x))
    for m in (model, applied):
        cross_entropy(m(x), y).backward()
    for name, mask in keep.items():
        assert torch.equal(model.get_parameter(f"{name}_orig").grad, weights(applied)[name].grad * mask)
        assert model.get_parameter(f"{name}_orig").detach()[~mask].any()  # as torch has it, the rest is kept aside
    assert torch_prune.is_pruned(model)
    assert all(torch.equal(m, keep[n]) for n, m in from_state_dict(model.state_dict()).items())
    back = from_torch(model)
    assert all(torch.equal(back[n], keep[n]) for n in keep)
    assert all(torch.equal(w, weights(applied)[n]) for n, w in weights(model).items())


def test_to_torch_reaches_every_layer_that_shares_a_weight():
    torch.manual_seed(0)
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    applied = copy.deepcopy(tied)
    keep = {"0.weight": torch.eye(4, dtype=torch.bool)}
    apply_masks(applied, keep)
    x = torch.randn(3, 4)
    expected = applied(x)
    to_torch(tied, keep)
    assert torch.equal(tied(x), expected)


def test_to_torch_refuses_before_anything_changes():
    model = network()
    keep = keep_masks(Random(1)(model), 0.6)
    with pytest.raises(ValueError, match=r"5\.weight"):
        to_torch(model, {**keep, "5.weight": keep["5.weight"][:1]})
    assert not torch_prune.is_pruned(model)


def test_pruned_biases_become_plain_and_have_no_mask():
    model = network()
    torch_prune.l1_unstructured(model[3], "bias", 0.5)
    torch_prune.l1_unstructured(model[3], "weight", 0.5)
    zeros = int((model[3].bias == 0).sum())
    assert list(from_torch(model)) == ["3.weight"]
    assert int((model[3].bias == 0).sum()) == zeros == 3
    assert not torch_prune.is_pruned(model)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("attention_mask", torch.full((4, 4), float("-inf")).triu(1))
        self.register_buffer("padding_mask", torch.ones(4, dtype=torch.bool))


def test_masks_of_the_networks_own_are_left_aside():
    model = Attention()
    keep = keep_masks(Magnitude()(model), 0.5)
    to_torch(model, keep)
    found = from_state_dict(model.state_dict())
    assert list(found) == ["linear.weight"]
    apply_masks(Attention(), found)  # all of them are masks of weights
    assert list(from_torch(model)) == ["linear.weight"]
    assert sorted(model.state_dict()) == sorted(Attention().state_dict())


def test_masks_of_other_values_are_named():
    with pytest.raises(ValueError, match=r"0\.weight_mask"):
        from_state_dict({"0.weight_mask": torch.tensor([0.0, 0.5])})
