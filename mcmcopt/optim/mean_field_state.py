"""What `KLMirrorDescent` keeps of each parameter: checked settings, ρ's factors, draws and what gradients there say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcmcopt.chain.checks import fraction, non_negative, positive
from mcmcopt.chain.inclusion import Bernoulli
from mcmcopt.chain.priors import SpikeSlab
from mcmcopt.chain.slabs import Gaussian
from mcmcopt.optim import mean_field
from mcmcopt.optim.mean_field import Factors

KEPT = ("prior", "center")
"""Group settings that a saved state must agree in; they stay this optimizer's own."""


class Expectation:
    """Draws of one parameter in a step, and the estimates of slope and curvature that its gradients there give."""

    def __init__(
        self, param: Tensor, state: Mapping[str, Tensor], group: Mapping[str, Any], gates: str, batch_size: int | None
    ) -> None:
        self._param, self._center, self._group = param, state.get("center"), group
        self._gates, self._batch_size = gates, batch_size
        self._factors = factors_of(state)
        self._mean, self._variance = mean_field.moments(self._factors, prior_precision(group))
        self._drawn, self._noise = self._mean, self._mean
        self._draws: list[Tensor] = []
        self._gradients: list[Tensor] = []

    def draw(self, rng: np.random.Generator, number: int) -> None:
        """Write draw `number` into the parameter."""
        if self._gates == "binary":
            self._drawn = binary_draw(self._factors, prior_precision(self._group), rng)
        else:
            self._noise = -self._noise if number % 2 else normal(self._mean, rng) * self._variance.sqrt()
            self._drawn = self._mean + self._noise
        self._param.copy_(self._drawn if self._center is None else self._center + self._drawn)

    def add(self) -> None:
        """Take in the gradient at the last draw."""
        gradient = self._param.grad
        if gradient is not None:
            self._draws.append(self._drawn - self._mean)
            self._gradients.append((gradient.to_dense() if gradient.is_sparse else gradient).to(self._mean))

    def stepped(self) -> Factors | None:
        """Return the factors after the step; None if there was no gradient."""
        rate, lam = self._rate(), float(self._group["lam"])
        if not self._gradients or rate == 0:
            return None
        slope = torch.stack(self._gradients).mean(0)
        p, scale = p_and_scale(self._group)
        return mean_field.step(
            self._factors,
            slope,
            self._curvature(slope),
            lam=lam,
            rate=rate,
            prior_precision=scale**-2,
            prior_log_odds=math.log(p) - math.log1p(-p) if p < 1 else 0.0,
        )

    def _curvature(self, slope: Tensor) -> Tensor:
        if self._batch_size is not None:
            squares = torch.stack([gradient.square() for gradient in self._gradients])
            return self._batch_size * squares.mean(0)
        count = len(self._gradients)
        pairs = zip(self._draws, self._gradients, strict=True)
        if self._gates == "binary" and count > 1:  # of independent draws: what the gradients share drops out
            product = torch.stack([draw * (gradient - slope) for draw, gradient in pairs]).sum(0) / (count - 1)
        else:  # in antithetic pairs it drops out by itself
            product = torch.stack([draw * gradient for draw, gradient in pairs]).mean(0)
        return product / self._variance.clamp(min=torch.finfo(self._variance.dtype).tiny)

    def _rate(self) -> float:
        tau = float(self._group["lr"]) / float(self._group["lam"])
        return tau / (1 + tau)


