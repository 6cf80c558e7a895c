"""What a proposal must move and multiply, computed from the shapes of a sequential network, per sample.

Every operation that the change reaches counts each operand read once and each result written once, in float32 (in one
byte where the input is kept as uint8); nothing is counted for zeroing, copying, or fetching a line to write into it.

    operation                multiply-adds             read                                    written
    a whole row or filter    fan-in · positions        the layer's input                       positions
    k scattered weights      k · positions             inputs they touch, rows' old outputs    the rows' outputs
    activation, norm, pool   0 (norm: 1 per entry)     what changed                            the same
    k of m inputs changed    k/m of the whole map      k new, k old, all old outputs           all outputs
      (k > m/2)              the whole map             all inputs                              all outputs
    loss                                               the logits and a label of 8 bytes

So a filter of the reference CNN (64 filters 11x11, fc 4096→10) costs, per sample,
    FMA = 64·363 + 64·10,   bytes = 3072·1 + 4·(64 written, 64 + 64 through ReLU, 64 + 64 + 10 + 10 in fc, 10) + 8.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

FLOAT, LABEL = 4, 8


class Work(NamedTuple):
    """Multiply-adds and bytes."""

    fma: float
    bytes: float

    def times(self, n: int) -> Work:
        return Work(self.fma * n, self.bytes * n)


class Site(NamedTuple):
    """A layer of a sequential network, with the shapes of one sample."""

    name: str
    module: nn.Module
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_bytes: int


@torch.no_grad()
def sites(model: nn.Sequential, x: Tensor) -> list[Site]:
    """Return the layers; `x` is any batch."""
    found, value = [], x[:1]
    codes = x.dtype is torch.uint8
    for name, module in model.named_children():
        out = module(value)
        size = 1 if codes and isinstance(module, nn.Conv2d) else FLOAT
        found.append(Site(name, module, tuple(value.shape[1:]), tuple(out.shape[1:]), size))
        codes = codes and not isinstance(module, nn.Conv2d)
        value = out
    return found


def dense(layers: list[Site]) -> float:
    """Return the multiply-adds of a forward."""
    return sum(_map(site) for site in layers)


def proposal(layers: list[Site], layer: str, entries: int | None = None) -> Work:
    """Return what one proposal takes: a whole row or filter of a layer, or `entries` of its weights drawn anywhere."""
    at = next(i for i, site in enumerate(layers) if site.name == layer)
    fma, moved, changed = _own(layers[at], entries)
    for site in layers[at + 1 :]:
        step, changed = _below(site, changed)
        fma, moved = fma + step.fma, moved + step.bytes
    logits = math.prod(layers[-1].outputs)
    if changed < logits:  # the unchanged logits are copied beside the new ones
        moved += FLOAT * (logits + changed + logits)
    return Work(fma, moved + FLOAT * logits + LABEL)


def _map(site: Site) -> float:
    if isinstance(site.module, nn.Conv2d):
        return site.module.weight.numel() * math.prod(site.outputs[1:])
    return site.module.weight.numel() if isinstance(site.module, nn.Linear) else 0.0


def _own(site: Site, entries: int | None) -> tuple[float, float, int]:
    """Return multiply-adds, bytes and the number of features changed."""
    weight = site.module.weight
    rows, positions = len(weight), math.prod(site.outputs[1:])
    columns = weight.numel() // rows
    if entries is None:
        changed = positions
        return columns * positions, site.input_bytes * math.prod(site.inputs) + FLOAT * changed, changed
    share = min(1.0, entries / weight.numel())
    touched_rows = max(1, round(rows * (1 - (1 - share) ** columns)))
    touched_columns = columns * (1 - (1 - share) ** rows)
    changed = touched_rows * positions
    # of a convolution every weight reads its whole channel; all channels count
    read = touched_columns if isinstance(site.module, nn.Linear) else math.prod(site.inputs)
    return entries * positions, site.input_bytes * read + 2 * FLOAT * changed, changed


def _below(site: Site, changed: int) -> tuple[Work, int]:
    """Return the cost of one layer, of whose input `changed` features are new, and how many of its outputs are then."""
    module, before, after = site.module, math.prod(site.inputs), math.prod(site.outputs)
    if isinstance(module, nn.Flatten):
        return Work(0, 0), changed
    if isinstance(module, nn.Linear | nn.Conv2d):
        share = changed / before
        if share <= 0.5:
            return Work(share * _map(site), FLOAT * (2 * changed + 2 * after)), after
        return Work(_map(site), FLOAT * (before + after)), after
    out = changed * after // before
    norm = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    return Work(out if norm else 0, FLOAT * (changed + out)), out
