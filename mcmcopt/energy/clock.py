"""Time as the meter sees it: monotonic seconds, which stand still while the machine sleeps, beside the calendar.

`CLOCK_BOOTTIME − CLOCK_MONOTONIC` is the time that the machine has slept; a jump of it marks a suspension.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable


@runtime_checkable
class Clock(Protocol):
    """Three readings of one moment."""

    def __call__(self) -> float:
        """Return monotonic seconds."""

    def unix(self) -> float:
        """Return seconds since 1970, UTC."""

    def asleep(self) -> float:
        """Return seconds that the machine has been suspended since it booted."""


class SystemClock:
    """The clocks of this machine, or another monotonic one beside them.

    Args:
        monotonic: returns seconds that never go back.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        # another clock than the system's says nothing of sleep
        self._boottime = getattr(time, "CLOCK_BOOTTIME", None) if monotonic is time.monotonic else None

    def __call__(self) -> float:
        """Return monotonic seconds."""
        return self._monotonic()

    def unix(self) -> float:
        """Return seconds since 1970, UTC."""
        return time.time()

    def asleep(self) -> float:
        """Return seconds that the machine has been suspended since it booted; 0 where nobody can tell."""
        if self._boottime is None:
            return 0.0
        return time.clock_gettime(self._boottime) - time.monotonic()


def as_clock(clock: Callable[[], float]) -> Clock:
    """Return a clock with all three readings, made of what was given."""
    return clock if isinstance(clock, Clock) else SystemClock(clock)