def check_group(group: dict[str, Any]) -> None:
    """Check the settings of a group and put them into their final form."""
    group["lam"] = positive("lam", group["lam"])
    group["lr"] = group["lr"] if isinstance(group["lr"], Tensor) else non_negative("lr", group["lr"])
    non_negative("lr", float(group["lr"]))
    prior = group["prior"]
    if not isinstance(prior, SpikeSlab | Gaussian):
        raise TypeError(f"prior must be SpikeSlab(p) with a Gaussian slab, or Gaussian(scale), got {prior!r}")
    if isinstance(prior, SpikeSlab):
        if not isinstance(prior.slab, Gaussian):
            raise ValueError(f"the slab must be Gaussian(scale): the mean-field steps are its own, got {prior.slab!r}")
        if not isinstance(prior.inclusion, Bernoulli):
            raise ValueError(f"inclusion must be Bernoulli(p): gates are independent, got {prior.inclusion!r}")
    if group["center"] not in ("zero", "initial"):
        raise ValueError(f'center must be "zero" or "initial", got {group["center"]!r}')
    group["init_inclusion"] = fraction("init_inclusion", group["init_inclusion"])
    group["init_scale"] = positive("init_scale", group["init_scale"])
    for param in group["params"]:
        if not param.is_floating_point():
            raise TypeError(f"params must be floating, got a parameter of {param.dtype} and shape {tuple(param.shape)}")


def initial_state(param: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
    """Return ρ's factors with the parameter's present values as its mean; float32, or float64 where those are."""
    dtype = torch.float64 if param.dtype == torch.float64 else torch.float32
    values, (p, scale) = param.detach().to(dtype, copy=True), p_and_scale(group)
    state = {}
    if group["center"] == "initial":
        state["center"], values = values, torch.zeros_like(values)
    gated = param.dim() >= 2 and p < 1
    state["mean"] = values / group["init_inclusion"] if gated else values
    state["precision"] = torch.full_like(values, (group["init_scale"] * scale) ** -2)
    if gated:
        state["offset"] = mean_field.offset_at(group["init_inclusion"], state["mean"], state["precision"], scale**-2)
    return state


def factors_of(state: Mapping[str, Tensor]) -> Factors:
    """Return the factors that a parameter's state holds."""
    return Factors(state["mean"], state["precision"], state.get("offset"))


def p_and_scale(group: Mapping[str, Any]) -> tuple[float, float]:
    """Return p (1 without a spike) and the slab's scale."""
    prior = group["prior"]
    if isinstance(prior, Gaussian):
        return 1.0, prior.scale
    assert isinstance(prior.inclusion, Bernoulli)  # noqa: S101 -- checked when the group was added
    return prior.inclusion.p, prior.slab.scale


def prior_precision(group: Mapping[str, Any]) -> float:
    """Return 1/scale²."""
    return p_and_scale(group)[1] ** -2


def exact_inclusion(factors: Factors, prior_precision: float) -> Tensor:
    """Return α in float64."""
    wide = Factors(*(None if x is None else x.double() for x in (factors.mean, factors.precision, factors.offset)))  # type: ignore[arg-type]
    return wide.inclusion(prior_precision)


def binary_draw(factors: Factors, prior_precision: float, rng: np.random.Generator) -> Tensor:
    """Return a draw of γβ from ρ."""
    values = factors.mean + normal(factors.mean, rng) / factors.precision.sqrt()
    if factors.offset is None:
        return values
    uniforms = torch.from_numpy(rng.random(tuple(values.shape), dtype=np.float32)).to(values)
    return torch.where(uniforms < factors.inclusion(prior_precision), values, 0.0)


def normal(like: Tensor, rng: np.random.Generator) -> Tensor:
    """Return standard normal numbers, drawn on the CPU: every device and memory format sees the same."""
    wide = np.float64 if like.dtype == torch.float64 else np.float32
    return torch.from_numpy(np.asarray(rng.standard_normal(tuple(like.shape), dtype=wide))).to(like)


def check_same(groups: list[dict[str, Any]], saved: list[dict[str, Any]]) -> None:
    """Raise ValueError, naming both, if saved groups differ in their sizes, prior or center."""
    sizes, others = ([len(group["params"]) for group in each] for each in (groups, saved))
    if sizes != others:
        raise ValueError(f"the saved state has parameter groups of sizes {others}, this optimizer of sizes {sizes}")
    for number, (group, other) in enumerate(zip(groups, saved, strict=True)):
        mine = {key: repr(group[key]) if key == "prior" else group[key] for key in KEPT}
        for key in KEPT:
            if mine[key] != other.get(key):
                raise ValueError(
                    f"the saved state of parameter group {number} has {key}={other.get(key)}, this optimizer has "
                    f"{key}={mine[key]}: construct it with the same {key}"
                )
