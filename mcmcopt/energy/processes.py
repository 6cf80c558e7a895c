"""CPU time and memory of this process and its descendants, and CPU time of the whole machine.

    C(t) = Σ over the living tree of user + system + (user + system of children that have been waited for)
    B(t) = user + nice + system + irq + softirq of the machine         (guest time is in user; steal is not ours)

A child that ends moves its time into its parent's, so short-lived ones are not lost.  On Linux two files of `/proc` per
process are read; elsewhere psutil walks.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

LOOKS = 3
"""How often a fall of the CPU time is looked at again before it is believed: a descendant was lost sight of."""


class Usage(NamedTuple):
    """One look at the processes."""

    process_s: float
    """CPU seconds, C(t)."""
    machine_s: float
    """CPU seconds, B(t)."""
    rss_bytes: int
    """Resident memory of the living tree; pages that processes share count in each."""


class Processes:
    """Looks at a process and its descendants.

    Descendants are found anew each time in their parents' own lists: a number that another process uses by now is not
    taken for a child.

    Args:
        pid: of the root; None: this process.
        proc: where Linux shows processes.
    """

    def __init__(self, pid: int | None = None, proc: str = "/proc") -> None:
        self._pid, self._proc = os.getpid() if pid is None else pid, proc
        self._native = sys.platform == "linux" and Path(f"{proc}/{self._pid}/task/{self._pid}/children").exists()
        self._last_s = 0.0
        if self._native:
            self._tick_s = 1.0 / os.sysconf("SC_CLK_TCK")
            self._page = os.sysconf("SC_PAGE_SIZE")

    def look(self) -> Usage:
        """Return what has been used so far.

        A child that is waited for between the looks at its parent and at itself is missing for a moment, and would come
        back as if it were new: where the time falls it is looked at again.

        Raises:
            OSError: if the machine's own times cannot be read.
        """
        usage = self._once()
        for _ in range(LOOKS):
            if usage.process_s >= self._last_s:
                break
            usage = self._once()
        self._last_s = usage.process_s
        return usage

    def _once(self) -> Usage:
        return self._look() if self._native else self._walk()

    def _look(self) -> Usage:
        ticks = pages = 0
        waiting, seen = [self._pid], set[int]()
        while waiting:
            pid = waiting.pop()
            if pid in seen:
                continue
            seen.add(pid)
            try:
                line = _read(f"{self._proc}/{pid}/stat")
                # the name in parentheses may hold spaces and parentheses; the fields are counted from its end
                parts = line[line.rindex(b")") + 2 :].split()
                ticks += int(parts[11]) + int(parts[12]) + int(parts[13]) + int(parts[14])
                pages += int(parts[21])
                for task in os.listdir(f"{self._proc}/{pid}/task"):  # noqa: PTH208 -- once per second and thread
                    waiting += map(int, _read(f"{self._proc}/{pid}/task/{task}/children").split())
            except (OSError, ValueError, IndexError):  # it ended meanwhile: its parent has its time, or will have
                continue
        first = _read(f"{self._proc}/stat").split(b"\n", 1)[0].split()
        user, nice, system, _idle, _iowait, irq, softirq = map(int, first[1:8])
        return Usage(ticks * self._tick_s, (user + nice + system + irq + softirq) * self._tick_s, pages * self._page)

    def _walk(self) -> Usage:
        import psutil

        process_s, rss = 0.0, 0
        try:
            root = psutil.Process(self._pid)
            tree = [root, *root.children(recursive=True)]
        except psutil.Error:
            tree = []
        for process in tree:
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    rss += process.memory_info().rss
            except psutil.Error:
                continue
            process_s += times.user + times.system
            process_s += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
        machine = psutil.cpu_times()
        busy = sum(getattr(machine, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
        return Usage(process_s, busy, rss)


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)
