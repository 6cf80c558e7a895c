"""PAC-Bayes: what the risk of a randomised classifier is at most, from its risk on n samples and KL(ρ‖π).

With probability 1 - δ over n independent samples, for all laws ρ of the weights at once, π fixed without these
samples, losses in [0, 1], r the mean loss on the samples and R its expectation, both averaged over ρ, and
κ = (KL + log(2√n/δ))/(2n), n ≥ 8:

    mcallester   R ≤ r + √κ                                                   McAllester (1999), Maurer (2004)
    quadratic    R ≤ (√(r + κ) + √κ)²                                         Rivasplata et al. (2019)
    kl_bound     R ≤ sup{p: kl(r‖p) ≤ 2κ}                                     Seeger (2002), Maurer (2004)
    catoni       R ≤ [1 - exp(-C r - (KL + log(1/δ))/n)] / (1 - e^(-C))       Catoni (2007)

All logarithms are natural, KL is in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from mcmcopt.chain.checks import fraction, non_negative, positive


def kl(q: float, p: float) -> float:
    """Return kl(q‖p) of two Bernoulli laws, in nats; inf where p is 0 or 1 and q is not.

    Raises:
        ValueError: unless both are probabilities.
    """
    q, p = _probability("q", q), _probability("p", p)
    if (p == 0 and q > 0) or (p == 1 and q < 1):
        return math.inf
    head = q * math.log(q / p) if q > 0 else 0.0
    tail = (1 - q) * (math.log1p(-q) - math.log1p(-p)) if q < 1 else 0.0
    return max(head + tail, 0.0)


def kl_inverse(q: float, c: float) -> float:
    """Return the upper bracket of sup{p: kl(q‖p) ≤ c}: a p ≥ q with kl(q‖p) ≥ c, less than two roundings above it.

    By bisection; 1 where no number below 1 is large enough.

    Raises:
        ValueError: unless q is a probability and c ≥ 0 (inf allowed).
    """
    q = _probability("q", q)
    if isinstance(c, bool) or not isinstance(c, int | float) or not c >= 0:
        raise ValueError(f"c must be a number of at least 0, got {c!r}")
    if c == 0:
        return q
    low, high = q, 1.0
    while low < (middle := low + (high - low) / 2) < high:
        if kl(q, middle) >= c:
            high = middle
        else:
            low = middle
    return high


def mcallester(risk: float, kl: float, n: int, delta: float) -> float:
    """Return r + √κ, at most 1.

    Raises:
        ValueError: unless risk is a probability, kl ≥ 0, n ≥ 8 and 0 < delta < 1.
    """
    risk, kappa = _probability("risk", risk), _kappa(kl, n, delta)
    return min(1.0, risk + math.sqrt(kappa))


def quadratic(risk: float, kl: float, n: int, delta: float) -> float:
    """Return (√(r + κ) + √κ)², at most 1; raises as `mcallester` does."""
    risk, kappa = _probability("risk", risk), _kappa(kl, n, delta)
    return min(1.0, (math.sqrt(risk + kappa) + math.sqrt(kappa)) ** 2)


def kl_bound(risk: float, kl: float, n: int, delta: float) -> float:
    """Return sup{p: kl(r‖p) ≤ 2κ}, rounded upwards; raises as `mcallester` does."""
    return kl_inverse(_probability("risk", risk), 2 * _kappa(kl, n, delta))


def catoni(risk: float, kl: float, n: int, delta: float, C: float | Sequence[float]) -> float:  # noqa: N803
    """Return Catoni's bound, at most 1: for one C > 0, or the best of a grid at delta/len(grid) each.

    C, or the grid, must be fixed before the samples are seen: the best of several without the union bound holds not.

    Raises:
        ValueError: unless risk is a probability, kl ≥ 0, n ≥ 1, 0 < delta < 1 and every C > 0.
    """
    grid = [C] if isinstance(C, int | float) else list(C)
    if not grid:
        raise ValueError("C must be a positive number or a sequence of them, got an empty one")
    risk, kl, share = _probability("risk", risk), non_negative("kl", kl), fraction("delta", delta) / len(grid)
    _count("n", n, 1)
    excess = (kl - math.log(share)) / n
    return min(1.0, *(-math.expm1(-positive("C", c) * risk - excess) / -math.expm1(-c) for c in grid))


def monte_carlo_bound(risk: float, draws: int, delta: float) -> float:
    """Return what r is at most, given its mean over independent draws: kl⁻¹(mean, log(2/δ')/draws).

    A draw is one network from ρ and its mean loss on the samples, or on a random subset drawn with it: anything in
    [0, 1] whose expectation is r (Langford and Caruana 2002; Maurer 2004, Lemma 3, for values in between).

    Raises:
        ValueError: unless risk is a probability, draws ≥ 1 and 0 < delta < 1.
    """
    _count("draws", draws, 1)
    return kl_inverse(_probability("risk", risk), math.log(2 / fraction("delta", delta)) / draws)


def sparse_quantised_kl(n_total: int, k: int, bits: float, log_size_prior: float | None = None) -> float:
    """Return log C(D, k) + log(1/w_k) + k · bits · log 2, the KL of one sparse network of quantised weights.

    Args:
        n_total: D, the number of weights.
        k: how many of them are not 0.
        bits: of each of these, under a code that was fixed without the samples.
        log_size_prior: log w_k, the prior's log-probability of k; default uniform, -log(D + 1).

    Raises:
        ValueError: unless 0 ≤ k ≤ n_total, bits ≥ 0 and log_size_prior ≤ 0.
    """
    _count("n_total", n_total, 0)
    if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k <= n_total:
        raise ValueError(f"k must be an integer from 0 to n_total={n_total}, got {k!r}")
    if log_size_prior is not None and not log_size_prior <= 0:
        raise ValueError(f"log_size_prior must be the logarithm of a probability, at most 0, got {log_size_prior!r}")
    choose = math.lgamma(n_total + 1) - math.lgamma(k + 1) - math.lgamma(n_total - k + 1)
    size = math.log(n_total + 1) if log_size_prior is None else -log_size_prior
    return choose + size + k * non_negative("bits", bits) * math.log(2)


def gaussian_spike_slab_kl(inclusion: Tensor, mean: Tensor, variance: Tensor, p: float, scale: float) -> Tensor:
    """Return KL(ρ‖π) in float64, a scalar, ρ = Π[α N(m, v) + (1 - α) δ₀] and π the same with p and N(0, scale²).

    Σ_j kl(α_j‖p) + α_j [log(scale/√v_j) + (v_j + m_j²)/(2 scale²) - ½].  p = 1 (no spike) needs α = 1 everywhere.

    Args:
        inclusion, mean, variance: α, m and v of one shape, α in [0, 1], v > 0.
        p: the prior's inclusion probability, in (0, 1].
        scale: the slab's standard deviation.

    Raises:
        ValueError: for shapes that differ, or an argument out of range.
    """
    alpha, m, v = inclusion.double(), mean.double(), variance.double()
    if not alpha.shape == m.shape == v.shape:
        raise ValueError(
            f"inclusion, mean and variance must have one shape, got {tuple(alpha.shape)}, {tuple(m.shape)} and "
            f"{tuple(v.shape)}"
        )
    if not bool(((alpha >= 0) & (alpha <= 1)).all()):
        raise ValueError("inclusion must be probabilities, got values outside [0, 1]")
    if not bool((v > 0).all()):
        raise ValueError("variance must be positive, got values of 0 or below")
    scale = positive("scale", scale)
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 < p <= 1:
        raise ValueError(f"p must lie above 0 and be at most 1, got {p!r}")
    if p == 1:
        if not bool((alpha == 1).all()):
            raise ValueError("p=1 puts no mass on 0, so that KL is infinite unless inclusion is 1 everywhere")
        gates = torch.zeros_like(alpha)
    else:
        off = 1 - alpha
        gates = torch.xlogy(alpha, alpha / p) + torch.xlogy(off, off / (1 - p))
    slab = math.log(scale) - 0.5 * v.log() + (v + m * m) / (2 * scale**2) - 0.5
    return (gates + alpha * slab).sum()


def gibbs_kl_estimate(lams: Sequence[float], mean_losses: Sequence[float]) -> list[float]:
    """Return an estimate of KL(ρ_λ‖π) at each λ, ρ_λ ∝ exp(-λ r) π, from the mean losses E_λ[r] along a ladder.

    KL(ρ_λ‖π) = -λ E_λ[r] - log Z_λ and -log Z_λ = ∫₀^λ E_s[r] ds (thermodynamic integration), here by the trapezoid
    rule.  An estimate and no bound: chains have not converged, means are noisy, the ladder is finite.

    Args:
        lams: 0 first (the prior), then increasing.
        mean_losses: E_λ[r] at each.

    Raises:
        ValueError: if the ladder does not begin at 0 or does not increase, or the lengths differ.
    """
    if len(lams) != len(mean_losses):
        raise ValueError(f"lams and mean_losses must have one length, got {len(lams)} and {len(mean_losses)}")
    if not lams or lams[0] != 0 or any(not a < b for a, b in pairwise(lams)):
        raise ValueError(f"lams must begin with 0, the prior, and increase, got {list(lams)}")
    estimates, free_energy = [0.0], 0.0
    for i in range(1, len(lams)):
        free_energy += (lams[i] - lams[i - 1]) * (mean_losses[i] + mean_losses[i - 1]) / 2
        estimates.append(free_energy - lams[i] * mean_losses[i])
    return estimates


@dataclass(frozen=True)
class Certificate:
    """A bound on the risk of ρ with its parts; it holds with probability 1 - (δ + δ'), so δ and δ' add up to < 1.

    Args:
        risk: mean loss of independent draws from ρ on the samples.
        draws: how many.
        kl: KL(ρ‖π), π chosen without the samples.
        n: samples.
        delta: δ, of the bound.
        monte_carlo_delta: δ', of `risk` being a mean of finitely many draws.
        bound: `"kl"`, `"mcallester"`, `"quadratic"` or `"catoni"`.
        C: of `"catoni"`.

    Raises:
        ValueError: for an unknown bound, δ + δ' ≥ 1, or an argument out of range.
    """

    risk: float
    draws: int
    kl: float
    n: int
    delta: float
    monte_carlo_delta: float
    bound: str = "kl"
    C: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.bound not in (*_FORMS, "catoni"):
            raise ValueError(f"bound must be one of {', '.join((*_FORMS, 'catoni'))}, got {self.bound!r}")
        if (self.C is None) == (self.bound == "catoni"):
            raise ValueError(f'give C with bound="catoni" and with no other, got bound={self.bound!r}, C={self.C!r}')
        if not self.delta + self.monte_carlo_delta < 1:
            raise ValueError(f"delta + monte_carlo_delta must be below 1, got {self.delta} + {self.monte_carlo_delta}")
        _ = self.value  # checks the rest

    @property
    def confidence(self) -> float:
        """1 - (δ + δ')."""
        return 1 - (self.delta + self.monte_carlo_delta)

    @property
    def corrected_risk(self) -> float:
        """What the risk of ρ on the samples is at most, the draws being finitely many."""
        return monte_carlo_bound(self.risk, self.draws, self.monte_carlo_delta)

    @property
    def value(self) -> float:
        """The bound."""
        if self.C is not None:
            return catoni(self.corrected_risk, self.kl, self.n, self.delta, self.C)
        return _FORMS[self.bound](self.corrected_risk, self.kl, self.n, self.delta)

    def __repr__(self) -> str:
        constant = "" if self.C is None else f", C={self.C}"
        return (
            f"Certificate(R <= {self.value:.4f} with probability {self.confidence:g} by {self.bound}{constant}: "
            f"risk {self.risk:.4f} over {self.draws} draws, at most {self.corrected_risk:.4f} with "
            f"delta'={self.monte_carlo_delta:g}; KL {self.kl:.1f} nats, n={self.n}, delta={self.delta:g})"
        )


_FORMS: dict[str, Callable[[float, float, int, float], float]] = {
    "kl": kl_bound,
    "mcallester": mcallester,
    "quadratic": quadratic,
}


def _kappa(kl: float, n: int, delta: float) -> float:
    _count("n", n, 8)
    return (non_negative("kl", kl) + math.log(2 * math.sqrt(n) / fraction("delta", delta))) / (2 * n)


def _probability(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}")
    return float(value)


def _count(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
