"""Models by name; each builds with no argument.  They take images (n, channels, height, width)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn


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
