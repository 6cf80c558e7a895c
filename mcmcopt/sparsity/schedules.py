"""Pruning on a schedule, at once or gradually, while a gradient method trains.

    OneShot           s_t = 0 before step ⌈at·T⌉, then s                        LeCun et al. (1990), Han et al. (2015)
    GradualMagnitude  s_t = s (1 - (1 - (t - t0)/(t1 - t0))³)                   Zhu and Gupta (2017, eq. 1)

T is the number of steps, s = 1 - density the final sparsity.  A weight that is pruned stays so.
"""

from __future__ import annotations

import math

from mcmcopt.sparsity.criteria import Criterion, Magnitude
from mcmcopt.sparsity.masked import Pruner
from mcmcopt.sparsity.masks import Scope, keep_masks


class OneShot(Pruner):
    """Prunes once, after a share of training; the rest is fine-tuning with the zeros held.

    Args:
        density: the share of weights that stay, in (0, 1].
        at: the share of training after which weights are pruned, in [0, 1]; 1: after the last step.
        scope: the density holds in each `"layer"` or over all (`"global"`).
        criterion: scores weights, the lowest go; default `Magnitude()`; `Random(seed)` is the control.

    Raises:
        ValueError: for a share out of range.
    """

    def __init__(
        self, density: float, at: float = 0.5, scope: Scope = "layer", criterion: Criterion | None = None
    ) -> None:
        super().__init__()
        self.density, self.at, self.scope = check_density(density), check_share("at", at), check_scope(scope)
        self.criterion: Criterion = Magnitude() if criterion is None else criterion

    def _begun(self) -> None:
        if math.ceil(self.at * self.steps) == 0:
            self._prune()
            self.after_step(0)

    def _update(self, t: int) -> None:
        if t == math.ceil(self.at * self.steps) and not self.masks:
            self._prune()

    def _prune(self) -> None:
        self.masks = keep_masks(self.criterion(self._weights), 1 - self.density, self.scope)


class GradualMagnitude(Pruner):
    """Prunes by magnitude, little by little: fast at first, slowly towards the end (Zhu and Gupta 2017).

    Args:
        density: the share of weights that stay in the end, in (0, 1].
        start: the share of training before the first pruning, in [0, 1).
        end: the share of training after which the density is reached, in (start, 1].
        every: steps between two prunings.
        scope: the density holds in each `"layer"` or over all (`"global"`).

    The last pruning is made at the end of the ramp, whether or not `every` divides it.

    Raises:
        ValueError: for a share out of range.
    """

    def __init__(
        self, density: float, start: float = 0.0, end: float = 0.75, every: int = 100, scope: Scope = "layer"
    ) -> None:
        super().__init__()
        self.density, self.scope = check_density(density), check_scope(scope)
        self.start, self.end = check_share("start", start), check_share("end", end)
        if not self.start < self.end:
            raise ValueError(f"start must be smaller than end, got {start} and {end}")
        self.every = check_every(every)

    def sparsity(self, t: int) -> float:
        """Return the sparsity that the schedule asks for after t steps."""
        first, last = self._ramp
        done = min(max((t - first) / max(last - first, 1), 0.0), 1.0)
        return (1 - self.density) * (1 - (1 - done) ** 3)

    @property
    def _ramp(self) -> tuple[int, int]:
        """The steps at which the sparsity leaves 0 and arrives."""
        return math.floor(self.start * self.steps), math.ceil(self.end * self.steps)

    def _update(self, t: int) -> None:
        first, last = self._ramp
        if not (first < t < last and (t - first) % self.every == 0) and t != last:
            return
        scores = Magnitude()(self._weights)
        for name, mask in self.masks.items():
            scores[name] = scores[name].masked_fill(~mask, -1.0)  # those pruned already go first, whatever is zero
        self.masks = keep_masks(scores, self.sparsity(t), self.scope)


def check_density(density: float) -> float:
    """Return a density as a float, or raise ValueError unless it lies in (0, 1]."""
    if isinstance(density, bool) or not isinstance(density, int | float) or not 0 < density <= 1:
        raise ValueError(f"density must be a share in (0, 1], got {density!r}")
    return float(density)


def check_share(name: str, share: float) -> float:
    """Return a share of training as a float, or raise ValueError unless it lies in [0, 1]."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise ValueError(f"{name} must be a share of training from 0 to 1, got {share!r}")
    return float(share)


def check_scope(scope: Scope) -> Scope:
    """Return the scope of a density, or raise ValueError unless it is "layer" or "global"."""
    if scope not in ("layer", "global"):
        raise ValueError(f'scope must be "layer" or "global", got {scope!r}')
    return scope


def check_every(every: int) -> int:
    """Return a number of steps, or raise ValueError unless it is at least 1."""
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"every must be an integer of at least 1, got {every!r}")
    return every
