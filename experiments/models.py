"""Models by name; each builds with no argument.  They take images (n, channels, height, width)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

CIFAR10_MEAN = (125.3, 123.0, 113.9)
CIFAR10_STD = (63.0, 62.1, 66.7)
"""Of the channels of CIFAR-10's training images, in units of 0..255."""


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


def lenet5_caffe() -> nn.Sequential:
    """Return Caffe's LeNet-5 for 1x28x28 images: 430,500 weights; the only ReLU is the one after fc1."""
    return nn.Sequential(
        OrderedDict(
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


def vgg_d() -> nn.Sequential:
    """Return VGG-D for 3x32x32 images, batch normalisation after all layers but the last: 15,239,872 weights."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
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
