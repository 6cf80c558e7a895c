"""How many proposals to score at once from one state: E[decisions] / cost = (1 - (1 - a)^K) / a / (1 + r (K - 1)).

Of K proposals scored from the present state those up to the first accepted one are decided, which with acceptance
rate a are (1 - (1 - a)^K) / a on average; the rest is thrown away.  The first costs 1, each further one r (its own
drawing included), so that r = 1 makes K = 1 best and r = 0 makes K as large as allowed best.  The idea is Brockwell's
prefetching (2006), on the branch of rejections alone.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, TypeAlias

Speculate: TypeAlias = int | Literal["auto"]

LIMIT = 64  # proposals in an automatic window
EXPLORE = 16  # one automatic window in so many tries another size
MEMORY = 9  # timings of which the median is taken
RATE = 0.02  # weight of the newest decision in the running acceptance rate


def check_speculate(value: object) -> Speculate:
    """Return `value` if it is an integer of at least 1 or "auto".

    Raises:
        ValueError: naming the value otherwise.
    """
    if value == "auto" and isinstance(value, str):
        return "auto"
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f'speculate must be an integer of at least 1 or "auto", got {value!r}')
    return value


def expected_decisions(window: int, acceptance: float) -> float:
    """Return (1 - (1 - a)^K) / a, the mean number of decisions that a window of K proposals yields."""
    return (1 - (1 - acceptance) ** window) / acceptance if acceptance > 1e-9 else float(window)


def best_window(acceptance: float, extra: float, limit: int = LIMIT) -> int:
    """Return the K in 1 … `limit` of most expected decisions per cost, the smallest of equals.

    Args:
        acceptance: probability a that a scored proposal is accepted.
        extra: cost r of one more proposal in a window, in units of the first; below 0 counts as 0.
        limit: the largest K.
    """
    best, most = 1, 1.0
    for window in range(2, limit + 1):
        rate = expected_decisions(window, acceptance) / (1 + max(extra, 0.0) * (window - 1))
        if rate <= most:  # concave over affine: once it falls it does not rise again
            break
        best, most = window, rate
    return best


class AutoWindow:
    """Window sizes that maximise (1 - (1 - a)^K) / a / (1 + r (K - 1)), with a and r as measured while it runs.

    `a` is an exponential moving average over decisions, `r` the ratio of two medians of recent timings: of
    (window - single) / (K - 1) and of single ones.  Medians, because a first call may compile and any call may be
    interrupted.  Sizes depend on the clock; decisions do not depend on sizes, so none of this is the chain's state.
    """

    def __init__(self) -> None:
        self.acceptance = 0.25
        self._best, self._asked = 1, 0
        self._single: deque[float] = deque(maxlen=MEMORY)
        self._extra: deque[float] = deque(maxlen=MEMORY)

    @property
    def extra(self) -> float:
        """The measured r; 1, at which speculation does not pay, as long as nothing is known."""
        if not self._single or not self._extra:
            return 1.0
        return max(_median(self._extra), 0.0) / max(_median(self._single), 1e-12)

    def size(self) -> int:
        """Return the K to use next: the best one known, now and then another one so that r stays measured."""
        turn = self._asked % EXPLORE
        self._asked += 1
        if turn == 0:
            return 1
        if turn == EXPLORE // 2:
            return min(2 * self._best, LIMIT)
        return self._best

    def observe(self, window: int, seconds: float, decided: int, accepted: bool) -> None:
        """Take note of a window.

        Args:
            window: the number of proposals scored together.
            seconds: what drawing and scoring them took.
            decided: how many of them were decided: all, or those up to the accepted one.
            accepted: whether the last of these was accepted.
        """
        self.acceptance = (1 - RATE) ** decided * self.acceptance + RATE * accepted
        if window == 1:
            self._single.append(seconds)
        elif self._single:
            self._extra.append((seconds - _median(self._single)) / (window - 1))
        if self._asked % EXPLORE in (1, EXPLORE // 2 + 1):  # after the windows that explore
            self._best = best_window(self.acceptance, self.extra)


def _median(values: deque[float]) -> float:
    return sorted(values)[len(values) // 2]
