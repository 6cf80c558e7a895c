"""Mean-field spike-and-slab regression in closed form, without the package; and how far it is from the posterior.

python -m tests.statistical.mean_field_gap prints the table of docs/results/mean-field.md.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np

from tests.statistical.exact import Array, Pattern, Regression

P = 0.3
"""The prior's inclusion probability."""


@dataclass(frozen=True)
class MeanField:
    """Inclusion probabilities, and means and variances of the Gaussian parts."""

    alpha: Array
    mean: Array
    variance: Array


def coordinate_ascent(problem: Regression, p: float, sweeps: int = 5000) -> MeanField:
    """Return the mean-field optimum by coordinate ascent (Carbonetto and Stephens 2012) from α = ½, m = 0."""
    G, b, noise, prior = problem.X.T @ problem.X, problem.X.T @ problem.y, problem.noise**2, problem.scale**2
    s2 = noise / (np.diag(G) + noise / prior)
    alpha, mu = np.full(len(b), 0.5), np.zeros(len(b))
    for _ in range(sweeps):
        for j in range(len(b)):
            others = G[j] @ (alpha * mu) - G[j, j] * alpha[j] * mu[j]
            mu[j] = s2[j] / noise * (b[j] - others)
            odds = p / (1 - p) * math.sqrt(s2[j] / prior) * math.exp(min(mu[j] ** 2 / (2 * s2[j]), 500))
            alpha[j] = odds / (1 + odds)
    return MeanField(alpha, mu, s2)


def problems() -> dict[str, Regression]:
    """Return one regression per strength of correlation, p = 4 throughout."""
    example, rng = Regression.example(), np.random.default_rng(5)
    orthogonal, _ = np.linalg.qr(rng.standard_normal((12, 4)))
    orthogonal *= math.sqrt(12)
    coefficients, noise = np.array([0.55, -0.4, 0.25, 0.0]), 1.2 * rng.standard_normal(12)
    designs = {"orthogonal": orthogonal}
    for correlation in (0.5, 0.9, 0.99):
        root = np.linalg.cholesky(np.where(np.eye(4) > 0, 1.0, correlation))
        designs[f"all pairs at {correlation}"] = orthogonal @ root.T
    made = {name: Regression(X, X @ coefficients + noise, 1.2, 1.0) for name, X in designs.items()}
    return {"orthogonal": made.pop("orthogonal"), "the tests' example": example, **made}


def gap(problem: Regression, p: float = P) -> tuple[MeanField, Array, Array]:
    """Return the mean-field optimum, and inclusion probabilities and means by enumeration."""
    blocks = [np.array([j]) for j in range(problem.X.shape[1])]
    return coordinate_ascent(problem, p), *problem.average(Pattern("bernoulli", p), blocks)


def main() -> None:
    lines = ["| design | inclusion, enumerated | mean field | largest gap | mean of a weight: largest gap |"]
    lines.append("|---|---|---|---|---|")
    for name, problem in problems().items():
        found, inclusion, mean = gap(problem)
        cells = [", ".join(f"{v:.3f}" for v in values) for values in (inclusion, found.alpha)]
        far = np.abs(found.alpha - inclusion).max(), np.abs(found.alpha * found.mean - mean).max()
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {far[0]:.3f} | {far[1]:.3f} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
