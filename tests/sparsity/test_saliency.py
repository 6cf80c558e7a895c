"""Saliencies against finite differences of the test's own forward pass, weight by weight, in float64."""

import copy
import math
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, cross_entropy, max_pool2d

from experiments.models import Normalize
from mcmcopt.sparsity import (
    OBD,
    SNIP,
    GraSP,
    Random,
    Skeletonization,
    SynFlow,
    apply_masks,
    keep_masks,
    prune,
    weights,
)

SIZES = (5, 2)
"""Of two batches: a mean over batches is not one over samples."""


def tiny():
    torch.manual_seed(3)
    layers = OrderedDict(
        conv=nn.Conv2d(2, 3, 3),
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(12, 5),
        relu1=nn.ReLU(),
        fc2=nn.Linear(5, 3),
    )
    return nn.Sequential(layers).double()


def data(shape=(2, 6, 6), classes=3):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(n, *shape, generator=generator, dtype=torch.float64),
            torch.randint(classes, (n,), generator=generator),
        )
        for n in SIZES
    ]


def values(model):
    return {name: w.detach().clone() for name, w in weights(model).items()}


def ones(like):
    return {name: torch.ones_like(w) for name, w in like.items()}


def outputs(model, w, x, gates=None):
    """Return what `tiny` computes with weights w, and a gate on each unit that enters a layer."""
    gates = {n: torch.ones(v.shape[1], dtype=v.dtype) for n, v in w.items()} if gates is None else gates
    z = conv2d(x * gates["conv.weight"].view(1, -1, 1, 1), w["conv.weight"], model.conv.bias.detach())
    z = max_pool2d(z.clamp(min=0), 2).flatten(1) * gates["fc1.weight"]
    z = (z @ w["fc1.weight"].T + model.fc1.bias.detach()).clamp(min=0) * gates["fc2.weight"]
    return z @ w["fc2.weight"].T + model.fc2.bias.detach()


def mean_loss(model, w, gates=None, temperature=1.0):
    """Return the mean cross-entropy over all samples together."""
    x, y = (torch.cat(part) for part in zip(*data(), strict=True))
    return cross_entropy(outputs(model, w, x, gates) / temperature, y)


def differences(f, at, eps=1e-5):
    """Return central differences of f, a function of named tensors, in each of their entries."""
    out = {name: torch.zeros_like(tensor) for name, tensor in at.items()}
    for name, tensor in at.items():
        for j in range(tensor.numel()):
            sides = []
            for step in (eps, -eps):
                moved = tensor.clone()
                moved.view(-1)[j] += step
                sides.append(float(f({**at, name: moved})))
            out[name].view(-1)[j] = (sides[0] - sides[1]) / (2 * eps)
    return out


def spearman(one, two):
    """Return the correlation of ranks; ties, to nine decimals, share theirs."""

    def ranks(v):
        v = v.round(decimals=9)
        return (v.unsqueeze(1) > v).double().sum(1) + (v.unsqueeze(1) == v).double().sum(1) / 2

    return float(torch.corrcoef(torch.stack([ranks(one), ranks(two)]))[0, 1])


def agree(scores, reference, tolerance=1e-8):
    assert list(scores) == list(reference)
    assert all(scores[n].shape == reference[n].shape for n in scores)
    one, two = (torch.cat([tensor.flatten() for tensor in d.values()]) for d in (scores, reference))
    scale = two.abs().max()
    assert spearman(one / scale, two / scale) > 0.99
    torch.testing.assert_close(one / scale, two / scale, atol=tolerance, rtol=0)


def test_the_reference_forward_is_the_model():
    model = tiny()
    for x, _ in data():
        torch.testing.assert_close(outputs(model, values(model), x), model(x).detach())


def test_snip_is_what_the_loss_feels_of_a_switch():
    model = tiny()
    w = values(model)
    reference = differences(lambda c: mean_loss(model, {n: c[n] * w[n] for n in w}), ones(w))
    agree(SNIP()(model, cross_entropy, data()), {n: d.abs() for n, d in reference.items()})


def test_snip_by_the_literal_one_sided_difference():
    model, eps = tiny(), 1e-6
    w = values(model)
    whole = mean_loss(model, w)
    literal = {}
    for name in w:
        literal[name] = torch.zeros_like(w[name])
        for j in range(w[name].numel()):
            c = ones(w)
            c[name].view(-1)[j] -= eps
            literal[name].view(-1)[j] = (whole - mean_loss(model, {n: c[n] * w[n] for n in w})).abs() / eps
    agree(SNIP()(model, cross_entropy, data()), literal, 1e-5)


def test_force_scores_weights_that_are_off_as_well():
    model = tiny()
    w = values(model)
    c = {n: m.double() for n, m in Random(4)(model).items()}
    c = {n: (m > 0.6).double() for n, m in c.items()}
    reference = differences(lambda c: mean_loss(model, {n: c[n] * w[n] for n in w}), c)
    scores = SNIP()(model, cross_entropy, data(), {n: m.bool() for n, m in c.items()})
    agree(scores, {n: d.abs() for n, d in reference.items()})
    assert any((scores[n][c[n] == 0] > 0).any() for n in w)


