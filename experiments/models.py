"""Models by name; each builds with no argument.  They take images (n, channels, height, width)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from mcmcopt.sparsity import weights

CIFAR10_MEAN = (125.3, 123.0, 113.9)
CIFAR10_STD = (63.0, 62.1, 66.7)
"""Of the channels of CIFAR-10's training images, in units of 0..255."""

MNIST_MEAN = (33.3184,)
MNIST_STD = (78.5675,)
"""Of all pixels of MNIST's training images, in units of 0..255."""


class Normalize(nn.Module):
    """(x - mean) / std by channel, for uint8 and floating images; the result has the buffers' dtype or a wider one.

    Args:
        mean, std: one number per channel, in the units of the images.

    Raises:
        ValueError: if their lengths differ or a standard deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ValueError(f"mean and std must have one number per channel, std positive, got {mean} and {std}")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.get_default_dtype()).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.get_default_dtype()).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def mlp(sizes: Sequence[int] = (64, 32, 10)) -> nn.Sequential:
    """Return a ReLU network of linear layers, input to output; its layers are named fc1, fc2, …

    Raises:
        ValueError: for fewer than two sizes or a size below 1.
    """
    if len(sizes) < 2 or any(size < 1 for size in sizes):
        raise ValueError(f"sizes must be at least two positive integers such as (64, 32, 10), got {tuple(sizes)}")
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        layers[f"fc{i}"] = nn.Linear(inputs, outputs)
        if i < len(sizes) - 1:
            layers[f"relu{i}"] = nn.ReLU()
    return nn.Sequential(layers)


def cnn60k(mean: Sequence[float] = CIFAR10_MEAN, std: Sequence[float] = CIFAR10_STD) -> nn.Sequential:
    """Return the network of the pruning-resistance figure for 3x32x32 images in 0..255: 64,266 parameters.

    One convolution of 64 filters 11x11 with stride 3, ReLU, one linear layer 4096 → 10.
    """
    return nn.Sequential(
        OrderedDict(
            normalize=Normalize(mean, std),
            conv1=nn.Conv2d(3, 64, 11, stride=3),
            relu1=nn.ReLU(),
            flatten=nn.Flatten(),
            fc=nn.Linear(64 * 8 * 8, 10),
        )
    )


def lenet300(mean: Sequence[float] = MNIST_MEAN, std: Sequence[float] = MNIST_STD) -> nn.Sequential:
    """Return LeNet-300-100 (LeCun et al., 1998) with ReLU for 1x28x28 images in 0..255: 266,200 weights, 410 biases."""
    return nn.Sequential(OrderedDict(normalize=Normalize(mean, std), **dict(mlp((784, 300, 100, 10)).named_children())))


def lenet5_caffe(mean: Sequence[float] = MNIST_MEAN, std: Sequence[float] = MNIST_STD) -> nn.Sequential:
    """Return Caffe's LeNet-5 for 1x28x28 images in 0..255: 430,500 weights, 580 biases.

    The only ReLU is the one after fc1.
    """
    return nn.Sequential(
        OrderedDict(
            normalize=Normalize(mean, std),
            conv1=nn.Conv2d(1, 20, 5),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(50 * 4 * 4, 500),
            relu1=nn.ReLU(),
            fc2=nn.Linear(500, 10),
        )
    )


def vgg_d(mean: Sequence[float] = CIFAR10_MEAN, std: Sequence[float] = CIFAR10_STD) -> nn.Sequential:
    """Return VGG-D (Simonyan and Zisserman, 2015) for 3x32x32 images in 0..255: 15,239,872 weights, 5,258 biases.

    Batch normalisation, of 10,496 parameters, after all layers but the last.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(normalize=Normalize(mean, std))
    inputs, number = 3, 0
    for block, widths in enumerate(((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3), start=1):
        for width in widths:
            number += 1
            layers[f"conv{number}"] = nn.Conv2d(inputs, width, 3, padding=1)
            layers[f"bn{number}"] = nn.BatchNorm2d(width)
            layers[f"relu{number}"] = nn.ReLU()
            inputs = width
        layers[f"pool{block}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    for i in (1, 2):
        layers[f"fc{i}"] = nn.Linear(512, 512)
        layers[f"bn_fc{i}"] = nn.BatchNorm1d(512)
        layers[f"relu_fc{i}"] = nn.ReLU()
    layers["fc3"] = nn.Linear(512, 10)
    return nn.Sequential(layers)


def alexnet_cifar(mean: Sequence[float] = CIFAR10_MEAN, std: Sequence[float] = CIFAR10_STD) -> nn.Sequential:
    """Return AlexNet for 3x32x32 images in 0..255: 2,471,104 weights, 1,162 biases.

    The five convolutions of torchvision's AlexNet (Krizhevsky, 2014), of which the first has padding 5 and the poolings
    are 2x2, so that 32x32 pixels come down to 1x1; one linear layer 256 → 10 in the place of the three.  No batch
    normalisation, no dropout.  The form that Wei Yang published (bearpaw/pytorch-classification, 2017).
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(normalize=Normalize(mean, std))
    inputs = 3
    for number, (width, kernel, stride, padding) in enumerate(
        ((64, 11, 4, 5), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1)), start=1
    ):
        layers[f"conv{number}"] = nn.Conv2d(inputs, width, kernel, stride, padding)
        layers[f"relu{number}"] = nn.ReLU()
        if number in (1, 2, 5):
            layers[f"pool{number}"] = nn.MaxPool2d(2)
        inputs = width
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(inputs, 10)
    return nn.Sequential(layers)


class Residual(nn.Module):
    """Two convolutions 3x3 with batch normalisation, and a shortcut without parameters around them.

    The shortcut is "option A" of He et al. (2016): where the width doubles and the image halves, it takes every other
    pixel and adds channels of zeros.

    Args:
        inputs, outputs: channels; the stride is 2 where they differ.

    Raises:
        ValueError: unless `outputs` is `inputs` or twice as many.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        if outputs not in (inputs, 2 * inputs):
            raise ValueError(f"outputs must be inputs or twice as many, got {inputs} inputs and {outputs} outputs")
        stride = outputs // inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.widens = outputs > inputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        if self.widens:
            # operations that IncrementalLoss follows channel by channel: it has no rule for slices, zeros_like and pad
            x = max_pool2d(x, 1, stride=2)
            x = torch.cat((x, 0 * x), 1)
        return relu(out + x)


def resnet20(mean: Sequence[float] = CIFAR10_MEAN, std: Sequence[float] = CIFAR10_STD) -> nn.Sequential:
    """Return ResNet-20 for 3x32x32 images in 0..255: 268,336 weights, 10 biases, 1,376 of batch normalisation.

    He et al. (2016), section 4.2: three stages of three blocks, 16, 32 and 64 wide, shortcuts without parameters
    ("option A").
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        normalize=Normalize(mean, std),
        conv1=nn.Conv2d(3, 16, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(16),
        relu1=nn.ReLU(),
    )
    for number, (inputs, outputs) in enumerate(pairwise((16,) * 4 + (32,) * 3 + (64,) * 3), start=1):
        layers[f"block{number}"] = Residual(inputs, outputs)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(64, 10)
    return nn.Sequential(layers)


@torch.no_grad()
def initialise(model: nn.Module, init: str) -> None:
    """Draw the weights of linear and convolutional layers anew, from torch's global generator.

    Args:
        model: is changed in place.
        init: `"torch"` leaves everything as it is; `"glorot"` draws weights from N(0, 2/(fan in + fan out)) and sets
            those layers' biases to 0 (Glorot and Bengio 2010), as networks pruned before training need it: torch's own
            weights have a third of the variance that keeps activations alike from layer to layer.

    Raises:
        ValueError: for another name.
    """
    if init not in ("torch", "glorot"):
        raise ValueError(f'init must be "torch" or "glorot", got {init!r}')
    if init == "glorot":
        drawn = {id(weight) for weight in weights(model).values()}
        for module in model.modules():
            if id(getattr(module, "weight", None)) in drawn:
                drawn.discard(id(module.weight))
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


@torch.no_grad()
def binarize(model: nn.Module, gain: float = 1.0) -> None:
    """Give each weight of linear and convolutional layers its sign times one magnitude per layer; 0 gets a plus.

    Biases and normalisation layers stay as they are, and so does, bit for bit, a layer whose weights all have one
    magnitude already.  A chain whose only move on these weights is `SignFlip` keeps them binary.

    Args:
        model: is changed in place.
        gain: the magnitude, as a multiple of the layer's root-mean-square.  It bounds the logits, and so how low a
            loss flips can reach.

    Raises:
        ValueError: before anything is changed, if the gain is not positive, the model has no such layer, or one's
            weights are all zero or not all finite.
    """
    if not 0 < gain < float("inf"):
        raise ValueError(f"gain must be positive and finite, got {gain}")
    found = weights(model)
    if not found:
        raise ValueError("the model has no linear or convolutional layer whose weights could be binary")
    magnitudes = {name: weight.double().square().mean().sqrt() for name, weight in found.items()}
    for name, magnitude in magnitudes.items():
        if not (magnitude.isfinite() and magnitude > 0):
            raise ValueError(
                f"the root-mean-square of {name} is {float(magnitude)}: its weights must be finite and not all zero"
            )
    for name, weight in found.items():
        low, high = weight.abs().aminmax()
        if low < high:
            magnitude = (gain * magnitudes[name]).to(weight.dtype)
            weight.copy_(torch.where(weight < 0, -magnitude, magnitude))
