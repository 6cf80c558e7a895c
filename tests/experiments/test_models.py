"""The networks are those of their papers, take uint8 images, and can be followed by a chain."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from experiments import models
from experiments.config import build, resolved
from experiments.models import MNIST_MEAN, MNIST_STD, Normalize, Residual, binarize
from experiments.optimizers import make_optimizer
from mcmcopt import GreedyMCMC, IncrementalLoss, RandomWalk, SignFlip
from mcmcopt.sparsity import count, weights

from .conftest import ROOT, composed

FILES = sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml"))
DIGITS, MNIST, CIFAR = (1, 8, 8), (1, 28, 28), (3, 32, 32)
SHAPES = {
    "mlp": DIGITS,
    "lenet300": MNIST,
    "lenet5_caffe": MNIST,
    "cnn60k": CIFAR,
    "vgg_d": CIFAR,
    "alexnet_cifar": CIFAR,
    "resnet20": CIFAR,
}
SMALL = [name for name in SHAPES if name != "vgg_d"]


def conv(kernel, *widths):
    """Return the weights of a chain of convolutions."""
    return sum(kernel**2 * a * b for a, b in pairwise(widths))


def linear(*widths):
    return conv(1, *widths)


VGG = (3, 64, 64, 128, 128, 256, 256, 256, *(512,) * 6)
STAGES = (16,) * 7 + (32,) * 6 + (64,) * 6
"""Outputs of ResNet-20's 19 convolutions."""

COUNTS = {  # weights, biases, parameters of batch normalisation
    "mlp": (linear(64, 32, 10), 32 + 10, 0),
    "lenet300": (linear(784, 300, 100, 10), 300 + 100 + 10, 0),
    "lenet5_caffe": (conv(5, 1, 20, 50) + linear(800, 500, 10), 20 + 50 + 500 + 10, 0),
    "cnn60k": (conv(11, 3, 64) + linear(4096, 10), 64 + 10, 0),
    "vgg_d": (conv(3, *VGG) + linear(512, 512, 512, 10), sum(VGG[1:]) + 2 * 512 + 10, 2 * (sum(VGG[1:]) + 2 * 512)),
    "alexnet_cifar": (
        conv(11, 3, 64) + conv(5, 64, 192) + conv(3, 192, 384, 256, 256) + linear(256, 10),
        64 + 192 + 384 + 256 + 256 + 10,
        0,
    ),
    "resnet20": (conv(3, 3, *STAGES) + linear(64, 10), 10, 2 * sum(STAGES)),
}
PUBLISHED = {
    "lenet300": (266_200, 410, 0),
    "lenet5_caffe": (430_500, 580, 0),
    "cnn60k": (23_232 + 40_960, 74, 0),
    "vgg_d": (15_239_872, 5_258, 10_496),
    "alexnet_cifar": (2_471_104, 1_162, 0),
    "resnet20": (268_336, 10, 1_376),
}


def make(name, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(models, name)()


def images(name, n=4):
    g = torch.Generator().manual_seed(1)
    x = torch.randint(256, (n, *SHAPES[name]), dtype=torch.uint8, generator=g)
    return x / 255 if name == "mlp" else x, torch.randint(10, (n,), generator=g)


def test_every_file_is_tested():
    assert set(FILES) == set(SHAPES) == set(COUNTS)


@pytest.mark.parametrize("name", FILES)
def test_each_file_composes_and_builds_its_model(name):
    node = resolved(composed(f"model={name}"))["model"]
    assert node["_target_"] == f"experiments.models.{name}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = build(node)
    ours, own = built.state_dict(), make(name).state_dict()  # mean and std of Normalize are among them
    assert list(ours) == list(own)
    assert all(torch.equal(ours[key], own[key]) for key in own)


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
    model = make(name)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    in_norms = sum(p.numel() for m in norms for p in m.parameters())
    found = (count(model), count(model, weights_only=False) - count(model) - in_norms, in_norms)
    assert found == COUNTS[name] == PUBLISHED.get(name, COUNTS[name])


@pytest.mark.parametrize("name", SHAPES)
def test_a_model_takes_its_images_and_is_fixed_by_the_seed(name):
    model, (x, _) = make(name).eval(), images(name)
    logits = model(x)
    assert logits.shape == (4, 10)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])
    assert torch.equal(model(x.float()), logits)
    for one, other in zip(model.parameters(), make(name).parameters(), strict=True):
        assert torch.equal(one, other)
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), make(name, 1).parameters(), strict=True))


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "mlp"])
def test_images_are_normalised_first(name):
    model, (x, _) = make(name).eval(), images(name)
    normalize = model[0]
    assert isinstance(normalize, Normalize)
    assert torch.equal(model[1:](normalize(x)), model(x))
    assert torch.equal(normalize(x), (x.float() - normalize.mean) / normalize.std)
    other = getattr(models, name)(std=[1.0] * x.shape[1])
    assert torch.equal(other[0].std, torch.ones(1, x.shape[1], 1, 1))


