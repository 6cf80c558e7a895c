"""Schedules of the inverse temperature: λ_t as a function of the step t = 0, 1, …

A chain at λ sits about d/(2λ) above a minimum of the loss, with d active weights.  λ = n (data) is the Bayes
posterior; annealing λ upwards turns the chain into an optimizer.  Any callable of the step will do.
"""

from __future__ import annotations

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
