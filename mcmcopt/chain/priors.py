"""The prior on weights and mask, log π(w, γ) = Σ_active log s(w) + Σ_pools log π(γ).

A pool is the set of layers whose active blocks an inclusion prior counts together: one layer, or all of a group.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

import torch
from torch import Tensor

from mcmcopt.chain.inclusion import Bernoulli, Inclusion
from mcmcopt.chain.layer import Edit, Kind, Layer
from mcmcopt.chain.slabs import Gaussian, Slab


class Prior(Protocol):
    """What the chain needs of a prior; slabs and `SpikeSlab` provide it."""

    @property
    def slab(self) -> Slab:
        """The density of active entries."""

    @property
    def inclusion(self) -> Inclusion | None:
        """The law of the pattern of active blocks; None keeps all active."""

    @property
    def per(self) -> str:
        """Whether blocks are counted by `"layer"` or by `"group"`."""


class SpikeSlab:
    """An exact zero with a probability, a slab otherwise, block by block (Mitchell and Beauchamp 1988).

    Args:
        p: each block's inclusion probability; short for `inclusion=Bernoulli(p)`.
        inclusion: the law of the pattern of active blocks, instead of `p`.
        slab: the density of active entries.
        per: count active blocks over each `"layer"` or over the whole parameter `"group"`.

    Raises:
        ValueError: unless exactly one of `p` and `inclusion` is given, and `per` is one of the two.
    """

    def __init__(
        self,
        p: float | None = None,
        *,
        inclusion: Inclusion | None = None,
        slab: Slab | None = None,
        per: Literal["layer", "group"] = "layer",
    ) -> None:
        if (p is None) == (inclusion is None):
            raise ValueError(f"give exactly one of p and inclusion, got p={p!r} and inclusion={inclusion!r}")
        if per not in ("layer", "group"):
            raise ValueError(f'per must be "layer" or "group", got {per!r}')
        if inclusion is None:
            assert p is not None  # noqa: S101 -- the check above, said to the type checker
            inclusion = Bernoulli(p)
        if not isinstance(inclusion, Inclusion):
            raise TypeError(f"inclusion must be an inclusion prior such as Bernoulli(0.1), got {inclusion!r}")
        slab = Gaussian(1.0) if slab is None else slab
        if not isinstance(slab, Slab):
            raise TypeError(f"slab must be a density such as Gaussian(1.0), got {slab!r}")
        self.inclusion: Inclusion = inclusion
        self.slab: Slab = slab
        self.per: Literal["layer", "group"] = per

    def __repr__(self) -> str:
        return f"SpikeSlab(inclusion={self.inclusion!r}, slab={self.slab!r}, per={self.per!r})"


def log_prior(layers: Iterable[Layer]) -> float:
    """Return log π(w, γ) of the present state; costs a pass over all parameters."""
    total, pools = 0.0, {}
    for layer in layers:
        values = layer.values.double()
        if layer.support is not None:
            values = values[layer.mask().to(values.device)]
            pools[id(layer.pool[0])] = layer.pool
        total += float(layer.slab.log_prob(values).sum())
    for pool in pools.values():
        inclusion = pool[0].inclusion
        assert inclusion is not None  # noqa: S101 -- a layer with a support has one
        total += inclusion.log_prob(_pool_active(pool), _pool_size(pool))
    return total


def log_prior_ratio(edits: Iterable[Edit]) -> float:
    """Return log π(w', γ') - log π(w, γ) of a proposal at the present state; costs O(size of the edits)."""
    total = 0.0
    counts: dict[int, tuple[int, int]] = {}  # active blocks and all blocks, with the edits so far, by pool
    born: dict[int, list[Tensor]] = {}
    gone: dict[int, list[Tensor]] = {}
    layers: dict[int, Layer] = {}
    for layer, kind, _, _, old, new in edits:
        if kind is Kind.WALK:
            total += layer.slab.log_ratio(new, old)
            continue
        inclusion, key = layer.inclusion, id(layer.pool[0])
        assert inclusion is not None  # noqa: S101 -- births and deaths exist on sparse layers only
        if key not in counts:
            counts[key] = _pool_active(layer.pool), _pool_size(layer.pool)
        k, size = counts[key]
        layers[id(layer)] = layer
        if kind is Kind.BIRTH:
            total += inclusion.log_odds(k, size)
            counts[key] = k + 1, size
            born.setdefault(id(layer), []).append(new)
        else:
            total -= inclusion.log_odds(k - 1, size)
            counts[key] = k - 1, size
            gone.setdefault(id(layer), []).append(old)
    for sign, values in ((1, born), (-1, gone)):  # one pass over a layer's values: a proposal may have many edits
        for layer_id, each in values.items():
            total += sign * layers[layer_id].slab.log_density(each[0] if len(each) == 1 else torch.cat(each))
    return total


def _pool_active(pool: Iterable[Layer]) -> int:
    return sum(layer.active for layer in pool)


def _pool_size(pool: Iterable[Layer]) -> int:
    return sum(layer.tiling.count for layer in pool)
