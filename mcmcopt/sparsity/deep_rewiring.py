"""Deep rewiring: a random walk that rewires a sparse network while it learns (Bellec et al. 2018, DEEP R).

Connection k has a sign s_k and a parameter θ_k; it is active with w_k = s_k θ_k while θ_k ≥ 0 and dormant, w_k = 0,
once θ_k < 0.  With learning rate η, α of the prior exp(-α θ), temperature T and normal ν, a step is

    active            θ ← θ - η ∂E/∂θ - η α + √(2 η T) ν
    dormant, DeepR    as many as were lost are drawn uniformly among all dormant ones and start at θ = 0  (algorithm 1)
    dormant, soft     θ ← max(θ + √(2 η T) ν, θ_min), active again once θ > 0                             (algorithm 2)

Other than in the paper, the gradient's part is the step of the user's optimizer, whichever it is; η in the other two is
the learning rate of that step, and what the optimizer remembers of a connection ends with it.  Momentum μ makes the
gradient's part 1/(1 - μ) times as large and leaves the others: α = 0.001 under μ = 0.9 is the prior that 0.0001 is
without momentum.  Too strong a prior empties the network, from which no gradient leads back.  Biases and normalisation
layers are trained as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mcmcopt.sparsity.criteria import check_seed
from mcmcopt.sparsity.masked import Pruner
from mcmcopt.sparsity.masks import keep_masks
from mcmcopt.sparsity.rigl import Distribution, layer_densities
from mcmcopt.sparsity.schedules import check_density

_STREAM = 0xDEE9  # sets these numbers apart from others that a run draws from (seed, integer)


class _DeepRewiring(Pruner):
    """What both algorithms share: signs, first masks, learning rates, and random numbers fixed by (seed, t)."""

    density: float
    l1: float
    temperature: float
    distribution: Distribution
    seed: int

    def _settle(self, density: float, l1: float, temperature: float, distribution: Distribution, seed: int) -> None:
        """Check and keep the settings that both have."""
        if distribution not in ("uniform", "erk"):
            raise ValueError(f'distribution must be "uniform" or "erk", got {distribution!r}')
        self.density, self.distribution = check_density(density), distribution
        self.l1, self.temperature = _check_amount("l1", l1), _check_amount("temperature", temperature)
        self.seed = check_seed(seed)
        self._signs: dict[str, Tensor] = {}  # int8, 1 or -1; that of a dormant connection means nothing to DeepR

    def _begun(self) -> None:
        own, rng = self._weights, self._rng(0)
        self._rates()  # says what the optimizer lacks before anything is trained
        scores = {name: torch.from_numpy(rng.random(tuple(weight.shape))) for name, weight in own.items()}
        self.masks = {name: mask.to(own[name].device) for name, mask in self._first_masks(scores).items()}
        self._signs = {}
        for name, weight in own.items():
            drawn = _signs(weight.numel(), rng).view(weight.shape).to(weight.device)
            self._signs[name] = torch.where(weight == 0, drawn, weight.detach().sign().to(torch.int8))
        self._lay_out(rng)
        self.after_step(0)

    def _first_masks(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        densities = layer_densities({n: s.shape for n, s in scores.items()}, self.density, self.distribution)
        return {n: keep_masks({n: s}, max(1 - densities[n], 0.0))[n] for n, s in scores.items()}

    def _lay_out(self, rng: np.random.Generator) -> None:
        """Set what else there is before the first step."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes: masks and signs; random numbers follow from seed and step."""
        return {**super().state_dict(), "signs": {name: sign.clone() for name, sign in self._signs.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with a saved state; after `begin`.

        Raises:
            ValueError: if it is not one of this model's weights, or of another kind of pruner.
        """
        signs = self._saved(state, "signs", torch.int8)
        super().load_state_dict(state)
        self._signs = signs

    def _saved(self, state: Mapping[str, Any], key: str, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Return saved tensors by weights' names, on the weights' devices, or raise ValueError."""
        own, saved = self._weights, dict(state.get(key, {}))
        if {n: v.shape for n, v in saved.items()} != {n: w.shape for n, w in own.items()}:
            raise ValueError(
                f"the saved {key} of {type(self).__name__} are of {', '.join(saved) or 'no weight'}, "
                f"the model's weights are {', '.join(own)}"
            )
        return {n: v.to(own[n].device, dtype or own[n].dtype, copy=True) for n, v in saved.items()}

    def _rng(self, t: int) -> np.random.Generator:
        """Return the random numbers of step t: numpy's, on the CPU, so that every device sees the same."""
        return np.random.default_rng([self.seed, t, _STREAM])

    def _rates(self) -> dict[str, float]:
        """Return the learning rate now of each weight, by its name."""
        assert self._optimizer is not None  # noqa: S101 -- begin has set it
        groups = [group for group in self._optimizer.param_groups if "lr" in group]
        rates = {id(param): float(group["lr"]) for group in groups for param in group["params"]}
        own = self._weights
        for name, weight in own.items():
            if id(weight) not in rates:
                raise ValueError(f"the optimizer must hold {name} in a group with a learning rate, the walk's own")
        return {name: rates[id(weight)] for name, weight in own.items()}

    def _noise(self, number: int, rate: float, rng: np.random.Generator) -> Tensor:
        """Return √(2 η T) ν for so many connections."""
        scale = np.float32(math.sqrt(2 * rate * self.temperature))
        return torch.from_numpy(scale * rng.standard_normal(number, dtype=np.float32))


class DeepR(_DeepRewiring):
    """Keeps exactly K connections active: one whose θ falls below zero gives its place to another, drawn at random.

    Args:
        density: the share of connections that are active at every moment, in (0, 1].
        l1: α of the prior, per unit of learning rate: how strongly connections without use are driven to zero.  The
            default is for momentum 0.9; without momentum a tenth of it.
        temperature: T of the noise; 0: none but that of the batches.
        scope: the number is kept in each `"layer"` or over all (`"global"`), where layers gain and lose.
        distribution: of the density over layers, `"uniform"` or `"erk"` (see `RigL`); with scope `"global"` only at
            first, and then `"uniform"` draws from all layers together.
        seed: of the first masks and of everything drawn later; same seed, same numbers on every device.

    A new connection starts at exactly zero and counts as active there: the mask says so, not the weight.  Its sign is
    drawn anew; in the authors' published code a connection comes back with the sign that it had.  Let a learning rate's
    schedule follow `after_step`, so that the walk has the rate of the optimizer's step.

    Raises:
        ValueError: for an argument out of range; by `begin`, if the optimizer does not hold the weights.
    """

    def __init__(
        self,
        density: float,
        l1: float = 1e-3,
        temperature: float = 0.0,
        scope: Literal["layer", "global"] = "layer",
        distribution: Distribution = "uniform",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._settle(density, l1, temperature, distribution, seed)
        if scope not in ("layer", "global"):
            raise ValueError(f'scope must be "layer" or "global", got {scope!r}')
        self.scope = scope

    def _first_masks(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.scope == "global" and self.distribution == "uniform":
            return keep_masks(scores, 1 - self.density, "global")
        return super()._first_masks(scores)

    def _update(self, t: int) -> None:
        if t == 0:
            return
        rng, rates, own = self._rng(t), self._rates(), self._weights
        lost = {name: self._walk(name, weight, rates[name], rng) for name, weight in own.items()}
        for names in [list(own)] if self.scope == "global" else [[name] for name in own]:
            number = sum(int(lost[name].count_nonzero()) for name in names)
            if number:
                for name, born in self._draw(names, number, rng).items():
                    self._start(name, born, rng)
                    self._forget(name, lost[name] | born)

    def _walk(self, name: str, weight: Tensor, rate: float, rng: np.random.Generator) -> Tensor:
        """Apply prior and noise to the active weights of a layer; return the mask of those that were lost."""
        mask, sign = self.masks[name], self._signs[name]
        theta = weight * sign - rate * self.l1
        if self.temperature:
            index = _positions(mask)
            noise = torch.zeros(mask.numel())
            noise[index] = self._noise(len(index), rate, rng)
            theta += noise.view(mask.shape).to(theta.device, theta.dtype)
        lost = mask & (theta < 0)
        self.masks[name] = mask & ~lost
        weight.copy_(theta * sign)  # where that is off, the masks are applied later
        return lost

    def _draw(self, names: list[str], number: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return masks of so many connections, every choice among the dormant ones of these layers equally likely."""
        dormant = {name: _positions(~self.masks[name]) for name in names}
        chosen = np.sort(rng.choice(sum(map(len, dormant.values())), number, replace=False))
        masks, start = {}, 0
        for name, index in dormant.items():
            own = chosen[(start <= chosen) & (chosen < start + len(index))] - start
            mask = self.masks[name]
            born = torch.zeros(mask.numel(), dtype=torch.bool)
            born[index[torch.from_numpy(own)]] = True
            masks[name] = born.view(mask.shape).to(mask.device)
            start += len(index)
        return masks

    def _start(self, name: str, born: Tensor, rng: np.random.Generator) -> None:
        """Make connections active, at zero and with signs drawn anew."""
        self.masks[name] = self.masks[name] | born
        self._signs[name][born] = _signs(int(born.count_nonzero()), rng).to(born.device)
        self._weights[name].masked_fill_(born, 0.0)


class SoftDeepR(_DeepRewiring):
    """Lets the number of active connections follow from prior, noise and gradient: dormant ones walk on below zero.

    Args:
        density: the share of connections that are active at first, in (0, 1].
        l1: α of the prior, per unit of learning rate.  The default is for momentum 0.9; without it a tenth.
        temperature: T of the noise, without which a dormant connection never returns.
        theta_min: where θ of dormant connections is clipped, at most 0: the deeper, the rarer they return.  None: the
            depth at which the prior by itself has the share `density` active, -(1 - p)/p · T/α (the authors' code);
            what the gradient holds on to comes on top.  What is lost is gone for some θ_min²/(2 η T) steps.
        distribution: of the first density over layers, `"uniform"` or `"erk"` (see `RigL`).
        seed: of the first masks and of everything drawn later; same seed, same numbers on every device.

    Dormant connections start uniformly between theta_min and 0.  Signs are those of the first weights for good.

    Raises:
        ValueError: for an argument out of range; by `begin`, if the optimizer does not hold the weights.
    """

    def __init__(
        self,
        density: float,
        l1: float = 1e-3,
        temperature: float = 1e-6,
        theta_min: float | None = None,
        distribution: Distribution = "uniform",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._settle(density, l1, temperature, distribution, seed)
        if theta_min is None:
            if not self.l1:
                raise ValueError("theta_min must be given if l1 is 0: no share of connections follows from the prior")
            theta_min = -(1 - self.density) / self.density * self.temperature / self.l1
        if isinstance(theta_min, bool) or not isinstance(theta_min, int | float) or not -math.inf < theta_min <= 0:
            raise ValueError(f"theta_min must be a finite number of at most 0, got {theta_min!r}")
        self.theta_min = float(theta_min)
        self._theta: dict[str, Tensor] = {}  # of the dormant connections; 0 where active

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes: masks, signs and θ of the dormant connections."""
        return {**super().state_dict(), "theta": {name: theta.clone() for name, theta in self._theta.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with a saved state; after `begin`.

        Raises:
            ValueError: if it is not one of this model's weights, or of another kind of pruner.
        """
        theta = self._saved(state, "theta")
        super().load_state_dict(state)
        self._theta = theta

    def _lay_out(self, rng: np.random.Generator) -> None:
        self._theta = {}
        for name, weight in self._weights.items():
            depth = torch.from_numpy(rng.random(weight.numel(), dtype=np.float32)).view(weight.shape)
            theta = self.theta_min * depth.to(weight.device, weight.dtype)
            self._theta[name] = theta.masked_fill(self.masks[name], 0.0)

    def _update(self, t: int) -> None:
        if t == 0:
            return
        rng, rates = self._rng(t), self._rates()
        for name, weight in self._weights.items():
            mask, sign, rate = self.masks[name], self._signs[name], rates[name]
            theta = torch.where(mask, weight * sign, self._theta[name])
            theta.sub_(mask * (rate * self.l1))
            if self.temperature:
                theta.add_(self._noise(mask.numel(), rate, rng).view(mask.shape).to(theta.device, theta.dtype))
            theta.clamp_(min=self.theta_min)
            on = torch.where(mask, ~(theta < 0), theta > 0)
            weight.copy_(torch.where(on, theta * sign, 0.0))
            self._theta[name] = theta.masked_fill(on, 0.0)
            self.masks[name] = on
            self._forget(name, mask != on)


def _positions(mask: Tensor) -> Tensor:
    """Return the flat indices of the entries that are on, on the CPU: numpy's search takes a sixth of torch's time."""
    return torch.from_numpy(np.flatnonzero(mask.cpu().numpy()))


def _signs(number: int, rng: np.random.Generator) -> Tensor:
    """Return so many random signs, int8."""
    return torch.from_numpy(2 * rng.integers(2, size=number, dtype=np.int8) - 1)


def _check_amount(name: str, value: float) -> float:
    """Return a number as a float, or raise ValueError unless it is finite and at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
    return float(value)
