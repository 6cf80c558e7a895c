"""A report's figures in an active Weights & Biases run; no run is ever made, nothing is committed."""

from __future__ import annotations

import sys
import weakref
from typing import Any

from mcmcopt.energy.report import Report

_defined: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


def log(report: Report, run: Any = None, prefix: str = "energy/") -> None:
    """Log joules so far under `prefix`; they go out with the user's next own `log`.

    Args:
        report: from a meter's start until now.
        run: of wandb; None: the active one.
        prefix: of the names.

    Raises:
        RuntimeError: if no run is active.
    """
    if run is None:
        wandb = sys.modules.get("wandb")
        run = None if wandb is None else wandb.run
        if run is None:
            raise RuntimeError("no wandb run is active: call it inside `with wandb.init(...)`, or give run=…")
    prefixes = _defined.setdefault(run, set())
    if prefix not in prefixes:
        run.define_metric(f"{prefix}*", step_metric=f"{prefix}t_s")
        prefixes.add(prefix)
    values = {
        "t_s": report.duration_s,
        "measured_j": report.total_measured_j,
        "estimated_j": report.total_estimated_j,
        "cpu_j": report.cpu_j,
        "dram_j": report.dram_j,
        "gpu_j": report.gpu_j,
        "net_j": report.net_j,
        "process_estimated_j": None if report.process is None else report.process.energy_j,
        "coverage": report.coverage,
        **{channel: reading.energy_j for channel, reading in report.channels.items()},
    }
    run.log({f"{prefix}{name}": value for name, value in values.items() if value is not None}, commit=False)
