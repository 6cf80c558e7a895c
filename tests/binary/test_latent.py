"""Latent weights: what the forward sees, what gradient they get, and where they are kept."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from mcmcopt.binary import (
    XNOR,
    BinaryConnect,
    DoReFa,
    LatentConv2d,
    LatentLinear,
    clip_latents,
    latent_layers,
    straight_through,
)

QUANTIZERS = [BinaryConnect(), XNOR(), DoReFa(1), DoReFa(2), DoReFa(4)]
EACH = pytest.mark.parametrize("quantizer", QUANTIZERS, ids=repr)


def gradient(quantizer, w, upstream):
    w = w.clone().requires_grad_()
    quantizer(w).backward(upstream)
    return w.grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_forward_is_the_step_function_bit_for_bit(dtype):
    torch.manual_seed(0)
    w = torch.randn(1000, dtype=dtype) * torch.logspace(-6, 6, 1000).to(dtype)
    q = torch.randn(1000, dtype=dtype)
    assert torch.equal(straight_through(w, q), q)
    assert torch.equal(straight_through(w, q, 1.0), q)
    for quantizer in (BinaryConnect(), XNOR()):
        assert torch.equal(quantizer(w), torch.where(w > 0, 1.0, -1.0).to(dtype))


def test_the_gradient_passes_straight_through_and_for_xnor_not_beyond_one():
    w = torch.tensor([-3.0, -1.0, -0.2, 0.2, 1.0, 1.001, 5.0])
    g = torch.arange(1.0, 8.0)
    assert torch.equal(gradient(BinaryConnect(), w, g), g)
    assert torch.equal(gradient(DoReFa(1), w, g), g)  # the mean magnitude is a constant to it: equation 8 of the paper
    assert torch.equal(gradient(XNOR(), w, g), g * torch.tensor([0.0, 1, 1, 1, 1, 0, 0]))


def test_one_bit_of_dorefa_is_the_sign_times_the_mean_magnitude_of_the_layer():
    w = torch.tensor([[0.5, -1.5], [-0.25, 0.75]])
    torch.testing.assert_close(DoReFa(1)(w), torch.tensor([[0.75, -0.75], [-0.75, 0.75]]))


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_k_bits_are_the_nearest_of_evenly_spaced_levels(bits):
    torch.manual_seed(0)
    w = torch.randn(50, 40, dtype=torch.float64)
    q = DoReFa(bits)(w)
    n = 2**bits - 1
    levels = torch.linspace(-1, 1, n + 1, dtype=w.dtype)
    assert float((q.unsqueeze(-1) - levels).abs().amin(-1).max()) < 1e-12
    assert len(q.unique(sorted=True)) <= 2**bits
    assert float(q.min()) == -1.0 or float(q.max()) == 1.0
    smooth = w.tanh() / w.tanh().abs().max()
    assert float((q - smooth).abs().max()) <= 1 / n + 1e-12
    assert bool((q.flatten()[w.flatten().argsort()].diff() >= 0).all())


def test_the_gradient_of_k_bits_is_that_of_the_formula_without_its_rounding():
    torch.manual_seed(0)
    w, g = torch.randn(30, dtype=torch.float64), torch.randn(30, dtype=torch.float64)

    def smooth(w):
        t = w.tanh()
        return t / t.abs().max()

    eps, expected = 1e-6, torch.empty_like(w)
    for i in range(len(w)):
        step = torch.zeros_like(w)
        step[i] = eps
        expected[i] = (g * (smooth(w + step) - smooth(w - step))).sum() / (2 * eps)
    torch.testing.assert_close(gradient(DoReFa(3), w, g), expected, rtol=1e-6, atol=1e-8)


@EACH
def test_gradients_of_scale_and_bias_are_those_of_finite_differences(quantizer):
    torch.manual_seed(0)
    for layer, x in (
        (LatentLinear(6, 4, quantizer=quantizer, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)),
        (LatentConv2d(2, 3, 3, quantizer=quantizer, dtype=torch.float64), torch.randn(2, 2, 5, 5, dtype=torch.float64)),
    ):
        layer(x).square().sum().backward()
        for param in (layer.scale, layer.bias):
            for i in range(len(param)):
                ends = []
                for step in (1e-6, -2e-6):
                    with torch.no_grad():
                        param[i] += step
                        ends.append(float(layer(x).square().sum()))
                with torch.no_grad():
                    param[i] += 1e-6
                assert float(param.grad[i]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


@EACH
def test_latent_weights_get_the_gradient_of_the_weights_of_the_forward(quantizer):
    torch.manual_seed(0)
    layer = LatentLinear(6, 4, quantizer=quantizer, dtype=torch.float64)
    x = torch.randn(5, 6, dtype=torch.float64)
    layer(x).square().sum().backward()
    shown = layer.quantized.detach().requires_grad_()
    (linear(x, shown) * layer.scale.detach() + layer.bias.detach()).square().sum().backward()
    expected = gradient(quantizer, layer.weight.detach(), shown.grad)
    torch.testing.assert_close(layer.weight.grad, expected)
    assert bool((expected != 0).any())


@EACH
@pytest.mark.parametrize("scale", ["learnt", "fixed"])
def test_outputs_start_with_the_variance_of_the_real_layer(quantizer, scale):
    torch.manual_seed(0)
    real = nn.Sequential(nn.Conv2d(16, 60, 3), nn.Flatten(), nn.Linear(60 * 36, 40))
    latent = latent_layers(copy.deepcopy(real), quantizer, scale)
    for i, x in ((0, torch.randn(20, 16, 8, 8)), (2, torch.randn(20, 60 * 36))):
        theirs, ours = real[i](x).detach(), latent[i](x).detach()
        assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.1)
        shown = (latent[i].quantized * latent[i].scale.view(-1, *[1] * (real[i].weight.dim() - 1))).detach()
        torch.testing.assert_close(shown.square().mean(), real[i].weight.detach().square().mean())
        same = (shown.sign() == real[i].weight.sign()).double().mean()
        assert float(same) > 0.99


def test_latent_weights_of_binary_connect_start_uniform_and_are_clipped_others_are_not():
    torch.manual_seed(0)
    layer = LatentLinear(64, 50)
    assert layer.quantizer == BinaryConnect()
    assert float(layer.weight.detach().std()) == pytest.approx(1 / math.sqrt(3), rel=1e-3)
    assert float(layer.weight.detach().abs().max()) <= 1
    for quantizer in (BinaryConnect(), XNOR(), DoReFa(1)):
        layer = LatentLinear(4, 2, quantizer=quantizer)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[-4.0, -1.0, 0.5, 3.0], [0.1, 1.5, -0.3, -1.01]]))
            before, scale = layer.weight.clone(), layer.scale.clone()
        clip_latents(nn.Sequential(nn.Linear(2, 2), layer))
        expected = before.clamp(-1, 1) if quantizer == BinaryConnect() else before
        assert torch.equal(layer.weight, expected)
        assert torch.equal(layer.scale, scale)


def test_a_clipped_weight_turns_back_after_as_many_steps_as_its_way_to_zero():
    """Without clipping one that was pushed far beyond 1 would have to come all the way back first."""
    layer = LatentLinear(1, 1, bias=False, scale="none")
    with torch.no_grad():
        layer.weight.fill_(0.5)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.3)
    optimizer.register_step_post_hook(lambda *_: clip_latents(layer))
    shown = []
    for direction in [-1.0] * 20 + [1.0] * 4:
        optimizer.zero_grad()
        (direction * layer(torch.ones(1, 1))).sum().backward()
        optimizer.step()
        shown.append(float(layer.quantized.detach()))
    assert shown == [1.0] * 23 + [-1.0]


@EACH
def test_training_lowers_the_loss_and_the_forward_has_as_many_values_as_bits_allow(quantizer):
    torch.manual_seed(0)
    x = torch.randn(200, 10)
    y = (x @ torch.randn(10, 3)).argmax(1)
    model = latent_layers(nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 3)), quantizer)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    optimizer.register_step_post_hook(lambda *_: clip_latents(model))
    first = None
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        first = float(loss.detach()) if first is None else first
    assert float(loss.detach()) < 0.5 * first
    for layer in (model[0], model[2]):
        assert len(layer.quantized.unique()) <= 2 ** getattr(quantizer, "bits", 1)


@pytest.mark.parametrize("bits", [0, 17, 1.5, True])
def test_impossible_bits_are_refused(bits):
    with pytest.raises(ValueError, match="bits must be an integer from 1 to 16"):
        DoReFa(bits)


@EACH
def test_copies_and_pickles_compute_the_same_and_the_repr_names_the_quantizer(quantizer):
    layer = LatentConv2d(2, 3, 3, quantizer=quantizer)
    x = torch.randn(2, 2, 6, 6)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):  # noqa: S301
        assert torch.equal(layer(x), other(x))
    assert f"quantizer={quantizer}, scale=learnt" in repr(layer)


def test_a_weight_pruned_to_zero_counts_as_zero_in_the_forward():
    for quantizer in (BinaryConnect(), XNOR(), DoReFa(1)):
        layer = LatentLinear(4, 2, quantizer=quantizer)
        with torch.no_grad():
            layer.weight[0, 1] = 0.0
        assert int((layer.quantized == 0).sum()) == 1
