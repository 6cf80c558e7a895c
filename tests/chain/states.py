"""Layers in chosen states, and what an accepted proposal does to them, written independently of the package."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from hypothesis import strategies as st

from mcmcopt.chain.blocks import Tiling
from mcmcopt.chain.inclusion import Bernoulli
from mcmcopt.chain.layer import Edit, Kind, Layer
from mcmcopt.chain.slabs import Gaussian
from mcmcopt.chain.support import Support

TILINGS = [((3, 4), "scalar"), ((3, 4), "row"), ((5, 7), (2, 3)), ((3, 2, 2, 1), "filter"), ((1, 1), "scalar")]


def make_layer(
    shape: Sequence[int] = (3, 4),
    blocks="scalar",
    active: Iterable[int] | None = None,
    *,
    dense: bool = False,
    dtype: torch.dtype = torch.float64,
    slab=None,
    inclusion=None,
    seed: int = 0,
    name: str = "layer",
) -> Layer:
    """Return a layer with random weights on the given active blocks (all by default) and zeros elsewhere."""
    rng = np.random.default_rng(seed)
    tiling = Tiling(shape, blocks)
    param = torch.from_numpy(rng.standard_normal(tuple(shape))).to(dtype)
    support = None
    if not dense:
        support = Support(*Support.full(tiling.count))
        keep = set(range(tiling.count)) if active is None else set(active)
        for block in rng.permutation(tiling.count).tolist():
            if block not in keep:
                support.deactivate(block)
                param.view(-1)[tiling.indices(block)] = 0.0
    prior = (inclusion or Bernoulli(0.3)) if support else None
    return Layer(name, param, tiling, slab or Gaussian(0.7), prior, support, 1.0)


def accept(edits: Iterable[Edit]) -> None:
    """Write a proposal into its layers."""
    for layer, kind, block, indices, old, new in edits:
        flat = layer.param.view(-1)
        assert torch.equal(flat[indices].double(), old)
        flat[indices] = new.to(flat.dtype)
        if kind is Kind.BIRTH:
            layer.support.activate(block)
        elif kind is Kind.DEATH:
            layer.support.deactivate(block)


def way_back(edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """Return the proposal that undoes an accepted one; a swap's death stays first."""
    return tuple(edit.reversed() for edit in reversed(edits))


@st.composite
def layers(draw, inclusions=(None,), slabs=(None,), tilings=tuple(TILINGS), **options) -> Layer:
    """Draw layers whose numbers of active blocks include 0, 1, D - 1 and D."""
    shape, blocks = draw(st.sampled_from(tilings))
    size = Tiling(shape, blocks).count
    k = draw(st.sampled_from(sorted({0, 1, size // 2, size - 1, size})))
    seed = draw(st.integers(0, 10**6))
    active = np.random.default_rng(seed).permutation(size)[:k].tolist()
    inclusion, slab = draw(st.sampled_from(inclusions)), draw(st.sampled_from(slabs))
    return make_layer(shape, blocks, active, inclusion=inclusion, slab=slab, seed=seed, **options)
