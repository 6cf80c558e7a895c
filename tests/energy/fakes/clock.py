"""A clock that moves only when it is told to, in integer nanoseconds, so that a sum of steps is exact."""

from __future__ import annotations


def to_ns(seconds: float) -> int:
    """Nanoseconds nearest to `seconds`."""
    return round(seconds * 1e9)


class FakeClock:
    """Three clocks of one machine: monotonic seconds (call it), `unix` and `asleep`."""

    def __init__(self) -> None:
        self.ns = 1_000 * 10**9  # monotonic
        self._asleep_ns = 50 * 10**9
        self._boot_unix_ns = 1_700_000_000 * 10**9 - self.ns - self._asleep_ns

    def __call__(self) -> float:
        """CLOCK_MONOTONIC in seconds; it stands still while the machine is suspended."""
        return self.ns / 1e9

    def unix(self) -> float:
        """CLOCK_REALTIME in seconds; it goes on while the machine is suspended."""
        return (self._boot_unix_ns + self.ns + self._asleep_ns) / 1e9

    def asleep(self) -> float:
        """CLOCK_BOOTTIME − CLOCK_MONOTONIC: seconds spent suspended since boot."""
        return self._asleep_ns / 1e9

    def advance(self, dt: float) -> int:
        """Let `dt` seconds pass awake; returns them in nanoseconds."""
        step = self._step(dt)
        self.ns += step
        return step

    def suspend(self, dt: float) -> int:
        """Let `dt` seconds pass asleep; returns them in nanoseconds."""
        step = self._step(dt)
        self._asleep_ns += step
        return step

    @staticmethod
    def _step(dt: float) -> int:
        if dt < 0:
            raise ValueError(f"time goes forward, got {dt} s")
        return to_ns(dt)
