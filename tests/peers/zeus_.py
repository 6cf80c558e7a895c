"""zeus on the bench: a `ZeusMonitor` around the scenario, its helper processes included.

What is patched, and why it takes nothing from zeus:

- `zeus.device.cpu.rapl.RAPL_DIR` is the fake's folder; the two caches of what was found before are emptied.
- Its helper processes (one per counter that looks for wraps, one per kind of GPU power) run as threads, by
  `multiprocessing.get_context` of those two modules.  The loops are zeus's own functions, with zeus's own periods;
  `time.sleep` and `time.time` in them are the fake clock's, so that they poll as often as they would in the scenario's
  real time.  They are there at once, where real processes take a second or more to start.
- zeus polls a GPU's power without a pause (`infer_counter_update_period` takes the minimum of what it finds and 0); so
  that time goes on at all, the helpers' looks at the clock take 5 ms, which makes 100 polls a second.
- `pynvml` in `zeus.device.gpu.nvidia` is the fake one; where no GPU is asked for, zeus looks for none.

zeus gives joules for each zone and no total.  Those of the package zones are added here, chosen by `cpu_indices`: its
default would be all top-level zones, with psys among them.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import warnings
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from tests.peers.scripts import Bench, Poller, Scenario

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import zeus.device.cpu
    import zeus.device.cpu.rapl as rapl
    import zeus.device.gpu
    import zeus.device.gpu.nvidia as nvidia
    import zeus.monitor.energy as energy
    import zeus.monitor.power as power
    from zeus.device.gpu.common import EmptyGPUs

DISTRIBUTION = "zeus"
LOOK_S = 0.005


def measure(scenario: Scenario, folder: Path) -> float:
    """Return the joules that zeus reports."""
    bench = Bench(scenario, folder)
    gpu = scenario.counts == "gpu"

    def now() -> float:
        if isinstance(threading.current_thread(), Poller):
            bench.sleep(LOOK_S)
        return bench.clock.unix()

    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(mock.patch.dict(os.environ))
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # the fake board is not among these
        stack.callback(bench.close)

        def patch(module: Any, **names: Any) -> None:
            stack.enter_context(mock.patch.multiple(module, **names))

        context = SimpleNamespace(get_context=lambda method: _Context(bench))
        patch(rapl, RAPL_DIR=str(bench.powercap / "intel-rapl"), mp=context, time=SimpleNamespace(sleep=bench.sleep))
        patch(power, mp=context, time=now, sleep=bench.sleep)
        patch(energy, time=bench.clock.unix)
        patch(zeus.device.cpu, _cpus=None)
        patch(zeus.device.gpu, _gpus=EmptyGPUs())
        rapl.rapl_is_available.cache_clear()
        stack.callback(rapl.rapl_is_available.cache_clear)
        if gpu:
            patch(nvidia, pynvml=_Nvml(bench.nvml))
            zeus.device.gpu._gpus = nvidia.NVIDIAGPUs()
            monitor = energy.ZeusMonitor(gpu_indices=[0], cpu_indices=[])
        else:
            cpus = zeus.device.cpu.get_cpus().cpus
            packages = [i for i, cpu in enumerate(cpus) if cpu.rapl_file.name.startswith("package")]
            monitor = energy.ZeusMonitor(gpu_indices=[], cpu_indices=packages)
        monitor.begin_window("scenario", sync_execution=False)
        bench.play()
        said = monitor.end_window("scenario", sync_execution=False)
        if monitor.power_monitor is not None:
            monitor.power_monitor.stop()
        del monitor  # and with it what shuts NVML down: the fake one
        zeus.device.gpu._gpus = None
    if gpu:
        return sum(said.gpu_energy.values())
    dram = sum((said.dram_energy or {}).values()) if scenario.counts == "package+dram" else 0.0
    return sum(said.cpu_energy.values()) + dram


class _Context:
    """What zeus takes from a multiprocessing context."""

    Queue, Event = queue.Queue, threading.Event

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.Value = multiprocessing.get_context("spawn").Value

    def Process(self, target: Any, args: Any = (), kwargs: Any = None, daemon: bool = True, name: str = "") -> Poller:
        return self._bench.poller(target, *args, **(kwargs or {}))


class _Nvml:
    """The fake, and the one function that zeus calls beyond it: the board is no Grace Hopper."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml

    def __getattr__(self, name: str) -> Any:
        return getattr(self._nvml, name)

    def nvmlDeviceGetC2cModeInfoV(self, handle: Any) -> Any:
        raise self._nvml.NVMLError(self._nvml.NVML_ERROR_NOT_SUPPORTED)
