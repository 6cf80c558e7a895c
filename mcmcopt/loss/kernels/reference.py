"""What the kernels compute, in plain torch on arrays (samples, rows): the tests' reference, and what CUDA runs.

conv_rows      out[o] = base[o] + bias[o] + Σ_{c, y, x} w[o, c, y, x] · pad(source[c] - old[c])[· stride + · dilation]
linear_rows    out[o] = base[o] + bias[o] + Σ_j w[o, j] · (source[j] - old[j])
cross_entropy  Σ_i (log Σ_c exp z_ic - z_{i, y_i}), in float64
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Geometry(NamedTuple):
    """Sizes of a two-dimensional convolution, each (y, x)."""

    size: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


def linear_rows(
    source: Tensor,
    rows: Tensor,
    weight: Tensor,
    *,
    old: Tensor | None = None,
    base: Tensor | None = None,
    base_rows: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Return the output rows (samples, o) of a linear map of some rows.

    Args:
        source: (samples, features), of which `rows` are taken; with `old` it holds those rows alone.
        rows: int64 (j,).
        weight: (o, j).
        old: (samples, features), whose `rows` are subtracted.
        base: (samples, outputs), whose `base_rows` are added.
        base_rows: int64 (o,), None for all in order.
        bias: (o,).
    """
    x = source.index_select(1, rows) if old is None else source - old.index_select(1, rows)
    return _finish(x @ weight.t(), base, base_rows, bias)


def conv_rows(
    source: Tensor,
    channels: Tensor,
    weight: Tensor,
    geometry: Geometry,
    *,
    old: Tensor | None = None,
    base: Tensor | None = None,
    base_rows: Tensor | None = None,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """Return the output channels (samples, o · height · width) of a convolution of some channels.

    Args:
        source: (samples, features), of which `channels` are taken; with `old` it holds those channels alone.
        channels: int64 (c,).
        weight: (o, c, kh, kw).
        geometry: of the convolution.
        old: (samples, features), whose `channels` are subtracted.
        base, base_rows, bias: as in `linear_rows`, by channels.
        scale, shift: (c,), for a source of integer codes.
    """
    n, (h, w), c = len(source), geometry.size, len(channels)
    if c == 0:  # a bias alone
        y = source.new_zeros((n, len(weight) * math.prod(geometry.out)), dtype=weight.dtype)
        return _finish_channels(y, geometry, base, base_rows, bias)
    x = source.view(n, -1, h, w)
    x = x.index_select(1, channels) if old is None else x - old.view(n, -1, h, w).index_select(1, channels)
    if scale is not None and shift is not None:
        x = x.to(weight.dtype) * scale.view(1, c, 1, 1) + shift.view(1, c, 1, 1)
    y = functional.conv2d(x, weight, None, geometry.stride, geometry.padding, geometry.dilation)
    return _finish_channels(y.reshape(n, -1), geometry, base, base_rows, bias)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each sample's cross-entropy in float64; logits (samples, classes), labels int64 (samples,)."""
    return functional.cross_entropy(logits.double(), labels, reduction="none")


def expand(ids: Tensor, size: int) -> Tensor:
    """Return the features of some channels of `size` features each."""
    if size == 1:
        return ids
    return (ids.unsqueeze(1) * size + torch.arange(size, device=ids.device)).view(-1)


def distinct(ids: Tensor) -> Tensor:
    """Return the different numbers among some, ascending."""
    result: Tensor = ids.unique()  # type: ignore[no-untyped-call]
    return result


def _finish_channels(
    y: Tensor, geometry: Geometry, base: Tensor | None, base_rows: Tensor | None, bias: Tensor | None
) -> Tensor:
    per = math.prod(geometry.out)
    rows = None if base_rows is None else expand(base_rows, per)
    return _finish(y, base, rows, None if bias is None else bias.repeat_interleave(per))


def _finish(y: Tensor, base: Tensor | None, base_rows: Tensor | None, bias: Tensor | None) -> Tensor:
    if base is not None:
        y += base if base_rows is None else base.index_select(1, base_rows)
    if bias is not None:
        y += bias
    return y
