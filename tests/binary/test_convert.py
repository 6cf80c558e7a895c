"""Real layers replaced by binary ones: same signs, same places, nothing drawn at random."""

import copy

import pytest
import torch
from torch import nn

from mcmcopt.binary import BinaryConnect, BinaryConv2d, BinaryLinear, DoReFa, binary_layers, check_binary, latent_layers
from mcmcopt.sparsity import count, weights


def real():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
    ).eval()


@pytest.mark.parametrize("scale", ["learnt", "fixed", "none"])
def test_signs_scales_and_biases_are_those_of_the_real_layers(scale):
    model = real()
    binary = binary_layers(copy.deepcopy(model), scale)
    check_binary(binary)
    for ours, theirs in ((binary[0], model[0]), (binary[2][1], model[2][1])):
        assert isinstance(ours, BinaryConv2d | BinaryLinear)
        assert torch.equal(ours.weight, theirs.weight.sign())
        assert torch.equal(ours.bias, theirs.bias)
        assert not ours.training
        if scale != "none":
            torch.testing.assert_close(ours.scale, theirs.weight.detach().flatten(1).square().mean(1).sqrt())
    assert type(binary[1]) is nn.BatchNorm2d
    assert list(weights(binary)) == list(weights(model))
    assert count(binary) == count(model)
    x = torch.randn(5, 2, 8, 8)
    whole = copy.deepcopy(model[0])
    with torch.no_grad():
        whole.weight.copy_(binary[0].weight * (1 if scale == "none" else binary[0].scale.view(-1, 1, 1, 1)))
    torch.testing.assert_close(binary[0](x), whole(x))  # stride, padding and its mode are the same


@pytest.mark.parametrize("make", [binary_layers, lambda model: latent_layers(model, DoReFa(2))])
def test_nothing_is_drawn_at_random_and_no_parameter_is_left_unset(make):
    models, state = [real(), real()], torch.get_rng_state()
    made = [make(model) for model in models]
    assert torch.equal(state, torch.get_rng_state())
    for a, b in zip(made[0].state_dict().values(), made[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)
        assert a.device.type == "cpu"


def test_layers_can_be_kept_real_and_biases_left_out():
    model = binary_layers(real(), bias=False, keep=[r"2\."])
    assert isinstance(model[0], BinaryConv2d)
    assert model[0].bias is None
    assert type(model[2][1]) is nn.Linear


def test_a_layer_used_twice_stays_one_layer():
    layer = nn.Linear(3, 3)
    model = binary_layers(nn.Sequential(layer, nn.ReLU(), layer))
    assert model[0] is model[2]
    assert isinstance(model[2], BinaryLinear)


def test_what_cannot_be_replaced_is_refused():
    with pytest.raises(ValueError, match="no linear or convolutional layer"):
        binary_layers(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match=r"to replace \(keep=\['0'\]\)"):
        binary_layers(nn.Sequential(nn.Linear(2, 2)), keep=["0"])
    with pytest.raises(ValueError, match="cannot be replaced in place"):
        latent_layers(nn.Linear(2, 2), BinaryConnect())
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="weight of 1 is shared"):
        binary_layers(tied)
    broken = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        broken[0].weight[0, 0] = float("nan")
    for make in (binary_layers, lambda model: latent_layers(model, BinaryConnect())):
        with pytest.raises(ValueError, match="must be finite"):
            make(broken)
