"""k of n things drawn one after the other without replacement, by log-weights (Plackett 1975, Luce 1959).

    log P(j_1, …, j_k) = Σ_i [w_(j_i) - log Σ_(j not in j_1 … j_(i-1)) exp w_j]

The order of the draws is part of the proposal, so that its probability is this one product and no sum over k! orders;
the way back draws the things in an order that is fixed by the first one.  Any positive weights give an exact chain if
both directions use those of the state they start from.

Locally balanced weights are exp(G/2τ) with G the gain of the log target (Zanella 2020; Grathwohl et al. 2021).  The
temperature "auto" is itself a function of the state, and so as exact as a constant:

    τ = max(1, (max G - mean G)/(2 log(n + 1)))

at which the best candidate weighs as much as n + 1 average ones.  Where gains spread over many orders of magnitude, as
those of deaths do, hardly any temperature separates small from smaller; `"rank"` goes by the rank r = 0, 1, … alone,

    w = -8 log(1 + r/k),

which takes most of the k from the best 2k, and leaves every candidate a chance that falls by a power law only, so that
the way back stays possible.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mcmcopt.chain.checks import positive

Temperature: TypeAlias = float | Literal["auto", "rank"]
Array: TypeAlias = NDArray[np.float64]

POWER = 8.0  # of the law of ranks


def draw(log_weights: Array, k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return k different positions in the order in which they were drawn (Gumbel top-k: Vieira 2014)."""
    keys = log_weights + rng.gumbel(size=len(log_weights))
    if k < len(keys):
        chosen = np.argpartition(-keys, k - 1)[:k]
        return chosen[np.argsort(-keys[chosen])].astype(np.int64)
    return np.argsort(-keys).astype(np.int64)


def log_prob(log_weights: Array, sequence: NDArray[np.int64]) -> float:
    """Return the log-probability of drawing exactly this sequence; what is left over is added up, never subtracted."""
    rest = np.ones(len(log_weights), dtype=np.bool_)
    rest[sequence] = False
    chosen = log_weights[sequence]
    left = np.logaddexp.accumulate(np.append(_log_sum_exp(log_weights[rest]), chosen[::-1]))[1:][::-1]
    return float((chosen - left).sum())


def check_temperature(value: object) -> Temperature:
    """Return `value` if it is a number of at least 1, "auto" or "rank".

    Raises:
        ValueError: naming the value otherwise.
    """
    if value == "auto" and isinstance(value, str):
        return "auto"
    if value == "rank" and isinstance(value, str):
        return "rank"
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < math.inf:
        raise ValueError(f'temperature must be a number of at least 1, "auto" or "rank", got {value!r}')
    return positive("temperature", value)


def weighted(gains: Array, k: int, temperature: Temperature) -> Array:
    """Return the log-weights for k draws: G/2τ, or by the rank of G."""
    if temperature == "rank":
        ranks = np.empty(len(gains))
        ranks[np.argsort(-gains, kind="stable")] = np.arange(len(gains))
        return -POWER * np.log1p(ranks / k)
    if temperature != "auto":
        return gains / (2 * temperature)
    spread = float(gains.max() - gains.mean()) if len(gains) else 0.0
    return gains / (2 * max(1.0, spread / (2 * math.log(len(gains) + 1)))) if 0 < spread < math.inf else gains / 2


def _log_sum_exp(logs: Array) -> float:
    if not len(logs):
        return -math.inf
    top = float(logs.max())
    return top + math.log(float(np.exp(logs - top).sum())) if math.isfinite(top) else top
