"""y = s ⊙ (W x) + b by output channel: real scales that make up for weights of one magnitude."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

Scale: TypeAlias = Literal["learnt", "fixed", "none"]
"""A parameter, a buffer that keeps its first value, or no factor at all."""


def add_scale(layer: nn.Module, kind: Scale, values: Tensor) -> None:
    """Give a layer its `scale`, one number per output channel; None for `"none"`.

    Raises:
        ValueError: for an unknown kind.
    """
    if kind not in get_args(Scale):
        raise ValueError(f"scale must be one of {', '.join(get_args(Scale))}, got {kind!r}")
    if kind == "fixed":
        layer.register_buffer("scale", values.detach().clone())
    else:
        layer.register_parameter("scale", nn.Parameter(values.detach().clone()) if kind == "learnt" else None)


def scale_kind(layer: nn.Module) -> Scale:
    """Return which kind of scale a layer has."""
    scale = layer.scale
    return "none" if scale is None else "learnt" if isinstance(scale, nn.Parameter) else "fixed"


def channel_rms(weight: Tensor) -> Tensor:
    """Return the root-mean-square of each output channel's weights (out, …)."""
    return weight.detach().flatten(1).square().mean(1).sqrt()


def affine(y: Tensor, scale: Tensor | None, bias: Tensor | None, positions: int) -> Tensor:
    """Return s ⊙ y + b.

    Args:
        y: (…, channels) and as many dimensions of positions as `positions` says.
        scale, bias: (channels,), or None.
        positions: 0 for features, 2 for images.
    """
    if scale is not None:
        y = y * (scale.view(-1, *[1] * positions) if positions else scale)
    if bias is not None:
        y = y + (bias.view(-1, *[1] * positions) if positions else bias)
    return y


@torch.no_grad()
def to_signs(weight: Tensor) -> None:
    """Set weights to +1 where they are at least 0, else to -1."""
    weight.copy_(torch.where(weight < 0, -1.0, 1.0))