@pytest.mark.parametrize("name", SHAPES)
def test_the_incremental_loss_is_the_plain_one_before_and_after_changes(name):
    """No operation is without a rule either: that would warn, and warnings are errors."""
    model, (x, y) = make(name).eval(), images(name, 3)
    bound = IncrementalLoss(model, nn.CrossEntropyLoss()).bind(x, y)
    for proposals in (0, 8):
        if proposals:
            chain = GreedyMCMC(
                model.named_parameters(), 0.0, n_proposals=proposals, moves=RandomWalk(), blocks="filter"
            )
            chain.step(bound)
            assert chain.info.accepted > 0
        with torch.no_grad():
            plain = cross_entropy(model(x), y, reduction="none")
            assert float(bound.evaluate().mean()) == pytest.approx(float(plain.mean()), rel=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_a_chain_on_the_plain_closure_decides_and_keeps_what_it_accepts(name):
    model, (x, y) = make(name).eval(), images(name, 2)
    before = copy.deepcopy(model.state_dict())
    chain = GreedyMCMC(model.named_parameters(), 1.0, n_proposals=3)
    loss = chain.step(lambda: cross_entropy(model(x), y, reduction="none"))
    with torch.no_grad():
        assert float(loss) == pytest.approx(float(cross_entropy(model(x), y)), rel=1e-5)
    changed = any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert changed == (chain.info.accepted > 0)


def test_cnn60k_follows_its_dtype():
    assert models.cnn60k().double()(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).dtype == torch.float64


def test_normalize_by_channel():
    x = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    normalize = Normalize([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    expected = torch.stack([(x[:, c].float() - mean) / std for c, mean, std in ((0, 1, 4), (1, 2, 5), (2, 3, 6))], 1)
    assert torch.equal(normalize(x), expected)
    assert torch.equal(normalize(x.float()), expected)
    with pytest.raises(ValueError, match="std"):
        Normalize([1.0], [0.0])


def test_mnists_mean_and_deviation():
    folder = ROOT.parent / "shared" / "data" / "MNIST" / "raw"
    file = folder / "train-images-idx3-ubyte.gz"
    if not file.exists():
        pytest.skip(f"needs {file}")
    import gzip

    import numpy as np

    pixels = np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=16)
    mean, square = pixels.mean(), (pixels.astype(np.uint16) ** 2).mean()
    assert (mean, (square - mean**2) ** 0.5) == pytest.approx((MNIST_MEAN[0], MNIST_STD[0]), abs=1e-4)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 3), (3, 6)])
def test_a_block_without_its_convolutions_is_its_shortcut(inputs, outputs):
    block = Residual(inputs, outputs).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, inputs, 6, 6)
    expected = x if inputs == outputs else torch.cat((x[:, :, ::2, ::2], torch.zeros(2, 3, 3, 3)), 1)
    assert torch.equal(block(x), expected)
    with pytest.raises(ValueError, match="outputs"):
        Residual(3, 9)


def test_a_block_is_two_normalised_convolutions_and_its_input():
    block = Residual(2, 4).eval()
    with torch.no_grad():
        for norm in (block.bn1, block.bn2):
            for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                value.uniform_(0.5, 1.5)

    def normalised(z, norm):
        columns = (value.view(1, -1, 1, 1) for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
        mean, var, scale, shift = columns
        return (z - mean) / (var + norm.eps).sqrt() * scale + shift

    x = torch.randn(3, 2, 8, 8)
    out = normalised(nn.functional.conv2d(x, block.conv1.weight, stride=2, padding=1), block.bn1).clamp(min=0)
    out = normalised(nn.functional.conv2d(out, block.conv2.weight, padding=1), block.bn2)
    out[:, :2] += x[:, :, ::2, ::2]
    torch.testing.assert_close(block(x), out.clamp(min=0))


def test_resnet_halves_the_image_twice():
    model, shapes = make("resnet20").eval(), []
    for block in (m for m in model if isinstance(m, Residual)):
        block.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    model(images("resnet20")[0])
    assert shapes == [(16, 32, 32)] * 3 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("gain", [1.0, 3.0])
def test_binary_weights_have_the_signs_and_the_magnitude_of_the_layer(dtype, gain):
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(108, 5), nn.Linear(5, 5, bias=False)
    ).to(dtype)
    with torch.no_grad():
        model[3].weight[0, :2] = torch.tensor([0.0, -0.0])
        model[4].weight.fill_(0.25)  # binary already, though of one sign
    before = copy.deepcopy(model)
    binarize(model, gain)
    for index in (0, 3):
        old, new = before[index].weight.detach().double(), model[index].weight.detach().double()
        magnitude = gain * float((old**2).mean()) ** 0.5
        tolerance = max(1e-12, torch.finfo(dtype).eps)
        assert new.unique().tolist() == pytest.approx([-magnitude, magnitude], rel=tolerance)
        assert torch.equal(new > 0, old >= 0)
    others = {key: value for key, value in model.state_dict().items() if key not in ("0.weight", "3.weight")}
    assert all(torch.equal(value, before.state_dict()[key]) for key, value in others.items())
    once = copy.deepcopy(model.state_dict())
    binarize(model, gain)
    assert all(torch.equal(value, once[key]) for key, value in model.state_dict().items())


