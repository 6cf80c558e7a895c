"""Inclusion priors π(γ): which blocks are active.  All depend on k = |γ| alone: given k, γ is uniform.

    Bernoulli(p)           p^k (1-p)^(D-k)
    BetaBinomial(a, b)     B(a+k, b+D-k) / B(a, b)                     p integrated over Beta(a, b)
    Complexity(a, c)       π(k) ∝ c^(-k) D^(-ak)                       Castillo and van der Vaart (2012)
    AlquierLounici(alpha)  π(k) ∝ α^k, so π(γ) ∝ α^k / C(D, k)         Alquier and Lounici (2011)
    RigolletTsybakov()     π(γ) ∝ (k/(2eD))^k, ½ on the full pattern   Rigollet and Tsybakov (2011)
    SoftCap(density, s)    π(γ) ∝ exp(-s/2 · D · max(0, k/D - density)²)

`log_prob` is the log-probability of one pattern, `log_odds(k, D)` that of growing by one given block:
log π(γ ∪ {b}) - log π(γ) at |γ| = k.  The cost of `log_odds` does not depend on D.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mcmcopt.chain.checks import fraction, positive


class Inclusion(ABC):
    """An exchangeable prior on the patterns of `size` blocks."""

    @abstractmethod
    def log_prob(self, k: int, size: int) -> float:
        """Return log π(γ) of one pattern with k of `size` blocks active."""

    def log_odds(self, k: int, size: int) -> float:
        """Return log π(γ') - log π(γ) where γ has k < size active blocks and γ' one more."""
        return self.log_prob(k + 1, size) - self.log_prob(k, size)

    def sample(self, size: int, rng: np.random.Generator) -> int:
        """Return a draw of the number of active blocks."""
        logs = np.array([self.log_prob(k, size) for k in range(size + 1)]) + _log_choose_all(size)
        cumulative = np.cumsum(np.exp(logs - logs.max()))
        return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))

    def at(self, step: int) -> Inclusion:
        """Return the prior that holds in an optimizer's step; itself, unless it follows a schedule."""
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={_shown(value)}' for name, value in vars(self).items())})"


class Bernoulli(Inclusion):
    """Every block is active with probability p, independently; 0 < p < 1."""

    def __init__(self, p: float) -> None:
        self.p = fraction("p", p)

    def log_prob(self, k: int, size: int) -> float:
        """Return log π(γ)."""
        return k * math.log(self.p) + (size - k) * math.log1p(-self.p)

    def log_odds(self, k: int, size: int) -> float:
        """Return logit p."""
        return math.log(self.p) - math.log1p(-self.p)

    def sample(self, size: int, rng: np.random.Generator) -> int:
        """Return a draw of the number of active blocks."""
        return int(rng.binomial(size, self.p))


class BetaBinomial(Inclusion):
    """An unknown inclusion probability with a Beta(a, b) law; adapts to the sparsity that the data ask for."""

    def __init__(self, a: float = 1.0, b: float = 1.0) -> None:
        self.a, self.b = positive("a", a), positive("b", b)

    def log_prob(self, k: int, size: int) -> float:
        """Return log π(γ)."""
        return _log_beta(self.a + k, self.b + size - k) - _log_beta(self.a, self.b)

    def log_odds(self, k: int, size: int) -> float:
        """Return log[(a + k)/(b + D - k - 1)]."""
        return math.log((self.a + k) / (self.b + size - k - 1))

    def sample(self, size: int, rng: np.random.Generator) -> int:
        """Return a draw of the number of active blocks."""
        return int(rng.binomial(size, rng.beta(self.a, self.b)))


class Complexity(Inclusion):
    """The complexity prior π(k) ∝ c^(-k) D^(-ak) of Castillo and van der Vaart (2012, Example 2.2)."""

    def __init__(self, a: float = 1.0, c: float = 1.0) -> None:
        self.a, self.c = positive("a", a), positive("c", c)

    def log_prob(self, k: int, size: int) -> float:
        """Return log π(γ)."""
        rate = -math.log(self.c) - self.a * math.log(max(size, 1))
        return k * rate - _log_geometric_sum(rate, size) - _log_choose(size, k)

    def log_odds(self, k: int, size: int) -> float:
        """Return -log c - a log D + log[(k + 1)/(D - k)]."""
        return -math.log(self.c) - self.a * math.log(size) + math.log((k + 1) / (size - k))


class AlquierLounici(Inclusion):
    """The pattern law α^k / C(D, k) of Alquier and Lounici (2011) and Guedj and Alquier (2013); 0 < α < 1.

    Their slab is uniform on an ℓ1-ball; here any slab may stand beside the pattern law.
    """

    def __init__(self, alpha: float = 0.5) -> None:
        self.alpha = fraction("alpha", alpha)

    def log_prob(self, k: int, size: int) -> float:
        """Return log π(γ)."""
        rate = math.log(self.alpha)
        return k * rate - _log_geometric_sum(rate, size) - _log_choose(size, k)

    def log_odds(self, k: int, size: int) -> float:
        """Return log α + log[(k + 1)/(D - k)]."""
        return math.log(self.alpha) + math.log((k + 1) / (size - k))


class RigolletTsybakov(Inclusion):
    """The sparsity-pattern prior of Rigollet and Tsybakov (2011, eq. 5.3): (k/(2eD))^k, and ½ on the full pattern.

    0⁰ = 1.  The design's rank in the paper is D here.
    """

    def log_prob(self, k: int, size: int) -> float:
        """Return log π(γ)."""
        if k == size:
            return -math.log(2) if size else 0.0
        return _pattern_weight(k, size) - _log_pattern_sum(size)

    def log_odds(self, k: int, size: int) -> float:
        """Return log π(γ') - log π(γ)."""
        if k + 1 == size:
            return self.log_prob(size, size) - self.log_prob(k, size)
        return _pattern_weight(k + 1, size) - _pattern_weight(k, size)


class SoftCap(Inclusion):
    """A cap on the share of active blocks that yields: above it the odds fall, below it all patterns are equal.

    The odds of one more active block at density k/D are exp(-strength · (k/D - density)): the further above the cap,
    the more log target a block has to be worth.  Lowered in time, the cap prunes a network that trains, and the blocks
    that add least to the log target go first: gradual pruning (Zhu and Gupta 2017) with the chain's own accept test.

    Args:
        density: the share of active blocks that is free, in [0, 1], or a schedule: a callable of the step, such as
            `CubicDecay`.
        strength: log odds per unit of density above the cap; where blocks are worth x nats the chain stays at
            density + x/strength.  Or a schedule too, such as `GeometricAnnealing`: mild while much is to go, so that
            no more goes than has to, strict in the end.

    With a schedule no law is left invariant before it has come to its end.
    """

    def __init__(self, density: float | Callable[[int], float], strength: float | Callable[[int], float]) -> None:
        number = isinstance(density, int | float) and not isinstance(density, bool)
        if not callable(density) and not (number and 0 <= density <= 1):
            raise ValueError(f"density must be a share from 0 to 1, or a callable of the step, got {density!r}")
        self.density, self.strength = density, strength if callable(strength) else positive("strength", strength)

    def at(self, step: int) -> SoftCap:
        """Return the cap of a step.

        Raises:
            ValueError: if the schedule leaves [0, 1], or that of the strength is not positive.
        """
        if not callable(self.density) and not callable(self.strength):
            return self
        density = self.density(step) if callable(self.density) else self.density
        return SoftCap(density, self.strength(step) if callable(self.strength) else self.strength)

    def log_prob(self, k: int, size: int) -> float:
        """Return log π(γ); of a schedule, that of step 0."""
        cap = self.at(0)
        return -cap._rate(size) / 2 * cap._over(k, size) ** 2 - _log_cap_sum(cap._share, cap._odds, size)

    def log_odds(self, k: int, size: int) -> float:
        """Return log π(γ') - log π(γ); of a schedule, that of step 0."""
        cap = self.at(0)
        before, after = cap._over(k, size), cap._over(k + 1, size)
        return -cap._rate(size) / 2 * (after - before) * (after + before)

    @property
    def _share(self) -> float:
        assert not callable(self.density)  # noqa: S101 -- `at` has been asked
        return self.density

    @property
    def _odds(self) -> float:
        assert not callable(self.strength)  # noqa: S101 -- `at` has been asked
        return self.strength

    def _rate(self, size: int) -> float:
        return self._odds / max(size, 1)

    def _over(self, k: int, size: int) -> float:
        """Return the number of blocks above the cap."""
        return max(0.0, k - self._share * size)


def _shown(value: object) -> str:
    """Return a value's repr; of a plain function its name, for an address would differ in every process."""
    return str(getattr(value, "__qualname__", None) or repr(value))


def _pattern_weight(k: int, size: int) -> float:
    return k * (math.log(k / (2 * size)) - 1) if k else 0.0


@lru_cache(maxsize=128)
def _log_pattern_sum(size: int) -> float:
    k = np.arange(1.0, size)
    weights = np.concatenate(([0.0], k * (np.log(k / (2 * size)) - 1)))
    return math.log(2) + _log_sum_exp(weights + _log_choose_all(size)[:size])


@lru_cache(maxsize=128)
def _log_cap_sum(density: float, strength: float, size: int) -> float:
    over = np.maximum(0.0, np.arange(size + 1) - density * size)
    return _log_sum_exp(_log_choose_all(size) - strength / max(size, 1) / 2 * over**2)


@lru_cache(maxsize=128)
def _log_geometric_sum(rate: float, size: int) -> float:
    return _log_sum_exp(rate * np.arange(size + 1))


def _log_choose_all(size: int) -> NDArray[np.float64]:
    steps = np.log(np.arange(size, 0, -1)) - np.log(np.arange(1, size + 1))
    return np.concatenate(([0.0], np.cumsum(steps)))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_sum_exp(logs: NDArray[np.floating]) -> float:
    top = float(logs.max())
    return top + math.log(float(np.exp(logs - top).sum()))
