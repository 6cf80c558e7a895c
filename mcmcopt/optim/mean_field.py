"""The mathematics of the mean-field spike-and-slab family, on tensors.

    ρ = Π_j [α_j N(m_j, 1/Λ_j) + (1 - α_j) δ₀],   π the same with p and N(0, 1/Λ₀),   weights θ_j = c_j + γ_j β_j

is an exponential family in (γ, γβ, γβ²) with natural parameters

    ω = log α/(1-α) + ½ log(Λ/2π) - ½ Λ m²,   h = Λ m,   -½ Λ.

Mirror descent with Φ the negative entropy, ρ⁺ = argmin η E_ρ[ℓ] + KL(ρ, ρ_t) + τ KL(ρ, π) with E_ρ[ℓ] linearised in the
expectation parameters, is a convex combination of natural parameters: with λ = η/τ and the rate r = τ/(1 + τ),

    natural⁺ = (1 - r) natural + r (natural of π - λ ∂E_ρ[ℓ])                     (Khan and Lin 2017; Khan and Rue 2023)

With the loss along one weight replaced by its second-order expansion, slope E ℓ'_j = E_ρ[∂ℓ/∂θ_j] and curvature H_j,
the gradients with respect to E γβ² and E γβ are ½ H and E ℓ' - H α m, and that with respect to α is 0: the gate's
evidence is all in the Gaussian part, log α/(1-α) = logit p + ½ log(Λ₀/Λ) + ½ Λ m² at the fixed point.  This is exact
for losses that are quadratic along each weight (linear regression: Titsias and Lázaro-Gredilla 2011, Carbonetto and
Stephens 2012), and with α = 1 for every loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """The factors of one parameter, tensors of its shape: m, Λ and, unless α = 1 throughout, the gates' offset.

    The offset is log α/(1-α) - ½ log(Λ₀/Λ) - ½ Λ m², that is ω but for what π has in common; the prior's is logit p.
    """

    mean: Tensor
    precision: Tensor
    offset: Tensor | None

    def log_odds(self, prior_precision: float) -> Tensor | None:
        """Return log α/(1-α), or None where α = 1 throughout."""
        if self.offset is None:
            return None
        evidence = math.log(prior_precision) - self.precision.log() + self.precision * self.mean.square()
        return self.offset + 0.5 * evidence

    def inclusion(self, prior_precision: float) -> Tensor:
        """Return α."""
        odds = self.log_odds(prior_precision)
        return torch.ones_like(self.mean) if odds is None else odds.sigmoid()


def offset_at(inclusion: float, mean: Tensor, precision: Tensor, prior_precision: float) -> Tensor:
    """Return the offset at which α has a given value, at given m and Λ."""
    evidence = math.log(prior_precision) - precision.log() + precision * mean.square()
    return math.log(inclusion) - math.log1p(-inclusion) - 0.5 * evidence


def moments(factors: Factors, prior_precision: float) -> tuple[Tensor, Tensor]:
    """Return mean and variance of γβ: α m and α/Λ + α (1 - α) m²."""
    alpha = factors.inclusion(prior_precision)
    return alpha * factors.mean, alpha / factors.precision + alpha * (1 - alpha) * factors.mean.square()


def step(
    factors: Factors,
    slope: Tensor,
    curvature: Tensor,
    *,
    lam: float,
    rate: float,
    prior_precision: float,
    prior_log_odds: float,
) -> Factors:
    """Return the factors after one natural-parameter step.

    Args:
        factors: those before.
        slope: E_ρ[∂ℓ/∂θ_j], over ρ as it is.
        curvature: H_j.
        lam: λ = η/τ.
        rate: r = τ/(1 + τ).
        prior_precision, prior_log_odds: Λ₀ and logit p.
    """
    alpha = factors.inclusion(prior_precision)
    change = rate * (prior_precision + lam * curvature - factors.precision)
    precision = factors.precision * kept_positive(change / factors.precision)
    inside = slope + curvature * (1 - alpha) * factors.mean  # E[∂ℓ/∂θ_j | γ_j = 1]
    # h⁺ = (1 - r) h - r λ (E ℓ' - H α m), divided by Λ⁺; in this form no large numbers cancel
    mean = factors.mean - rate * (lam * inside + prior_precision * factors.mean) / precision
    offset = None if factors.offset is None else factors.offset + rate * (prior_log_odds - factors.offset)
    return Factors(mean, precision, offset)


def kept_positive(x: Tensor) -> Tensor:
    """Return 1 + x + x²/2, which is at least ½: the retraction of Lin, Schmidt and Khan (2020, Theorem 1).

    Noise in H can make the plain step's precision negative.  A step without noise that changes nothing changes nothing
    here; with noise of relative variance s² the precision comes out too large by about s²/2, of the order of the rate.
    """
    return 1 + x + 0.5 * x.square()
