"""When a chain's batch grows: a test on fresh data tells that the gains have shrunk to the batch's noise.

Accepted moves also fit the noise of their batch.  The loss of a batch that the chain has not seen, before its first
proposal there, is not touched by that: in the first pass over the data it estimates the population's loss without bias
(in later passes it is optimistic, for the chain has met those samples before).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance


@dataclass
class Growth:
    """A batch that starts small and grows by a factor, up to the full set.

    Args:
        start: first size.
        factor: by which it grows.
        patience: number of fresh batches in each of the two windows that are compared.
        threshold: a relative gain below which it grows whatever the noise.
    """

    start: int = 5000
    factor: float = 2.0
    patience: int = 5
    threshold: float = 0.005

    def __post_init__(self) -> None:
        if self.start < 1:
            raise ValueError(f"train.growth.start must be at least 1, got {self.start}")
        if not self.factor > 1:
            raise ValueError(f"train.growth.factor must be larger than 1, got {self.factor}")
        if self.patience < 2:
            raise ValueError(f"train.growth.patience must be at least 2, for a standard error, got {self.patience}")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"train.growth.threshold must lie in [0, 1), got {self.threshold}")

    def next_size(self, size: int, n: int, losses: Sequence[float]) -> int:
        """Return the size of the next batch of n samples, given the fresh losses since the last growth."""
        grown = min(n, math.ceil(size * self.factor))
        return grown if stalled(losses, self.patience, self.threshold) else size


def stalled(losses: Sequence[float], patience: int, threshold: float) -> bool:
    """Return whether the mean of the last `patience` losses is not clearly lower than that of as many before them.

    Clearly: by more than the standard error of the difference, and by more than `threshold` times the earlier mean.
    False as long as there are fewer than two windows.
    """
    if len(losses) < 2 * patience:
        return False
    before, after = losses[-2 * patience : -patience], losses[-patience:]
    gain = fmean(before) - fmean(after)
    error = math.sqrt((variance(before) + variance(after)) / patience)
    return gain <= max(error, threshold * fmean(before))
