"""Births, deaths, swaps and sign flips of blocks that the gradient points at, with both selection probabilities.

k blocks are drawn without replacement (see `selection`) with log-weights G/2τ, G the first-order gain of the log
target (locally balanced proposals: Zanella 2020; with gradients: Grathwohl et al. 2021):

    flip    G = 2λ w ∂ℓ                                             Σ over a block everywhere
    death   G = λ w ∂ℓ - log s(w) + log q(w)     - log-odds, the same for all blocks of a layer: it cancels
    birth   G = λ σ |∂ℓ|                         at a step of one scale σ against the gradient

    log q(back)/q(forth) = log P(back | x') - log P(forth | x) ± Σ log q(β),  and log d/b for births

The value of a birth is β = μ + σ z, z from `density`, with μ = -σ clip(λσ ∂ℓ, ±1): it steps against the gradient, and
the way back of a death takes the gradient at the shrunken state.  Deaths may be chosen by another saliency S instead,
with G = -λ S: SNIP's |w ∂ℓ| (Lee et al. 2019), optimal brain damage's ½ h w² with the running mean of squared gradients
in the place of h (LeCun et al. 1990) or, under the name of Adam, which preconditions with it, the root of that mean; or
by magnitude, S = w²/(2λσ²).  Each is exact: any positive weight is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcmcopt.chain import adapt
from mcmcopt.chain.checks import fraction
from mcmcopt.chain.layer import Edit, Kind, Layer
from mcmcopt.chain.moves import selection
from mcmcopt.chain.moves.base import Edits, InformedMove
from mcmcopt.chain.moves.langevin import Scope, check_scope, within
from mcmcopt.chain.moves.selection import Temperature, check_temperature, weighted
from mcmcopt.chain.moves.trans_dimensional import BirthDensity, births_from
from mcmcopt.chain.point import Point
from mcmcopt.chain.slabs import Slab

Saliency = Literal["gain", "snip", "obd", "adam", "magnitude"]
_SALIENCIES = ("gain", "snip", "obd", "adam", "magnitude")


class Candidates:
    """The blocks of one or several layers that a move may choose, with their log-weights.

    Args:
        layers: the layers.
        blocks: of each, the numbers of its candidates, ascending.
        gains: of each, its candidates' gains.
        k, temperature: of the log-weights.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        blocks: Sequence[NDArray[np.int64]],
        gains: Sequence[NDArray[np.float64]],
        k: int,
        temperature: Temperature,
    ) -> None:
        self.layers, self.blocks = layers, blocks
        self._starts = np.cumsum([0, *(len(own) for own in blocks)])
        self.log_weights = weighted(np.concatenate(gains), k, temperature) if gains else np.empty(0)

    def __len__(self) -> int:
        return len(self.log_weights)

    def draw(self, k: int, rng: np.random.Generator) -> list[tuple[Layer, int]]:
        """Return k different blocks in the order in which they were drawn."""
        positions = selection.draw(self.log_weights, k, rng)
        numbers = np.searchsorted(self._starts, positions, side="right") - 1
        every = np.concatenate(self.blocks)[positions]
        return [(self.layers[n], block) for n, block in zip(numbers.tolist(), every.tolist(), strict=True)]

    def log_prob(self, edits: Edits) -> float:
        """Return the log-probability of drawing the blocks of these edits in their order."""
        numbers = {id(layer): number for number, layer in enumerate(self.layers)}
        where = np.array([numbers[id(edit.layer)] for edit in edits])
        blocks = np.array([edit.block for edit in edits])
        positions = np.empty(len(edits), dtype=np.int64)
        for number in np.unique(where).tolist():
            own = where == number
            positions[own] = self._starts[number] + np.searchsorted(self.blocks[number], blocks[own])
        return selection.log_prob(self.log_weights, positions)


