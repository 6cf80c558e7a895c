"""Convergence diagnostics of scalar traces: effective sample size and rank-normalised split R-hat.

Both follow Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), "Rank-normalization, folding, and localization",
with Geyer's initial monotone sequence as Stan computes it.  Use them on functions of the state that survive a
permutation of hidden units and a change of dimension: the loss, the number of active weights, logits on a probe set.
Never on weights.  Ranks average ties: traces of sparse models are full of them.

Not implemented: tail and quantile sample sizes, Monte-Carlo standard errors.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float64]


def ess(chains: ArrayLike, method: Literal["bulk", "mean"] = "bulk") -> float:
    """Return the effective sample size of all chains together.

    Args:
        chains: (chains, draws), or (draws,) for one chain; at least 4 draws.
        method: `"bulk"` of the rank-normalised split chains (Vehtari et al. 2021, section 3), or `"mean"` of the split
            chains as they are, for the error of the mean.

    Returns:
        the number of independent draws worth as much: that of all draws for a constant, nan where a value is not
        finite.  Antithetic chains may exceed the number of draws, up to a factor log10 of it.

    Raises:
        ValueError: for another shape, fewer than 4 draws or another method.
    """
    if method not in ("bulk", "mean"):
        raise ValueError(f'method must be "bulk" or "mean", got {method!r}')
    halves = _halves(chains)
    if not np.isfinite(halves).all():
        return math.nan
    return _geyer(_normal_scores(halves) if method == "bulk" else halves)


def rhat(chains: ArrayLike) -> float:
    """Return the rank-normalised split R-hat: the larger of that of the values and that of their spread.

    Args:
        chains: (chains, draws), or (draws,) for one chain, whose halves are then compared; at least 4 draws.

    Returns:
        1 where the chains agree; above about 1.01 they do not (Vehtari et al. 2021, equation 14 and section 4).
        nan for a constant or where a value is not finite.

    Raises:
        ValueError: for another shape or fewer than 4 draws.
    """
    halves = _halves(chains)
    if not np.isfinite(halves).all():
        return math.nan
    spread = np.abs(halves - np.median(halves))
    # a constant spread, as of ±1, says nothing
    return float(np.fmax(_potential_scale_reduction(halves), _potential_scale_reduction(spread)))


def _halves(chains: ArrayLike) -> Array:
    """Return the first and second halves of all chains, each a chain of its own; the middle of an odd number is left
    out.
    """
    values = np.atleast_2d(np.asarray(chains, dtype=np.float64))
    if values.ndim != 2 or values.shape[0] < 1 or values.shape[1] < 4:
        raise ValueError(f"chains must be of shape (chains, draws) with at least 4 draws, got {values.shape}")
    half = values.shape[1] // 2
    return np.concatenate([values[:, :half], values[:, -half:]])


def _normal_scores(values: Array) -> Array:
    """Return Φ⁻¹((r - 3/8)/(S + 1/4)) of the ranks r among all S values, ties averaged (Blom 1958)."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse.reshape(values.shape)]
    scores: Array = torch.special.ndtri(torch.from_numpy((ranks - 0.375) / (values.size + 0.25))).numpy()
    return scores


def _potential_scale_reduction(values: Array) -> float:
    """Return √(var⁺/W) of rank-normalised chains: pooled over mean within-chain variance."""
    scores = _normal_scores(values)
    draws = scores.shape[1]
    within = scores.var(axis=1, ddof=1).mean()
    between = scores.mean(axis=1).var(ddof=1)
    if within < np.finfo(np.float64).eps:
        return math.nan if between < np.finfo(np.float64).eps else math.inf
    return math.sqrt((draws - 1) / draws + between / within)


def _autocovariance(values: Array) -> Array:
    """Return the autocovariances (chains, lags) with divisor n, by FFT with zero padding."""
    draws = values.shape[1]
    transform = np.fft.rfft(values - values.mean(axis=1, keepdims=True), n=2 * draws, axis=1)
    covariance: Array = np.fft.irfft(transform * transform.conj(), n=2 * draws, axis=1)[:, :draws] / draws
    return covariance


def _geyer(values: Array) -> float:
    """Return the sample size S/τ with τ from Geyer's initial monotone sequence of paired autocorrelations."""
    chains, draws = values.shape
    if np.ptp(values) < np.finfo(np.float64).resolution:
        return float(values.size)
    covariance = _autocovariance(values).mean(axis=0)
    within = covariance[0] * draws / (draws - 1)
    pooled = covariance[0] + (values.mean(axis=1).var(ddof=1) if chains > 1 else 0.0)
    rho = 1 - (within - covariance) / pooled
    rho[0] = 1.0
    # Pairs (even lag, odd lag) are summed while they are positive; of the last pair looked at only the even member
    # counts, where it or the pair is positive, as in Stan.
    pairs, even, odd, t = [], rho[0], rho[1], 1
    while t < draws - 3 and even + odd > 0:
        pairs.append(even + odd)
        even, odd = rho[t + 1], rho[t + 2]
        t += 2
    last = even if even > 0 or even + odd >= 0 else 0.0
    tau = -1 + 2 * np.minimum.accumulate(np.array(pairs)).sum() + last
    return float(values.size / max(tau, 1 / math.log10(values.size)))
