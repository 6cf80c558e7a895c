"""pyJoules and carbontracker on the bench, for two more columns.

pyJoules: `RAPL_API_DIR` is the fake's folder, `pynvml` the fake one; its `EnergyMeter` reads at both ends only.
carbontracker: its `Component`, in the loop of `CarbonTrackerThread.run` (measure, wait a second, again), which runs as
a thread of the bench; `RAPL_DIR`, `time` in its Intel module and `pynvml` are replaced.  Its joules are those before it
multiplies by a data centre's overhead (PUE).
"""

from __future__ import annotations

import os
import warnings
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from tests.peers.scripts import Bench, Scenario


class Peer:
    """A column: the name of a distribution, and joules of a scenario."""

    def __init__(self, name: str, measure: Any) -> None:
        self.DISTRIBUTION, self._measure = name, measure

    def measure(self, scenario: Scenario, folder: Path) -> float | None:
        """Return the joules that the peer reports; None: it does not measure such a thing."""
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(mock.patch.dict(os.environ))
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # the fake board is not among these
            bench = Bench(scenario, folder)
            stack.callback(bench.close)
            return self._measure(bench, lambda m, **names: stack.enter_context(mock.patch.multiple(m, **names)))


def _pyjoules(bench: Bench, patch: Any) -> float | None:
    from pyJoules.device import nvidia_device, rapl_device
    from pyJoules.energy_meter import EnergyMeter

    patch(rapl_device, RAPL_API_DIR=str(bench.powercap / "intel-rapl"))
    patch(nvidia_device, pynvml=bench.nvml)
    counts = bench.scenario.counts
    try:
        device = nvidia_device.NvidiaGPUDevice() if counts == "gpu" else rapl_device.RaplDevice()
        domains = device.available_domains()
        if counts != "gpu":
            wanted = ("package", "dram") if counts == "package+dram" else ("package",)
            domains = [domain for domain in domains if domain.get_domain_name() in wanted]
        if not domains:
            return None  # it knows zones by exact names, and no `package-0-die-0` among them
        device.configure(domains)
        meter = EnergyMeter([device])
        meter.start(tag="scenario")
    except bench.nvml.NVMLError_NotSupported:
        return None  # no counter, and it integrates no power
    bench.play()
    meter.stop()
    (sample,) = meter.get_trace()
    return float(sum(sample.energy.values())) / (1e3 if counts == "gpu" else 1e6)


def _carbontracker(bench: Bench, patch: Any) -> float | None:
    from carbontracker.components import component
    from carbontracker.components.cpu import intel
    from carbontracker.components.gpu import nvidia

    if bench.scenario.counts == "package":
        for zone in [key for key in bench.machine.zones if "dram" in key]:
            bench.machine.remove_zone(zone)  # it adds DRAM whether asked to or not
    patch(intel, RAPL_DIR=f"{bench.powercap}/", time=SimpleNamespace(sleep=bench.sleep))
    patch(nvidia, pynvml=bench.nvml)
    logger = mock.Mock()
    part = component.Component("gpu" if bench.scenario.counts == "gpu" else "cpu", [], False, logger)
    part.handler.init()

    def loop() -> None:
        while True:
            part.collect_power_usage(1)
            bench.sleep(1.0)

    bench.poller(loop).start()
    since = bench.clock()
    bench.play()
    return float(part.energy_usage([bench.clock() - since])[0]) * 3.6e6


PYJOULES, CARBONTRACKER = Peer("pyJoules", _pyjoules), Peer("carbontracker", _carbontracker)
