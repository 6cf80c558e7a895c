"""Moves that change which blocks are active (Green 1995): birth, death, toggle and swap.

A birth sets the whole block to β ~ g, so the Jacobian is 1.  With k of D blocks active, m the block's size and
b, d the constant probabilities of trying a birth or a death,

    birth    log q(back)/q(forth) = log[d/(k+1)] - log[b/(D-k)] - Σ log g(β)
    death                           log[b/(D-k+1)] - log[d/k] + Σ log g(w)
    toggle   a block drawn from all D: the selection cancels, ∓ Σ log g remains
    swap     one death, one birth: the selection k(D-k) cancels, Σ log g(w_i) - Σ log g(β_j)

A birth at k = D, a death at k = 0 and a swap at either end are impossible and count as rejections; the
probabilities b and d do not change at the ends, so nothing else enters the ratio there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mcmcopt.chain import adapt
from mcmcopt.chain.checks import fraction
from mcmcopt.chain.layer import Edit, Kind, Layer
from mcmcopt.chain.moves.base import Edits, Move
from mcmcopt.chain.slabs import Gaussian, Laplace, Slab, StudentT
from mcmcopt.chain.support import Support

BirthDensity = Literal["normal", "student_t", "laplace"]
_FAMILIES: dict[str, Callable[[float], Slab]] = {
    "normal": Gaussian,
    "student_t": partial(StudentT, 3.0),
    "laplace": Laplace,
}


def births_from(family: BirthDensity, scale: float) -> Slab:
    """Return the density g around zero of that family and scale.

    Raises:
        ValueError: for a family that there is not.
    """
    if family not in _FAMILIES:
        raise ValueError(f'density must be "normal", "student_t" or "laplace", got {family!r}')
    return _FAMILIES[family](scale)


class TransDimensional(Move):
    """A move with births β ~ g, g a density around zero with the proposal's scale, which follows the active weights.

    Args:
        density: the family of g: `"normal"`, `"student_t"` (3 degrees of freedom) or `"laplace"`.
        weight: relative frequency.
    """

    changes_support = True

    def __init__(self, density: BirthDensity = "normal", weight: float = 1.0) -> None:
        super().__init__(weight)
        births_from(density, 1.0)  # raises for a family that there is not
        self.density = density

    def adapt(self, log_scale: float, t: int, edits: Edits, accepted: bool, unit: float) -> float | None:
        """Fit the scale of g to the active weights, as uniformly drawn deaths show them, accepted or not.

        In equilibrium births and deaths of one size balance, so g should look like the weights that are there.
        Fitting g to accepted births alone shrinks it without end: tiny births are accepted most easily.
        """
        if edits[0].kind is Kind.DEATH:
            old = edits[0].old
            mean_square = float(old.square().mean()) if old.shape[0] > 1 else old.item() * old.item()
            return adapt.towards_values(log_scale, t, mean_square / unit**2)
        return None

    def _birth(self, layer: Layer, block: int, scale: float, rng: np.random.Generator) -> Edit:
        indices = layer.tiling.indices(block)
        new = layer.representable(births_from(self.density, scale).sample(len(indices), rng))
        return Edit(layer, Kind.BIRTH, block, indices, torch.zeros_like(new), new)

    def _death(self, layer: Layer, block: int) -> Edit:
        indices = layer.tiling.indices(block)
        old = layer.read(indices)
        return Edit(layer, Kind.DEATH, block, indices, old, torch.zeros_like(old))

    def _log_g(self, values: Tensor, scale: float) -> float:
        return births_from(self.density, scale).log_density(values)

    def _options(self) -> str:
        return "" if self.density == "normal" else f"density={self.density!r}"


class BirthDeath(TransDimensional):
    """Birth of one inactive block or death of one active block, each drawn uniformly from its kind (Green 1995).

    Args:
        birth: the probability b of trying a birth; a death is tried with 1 - b.
        density: the family of g.
        weight: relative frequency.
    """

    labels = ("birth", "death")

    def __init__(self, birth: float = 0.5, density: BirthDensity = "normal", weight: float = 1.0) -> None:
        super().__init__(density, weight)
        self.birth = fraction("birth", birth)

    def draw(self, layer: Layer, scale: float, rng: np.random.Generator) -> Edits | None:
        """Return a birth or a death edit, or None at the ends or where the scale is 0."""
        support = _support(layer)
        if scale == 0.0:
            return None
        if rng.random() < self.birth:
            if support.active == support.size:
                return None
            return (self._birth(layer, support.draw_inactive(rng), scale, rng),)
        return (self._death(layer, support.draw_active(rng)),) if support.active else None

    def log_q_ratio(self, edits: Edits, scale: float) -> float:
        """Return the ratio of the module's first two rows."""
        (edit,) = edits
        support = _support(edit.layer)
        k, size, b, d = support.active, support.size, self.birth, 1.0 - self.birth
        if edit.kind is Kind.BIRTH:
            return math.log(d / (k + 1)) - math.log(b / (size - k)) - self._log_g(edit.new, scale)
        return math.log(b / (size - k + 1)) - math.log(d / k) + self._log_g(edit.old, scale)

    def label(self, edits: Edits) -> str:
        """Return "birth" or "death"."""
        return edits[0].kind.value

    def _options(self) -> str:
        return ", ".join(filter(None, ("" if self.birth == 0.5 else f"birth={self.birth!r}", super()._options())))


class Toggle(TransDimensional):
    """A block drawn from all blocks changes sides: an inactive one is born, an active one dies."""

    labels = ("toggle",)

    def draw(self, layer: Layer, scale: float, rng: np.random.Generator) -> Edits | None:
        """Return a birth or a death edit, or None where the scale is 0."""
        support = _support(layer)
        if scale == 0.0 or support.size == 0:
            return None
        block = int(rng.integers(support.size))
        return (self._death(layer, block) if support.is_active(block) else self._birth(layer, block, scale, rng),)

    def log_q_ratio(self, edits: Edits, scale: float) -> float:
        """Return minus or plus Σ log g."""
        (edit,) = edits
        return -self._log_g(edit.new, scale) if edit.kind is Kind.BIRTH else self._log_g(edit.old, scale)


class Swap(TransDimensional):
    """One active block dies and one inactive block of the same layer is born; the number of active blocks stays.

    The exact counterpart of the rewiring of RigL (Evci et al. 2020) and Deep Rewiring (Bellec et al. 2018).
    """

    labels = ("swap",)

    def draw(self, layer: Layer, scale: float, rng: np.random.Generator) -> Edits | None:
        """Return a death and a birth edit, or None at the ends or where the scale is 0."""
        support = _support(layer)
        if scale == 0.0 or not 0 < support.active < support.size:
            return None
        out, into = support.draw_active(rng), support.draw_inactive(rng)
        return self._death(layer, out), self._birth(layer, into, scale, rng)

    def log_q_ratio(self, edits: Edits, scale: float) -> float:
        """Return Σ log g(w_i) - Σ log g(β_j)."""
        death, birth = edits
        return self._log_g(death.old, scale) - self._log_g(birth.new, scale)


def _support(layer: Layer) -> Support:
    if layer.support is None:
        raise ValueError(f"layer {layer.name!r} has no inclusion prior: births and deaths need one, as SpikeSlab has")
    return layer.support
