"""Slab densities s(x): what an active weight follows under the prior, entry by entry.

    Gaussian    log s = -x²/(2σ²) - log(σ√(2π))
    Student-t   log s = -(ν+1)/2 · log1p(x²/(νσ²)) + const
    Laplace     log s = -|x|/b - log(2b)

A slab is also a complete prior: dense, every weight active.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from mcmcopt.chain.checks import positive


class Slab(ABC):
    """A symmetric density around zero with a scale, applied to each entry independently.

    Args:
        scale: the density's usual scale parameter; positive and finite.
    """

    inclusion = None  # as a prior by itself a slab keeps every weight
    per = "layer"

    def __init__(self, scale: float) -> None:
        self.scale = positive("scale", scale)

    @property
    def slab(self) -> Slab:
        """The slab itself, so that a slab can stand where a prior is expected."""
        return self

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Return log s(x) entry by entry, in x's dtype."""

    @abstractmethod
    def score(self, x: Tensor) -> Tensor:
        """Return the derivative of log s at x, entry by entry."""

    def log_density(self, x: Tensor) -> float:
        """Return Σ log s(x)."""
        return float(self.log_prob(x).sum())

    @abstractmethod
    def log_ratio(self, new: Tensor, old: Tensor) -> float:
        """Return Σ log s(new) - log s(old) over two tensors of the same number of entries."""

    @abstractmethod
    def sample(self, n: int, rng: np.random.Generator) -> Tensor:
        """Return n independent draws, float64 on the CPU."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(scale={self.scale!r})"


class Gaussian(Slab):
    """The normal density; `scale` is its standard deviation."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(scale)
        self._constant = math.log(self.scale * math.sqrt(2 * math.pi))

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log s(x) entry by entry."""
        return -0.5 * (x / self.scale).square() - self._constant

    def score(self, x: Tensor) -> Tensor:
        """Return -x/σ²."""
        return -x / self.scale**2

    def log_density(self, x: Tensor) -> float:
        """Return Σ log s(x) of a vector, in one pass: births and deaths ask for it all the time."""
        return -0.5 * _squared_norm(x) / self.scale**2 - x.shape[0] * self._constant

    def log_ratio(self, new: Tensor, old: Tensor) -> float:
        """Return Σ log s(new) - log s(old)."""
        return (_squared_norm(old) - _squared_norm(new)) / (2 * self.scale**2)

    def sample(self, n: int, rng: np.random.Generator) -> Tensor:
        """Return n independent draws."""
        return torch.from_numpy(rng.standard_normal(n) * self.scale)


class StudentT(Slab):
    """Student's t density with `df` degrees of freedom; `scale` is σ, not a standard deviation."""

    def __init__(self, df: float, scale: float = 1.0) -> None:
        super().__init__(scale)
        self.df = positive("df", df)
        half = 0.5 * self.df
        self._constant = (
            math.lgamma(half + 0.5) - math.lgamma(half) - 0.5 * math.log(self.df * math.pi) - math.log(self.scale)
        )
        self._squared = self.df * self.scale**2

    def _kernel(self, x: Tensor) -> Tensor:
        return (x.square() / self._squared).log1p()

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log s(x) entry by entry."""
        return self._constant - 0.5 * (self.df + 1) * self._kernel(x)

    def score(self, x: Tensor) -> Tensor:
        """Return -(ν+1) x/(νσ² + x²)."""
        return -(self.df + 1) * x / (self._squared + x.square())

    def log_ratio(self, new: Tensor, old: Tensor) -> float:
        """Return Σ log s(new) - log s(old)."""
        return -0.5 * (self.df + 1) * float((self._kernel(new) - self._kernel(old)).sum())

    def sample(self, n: int, rng: np.random.Generator) -> Tensor:
        """Return n independent draws."""
        return torch.from_numpy(rng.standard_t(self.df, n) * self.scale)

    def __repr__(self) -> str:
        return f"StudentT(df={self.df!r}, scale={self.scale!r})"


class DalalyanTsybakov(StudentT):
    """The sparse exponential-weights prior Π (τ² + θ²)^(-2) of Dalalyan and Tsybakov (2012), continuous, without mask.

    It is Student's t with 3 degrees of freedom and σ = τ/√3.
    """

    def __init__(self, tau: float = 1.0) -> None:
        self.tau = positive("tau", tau)
        super().__init__(3.0, self.tau / math.sqrt(3))

    def __repr__(self) -> str:
        return f"DalalyanTsybakov(tau={self.tau!r})"


class Laplace(Slab):
    """The double-exponential density; `scale` is b, the mean of |x|."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(scale)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log s(x) entry by entry."""
        return -x.abs() / self.scale - math.log(2 * self.scale)

    def score(self, x: Tensor) -> Tensor:
        """Return -sign(x)/b, 0 at 0."""
        return -x.sign() / self.scale

    def log_ratio(self, new: Tensor, old: Tensor) -> float:
        """Return Σ log s(new) - log s(old)."""
        return float((old.abs() - new.abs()).sum()) / self.scale

    def sample(self, n: int, rng: np.random.Generator) -> Tensor:
        """Return n independent draws."""
        return torch.from_numpy(rng.laplace(0.0, self.scale, n))


def _squared_norm(x: Tensor) -> float:
    """Return Σ x²; of the single weights that most proposals change, without a tensor operation."""
    if x.shape[0] == 1:
        value = float(x.item())
        return value * value
    return float(x.dot(x))
