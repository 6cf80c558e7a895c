"""codecarbon on the bench: its `CPU` and `GPU`, called as its tracker's two threads call them.

Nothing of it is patched for processors: the folder of the counters is an argument, and so is the time that has passed.
For GPUs the module `pynvml` is replaced by the fake one, in `codecarbon.core.gpu_nvidia`, and `codecarbon.core.gpu` is
told that it is there.  Defaults are kept (a sample every second, a measurement every 15 s), but DRAM is asked for
(`rapl_include_dram`) where it counts.  codecarbon's estimate of memory by the size of its modules is left out: it is
not a measurement.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from tests.peers.scripts import SLOW_S, Bench, Scenario

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from codecarbon.core import gpu, gpu_nvidia
    from codecarbon.external.hardware import CPU, GPU

DISTRIBUTION = "codecarbon"
SAMPLE_S = 1.0


def measure(scenario: Scenario, folder: Path) -> float:
    """Return the joules that codecarbon reports."""
    bench = Bench(scenario, folder)
    kwh: list[float] = []
    since = bench.clock()

    def look() -> None:
        nonlocal since
        dt, since = bench.clock() - since, bench.clock()
        kwh.append(hardware.measure_power_and_energy(dt)[1].kWh)

    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_quiet())
        hardware: Any
        if scenario.counts == "gpu":
            stack.enter_context(mock.patch.object(gpu_nvidia, "pynvml", _Nvml(bench.nvml)))
            stack.enter_context(mock.patch.multiple(gpu, PYNVML_AVAILABLE=True, AMDSMI_AVAILABLE=False))
            hardware = GPU(gpu_ids=None)
        else:
            hardware = CPU(
                output_dir=str(folder),
                mode="intel_rapl",
                model="",
                tdp=100,
                rapl_dir=str(bench.powercap),
                rapl_include_dram=scenario.counts == "package+dram",
            )
        hardware.start()
        bench.every(SAMPLE_S, hardware.monitor_power)
        bench.every(SLOW_S, look)
        bench.play()
        look()  # as its `stop` does
    return sum(kwh) * 3.6e6


class _Nvml:
    """The fake, and the one function that codecarbon calls beyond it."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self.c_nvmlMemory_t = SimpleNamespace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._nvml, name)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Any) -> int:
        return int(self._nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)[1])


def _quiet() -> Any:
    return mock.patch.object(logging.getLogger("codecarbon"), "disabled", new=True)
