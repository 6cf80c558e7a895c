"""Exact laws, computed without the package: densities, pattern priors, proposal probabilities, closed-form posteriors.

Nothing here imports mcmcopt.  Where the package has ratios this module has the two densities, so that an error made
in a ratio cannot be made here the same way.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[Any]


@dataclass(frozen=True)
class Density:
    """A density around zero: "gaussian", "laplace" or "student_t", with its usual scale."""

    family: str
    scale: float
    df: float = 3.0

    def log(self, x: Array) -> float:
        """Return Σ log density."""
        z, n = np.abs(x) / self.scale, x.size
        if self.family == "gaussian":
            return float(-0.5 * (z @ z)) - n * math.log(self.scale * math.sqrt(2 * math.pi))
        if self.family == "laplace":
            return -float(z.sum()) - n * math.log(2 * self.scale)
        constant = math.gamma((self.df + 1) / 2) / math.gamma(self.df / 2) / math.sqrt(self.df * math.pi) / self.scale
        return n * math.log(constant) - (self.df + 1) / 2 * float(np.log(1 + z * z / self.df).sum())

    def law(self) -> Any:
        """Return the scipy distribution."""
        if self.family == "student_t":
            return stats.t(self.df, scale=self.scale)
        return {"gaussian": stats.norm, "laplace": stats.laplace}[self.family](scale=self.scale)

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        if self.family == "student_t":
            return self.scale * rng.standard_t(self.df, n)
        return self.scale * (rng.standard_normal(n) if self.family == "gaussian" else rng.laplace(size=n))


@dataclass(frozen=True)
class Pattern:
    """The law of the set of active blocks among D: by name, with the parameters of the paper it comes from."""

    name: str
    a: float = 1.0
    b: float = 1.0

    def sizes(self, size: int) -> Array:
        """Return P(|γ| = k) for k = 0 … D."""
        choose = [math.comb(size, k) for k in range(size + 1)]
        if self.name == "bernoulli":
            return np.array([c * self.a**k * (1 - self.a) ** (size - k) for k, c in enumerate(choose)])
        if self.name == "beta_binomial":
            return np.array([c * _beta(self.a + k, self.b + size - k) for k, c in enumerate(choose)]) / _beta(
                self.a, self.b
            )
        if self.name == "complexity":
            weights = np.array([self.b**-k * size ** (-self.a * k) for k in range(size + 1)])
            return weights / weights.sum()
        if self.name == "alquier_lounici":
            weights = np.array([self.a**k for k in range(size + 1)])
            return weights / weights.sum()
        if self.name == "rigollet_tsybakov":
            weights = np.array([c * (k / (2 * math.e * size)) ** k for k, c in enumerate(choose[:-1])])
            return np.append(weights / weights.sum() / 2, 0.5)
        if self.name == "soft_cap":
            weights = np.array([math.exp(-self.b / 2 * size * max(0, k / size - self.a) ** 2) for k in range(size + 1)])
            return weights * choose / (weights @ choose)
        raise ValueError(self.name)

    def log(self, k: int, size: int) -> float:
        """Return the log-probability of one pattern of k blocks."""
        return math.log(float(self.sizes(size)[k]) / math.comb(size, k))

    def sample(self, size: int, rng: np.random.Generator) -> Array:
        """Return the sorted active blocks of a draw."""
        k = rng.choice(size + 1, p=self.sizes(size))
        return np.sort(rng.permutation(size)[:k])


def _beta(a: float, b: float) -> float:
    return math.gamma(a) * math.gamma(b) / math.gamma(a + b)


def partition(shape: tuple[int, ...], blocks: str | tuple[int, int]) -> list[Array]:
    """Return the flat indices of each block of a matrix, block rows first."""
    rows, columns = shape[0], math.prod(shape[1:])
    r, c = {"scalar": (1, 1), "row": (1, columns)}[blocks] if isinstance(blocks, str) else blocks
    where = np.arange(rows * columns).reshape(rows, columns)
    return [where[i : i + r, j : j + c].ravel() for i in range(0, rows, r) for j in range(0, columns, c)]


# Transition matrices over a finite space --------------------------------------------------------------------------


def subsets(size: int) -> Iterator[tuple[int, ...]]:
    """Yield all subsets of range(size)."""
    for k in range(size + 1):
        yield from itertools.combinations(range(size), k)


def metropolis(log_target: Array, proposals: Array) -> Array:
    """Return P of the Metropolis-Hastings chain with proposal matrix q (rows may sum to less than 1: no proposal)."""
    n = len(log_target)
    P = np.zeros((n, n))
    for i, j in itertools.product(range(n), repeat=2):
        if i != j and proposals[i, j] > 0:
            odds = math.exp(log_target[j] - log_target[i]) * proposals[j, i] / proposals[i, j]
            P[i, j] = proposals[i, j] * min(1.0, odds)
    P[np.diag_indices(n)] = 1 - P.sum(1)
    return P


def imbalance(log_target: Array, transitions: Array) -> float:
    """Return max |π_i P_ij - π_j P_ji|."""
    target = np.exp(log_target - log_target.max())
    flow = (target / target.sum())[:, None] * transitions
    return float(np.abs(flow - flow.T).max())


def mask_proposals(size: int, birth: float | None = None, toggle: bool = False, swap: bool = False) -> Array:
    """Return the matrix of proposal probabilities over masks of one move; the order is that of `subsets`."""
    masks = [frozenset(s) for s in subsets(size)]
    q = np.zeros((len(masks), len(masks)))
    for (i, a), (j, b) in itertools.product(enumerate(masks), repeat=2):
        k, difference = len(a), len(a ^ b)
        if swap and difference == 2 and len(b) == k:
            q[i, j] = 1 / (k * (size - k))
        elif difference == 1 and toggle:
            q[i, j] = 1 / size
        elif difference == 1 and birth is not None:
            q[i, j] = birth / (size - k) if len(b) > k else (1 - birth) / k
    return q


# Linear regression ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Regression:
    """y = Xβ + N(0, noise²) with β_j ~ N(0, scale²) where its block is active."""

    X: Array
    y: Array
    noise: float
    scale: float

    @staticmethod
    def example(scale: float = 1.0) -> Regression:
        """Return data of 12 rows and 4 correlated columns with inclusion probabilities away from 0 and 1."""
        rng = np.random.default_rng(20)
        X = rng.standard_normal((12, 4)) + 0.3 * rng.standard_normal((12, 1))
        y = X @ np.array([0.55, -0.4, 0.25, 0.0]) + 1.2 * rng.standard_normal(12)
        return Regression(X, y, 1.2, scale)

    def negative_log_likelihood(self, beta: Array) -> float:
        """Return -log p(y | β), up to a constant."""
        residual = self.y - self.X @ beta
        return float(residual @ residual) / (2 * self.noise**2)

    def log_marginal(self, active: Sequence[int]) -> float:
        """Return log p(y | γ)."""
        C = self._covariance(active)
        _, log_det = np.linalg.slogdet(C)
        return -0.5 * (float(self.y @ np.linalg.solve(C, self.y)) + float(log_det) + len(self.y) * math.log(2 * np.pi))

    def posterior(self, active: Sequence[int]) -> tuple[Array, Array]:
        """Return mean and covariance of β given γ; zero where inactive."""
        chosen = np.isin(np.arange(self.X.shape[1]), list(active))
        gain = self.scale**2 * (self.X * chosen).T @ np.linalg.inv(self._covariance(active))
        return gain @ self.y, self.scale**2 * (np.diag(chosen * 1.0) - gain @ (self.X * chosen))

    def average(self, pattern: Pattern, blocks: Sequence[Array]) -> tuple[Array, Array]:
        """Return each block's inclusion probability and the averaged mean of β, by summing over all patterns."""
        size = len(blocks)
        masks = list(subsets(size))
        entries = [[int(i) for b in mask for i in blocks[b]] for mask in masks]
        logs = np.array([pattern.log(len(m), size) + self.log_marginal(e) for m, e in zip(masks, entries, strict=True)])
        weights = np.exp(logs - logs.max())
        weights /= weights.sum()
        inclusion = np.array([sum(w for w, m in zip(weights, masks, strict=True) if b in m) for b in range(size)])
        return inclusion, sum(w * self.posterior(e)[0] for w, e in zip(weights, entries, strict=True))

    def _covariance(self, active: Sequence[int]) -> Array:
        A = self.X[:, list(active)]
        return self.noise**2 * np.eye(len(self.y)) + self.scale**2 * A @ A.T


