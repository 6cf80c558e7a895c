"""Bop: binary weights flipped by a moving average of their gradients, without latent weights.

    m ← (1 - γ) m + γ g          w_j ← -w_j where |m_j| > τ and sign(m_j) = sign(w_j)

Helwegen et al. (2019), algorithm 1.  m starts at 0 and is not corrected for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from mcmcopt.chain.checks import non_negative


class Bop(Optimizer):
    """Flips binary weights where an average of past gradients says, beyond a threshold, that the sign is wrong.

    Args:
        params: parameters whose values are -1 and +1, such as the weights of `BinaryLinear`; each flip is exact.
        threshold: τ ≥ 0.
        adaptivity: γ in (0, 1], the weight of the newest gradient in the average.
        lr: multiplies γ, so that a scheduler which decays it slows the average down; at 0 nothing changes.

    Each may be set by group.  Averages are kept in the parameter's dtype, float32 where that is narrower.

    Raises:
        ValueError: for a setting out of range, or a parameter with another value than -1 or +1; in a step, for a
            gradient that is not finite.
        TypeError: for a parameter that is not floating, or a sparse gradient.
    """

    def __init__(
        self, params: ParamsT, threshold: float = 1e-8, adaptivity: float = 1e-4, lr: float | Tensor = 1.0
    ) -> None:
        super().__init__(params, {"lr": lr, "threshold": threshold, "adaptivity": adaptivity})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, or leave the optimizer as it was and say what is wrong with it."""
        super().add_param_group(param_group)
        try:
            _check(self.param_groups[-1])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where a saved state was; averages wider than their parameters stay so."""
        super().load_state_dict(state_dict)
        params = (param for group in self.param_groups for param in group["params"])
        numbers = (number for group in state_dict["param_groups"] for number in group["params"])
        for number, param in zip(numbers, params, strict=True):
            if number in state_dict["state"]:  # torch has cast them to the parameter's dtype
                average = state_dict["state"][number]["average"]
                self.state[param]["average"] = average.to(device=param.device, dtype=_wide(param))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step and return the closure's value, None without one.

        Args:
            closure: evaluates the loss and calls `backward()`.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            rate = _rate(group)
            for param in group["params"]:
                if param.grad is not None:
                    self._flip(param, param.grad, rate, float(group["threshold"]))
        return loss

    def _flip(self, param: Tensor, grad: Tensor, rate: float, threshold: float) -> None:
        if grad.is_sparse:
            raise TypeError("Bop needs dense gradients, got a sparse one")
        if not bool(grad.isfinite().all()):
            raise ValueError(
                f"the gradient of a parameter of shape {tuple(param.shape)} is not finite: its average would never "
                "recover, and no weight would flip again"
            )
        average = self.state[param].get("average")
        if average is None:
            average = torch.zeros_like(param, dtype=_wide(param), memory_format=torch.preserve_format)
        average = average.lerp(grad.to(average.dtype), rate)
        self.state[param] = {"average": average}  # nothing in place: a state that was saved before does not change
        wrong = (average.abs() > threshold) & (average.sign() == param.sign())
        param.copy_(torch.where(wrong, -param, param))


def _rate(group: dict[str, Any]) -> float:
    """Return lr · γ, checked: a scheduler may have changed lr."""
    rate = float(group["lr"]) * float(group["adaptivity"])
    if not 0 <= rate <= 1:
        raise ValueError(f"lr times adaptivity must lie in [0, 1], got {float(group['lr'])} · {group['adaptivity']}")
    return rate


def _check(group: dict[str, Any]) -> None:
    non_negative("threshold", group["threshold"])
    adaptivity = group["adaptivity"]
    if isinstance(adaptivity, bool) or not isinstance(adaptivity, int | float) or not 0 < adaptivity <= 1:
        raise ValueError(f"adaptivity must lie in (0, 1], got {adaptivity!r}")
    non_negative("lr", float(group["lr"]))
    _rate(group)
    for param in group["params"]:
        if not param.is_floating_point():
            raise TypeError(f"params must be floating, got a parameter of {param.dtype}")
        wrong = param.detach().abs() != 1
        if bool(wrong.any()):
            raise ValueError(
                f"params must be -1 or +1 everywhere, got {float(param.detach()[wrong].flatten()[0]):g} in a parameter "
                f"of shape {tuple(param.shape)}: real parameters need another optimizer"
            )


def _wide(param: Tensor) -> torch.dtype:
    """Return the dtype of a parameter's average: γ = 1e-4 would be lost in 8 or 11 bits."""
    return torch.promote_types(param.dtype, torch.float32)
