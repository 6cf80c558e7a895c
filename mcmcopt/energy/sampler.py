"""The one thread of a meter: absolute deadlines, so that nothing drifts; deadlines that were missed are skipped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence


class Sampler:
    """Calls functions at their periods, in a daemon thread.

    Args:
        tasks: (period in seconds, function); where several are due at once, the first does for all.
    """

    def __init__(self, tasks: Sequence[tuple[float, Callable[[], None]]]) -> None:
        self._tasks = tuple(tasks)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mcmcopt-energy", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ask the thread to end and wait for it; return whether it did."""
        self._end.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        start = time.monotonic()
        due = [start + period for period, _ in self._tasks]
        while not self._end.wait(max(0.0, min(due) - time.monotonic())):
            now = time.monotonic()
            ready = [i for i, deadline in enumerate(due) if deadline <= now]
            for i in ready:
                period = self._tasks[i][0]
                due[i] += period * (1 + (now - due[i]) // period)
            if ready:
                self._tasks[ready[0]][1]()
