"""How a run is asked to stop: by signals, and in a job of a parallel sweep by the process that leads it."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STEP = "this step"
SWEEP = "MCMCOPT_SWEEP"
"""Environment variable: a file that exists as long as a parallel sweep is to go on."""


@dataclass
class Stop:
    """Whether the user has asked the run to stop; looked at between steps, so that no step is cut in two."""

    asked: bool = False
    after: str = STEP

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt  # asked twice: at once
        self.asked = True
        tell(f"stopping after {self.after}; once more to stop at once without a new checkpoint")


class FollowersStop(Stop):
    """The same for a job of a parallel sweep: what counts is that the leading process goes on.

    A signal to the process group arrives here and through the leader, so that twice does not mean at once.

    Args:
        sign: a file that exists as long as the sweep is to go on.
        leader: process that must be there.
        seconds: between two looks.
    """

    def __init__(self, sign: Path, leader: int, seconds: float = 0.2) -> None:
        self.sign, self.leader, self.seconds = sign, leader, seconds
        self.after = STEP
        self._asked, self._next = False, 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    @property
    def asked(self) -> bool:  # type: ignore[override]
        """Whether to stop, now and for good."""
        if not self._asked and time.monotonic() >= self._next:
            self._next = time.monotonic() + self.seconds
            self._asked = not self.sign.exists() or os.getppid() != self.leader
        return self._asked


@functools.cache
def of_this_process() -> Stop:
    """Return what all runs of this process look at, and let the signals reach it."""
    sign = os.environ.get(SWEEP)
    stop = FollowersStop(Path(sign), os.getppid()) if sign and follows() else Stop()
    for number in SIGNALS:
        signal.signal(number, stop)
    return stop


def follows() -> bool:
    """Return whether this process works for another one."""
    return parent_process() is not None


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
