"""Our meter on the bench: no thread, `tick` called at the pace that its thread would keep."""

from __future__ import annotations

from pathlib import Path

from mcmcopt.energy import EnergyMeter
from mcmcopt.energy.meter import POWER_PERIOD_S
from mcmcopt.energy.report import Report
from tests.peers.scripts import SLOW_S, Bench, Scenario

DISTRIBUTION = "mcmcopt"


def report(scenario: Scenario, folder: Path) -> Report:
    """Return the report of one window around the scenario."""
    bench, gpu = Bench(scenario, folder), scenario.counts == "gpu"
    period_s = 1.0 if gpu else SLOW_S
    meter = EnergyMeter(
        "nvml" if gpu else "rapl",
        period_s=period_s,
        attribute=False,
        background=False,
        gpus=[0] if gpu else None,
        sysfs_root=bench.machine.root,
        nvml=bench.nvml,
        clock=bench.clock,
    )
    # the file itself is made unreadable, as for the peers: the fake's own way of failing is not used
    with meter:
        bench.every(period_s if scenario.exact else POWER_PERIOD_S, meter.tick)
        with meter.window("scenario") as window:
            bench.play()
    return window.report


def measure(scenario: Scenario, folder: Path) -> float | None:
    """Return the joules that our meter reports; None: nothing was measured."""
    said = report(scenario, folder)
    return {"package": said.cpu_j, "package+dram": said.total_measured_j, "gpu": said.gpu_j}[scenario.counts]
