"""The accept test: log u < log A = λ(ℓ - ℓ') + log π'/π + log q(back)/q(forth) (+ log |J|).

Everything is in logs.  With losses per sample the difference is Σ(ℓ_i - ℓ'_i)/n, summed in float64: a mean formed
first in float32 misstates log A by about λ·6e-8·ℓ.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Rule: TypeAlias = Literal["metropolis", "improve"]


def loss_decrease(current: Tensor, proposed: Tensor) -> float:
    """Return ℓ - ℓ' in float64.

    Args:
        current: float64 losses of the present state, shape () or (n,).
        proposed: losses of the proposed state, the same shape, any dtype and device.
    """
    if current.dim() == 0:
        return float(current) - float(proposed)
    return float((current - proposed).sum()) / current.numel()


def log_acceptance(lam: float, decrease: float, log_ratio: float) -> float:
    """Return log A; a value that is not a number counts as minus infinity.

    Args:
        lam: inverse temperature λ.
        decrease: ℓ - ℓ'.
        log_ratio: the logs of prior ratio, proposal ratio and Jacobian together.
    """
    log_a = lam * decrease + log_ratio
    return -math.inf if math.isnan(log_a) else log_a


def rounding(loss: Tensor, lam: float) -> float:
    """Return the error of log A that the rounding of the returned losses alone can cause.

    Half a unit in the last place of a scalar loss, times λ; for n losses, which round independently, the
    root-mean-square over √n.  What the forward pass rounds before that comes on top.
    """
    unit = 0.5 * torch.finfo(loss.dtype).eps
    values = loss.detach().double()
    return lam * unit * math.sqrt(float(values.square().mean()) / max(values.numel(), 1))
