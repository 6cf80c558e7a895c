"""Adaptation of proposal scales, with a gain that decays: γ_t = c (t + t0)^(-κ), κ in (1/2, 1].

    acceptance   log σ ← log σ + γ_t (α_t - α*),  α_t the decision, 0 or 1    (Robbins and Monro 1951;
                                                                               Andrieu and Thoms 2008, eq. 4.1)
    values       log σ ← log σ + γ_t (½ log mean w² - log σ)                  w the active weights that a birth joins

`log σ` is the adapted part alone; the proposal's scale is lr · rms · exp(log σ).  While this runs the chain is
not Markov; diminishing gains keep its ergodic averages right under the conditions of Roberts and Rosenthal (2007),
and frozen adaptation makes the kernel exact.
"""

from __future__ import annotations

import math

GAIN, DELAY, DECAY = 2.0, 16.0, 0.6
LOG_SCALE_MIN, LOG_SCALE_MAX = math.log(1e-5), math.log(1e3)


def gain(t: int) -> float:
    """Return γ_t of the t-th adaptation, t = 0, 1, …"""
    return float(GAIN * (t + DELAY) ** -DECAY)


def towards_acceptance(log_scale: float, t: int, accepted: bool, target: float) -> float:
    """Return the adapted log σ after a decision, clamped to the box."""
    return _clamp(log_scale + gain(t) * (float(accepted) - target))


def towards_values(log_scale: float, t: int, mean_square: float) -> float:
    """Return the adapted log σ after seeing active weights with the given mean of (w/(lr·rms))², clamped to the box.

    The mean of a logarithm lies below the logarithm of the mean: for scalar blocks of Gaussian weights this settles at
    0.53 of their root-mean-square, for larger blocks close to it.  Too narrow a g costs efficiency, never exactness.
    """
    if mean_square == 0.0:
        return log_scale
    return _clamp(log_scale + min(1.0, gain(t)) * (0.5 * math.log(mean_square) - log_scale))


def _clamp(log_scale: float) -> float:
    return min(max(log_scale, LOG_SCALE_MIN), LOG_SCALE_MAX)