@pytest.mark.parametrize("temperature", [1.0, 200.0])
def test_grasp_is_the_gradient_flow_that_scaling_a_weight_down_takes(temperature):
    model = tiny()
    w = values(model)

    def flow(scales):
        own = {n: (scales[n] * w[n]).requires_grad_() for n in w}
        gradient = torch.autograd.grad(mean_loss(model, own, temperature=temperature), list(own.values()))
        return sum(g.square().sum() for g in gradient)

    reference = differences(flow, ones(w))  # of gᵀg, by scale: 2 w (H g)
    scores = GraSP(temperature)(model, cross_entropy, data())
    agree(scores, {n: d / 2 for n, d in reference.items()}, 1e-6)


def test_grasp_has_the_authors_temperature_and_takes_first_what_raises_the_flow():
    assert GraSP().temperature == 200
    model = tiny()
    w = values(model)

    def flow(own):
        own = {n: v.clone().requires_grad_() for n, v in own.items()}
        gradient = torch.autograd.grad(mean_loss(model, own), list(own.values()))
        return float(sum(g.square().sum() for g in gradient))

    keep = prune(model, GraSP(1.0), 0.05, cross_entropy, data(), scope="global")
    down = {n: torch.where(keep[n], v, 0.99 * v) for n, v in w.items()}
    assert flow(down) > flow(w)


def linearised(model, a, shape):
    """Return R by a loop over layers: ones in, absolute weights, no additive terms."""
    z = torch.ones(1, *shape, dtype=torch.float64)
    for name, layer in model.named_children():
        if isinstance(layer, nn.Conv2d):
            z = conv2d(z, a[f"{name}.weight"], stride=layer.stride, padding=layer.padding)
        elif isinstance(layer, nn.Linear):
            z = z @ a[f"{name}.weight"].T
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            factor = layer.weight.detach().double().abs() / (layer.running_var.double() + layer.eps).sqrt()
            z = z * factor.view(1, -1, *[1] * (z.dim() - 2))
        elif isinstance(layer, nn.MaxPool2d):
            z = max_pool2d(z, layer.kernel_size)
        elif isinstance(layer, nn.Flatten):
            z = z.flatten(1)
        else:
            assert isinstance(layer, nn.ReLU | Normalize)
    return z.sum()


def normalised():
    """Return a network as the experiments have them: images in 0..255 come in, batch normalisation in between."""
    torch.manual_seed(5)
    layers = OrderedDict(
        normalize=Normalize((120.0, 90.0), (60.0, 70.0)),
        conv=nn.Conv2d(2, 3, 3, padding=1),
        bn=nn.BatchNorm2d(3),
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(12, 5),
        bn1=nn.BatchNorm1d(5),
        relu1=nn.ReLU(),
        fc2=nn.Linear(5, 3),
    )
    model = nn.Sequential(layers)
    for norm in (model.bn, model.bn1):
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(tensor)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return model


def images():
    generator = torch.Generator().manual_seed(2)
    return [
        (
            torch.randint(256, (n, 2, 4, 4), generator=generator, dtype=torch.uint8),
            torch.randint(3, (n,), generator=generator),
        )
        for n in SIZES
    ]


@pytest.mark.parametrize(("make", "batches"), [(tiny, data), (normalised, images)])
@pytest.mark.parametrize("masked", [False, True])
def test_synflow_is_the_flow_through_a_weight_and_conserved(make, batches, masked):
    model = make()
    keep = keep_masks(Random(1)(model), 0.4) if masked else None
    shape = batches()[0][0].shape[1:]
    a = {n: w.double().abs() for n, w in values(model).items()}
    on = ones(a) if keep is None else {n: m.double() for n, m in keep.items()}
    at = {n: on[n] * a[n] for n in a}
    slope = differences(lambda own: linearised(model, own, shape), at)
    scores = SynFlow()(model, None, batches(), keep)
    agree(scores, {n: a[n] * slope[n] for n in a}, 1e-7)
    total = float(linearised(model, at, shape))
    for name, score in scores.items():
        assert score.dtype == torch.float64
        assert float((score * on[name]).sum()) == pytest.approx(total, rel=1e-12), name


@pytest.mark.parametrize(("make", "batches"), [(tiny, data), (normalised, images)])
def test_synflow_sees_shapes_and_no_data(make, batches):
    model = make()
    (x, y), _ = batches()
    one, two = SynFlow()(model, None, [(x, y)]), SynFlow()(model, None, [(torch.zeros_like(x[:3]), y[:3])])
    assert all(torch.equal(one[n], two[n]) for n in one)


def test_synflow_sees_no_data_where_two_layers_look_at_it():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.left(x) + self.right(x)

    torch.manual_seed(0)
    model, x = Branches(), torch.randn(2, 4)
    for scores in (SynFlow()(model, None, [(sign * x, x)]) for sign in (1, -2)):
        for name, score in scores.items():  # with ones at the input each path is one weight
            torch.testing.assert_close(score, weights(model)[name].detach().double().abs())