class InformedSupport(InformedMove):
    """A move that changes which blocks are active, chosen by the gradient.

    Args:
        k: blocks per birth, death or side of a swap.
        scope: chosen in one `"layer"`, or among all sparse layers of the parameter `"group"`.
        saliency: what deaths go by: `"gain"` (locally balanced), `"snip"`, `"obd"`, `"adam"` or `"magnitude"`.
        temperature: τ ≥ 1 of the selection, `"auto"`, or `"rank"` (see `selection`).
        density: the family of a birth's z: `"student_t"` (3 degrees of freedom), `"normal"` or `"laplace"`.
        reuse: whether the gradient at the step's first state serves all its proposals (see `InformedMove`).
        weight: relative frequency.
    """

    changes_support = True

    def __init__(
        self,
        k: int = 1,
        scope: Scope = "layer",
        saliency: Saliency = "gain",
        temperature: Temperature = "auto",
        density: BirthDensity = "student_t",
        reuse: bool = False,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        if saliency not in _SALIENCIES:
            raise ValueError(f"saliency must be one of {', '.join(_SALIENCIES)}, got {saliency!r}")
        self.k, self.scope, self.saliency = check_k(k), check_scope(scope), saliency
        self.temperature, self.density, self.reuse = check_temperature(temperature), density, check_reuse(reuse)
        self.needs_moments = saliency in ("obd", "adam")
        births_from(density, 1.0)  # raises for a family that there is not

    def adapt(self, log_scale: float, t: int, edits: Edits, accepted: bool, unit: float) -> float | None:
        """Fit the births' scale to the layer's active weights, whatever was decided."""
        layer = edits[0].layer
        values, active = layer.values, layer.active_entries
        return adapt.towards_values(log_scale, t, float(values.double().square().sum()) / max(active, 1) / unit**2)

    def _sparse(self, layer: Layer) -> list[Layer]:
        return [other for other in within(layer, self.scope) if other.support is not None]

    def _candidates(self, layer: Layer, scale: float, point: Point, kind: Kind) -> Candidates:
        """Return the blocks that may be born or die at a point."""
        layers = self._sparse(layer)
        blocks, gains = [], []
        for other in layers:
            active = point.active(other)
            own = np.flatnonzero(active if kind is Kind.DEATH else ~active)
            unit = scale * other.rms / layer.rms
            each = self._births(other, unit, point) if kind is Kind.BIRTH else self._deaths(other, unit, point)
            blocks.append(own)
            gains.append(other.tiling.sums(each).numpy()[own])
        return Candidates(layers, blocks, gains, self.k, self.temperature)

    def _births(self, layer: Layer, unit: float, point: Point) -> Tensor:
        """Return G of a birth, entry by entry."""
        return point.lam * unit * point.gradient(layer).abs()

    def _deaths(self, layer: Layer, unit: float, point: Point) -> Tensor:
        """Return G of a death, entry by entry."""
        values = point.values(layer)
        if self.saliency == "magnitude":
            return -0.5 * (values / unit).square()
        if self.saliency in ("obd", "adam"):
            assert layer.moments is not None  # noqa: S101 -- the move asked for them
            curvature = layer.moments.mean if self.saliency == "obd" else layer.moments.mean.sqrt()
            return -0.5 * point.lam * curvature * values.square()
        slope = values * point.gradient(layer)
        if self.saliency == "snip":
            return -point.lam * slope.abs()
        density = births_from(self.density, unit)
        q = density.log_prob(values - self._centre(layer, unit, point))
        return point.lam * slope - layer.slab.log_prob(values) + q

    def _centre(self, layer: Layer, unit: float, point: Point) -> Tensor:
        """Return μ of all entries of a layer."""
        return -unit * (point.lam * unit * point.gradient(layer)).clamp(-1.0, 1.0)

    def _draw_births(
        self, layer: Layer, chosen: Sequence[tuple[Layer, int]], scale: float, rng: np.random.Generator, point: Point
    ) -> list[Edit]:
        edits, centres = [], {}
        for other, block in chosen:
            unit = scale * other.rms / layer.rms
            if id(other) not in centres:
                centres[id(other)] = self._centre(other, unit, point)
            indices = other.tiling.indices(block)
            noise = births_from(self.density, unit).sample(len(indices), rng)
            new = other.representable(centres[id(other)][indices] + noise)
            edits.append(Edit(other, Kind.BIRTH, block, indices, torch.zeros_like(new), new))
        return edits

    def _log_values(self, layer: Layer, births: Edits, scale: float, point: Point) -> float:
        """Return Σ log q(β) of births drawn at a point."""
        total = 0.0
        for other in {id(edit.layer): edit.layer for edit in births}.values():
            own = [edit for edit in births if edit.layer is other]
            indices, values = torch.cat([edit.indices for edit in own]), torch.cat([edit.new for edit in own])
            unit = scale * other.rms / layer.rms
            density: Slab = births_from(self.density, unit)
            total += density.log_density(values - self._centre(other, unit, point)[indices])
        return total

    def _options(self) -> str:
        names = ("k", "scope", "saliency", "temperature", "density", "reuse")
        own = (self.k, self.scope, self.saliency, self.temperature, self.density, self.reuse)
        return _given(names, own, (1, "layer", "gain", "auto", "student_t", False))


class InformedBirthDeath(InformedSupport):
    """k blocks are born or k blocks die, those that the gradient favours more often.

    Args:
        k, scope, saliency, temperature, density, reuse, weight: as in `InformedSupport`.
        birth: the probability b of trying births; deaths are tried with d = 1 - b.
    """

    labels = ("informed birth", "informed death")

    def __init__(
        self,
        k: int = 1,
        scope: Scope = "layer",
        saliency: Saliency = "gain",
        temperature: Temperature = "auto",
        density: BirthDensity = "student_t",
        birth: float = 0.5,
        reuse: bool = False,
        weight: float = 1.0,
    ) -> None:
        super().__init__(k, scope, saliency, temperature, density, reuse, weight)
        self.birth = fraction("birth", birth)

    def draw(self, layer: Layer, scale: float, rng: np.random.Generator, point: Point) -> Edits | None:
        """Return k births or k deaths, or None where there are fewer candidates or the scale is 0."""
        kind = Kind.BIRTH if rng.random() < self.birth else Kind.DEATH
        if scale == 0.0:
            return None
        candidates = self._candidates(layer, scale, point, kind)
        if len(candidates) < self.k:
            return None
        chosen = candidates.draw(self.k, rng)
        if kind is Kind.BIRTH:
            return tuple(self._draw_births(layer, chosen, scale, rng, point))
        return deaths(chosen)

    def log_q(self, layer: Layer, edits: Edits, scale: float, point: Point) -> float:
        """Return log b or d, plus the sequence's log-probability, plus Σ log q(β) of births."""
        kind = edits[0].kind
        total = self._candidates(layer, scale, point, kind).log_prob(edits)
        if kind is Kind.DEATH:
            return total + math.log1p(-self.birth)
        return total + math.log(self.birth) + self._log_values(layer, edits, scale, point)

    def label(self, edits: Edits) -> str:
        """Return "informed birth" or "informed death"."""
        return f"informed {edits[0].kind.value}"

    def _options(self) -> str:
        return ", ".join(filter(None, (super()._options(), f"birth={self.birth!r}" if self.birth != 0.5 else "")))


class InformedSwap(InformedSupport):
    """k blocks die and k others are born, each k chosen by the gradient; the number of active blocks stays.

    With `scope="group"` blocks move between layers.  The exact counterpart of RigL's rewiring (Evci et al. 2020), which
    takes the largest gradients and the smallest magnitudes without a test.
    """

    labels = ("informed swap",)

    def draw(self, layer: Layer, scale: float, rng: np.random.Generator, point: Point) -> Edits | None:
        """Return k deaths and then k births, or None where there are fewer candidates or the scale is 0."""
        if scale == 0.0:
            return None
        dying = self._candidates(layer, scale, point, Kind.DEATH)
        rising = self._candidates(layer, scale, point, Kind.BIRTH)
        if min(len(dying), len(rising)) < self.k:
            return None
        gone = deaths(dying.draw(self.k, rng))
        return (*gone, *self._draw_births(layer, rising.draw(self.k, rng), scale, rng, point))

    def log_q(self, layer: Layer, edits: Edits, scale: float, point: Point) -> float:
        """Return the log-probability of both sequences, plus Σ log q(β)."""
        gone, births = edits[: self.k], edits[self.k :]
        total = self._candidates(layer, scale, point, Kind.DEATH).log_prob(gone)
        total += self._candidates(layer, scale, point, Kind.BIRTH).log_prob(births)
        return total + self._log_values(layer, births, scale, point)


class InformedFlip(InformedMove):
    """The signs of k active entries change, those whose flip the gradient favours more often.

    Args:
        k: entries per move, all different.
        scope: of one `"layer"`, or of all layers of the parameter `"group"`.
        temperature: τ ≥ 1 of the selection, `"auto"`, or `"rank"` (see `selection`).
        reuse: whether the gradient at the step's first state serves all its proposals (see `InformedMove`).
        weight: relative frequency.
    """

    def __init__(
        self,
        k: int = 1,
        scope: Scope = "layer",
        temperature: Temperature = "auto",
        reuse: bool = False,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self.reuse = check_reuse(reuse)
        self.k, self.scope, self.temperature = check_k(k), check_scope(scope), check_temperature(temperature)
        self.labels = (f"informed flip(k={k})",)

    def draw(self, layer: Layer, scale: float, rng: np.random.Generator, point: Point) -> Edits | None:
        """Return k walk edits of one entry each, or None where fewer have a sign; `scale` plays no part."""
        candidates = self._candidates(layer, point)
        if len(candidates) < self.k:
            return None
        edits = []
        for other, entry in candidates.draw(self.k, rng):
            indices = torch.from_numpy(np.array((entry,), dtype=np.int64))
            old = other.read(indices)
            edits.append(Edit(other, Kind.WALK, entry, indices, old, -old))
        return tuple(edits)

    def log_q(self, layer: Layer, edits: Edits, scale: float, point: Point) -> float:
        """Return the sequence's log-probability."""
        return self._candidates(layer, point).log_prob(edits)

    def _candidates(self, layer: Layer, point: Point) -> Candidates:
        layers, entries, gains = within(layer, self.scope), [], []
        for other in layers:
            values = point.values(other)
            own = (point.active_entries(other) & (values != 0)).numpy().nonzero()[0]  # a zero has no sign to flip
            gain = 2 * point.lam * values * point.gradient(other)
            entries.append(own)
            gains.append(gain.numpy()[own])
        return Candidates(layers, entries, gains, self.k, self.temperature)

    def _options(self) -> str:
        own = (self.k, self.scope, self.temperature, self.reuse)
        return _given(("k", "scope", "temperature", "reuse"), own, (1, "layer", "auto", False))


def deaths(chosen: Sequence[tuple[Layer, int]]) -> Edits:
    """Return the edits that set active blocks to zero."""
    layers = {id(layer): layer for layer, _ in chosen}
    present = {key: layer.values.reshape(-1).to("cpu", torch.float64) for key, layer in layers.items()}
    edits = []
    for layer, block in chosen:
        indices = layer.tiling.indices(block)
        old = present[id(layer)][indices]
        edits.append(Edit(layer, Kind.DEATH, block, indices, old, torch.zeros_like(old)))
    return tuple(edits)


def check_reuse(reuse: bool) -> bool:
    """Return `reuse` if it is True or False.

    Raises:
        ValueError: naming the value otherwise.
    """
    if not isinstance(reuse, bool):
        raise ValueError(f"reuse must be True or False, got {reuse!r}")
    return reuse


def check_k(k: int) -> int:
    """Return `k` if it is an integer of at least 1.

    Raises:
        ValueError: naming the value otherwise.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k must be an integer of at least 1, got {k!r}")
    return k


def _given(names: Sequence[str], values: Sequence[object], defaults: Sequence[object]) -> str:
    """Return the arguments that differ from their defaults, as a call would have them."""
    rows = zip(names, values, defaults, strict=True)
    return ", ".join(f"{name}={value!r}" for name, value, default in rows if value != default)