# Monte Carlo error ------------------------------------------------------------------------------------------------


def batch_means_error(trace: Array, batches: int = 50) -> Array:
    """Return the standard error of the mean of an autocorrelated trace (n, …) by non-overlapping batch means."""
    length = len(trace) // batches
    means = trace[: length * batches].reshape(batches, length, *trace.shape[1:]).mean(1)
    return np.asarray(means.std(0, ddof=1) / math.sqrt(batches))


def autocorrelation_time(trace: Array) -> float:
    """Return the integrated autocorrelation time by Geyer's (1992) initial positive sequence; 1 for white noise."""
    x = trace - trace.mean()
    n = len(x)
    if not x.any():
        return 1.0
    spectrum = np.abs(np.fft.rfft(x, 2 * n)) ** 2
    rho = np.fft.irfft(spectrum)[:n]
    rho /= rho[0]
    pairs = rho[: 2 * (n // 2)].reshape(-1, 2).sum(1)
    end = int(np.argmax(pairs <= 0)) if (pairs <= 0).any() else len(pairs)
    return max(1.0, float(2 * pairs[:end].sum() - 1))


def chi_square(observed: Array, expected: Array) -> float:
    """Return the p-value of counts against expected counts, small cells pooled so that each expects at least 5."""
    if ((expected == 0) & (observed > 0)).any():
        return 0.0
    order = np.argsort(expected)
    pooled: list[list[float]] = []
    room = [0.0, 0.0]
    for o, e in zip(observed[order], expected[order], strict=True):
        room = [room[0] + float(o), room[1] + float(e)]
        if room[1] >= 5:
            pooled.append(room)
            room = [0.0, 0.0]
    if pooled:
        pooled[-1] = [pooled[-1][0] + room[0], pooled[-1][1] + room[1]]
    if len(pooled) < 2:
        return 1.0
    o, e = np.array(pooled).T
    return float(stats.chi2.sf(((o - e) ** 2 / e).sum(), len(pooled) - 1))
