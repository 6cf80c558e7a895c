"""What the machine can do: read bandwidth and float32 multiply-adds, at the present number of threads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import torch

from benchmarks.costs import Work
from mcmcopt.loss.kernels.memory import aligned
from mcmcopt.loss.kernels.micro import PIXELS, RUN, address, taps_wide
from mcmcopt.loss.kernels.threads import over_tiles


class Machine(NamedTuple):
    """Measured limits.

    Attributes:
        bandwidth: bytes per second, and what measured it.
        peak: multiply-adds per second, and what measured it.
    """

    bandwidth: float
    bandwidth_by: str
    peak: float
    peak_by: str

    def limit(self, work: Work) -> float:
        """Return the seconds below which this machine cannot do the work."""
        return max(work.bytes / self.bandwidth, work.fma / self.peak)


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Others:
    """How much of the processor other processes take from now on."""

    def __init__(self) -> None:
        self._start, self._busy, self._own = time.perf_counter(), self._all_busy(), self._mine()

    def text(self) -> str:
        """Return the cores that others kept busy on average since the start, as a sentence."""
        if self._busy is None:
            return "load by other processes unknown"
        elapsed = time.perf_counter() - self._start
        taken = ((self._all_busy() or 0.0) - self._busy - (self._mine() - self._own)) / elapsed
        return f"other processes took {max(taken, 0.0):.2f} of {os.cpu_count()} cores meanwhile"

    @staticmethod
    def _mine() -> float:
        return sum(os.times()[:4])

    @staticmethod
    def _all_busy() -> float | None:
        """Return the seconds that all cores were busy or stolen since the start of the machine, where Linux counts."""
        try:
            user, nice, system, _, _, irq, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
        except (OSError, ValueError):
            return None
        return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def settle(warm: Callable[[], object] | None = None) -> None:
    """Let torch's threads, which spin for a while after their work, go to sleep, lest they take the cores of others.

    Args:
        warm: called after it, untimed, so that waking threads is not counted.
    """
    if torch.get_num_threads() > 1:
        time.sleep(0.02)
    if warm is not None:
        warm()


@numba.njit(nogil=True, fastmath=True, error_model="numpy")
def _add_up(data: Any, out: Any, first: int, last: int) -> None:
    for part in range(first, last):
        x, total = data[part], np.float32(0)
        for i in range(x.size):
            total += x[i]
        out[part] = total


@numba.njit(nogil=True, error_model="numpy")
def _multiply_add(src: Any, offsets: Any, weights: Any, out: Any, repeats: int, first: int, last: int) -> None:
    for part in range(first, last):
        for _ in range(repeats):
            taps_wide(
                address(src, 0),
                address(offsets, 0),
                address(weights, 0),
                offsets.size,
                RUN,
                address(out, part * PIXELS * RUN),
                RUN,
            )


def measure(megabytes: int = 400, side: int = 2048, repeats: int = 200_000, times: int = 5) -> Machine:
    """Return the limits, each the best of several runs of the faster of two kernels."""
    threads = torch.get_num_threads()
    data = torch.ones(megabytes * 250_000)
    parts = data.numpy().reshape(8 * 125, -1)
    sums = np.zeros(len(parts), np.float32)

    def best(work: Callable[[], object]) -> float:
        settle()
        work()
        return min(seconds(work) for _ in range(times))

    reads = {
        "torch.sum": data.numel() * 4 / best(lambda: data.sum()),
        "numba sum": data.numel() * 4 / best(lambda: over_tiles(_add_up, len(parts), 1e9, parts, sums)),
    }
    taps = 64
    src, out = aligned(((taps + PIXELS) * RUN,), np.float32), aligned((threads * PIXELS * RUN,), np.float32)
    src[:], out[:] = 1.0, 0.0
    offsets, weights = np.arange(taps, dtype=np.int64) * RUN, np.full(taps, 1e-9, np.float32)
    count = threads * repeats * taps * PIXELS * RUN
    a, b = torch.randn(side, side), torch.randn(side, side)
    product = torch.empty(side, side)
    rates = {
        "taps_wide on cached data": count
        / best(lambda: over_tiles(_multiply_add, threads, 1e9, src, offsets, weights, out, repeats)),
        f"torch.matmul {side}²": side**3 / best(lambda: torch.mm(a, b, out=product)),
    }
    read, rate = max(reads, key=reads.__getitem__), max(rates, key=rates.__getitem__)
    others = "; ".join(f"{name} {value / 1e9:.1f}" for name, value in (reads | rates).items())
    return Machine(reads[read], read, rates[rate], f"{rate} (all: {others})")
