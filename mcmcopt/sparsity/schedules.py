"""Pruning on a schedule, at once or gradually, while a gradient method trains.

    OneShot   s_t = 0 before step ⌈at·T⌉, then s                                LeCun et al. (1990), Han et al. (2015)
    Gradual   s_t = s (1 - (1 - (t - t0)/(t1 - t0))³), or another schedule      Zhu and Gupta (2018, eq. 1)

T is the number of steps, s = 1 - density the final sparsity.  A weight that is pruned stays so.
"""

from __future__ import annotations

import math

from mcmcopt.sparsity.criteria import Criterion, Magnitude, check_seed, shuffled
from mcmcopt.sparsity.masked import Pruner
from mcmcopt.sparsity.masks import Scope, check_scope
from mcmcopt.sparsity.prune import Schedule, check_rounds, check_schedule, prune, sparsity_after
from mcmcopt.sparsity.structures import check_block


class _ByCriterion(Pruner):
    """What both have in common: whose scores count, over what, on what data."""

    def _settle(
        self,
        density: float,
        scope: Scope,
        criterion: Criterion | None,
        schedule: Schedule,
        n_batches: int,
        batch_size: int,
        block: tuple[int, int],
    ) -> None:
        """Check and keep the settings."""
        self.density, self.scope = check_density(density), check_scope(scope)
        self.criterion: Criterion = Magnitude() if criterion is None else criterion
        self.schedule: Schedule = check_schedule(schedule)
        self.n_batches, self.batch_size = check_number("n_batches", n_batches), check_number("batch_size", batch_size)
        self.block = check_block((block[0], block[1]) if isinstance(block, list) and len(block) == 2 else block)

    def _prune(self, sparsity: float, rounds: int = 1, revive: bool = False) -> None:
        """Update the masks; what is off stays off."""
        self.masks = prune(
            self._bound_model,
            self.criterion,
            sparsity,
            self._loss_fn,
            lambda _: self._batches(self.n_batches, self.batch_size),
            scope=self.scope,
            rounds=rounds,
            schedule=self.schedule,
            revive=revive,
            block=self.block,
            keep=self.masks or None,
        )


class OneShot(_ByCriterion):
    """Prunes once: before, during or after training; the rest is training with the zeros held.

    Args:
        density: the share of weights (or structures) that stay, in (0, 1].
        at: the share of training after which weights are pruned, in [0, 1]; 0: before the first step; 1: after the
            last.
        scope: what is pruned and over what the density holds, see `keep_masks`.
        criterion: scores weights, the lowest go; default `Magnitude()`; `Random(seed)` is the control.
        rounds: between which scores are computed again, on fresh batches, all in this one moment (`prune`).
        schedule: of the share after each round: `"exponential"`, `"cubic"` or `"linear"`.
        revive: whether weights pruned in one round may come back in a later one.
        n_batches, batch_size: what the criterion gets in each round, where it needs data.
        shuffle: seed of a shuffle of each layer's mask, by weights or by the scope's structures: the control that keeps
            the densities of layers; None: none.
        block: rows and columns of a tile.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        density: float,
        at: float = 0.5,
        scope: Scope = "layer",
        criterion: Criterion | None = None,
        *,
        rounds: int = 1,
        schedule: Schedule = "exponential",
        revive: bool = False,
        n_batches: int = 1,
        batch_size: int = 128,
        shuffle: int | None = None,
        block: tuple[int, int] = (4, 4),
    ) -> None:
        super().__init__()
        self._settle(density, scope, criterion, schedule, n_batches, batch_size, block)
        self.at, self.rounds = check_share("at", at), check_rounds(rounds)
        if not isinstance(revive, bool):
            raise ValueError(f"revive must be True or False, got {revive!r}")
        self.revive = revive
        self.shuffle = None if shuffle is None else check_seed(shuffle)

    def _begun(self) -> None:
        if math.ceil(self.at * self.steps) == 0:
            self._once()
            self.after_step(0)

    def _update(self, t: int) -> None:
        if t == math.ceil(self.at * self.steps) and not self.masks:
            self._once()

    def _once(self) -> None:
        self._prune(1 - self.density, self.rounds, self.revive)
        if self.shuffle is not None:
            self.masks = shuffled(self.masks, self.shuffle, self.scope, self.block)


class Gradual(_ByCriterion):
    """Prunes little by little while the network trains.

    Args:
        density: the share of weights (or structures) that stay in the end, in (0, 1].
        start: the share of training before the first pruning, in [0, 1).
        end: the share of training after which the density is reached, in (start, 1].
        every: steps between two prunings.
        scope: what is pruned and over what the density holds, see `keep_masks`.
        criterion: scores weights, the lowest go; default `Magnitude()`.
        schedule: `"cubic"` (Zhu and Gupta), `"exponential"` or `"linear"`.
        n_batches, batch_size: what the criterion gets at each pruning, where it needs data.
        block: rows and columns of a tile.

    The last pruning is made at the end of the ramp, whether or not `every` divides it.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        density: float,
        start: float = 0.0,
        end: float = 0.75,
        every: int = 100,
        scope: Scope = "layer",
        criterion: Criterion | None = None,
        *,
        schedule: Schedule = "cubic",
        n_batches: int = 1,
        batch_size: int = 128,
        block: tuple[int, int] = (4, 4),
    ) -> None:
        super().__init__()
        self._settle(density, scope, criterion, schedule, n_batches, batch_size, block)
        self.start, self.end = check_share("start", start), check_share("end", end)
        if not self.start < self.end:
            raise ValueError(f"start must be smaller than end, got {start} and {end}")
        self.every = check_number("every", every)

    def sparsity(self, t: int) -> float:
        """Return the sparsity that the schedule asks for after t steps."""
        first, last = self._ramp
        return sparsity_after(t - first, max(last - first, 1), 1 - self.density, self.schedule)

    @property
    def _ramp(self) -> tuple[int, int]:
        """The steps at which the sparsity leaves 0 and arrives."""
        return math.floor(self.start * self.steps), math.ceil(self.end * self.steps)

    def _update(self, t: int) -> None:
        first, last = self._ramp
        if (first < t < last and (t - first) % self.every == 0) or t == last:
            self._prune(self.sparsity(t))


class GradualMagnitude(Gradual):
    """`Gradual` by magnitude, cubic: fast at first, slowly towards the end (Zhu and Gupta 2018)."""

    def __init__(
        self, density: float, start: float = 0.0, end: float = 0.75, every: int = 100, scope: Scope = "layer"
    ) -> None:
        super().__init__(density, start, end, every, scope)


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


def check_number(name: str, number: int) -> int:
    """Return a number of things, or raise ValueError unless it is an integer of at least 1."""
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {number!r}")
    return number
