"""Schedules: the inverse temperature λ_t, or the share of blocks that a prior allows, by the step t = 0, 1, …

A chain at λ sits about d/(2λ) above a minimum of the loss, with d active weights.  λ = n (data) is the Bayes
posterior; annealing λ upwards turns the chain into an optimizer.  Any callable of the step will do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from mcmcopt.chain.checks import positive


class GeometricAnnealing:
    """λ_t = start · (end/start)^(t/steps), constant from t = steps on (Kirkpatrick et al. 1983).

    Args:
        start: λ at step 0.
        end: λ from step `steps` on.
        steps: the number of steps of the way.
    """

    def __init__(self, start: float, end: float, steps: int) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be an integer of at least 1, got {steps!r}")
        self.start, self.end, self.steps = positive("start", start), positive("end", end), steps

    def __call__(self, step: int) -> float:
        """Return λ at a step."""
        return float(self.start * (self.end / self.start) ** min(step / self.steps, 1.0))

    def __repr__(self) -> str:
        return f"GeometricAnnealing(start={self.start!r}, end={self.end!r}, steps={self.steps!r})"


class CubicDecay:
    """A share that falls from `start` to `end`: end + (start - end)(1 - t/steps)³ (Zhu and Gupta 2017, eq. 1).

    Args:
        start: the share until step `after`.
        end: the share from step `after + steps` on.
        steps: the number of steps of the way.
        after: the step at which the way begins.

    Raises:
        ValueError: for a share outside [0, 1], or a number of steps below 1.
    """

    def __init__(self, start: float, end: float, steps: int, after: int = 0) -> None:
        for name, share in (("start", start), ("end", end)):
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                raise ValueError(f"{name} must be a share from 0 to 1, got {share!r}")
        for name, number, least in (("steps", steps, 1), ("after", after, 0)):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {number!r}")
        self.start, self.end, self.steps, self.after = float(start), float(end), steps, after

    def __call__(self, step: int) -> float:
        """Return the share at a step."""
        left = 1 - min(max((step - self.after) / self.steps, 0.0), 1.0)
        return self.end + (self.start - self.end) * left**3

    def __repr__(self) -> str:
        return f"CubicDecay(start={self.start!r}, end={self.end!r}, steps={self.steps!r}, after={self.after!r})"


class Piecewise:
    """A value that moves in straight lines between given points, and is constant before the first and after the last.

    Args:
        points: pairs (step, value), steps rising.

    Raises:
        ValueError: without points, for steps that do not rise, or for anything but finite numbers.
    """

    def __init__(self, points: Sequence[tuple[int, float]]) -> None:
        pairs = [tuple(point) for point in points]
        if not pairs or any(len(pair) != 2 for pair in pairs):
            raise ValueError(f"points must be pairs of a step and a value, at least one, got {points!r}")
        for step, value in pairs:
            if isinstance(step, bool) or not isinstance(step, int) or not isinstance(value, int | float):
                raise ValueError(f"points must be pairs of an integer and a number, got {(step, value)!r}")
            if isinstance(value, bool) or not math.isfinite(value):
                raise ValueError(f"points must have finite values, got {(step, value)!r}")
        if any(later <= step for (step, _), (later, _) in pairwise(pairs)):
            raise ValueError(f"points must have rising steps, got {points!r}")
        self.points = tuple((int(step), float(value)) for step, value in pairs)

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        (first, value), *_ = self.points
        if step <= first:
            return value
        for (before, low), (after, high) in pairwise(self.points):
            if step <= after:
                return low + (high - low) * (step - before) / (after - before)
        return self.points[-1][1]

    def __repr__(self) -> str:
        return f"Piecewise({list(self.points)!r})"
