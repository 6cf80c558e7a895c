"""When a row of metrics.csv and a checkpoint are due."""

from __future__ import annotations

import time
from dataclasses import dataclass

from experiments.train import Training


class Checkpoints:
    """Says after which steps a checkpoint is due.

    Args:
        steps: a checkpoint at each multiple of it, or as soon after as one can be taken; None: not by steps.
        seconds: since the last one; None: not by the clock.
        step: where the run starts.
    """

    def __init__(self, steps: int | None, seconds: float | None, step: int) -> None:
        if steps is not None and steps < 1:
            raise ValueError(f"progress.checkpoint_steps must be at least 1, or null, got {steps}")
        if seconds is not None and not seconds >= 0:
            raise ValueError(f"progress.checkpoint_seconds must be at least 0, or null, got {seconds}")
        self.steps, self.seconds = steps, seconds
        self.taken(step)

    def taken(self, step: int) -> None:
        """Start the next interval."""
        self._step, self._time = step, time.monotonic()

    def due(self, step: int) -> bool:
        """Return whether an interval has ended by a step."""
        if self.steps is not None and step // self.steps > self._step // self.steps:
            return True
        return self.seconds is not None and time.monotonic() - self._time > self.seconds


@dataclass
class Rows:
    """Says after which steps metrics.csv gets a row.

    Args:
        every: epochs between two rows, or steps where a run's length is given in steps.
        seconds: of training between two rows instead; None: `every` counts.
    """

    every: int
    seconds: float | None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"train.eval_every must be at least 1, got {self.every}")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"train.eval_seconds must be larger than 0, or null, got {self.seconds}")

    def due(self, training: Training, epoch_done: bool) -> bool:
        """Return whether a row is due after the step just made."""
        counters = training.counters
        if training.done or (epoch_done and counters.epoch == training.epochs):
            return True
        if self.seconds is not None:
            return counters.seconds - counters.row_seconds >= self.seconds
        if training.steps is not None:
            return counters.step % self.every == 0
        return epoch_done and counters.epoch % self.every == 0
