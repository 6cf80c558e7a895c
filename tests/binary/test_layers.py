"""Layers of weights ±1: what they compute, how they start, and that they notice when they are no longer binary."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, linear

from mcmcopt.binary import BinaryConv2d, BinaryLinear, check_binary


def layers(scale="learnt", dtype=torch.float64):
    torch.manual_seed(0)
    return (
        (BinaryLinear(12, 5, scale=scale, dtype=dtype), torch.randn(7, 12, dtype=dtype)),
        (
            BinaryConv2d(4, 6, 3, stride=2, padding=1, groups=2, scale=scale, dtype=dtype),
            torch.randn(3, 4, 8, 9).to(dtype),
        ),
    )


@pytest.mark.parametrize("scale", ["learnt", "fixed", "none"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_weights_are_signs_of_both_kinds_and_scales_have_one_dimension(scale, dtype):
    for layer, x in layers(scale, dtype):
        assert sorted(set(layer.weight.flatten().tolist())) == [-1.0, 1.0]
        check_binary(layer)
        assert isinstance(layer.weight, nn.Parameter)
        names = dict(layer.named_parameters())
        assert ("scale" in names) == (scale == "learnt")
        assert (layer.scale is None) == (scale == "none")
        if scale != "none":
            assert layer.scale.shape == layer.bias.shape == (len(layer.weight),)
        assert layer(x).dtype == dtype


def test_outputs_are_scale_times_the_binary_map_plus_bias():
    (fc, x), (conv, images) = layers()
    with torch.no_grad():
        for layer in (fc, conv):
            layer.scale.copy_(torch.rand_like(layer.scale) + 0.5)
    torch.testing.assert_close(fc(x), linear(x, fc.weight * fc.scale[:, None], fc.bias))
    weight = conv.weight * conv.scale[:, None, None, None]
    expected = conv2d(images, weight, conv.bias, stride=2, padding=1, groups=2)
    torch.testing.assert_close(conv(images), expected)
    torch.testing.assert_close(conv(images[0]), expected[0])  # without a batch


@pytest.mark.parametrize("scale", ["learnt", "fixed"])
def test_outputs_start_with_the_variance_of_an_ordinary_layer(scale):
    torch.manual_seed(0)
    x = torch.randn(200, 300)
    ours, theirs = BinaryLinear(300, 400, scale=scale)(x), nn.Linear(300, 400)(x)
    assert float(ours.detach().std()) == pytest.approx(float(theirs.detach().std()), rel=0.03)
    x = torch.randn(20, 16, 12, 12)
    ours, theirs = BinaryConv2d(16, 200, 3, scale=scale)(x), nn.Conv2d(16, 200, 3)(x)
    assert float(ours.detach().std()) == pytest.approx(float(theirs.detach().std()), rel=0.03)


def test_reset_draws_new_signs_and_puts_the_scale_back():
    for layer, _ in layers():
        before, start = layer.weight.detach().clone(), layer.scale.detach().clone()
        with torch.no_grad():
            layer.scale.mul_(3)
        layer.reset_parameters()
        check_binary(layer)
        assert not torch.equal(before, layer.weight)
        assert torch.equal(start, layer.scale)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0 + 2**-23, float("nan")])
def test_a_weight_that_is_not_a_sign_is_named(value):
    model = nn.Sequential(nn.Linear(3, 4), BinaryLinear(4, 2))
    check_binary(model)
    with torch.no_grad():
        model[1].weight[1, 2] = value
    with pytest.raises(ValueError, match=r"1\.weight must be -1 or \+1 everywhere, 1 of 8"):
        check_binary(model)


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="scale must be one of learnt, fixed, none, got 'learned'"):
        BinaryLinear(3, 2, scale="learned")


def test_copies_pickles_and_states_are_bitwise():
    for layer, x in layers():
        others = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))  # noqa: S301
        fresh = copy.deepcopy(layer)
        fresh.reset_parameters()
        fresh.load_state_dict(layer.state_dict())
        for other in (*others, fresh):
            assert torch.equal(layer(x), other(x))
    assert "scale=learnt" in repr(layers()[0][0])