def test_weights_that_cannot_be_binary_are_refused_before_any_changes():
    model = models.mlp()
    before = copy.deepcopy(model.state_dict())
    for bad in (0.0, float("nan"), float("inf")):
        with torch.no_grad():
            model.fc2.weight.fill_(bad)
        with pytest.raises(ValueError, match=r"fc2.weight.*not all zero"):
            binarize(model)
        assert torch.equal(model.fc1.weight, before["fc1.weight"])
    with pytest.raises(ValueError, match="no linear"):
        binarize(nn.ReLU())
    for gain in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="gain"):
            binarize(models.mlp(), gain)


@pytest.mark.parametrize("name", ["mlp", "resnet20"])
def test_the_binary_chain_flips_weights_and_moves_what_else_there_is(name):
    """conf/optimizer/mcmc_binary.yaml: two values in each layer, all other parameters walk."""
    model, (x, y) = make(name).eval(), images(name, 6)
    binarize(model)
    before = copy.deepcopy(dict(model.named_parameters()))
    node = resolved(composed("optimizer=mcmc_binary"))["optimizer"]
    chain = make_optimizer({**node, "lam": 1.0, "n_proposals": 40}, model)
    for group in chain.param_groups:
        kind = RandomWalk if all(param.ndim < 2 for param in group["params"]) else SignFlip
        assert all(type(move) is kind for move in group["moves"])
    assert {param for group in chain.param_groups for param in group["params"]} == set(model.parameters())
    objective = IncrementalLoss(model, nn.CrossEntropyLoss()).bind(x, y)
    for _ in range(2):
        chain.step(objective)
    flipped = set()
    for key, weight in weights(model).items():
        assert torch.equal(weight.abs(), before[key].abs())
        flipped.add(not torch.equal(weight, before[key]))
    assert True in flipped
    assert any(
        not torch.equal(param.abs(), before[key].abs()) for key, param in model.named_parameters() if param.ndim < 2
    )


def test_the_chain_of_the_digits_keeps_two_values_per_layer():
    model = models.mlp()
    binarize(model)
    magnitudes = {key: weight.abs().unique().tolist() for key, weight in weights(model).items()}
    biases = [param for param in model.parameters() if param.ndim == 1]
    chain = GreedyMCMC(
        [
            {"params": list(weights(model).values()), "moves": [SignFlip(k=1)]},
            {"params": biases, "moves": [RandomWalk(k=1)]},
        ],
        lam=100.0,
        n_proposals=50,
    )
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(50, 1, 8, 8, generator=g), torch.randint(10, (50,), generator=g)
    for _ in range(4):
        chain.step(lambda: cross_entropy(model(x), y, reduction="none"))
    assert chain.info.accepted > 0
    for key, weight in weights(model).items():
        (magnitude,) = magnitudes[key]
        assert weight.unique().tolist() == [-magnitude, magnitude]


def test_glorot_draws_have_the_variance_of_their_fans_and_biases_are_zero():
    torch.manual_seed(0)
    model = models.lenet5_caffe()
    models.initialise(model, "glorot")
    fans = {"conv1": (25, 500), "conv2": (500, 1250), "fc1": (800, 500), "fc2": (500, 10)}
    for name, (fan_in, fan_out) in fans.items():
        layer = getattr(model, name)
        assert not layer.bias.any()
        n = layer.weight.numel()
        assert float(layer.weight.detach().var()) == pytest.approx(2 / (fan_in + fan_out), rel=5 * (2 / n) ** 0.5)
        assert abs(float(layer.weight.detach().mean())) < 5 * (2 / (fan_in + fan_out) / n) ** 0.5


def test_torch_initialisation_is_left_as_it_is():
    model = models.vgg_d()
    before = [param.clone() for param in model.parameters()]
    models.initialise(model, "torch")
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    with pytest.raises(ValueError, match="init must be"):
        models.initialise(model, "he")
