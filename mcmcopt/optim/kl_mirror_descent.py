"""Mirror descent on a distribution over the weights: a mean-field spike-and-slab posterior, one natural step per batch.

    ρ_{t+1} = argmin_ρ  η E_ρ[ℓ_t] + KL(ρ, ρ_t) + τ KL(ρ, π),   η = lr,  τ = lr/lam

over ρ = Π_j [α_j N(m_j, v_j) + (1 - α_j) δ]; `mcmcopt.optim.mean_field` has the equations.  On a fixed batch its fixed
point is the best such ρ for λ E_ρ[ℓ] + KL(ρ, π) at λ = η/τ = `lam`; the solution over all laws ρ is exp(-λ ℓ) π/Z,
which `GreedyMCMC` samples at the same `lam`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from mcmcopt.bounds import gaussian_spike_slab_kl
from mcmcopt.chain.checks import non_negative, positive
from mcmcopt.chain.priors import SpikeSlab
from mcmcopt.chain.random import Purpose, Streams
from mcmcopt.chain.slabs import Gaussian
from mcmcopt.optim import checkpoint, mean_field
from mcmcopt.optim.mean_field import Factors
from mcmcopt.optim.mean_field_state import (
    KEPT,
    Expectation,
    binary_draw,
    check_group,
    check_same,
    exact_inclusion,
    factors_of,
    initial_state,
    p_and_scale,
    prior_precision,
)


class KLMirrorDescent(Optimizer):
    """Trains a law of the weights, each 0 with a probability of its own and Gaussian otherwise; uses gradients.

    A step draws `samples` networks from ρ, calls the closure at each, and afterwards the parameters hold the mean of
    ρ.  What they held before a step, apart from frozen ones, does not matter: the state is ρ's.

    What is lost: correlations between weights (the family); and for weights with a spike, where the loss is not
    quadratic along them, the gate sees it to second order only.  With α = 1 slope and curvature are unbiased (Bonnet
    1964, Price 1958), with noise that `samples` ≥ 2 reduces much: the batch's common gradient drops out of the
    curvature.  What noise of the curvature does to precisions: `mean_field.kept_positive`.

    Args:
        params: parameters, named parameters or parameter groups.  A group may set its own `lam`, `lr`, `prior`,
            `center`, `init_inclusion` and `init_scale`.
        lam: inverse temperature λ > 0, which multiplies the closure's mean loss; n is the posterior of n samples.
        lr: η; ρ moves by the rate τ/(1 + τ), τ = lr/lam, towards where the batch wants it: a rate of 0.05 needs
            lr = lam/19.
        prior: `SpikeSlab(p)` with a Gaussian slab, or `Gaussian(scale)` alone: all weights active.  Parameters of fewer
            than two dimensions (biases, norms) are always active.  Gates are scalar: there are no blocks.
        center: where slab and spike sit: `"zero"`, or `"initial"`, the values that the parameters have now (a
            prior learnt on other data: what is not included stays as it was).
        init_inclusion: α at the start; the prior's odds come in at the rate of the steps.
        init_scale: √v at the start, as a share of the slab's scale; None: 0.1.
        samples: networks drawn per step, each one call of the closure.
        gates: `"gaussian"` draws each weight with the mean and variance of γβ, in antithetic pairs: for losses
            that are quadratic along each weight the expectations are the same, with far less noise; `"binary"` draws
            from ρ itself.
        hessian: `"price"`, the slope of ∂ℓ/∂θ_j against θ_j over the samples, is unbiased as said above;
            `"squared_gradient"` takes batch_size times the square of the batch's gradient (the empirical Fisher matrix,
            near a minimum the Gauss-Newton matrix): biased, never negative, and as good with one sample.
        batch_size: samples in the batch, for `"squared_gradient"` alone.
        seed: of the optimizer's own random streams.

    Raises:
        ValueError, TypeError: for an argument out of range, another slab than Gaussian or another inclusion prior than
            Bernoulli.
    """

    needs_closure = True
    """It calls the closure itself, once per sample: `Hybrid` asks."""

    def __init__(
        self,
        params: ParamsT,
        lam: float,
        lr: float,
        prior: SpikeSlab | Gaussian | None = None,
        *,
        center: Literal["zero", "initial"] = "zero",
        init_inclusion: float = 0.9,
        init_scale: float | None = None,
        samples: int = 2,
        gates: Literal["gaussian", "binary"] = "gaussian",
        hessian: Literal["price", "squared_gradient"] = "price",
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise ValueError(f"samples must be an integer of at least 1, got {samples!r}")
        if gates not in ("gaussian", "binary"):
            raise ValueError(f'gates must be "gaussian" or "binary", got {gates!r}')
        if hessian not in ("price", "squared_gradient"):
            raise ValueError(f'hessian must be "price" or "squared_gradient", got {hessian!r}')
        if (batch_size is not None) != (hessian == "squared_gradient"):
            raise ValueError(
                f'give batch_size with hessian="squared_gradient" and not without, got hessian={hessian!r} and '
                f"batch_size={batch_size!r}"
            )
        if batch_size is not None and (isinstance(batch_size, bool) or batch_size < 1):
            raise ValueError(f"batch_size must be an integer of at least 1, got {batch_size!r}")
        self.samples, self.gates, self.hessian, self.batch_size = samples, gates, hessian, batch_size
        self._streams = Streams(seed)
        self._restored: dict[Tensor, dict[str, Tensor]] | None = None
        defaults = {
            "lam": lam,
            "lr": lr,
            "prior": SpikeSlab(0.1) if prior is None else prior,
            "center": center,
            "init_inclusion": init_inclusion,
            "init_scale": 0.1 if init_scale is None else init_scale,
            "seed": seed,
            "step": 0,
            "draw": 0,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, its law centred at the parameters' present values."""
        copied = dict(param_group) if isinstance(param_group, dict) else param_group  # the caller may use it again
        super().add_param_group(copied)
        group = self.param_groups[-1]
        try:
            group.update({key: self.param_groups[0][key] for key in ("seed", "step", "draw")})
            check_group(group)
            self.state.update({param: initial_state(param, group) for param in group["params"]})
        except BaseException:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Tensor:  # type: ignore[override]
        """Make one natural-parameter step on a batch; return the loss averaged over the networks drawn.

        Args:
            closure: clears the gradients, returns the loss and calls `backward()`, as for a gradient method.  A
                parameter whose gradient is None after each call is left alone.

        Raises:
            TypeError: without a closure.
            ValueError: if a loss is not finite or a setting out of range.  Whatever is raised in here, ρ and the
                parameters are as they were before the step.
        """
        if closure is None:
            raise TypeError(
                "KLMirrorDescent.step needs a closure that clears the gradients, computes the loss at the weights that "
                "it finds, calls backward() and returns the loss. Under torch.amp leave GradScaler out"
            )
        for group in self.param_groups:
            positive("lam", group["lam"])
            non_negative("lr", float(group["lr"]))
        active = [(group, param) for group, param in self._all() if param.requires_grad]
        before = [param.clone() for _, param in active]
        expectations = [
            Expectation(param, self.state[param], group, self.gates, self.batch_size) for group, param in active
        ]
        rng = self._streams.at(self.param_groups[0]["step"], Purpose.MEAN_FIELD)
        losses: list[Tensor] = []
        try:
            for number in range(self.samples):
                for expectation in expectations:
                    expectation.draw(rng, number)
                with torch.enable_grad():
                    loss = closure()
                losses.append(torch.as_tensor(loss).detach().mean())
                if not math.isfinite(float(losses[-1])):
                    raise ValueError(
                        f"the loss of a network drawn from the posterior is {float(losses[-1])}. Check the batch, or "
                        "make init_scale smaller"
                    )
                for expectation in expectations:
                    expectation.add()
            after = [expectation.stepped() for expectation in expectations]
        except BaseException:
            for (_, param), values in zip(active, before, strict=True):
                param.copy_(values)
            raise
        for (group, param), values, factors in zip(active, before, after, strict=True):
            if factors is None:
                param.copy_(values)
                continue
            state = self.state[param]
            state["mean"].copy_(factors.mean)
            state["precision"].copy_(factors.precision)
            if factors.offset is not None:
                state["offset"].copy_(factors.offset)
            param.copy_(self._mean(group, param))
        for group in self.param_groups:
            group["step"] += 1
        return torch.stack(losses).mean()

    def inclusion(self, param: Tensor) -> Tensor:
        """Return α, each weight's probability of not being at the spike, in the parameter's shape and on its device."""
        group = self._group_of(param)
        return self._factors(param).inclusion(prior_precision(group))

    def variance(self, param: Tensor) -> Tensor:
        """Return each weight's variance under ρ, α v + α (1 - α) m²."""
        group = self._group_of(param)
        return mean_field.moments(self._factors(param), prior_precision(group))[1]

    @torch.no_grad()
    def kl(self) -> Tensor:
        """Return KL(ρ‖π) in nats, a float64 scalar; frozen parameters are no part of it."""
        total = torch.zeros((), dtype=torch.float64)
        for group, param in self._all():
            if param.requires_grad and param.numel():
                factors, (p, scale) = self._factors(param), p_and_scale(group)
                alpha = exact_inclusion(factors, scale**-2)
                total += gaussian_spike_slab_kl(
                    alpha, factors.mean, 1 / factors.precision.double(), 1.0 if factors.offset is None else p, scale
                ).cpu()
        return total

    @torch.no_grad()
    def mean(self) -> None:
        """Write the mean of ρ into the parameters; frozen ones keep their values."""
        for group, param in self._all():
            if param.requires_grad:
                param.copy_(self._mean(group, param))

    @contextmanager
    def sample(self) -> Iterator[None]:
        """Put a network drawn from ρ into the model for the time of a block; each block draws another one.

        Frozen parameters keep their values.  Draws are numbered, and the number is part of the state.
        """
        active = [(group, param) for group, param in self._all() if param.requires_grad]
        before = [param.detach().clone() for _, param in active]
        rng = self._streams.at(self.param_groups[0]["draw"], Purpose.POSTERIOR_DRAW)
        for group in self.param_groups:
            group["draw"] += 1
        try:
            with torch.no_grad():
                for group, param in active:
                    drawn = binary_draw(self._factors(param), prior_precision(group), rng)
                    param.copy_(self._located(param, drawn))
            yield
        finally:
            with torch.no_grad():
                for (_, param), values in zip(active, before, strict=True):
                    param.copy_(values)

    def state_dict(self) -> dict[str, Any]:
        """Return all that resumes the run bit for bit: tensors, numbers and strings, for `weights_only` loading."""
        return checkpoint.portable(super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state; the prior stays this optimizer's own, and parameters are not written.

        Raises:
            ValueError: before anything is changed, if the state belongs to another prior, center or shapes.
        """

        def last_look(_: Optimizer, final: dict[str, Any]) -> None:
            check_same(self.param_groups, final["param_groups"])
            self._restored = checkpoint.exact_state(self.param_groups, final, self.state)

        # Registered last, it sees what other hooks leave, and what torch is about to cast to other dtypes.
        handle = self.register_load_state_dict_pre_hook(last_look)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
            self._restored = None

    def __getstate__(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("samples", "gates", "hessian", "batch_size", "_restored")}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        restored = self.__dict__.get("_restored")
        if restored is not None:  # called by load_state_dict, with the casts that `restored` replaces
            groups = [
                {**own, **loaded, **{key: own[key] for key in KEPT}}
                for own, loaded in zip(self.param_groups, state["param_groups"], strict=True)
            ]
            placed = {
                param: {name: tensor.to(param.device) for name, tensor in entry.items()}
                for param, entry in restored.items()
            }
            state = {"state": defaultdict(dict, placed), "param_groups": groups}
        super().__setstate__(state)
        self._streams = Streams(self.param_groups[0]["seed"])

    def _all(self) -> list[tuple[dict[str, Any], Tensor]]:
        return [(group, param) for group in self.param_groups for param in group["params"]]

    def _group_of(self, param: Tensor) -> dict[str, Any]:
        for group, own in self._all():
            if own is param:
                return group
        raise ValueError(f"a tensor of shape {tuple(param.shape)} is none of this optimizer's parameters")

    def _factors(self, param: Tensor) -> Factors:
        return factors_of(self.state[param])

    def _located(self, param: Tensor, values: Tensor) -> Tensor:
        """Return values of γβ as weights."""
        center = self.state[param].get("center")
        return values if center is None else center + values

    def _mean(self, group: dict[str, Any], param: Tensor) -> Tensor:
        return self._located(param, mean_field.moments(self._factors(param), prior_precision(group))[0])
