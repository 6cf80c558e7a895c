"""What a machine draws at rest.

w = E / t over the whole time,   std_w = standard deviation of the means of its parts, about a second each
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING

from mcmcopt.energy.report import Baseline, Report

if TYPE_CHECKING:
    from mcmcopt.energy.meter import EnergyMeter


def measure_idle(meter: EnergyMeter, seconds: float, sleep: Callable[[float], None]) -> Baseline:
    """Return what the machine draws while this process sleeps.

    Args:
        meter: a running one.
        seconds: to sleep, at least 2.
        sleep: waits so many seconds.

    Raises:
        ValueError: if that is too short for a standard deviation.
        RuntimeError: if nothing is measured, or not all of the time.
    """
    if not 2 <= seconds < float("inf"):
        raise ValueError(f"seconds must be at least 2, got {seconds}")
    parts: list[Report] = []
    with meter.window("calibrate_idle") as whole:
        for _ in range(int(seconds)):
            with meter.window("calibrate_idle_part") as part:
                sleep(seconds / int(seconds))
            parts.append(part.report)
    total = whole.report.total_measured_j
    if total is None:
        raise RuntimeError("the machine at rest cannot be measured: no sensor can be read")
    if whole.report.coverage < 0.99:
        raise RuntimeError(f"the machine at rest was measured {100 * whole.report.coverage:.0f} % of the time only")
    watts = [(r.total_measured_j or 0.0) / r.duration_s for r in parts]
    duration_s = whole.report.duration_s
    return Baseline(total / duration_s, statistics.stdev(watts), duration_s, "measured")