def test_synflow_in_rounds_avoids_the_collapse_of_a_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 4))
    batches = [(torch.zeros(1, 8), torch.zeros(1))]

    def share(rounds):
        keep = prune(model, SynFlow(), 0.97, None, batches, scope="global", rounds=rounds)
        a = {n: w.double().abs() * keep[n] for n, w in values(model).items()}
        return min(int(m.sum()) for m in keep.values()), float(linearised(model, a, (8,)))

    assert share(1) == (0, 0.0)
    least, flow = share(100)
    assert least > 0
    assert flow > 0


@pytest.mark.parametrize("masked", [False, True])
def test_skeletonization_is_minus_the_slope_by_a_gate_on_each_unit(masked):
    model = tiny()
    keep = keep_masks(Random(1)(model), 0.3) if masked else None
    w = values(model) if keep is None else {n: v * keep[n] for n, v in values(model).items()}
    gates = {n: torch.ones(v.shape[1], dtype=torch.float64) for n, v in w.items()}
    slopes = differences(lambda gates: mean_loss(model, w, gates), gates)
    expected = {n: -s.view(1, -1, *[1] * (w[n].dim() - 2)).expand(w[n].shape) for n, s in slopes.items()}
    agree(Skeletonization(inputs=True)(model, cross_entropy, data(), keep), expected)
    scores = Skeletonization()(model, cross_entropy, data(), keep)
    assert (scores.pop("conv.weight") == math.inf).all()
    expected.pop("conv.weight")
    agree(scores, expected)


def test_skeletonization_removes_first_what_the_network_is_better_without():
    model = tiny()
    keep = prune(model, Skeletonization(), 3 / 19, cross_entropy, data(), scope="global-unit")
    assert keep["conv.weight"].all()
    gone = {n: (~m.flatten(2).any(2)).all(0) if m.dim() == 4 else ~m.any(0) for n, m in keep.items()}
    assert sum(int(g.sum()) for g in gone.values()) == 3
    gates = {n: 1 - 0.01 * g.double() for n, g in gone.items()}
    assert mean_loss(model, values(model), gates) < mean_loss(model, values(model))


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(4, 4, 1, groups=2), nn.ConvTranspose2d(4, 3, 2)], ids=["grouped", "transposed"]
)
def test_units_of_other_convolutions(layer):
    """In these, dimension 1 of the weight is not the input's channel: scores belong to the true one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), copy.deepcopy(layer), nn.Flatten(), nn.LazyLinear(3)).double()
    model(data()[0][0])
    gates = torch.ones(4, dtype=torch.float64, requires_grad=True)
    x, y = (torch.cat(part) for part in zip(*data(), strict=True))
    loss = cross_entropy(model[4](model[2](model[1](model[0](x)) * gates.view(1, -1, 1, 1)).flatten(1)), y)
    relevance = -torch.autograd.grad(loss, gates)[0]
    score = Skeletonization()(model, cross_entropy, data())["2.weight"]
    if isinstance(layer, nn.ConvTranspose2d):  # (in, out, …)
        expected = relevance.view(4, 1, 1, 1).expand(score.shape)
    else:  # (out, in / groups, …)
        expected = torch.stack([relevance[:2], relevance[:2], relevance[2:], relevance[2:]]).view(score.shape)
    torch.testing.assert_close(score, expected)


@pytest.mark.parametrize("training", [False, True])
def test_the_mode_of_the_model_counts(training):
    model = normalised().train(training)
    twin = copy.deepcopy(model)
    n = sum(SIZES)
    sum(cross_entropy(twin(x), y) * len(y) / n for x, y in images()).backward()
    expected = {name: (w.detach() * w.grad).abs() for name, w in weights(twin).items()}
    for name, score in SNIP()(model, cross_entropy, images()).items():
        torch.testing.assert_close(score, expected[name])


def test_a_weight_that_an_embedding_shares_is_scored():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 3, bias=False))
    model[1].weight = model[0].weight
    y = torch.tensor([0, 2, 1, 2])
    (gradient,) = torch.autograd.grad(cross_entropy(model(y), 2 - y), [model[0].weight])
    scores = SNIP()(model, cross_entropy, [(y, 2 - y)])
    torch.testing.assert_close(scores, {"1.weight": (gradient * model[0].weight).detach().abs()})


def test_scores_at_masks_are_those_of_the_network_with_the_masks_applied():
    model = tiny()
    keep = keep_masks(Random(2)(model), 0.5)
    masked = copy.deepcopy(model)
    apply_masks(masked, keep)
    for criterion in (SNIP(), GraSP(1.0), SynFlow(), Skeletonization(), OBD()):
        one, two = criterion(model, cross_entropy, data(), keep), criterion(masked, cross_entropy, data())
        for name, mask in keep.items():
            torch.testing.assert_close(one[name][mask], two[name][mask])
