"""Metropolis-adjusted Langevin steps with a diagonal preconditioner M (Roberts and Tweedie 1996)


    θ' = θ + ε²/2 · M ∇log target(θ) + ε √M ξ,   ξ ~ N(0, 1)
    log q(back)/q(forth) = log N(θ; θ' + ε²/2 M ∇(θ'), ε² M) - log N(θ'; θ + ε²/2 M ∇(θ), ε² M)

∇log target = -λ ∂ℓ + ∂log s, over the active entries of one layer or of all layers of the parameter group.  M follows
the running mean v of squared gradients, M ∝ 1/(√v + mean √v / 10), with mean 1 over a layer; it does not depend on the
present state, so that no derivative of M enters; while it adapts the chain is not Markov, as with every adapted scale.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mcmcopt.chain import adapt
from mcmcopt.chain.layer import Edit, Kind, Layer
from mcmcopt.chain.moves.base import Edits, InformedMove
from mcmcopt.chain.point import Point

TARGET = 0.574  # Roberts and Rosenthal 1998
FLOOR = 0.1  # of √v, as a share of its mean: no entry moves ten times as far as the others for want of a gradient

Scope = Literal["layer", "group"]


class Langevin(InformedMove):
    """A step of all active entries along the gradient of the log target, with noise, exactly corrected.

    Args:
        scope: the active entries of one `"layer"`, or of all layers of the parameter `"group"`.
        precondition: whether M follows squared gradients; else M = 1.  Either way each layer's step is in units of its
            initial root-mean-square.
        weight: relative frequency.

    The scale ε = lr · rms · exp(adapted part) is adapted towards 0.574 accepted.
    """

    labels = ("langevin",)

    def __init__(self, scope: Scope = "layer", precondition: bool = False, weight: float = 1.0) -> None:
        super().__init__(weight)
        if not isinstance(precondition, bool):
            raise ValueError(f"precondition must be True or False, got {precondition!r}")
        self.scope, self.precondition = check_scope(scope), precondition
        self.needs_moments = precondition

    def draw(self, layer: Layer, scale: float, rng: np.random.Generator, point: Point) -> Edits | None:
        """Return one walk edit per layer, or None where nothing is active or the scale is 0."""
        if scale == 0.0:
            return None
        edits = []
        for other in within(layer, self.scope):
            indices = point.active_entries(other).nonzero().squeeze(1)
            if len(indices):
                mean, sd = self._law(layer, other, indices, scale, point)
                new = other.representable(mean + sd * torch.from_numpy(rng.standard_normal(len(indices))))
                edits.append(Edit(other, Kind.WALK, -1, indices, other.read(indices), new))
        return tuple(edits) or None

    def log_q(self, layer: Layer, edits: Edits, scale: float, point: Point) -> float:
        """Return the Gaussian log-density of the proposed values."""
        total = 0.0
        for edit in edits:
            mean, sd = self._law(layer, edit.layer, edit.indices, scale, point)
            total -= float((0.5 * ((edit.new - mean) / sd).square() + sd.log()).sum())
            total -= 0.5 * math.log(2 * math.pi) * len(edit.indices)
        return total

    def adapt(self, log_scale: float, t: int, edits: Edits, accepted: bool, unit: float) -> float | None:
        """Steer towards 0.574 accepted (Roberts and Rosenthal 1998)."""
        return adapt.towards_acceptance(log_scale, t, accepted, TARGET)

    def _law(self, owner: Layer, layer: Layer, indices: Tensor, scale: float, point: Point) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the entries' proposed values."""
        values, gradient = point.values(layer)[indices], point.gradient(layer)[indices]
        slope = layer.slab.score(values) - point.lam * gradient
        variance = torch.full_like(values, (scale * layer.rms / owner.rms) ** 2)
        if self.precondition and layer.moments is not None:
            variance *= preconditioner(layer.moments.mean)[indices]
        return values + 0.5 * variance * slope, variance.sqrt()

    def _options(self) -> str:
        options = [f"scope={self.scope!r}"] * (self.scope != "layer") + ["precondition=True"] * self.precondition
        return ", ".join(options)


def preconditioner(second_moment: Tensor) -> Tensor:
    """Return M from the running mean of squared gradients; ones before any was seen."""
    root = second_moment.sqrt()
    mean = root.mean()
    if not mean > 0:
        return torch.ones_like(root)
    inverse = 1 / (root + FLOOR * mean)
    return inverse / inverse.mean()


def within(layer: Layer, scope: Scope) -> tuple[Layer, ...]:
    """Return the layers that a move reaches when `layer` has the turn; frozen and empty ones are left out."""
    if scope == "layer":
        return (layer,)
    return tuple(other for other in layer.group if other.param.requires_grad and other.tiling.numel)


def check_scope(scope: Scope) -> Scope:
    """Return `scope` if it is one.

    Raises:
        ValueError: naming the value otherwise.
    """
    if scope not in ("layer", "group"):
        raise ValueError(f'scope must be "layer" or "group", got {scope!r}')
    return scope
