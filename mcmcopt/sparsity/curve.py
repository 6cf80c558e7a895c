"""Two numbers for a resistance curve: its mean, and how far it holds.

Both see sparsity s on the axis x = -log10(1 - s), the logarithm of the compression 1/(1 - s) (Blalock et al., 2020,
"What is the state of neural network pruning?", ask for that axis): from 90 % to 99 % is as far as from 0 to 90 %.
At s = 1 it has no end, so points there are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

ROUNDING = 1e-9  # percentage points: 0.95 - 0.01 < 0.94 in float64, which is no loss


def area(sparsity: Sequence[float], accuracy: Sequence[float]) -> float:
    """Return the mean accuracy over log-sparsity from s = 0 to the last s < 1, by the trapezoidal rule.

    Args:
        sparsity: shares, strictly increasing from 0, two or more of them below 1.
        accuracy: shares, one for each; nan makes the result nan.

    Raises:
        ValueError: for anything else.
    """
    x, y = _points(sparsity, accuracy)
    parts = ((x[i + 1] - x[i]) * (y[i] + y[i + 1]) / 2 for i in range(len(x) - 1))
    return math.fsum(parts) / x[-1]


def sparsity_at(sparsity: Sequence[float], accuracy: Sequence[float], points: float = 1.0) -> float:
    """Return the largest sparsity up to which accuracy stays within so many percentage points of that at s = 0.

    It is where the curve, straight over log-sparsity between two points, first goes below; 0 where it falls from s = 0
    on and `points` is 0; the last s < 1 where it never does.

    Args:
        sparsity: shares, strictly increasing from 0, two or more of them below 1.
        accuracy: shares, one for each; nan makes the result nan.
        points: percentage points, at least 0.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(points, bool) or not isinstance(points, int | float) or not 0 <= points < math.inf:
        raise ValueError(f"points must be percentage points of at least 0, got {points!r}")
    x, y = _points(sparsity, accuracy)
    if any(math.isnan(value) for value in y):
        return math.nan
    lost = [100 * (y[0] - value) for value in y]
    for i in range(1, len(x)):
        if lost[i] > points + ROUNDING:
            before = min(lost[i - 1], points)
            crossing = x[i - 1] + (x[i] - x[i - 1]) * (points - before) / (lost[i] - before)
            return 1 - math.pow(10, -crossing)
    return float(sparsity[len(x) - 1])


def _points(sparsity: Sequence[float], accuracy: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return log-sparsity and accuracy of the points below s = 1."""
    if len(sparsity) != len(accuracy):
        raise ValueError(f"sparsity and accuracy must be as long, got {len(sparsity)} and {len(accuracy)} numbers")
    kept = [s for s in sparsity if s != 1]
    if len(kept) < 2 or kept[0] != 0 or not all(a < b for a, b in pairwise(sparsity)):
        raise ValueError(f"sparsity must increase from 0 and have two or more points below 1, got {list(sparsity)}")
    if sparsity[-1] > 1:
        raise ValueError(f"sparsity must be shares from 0 to 1, got {sparsity[-1]}")
    for value in accuracy:
        if not (math.isnan(value) or 0 <= value <= 1):
            raise ValueError(f"accuracy must be shares from 0 to 1, got {value}")
    return [-math.log10(1 - s) for s in kept], list(accuracy[: len(kept)])
