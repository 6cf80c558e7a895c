"""What one inference costs: repeated until the counters' coarseness is small against what they read.

    j_per_batch = E / repetitions,   net_j_per_batch = max(0, E − idle_w · duration) / repetitions

The reading is blurred by `uncertainty_j`, about 2 · w · resolution at its edges; it is precise where that is less than
1 % of it, that is after 200 resolutions of the counter: 0.2 s of RAPL's, 20 s of a board's that moves every 0.1 s.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mcmcopt.energy.meter import EnergyMeter
from mcmcopt.energy.report import Report
from mcmcopt.energy.window import synchronize

PRECISE = 0.01
WHOLE = 0.99
"""Coverage above which the time counts as measured."""
CHECK_S = 0.05
"""The clock is looked at about so often, not after each repetition."""


@dataclass(frozen=True)
class Inference:
    """Cost of a model's forward pass.

    Args:
        repetitions: that were measured.
        batch_size: samples in each.
        seconds_per_batch: mean.
        j_per_batch, j_per_sample: measured, gross; None: nothing is measured, or not all of the time.
        net_j_per_batch: above what the machine draws at rest; None: that is not known.
        estimated_j_per_batch: where an estimate was asked for.
        precision: uncertainty over energy; None: nothing is measured; infinite: no counter has moved.
        needed_s: seconds after which `precision` is 1 %; None: that is not known.
        report: of all repetitions together.
    """

    repetitions: int
    batch_size: int
    seconds_per_batch: float
    j_per_batch: float | None
    j_per_sample: float | None
    net_j_per_batch: float | None
    estimated_j_per_batch: float | None
    precision: float | None
    needed_s: float | None
    report: Report

    @property
    def precise(self) -> bool:
        """Whether the counters' coarseness is less than 1 % of the reading."""
        return self.precision is not None and self.precision < PRECISE

    def __str__(self) -> str:
        per = f"{self.repetitions} × {self.batch_size} samples, {1e3 * self.seconds_per_batch:.4g} ms a batch"
        if self.j_per_batch is None or self.j_per_sample is None:
            from mcmcopt.energy.outputs.text import why_not_measured

            energy = f"energy not measured: {why_not_measured(self.report)}"
            if self.report.total_measured_j is not None:
                energy = f"energy not known: measured {100 * self.report.coverage:.0f} % of the time only"
            if self.estimated_j_per_batch is not None:
                energy += f"; estimated {self.estimated_j_per_batch:.4g} J a batch"
            return f"{per}; {energy}"
        energy = f"{self.j_per_batch:.4g} J a batch, {self.j_per_sample:.4g} J a sample"
        if self.net_j_per_batch is not None:
            energy += f", {self.net_j_per_batch:.4g} J a batch above idle"
        if self.needed_s is None:
            energy += "; no counter has moved: repeat it for longer"
        elif not self.precise and self.precision is not None:
            energy += f"; uncertain by {100 * self.precision:.2g} %: 1 % needs {self.needed_s:.3g} s"
        return f"{per}; {energy}"


def measure_inference(
    model: Callable[[Any], Any],
    batch: Any,
    seconds: float = 10.0,
    *,
    warm_up: float = 1.0,
    idle: float = 0.0,
    batch_size: int | None = None,
    meter: EnergyMeter | None = None,
    **settings: Any,
) -> Inference:
    """Return what `model(batch)` costs in energy and time.

    A torch module runs as it is set (call `eval()` yourself), without gradients; other callables run as they are.  On a
    GPU its work is awaited at both edges.

    Args:
        model: a module, or any function of a batch.
        batch: its argument.
        seconds: to repeat for; at least one repetition is made.
        warm_up: seconds of repetitions before, not measured.
        idle: seconds to measure the machine at rest for before all, at least 2; 0: not measured.
        batch_size: samples in a batch; None: its length, or that of a mapping's first value.
        meter: a running one; None: one of its own.
        **settings: of that meter.

    Raises:
        ValueError: if a time makes no sense.
        RuntimeError: if the machine at rest was not measured all of the time.
    """
    if not 0 < seconds < float("inf") or not 0 <= warm_up < float("inf") or not (idle == 0 or 2 <= idle < float("inf")):
        raise ValueError(
            f"seconds must be > 0, warm_up >= 0 and idle 0 or at least 2, got {seconds}, {warm_up} and {idle}"
        )
    torch = sys.modules.get("torch")
    quiet: contextlib.AbstractContextManager[Any] = contextlib.nullcontext() if torch is None else torch.no_grad()
    with contextlib.ExitStack() as stack:
        running = meter if meter is not None else stack.enter_context(EnergyMeter(**settings))
        # where nothing is measured there is no rest to measure either: the report says so
        if idle and any(c.provenance in ("counter", "integrated") for c in running.channels):
            running.calibrate_idle(idle)
        stack.enter_context(quiet)
        _repeat(model, batch, warm_up)
        with running.window("inference", sync=True) as window:
            repetitions = _repeat(model, batch, seconds)
    if batch_size is None:
        first = next(iter(batch.values()), batch) if isinstance(batch, Mapping) else batch
        batch_size = len(first) if hasattr(first, "__len__") else 1
    return _result(window.report, repetitions, batch_size)


def _repeat(model: Callable[[Any], Any], batch: Any, seconds: float) -> int:
    """Call a model for so long and return how often."""
    repetitions, chunk = 0, 1
    start = last = time.perf_counter()
    while last - start < seconds:
        for _ in range(chunk):
            model(batch)
        synchronize()
        repetitions += chunk
        now = time.perf_counter()
        chunk = max(1, min(2 * chunk, round(chunk * CHECK_S / max(now - last, 1e-9))))
        last = now
    return repetitions


def _result(report: Report, repetitions: int, size: int) -> Inference:
    # joules of a part of the time cannot be divided by all repetitions
    total = report.total_measured_j if report.coverage > WHOLE else None
    estimated = report.total_estimated_j
    measured = [r for r in report.channels.values() if r.counted and r.provenance in ("counter", "integrated")]
    blur = sum(r.uncertainty_j or 0.0 for r in measured)
    precision = None if total is None else blur / total if total else math.inf
    known = precision is not None and precision < math.inf
    return Inference(
        repetitions=repetitions,
        batch_size=size,
        seconds_per_batch=report.duration_s / repetitions,
        j_per_batch=None if total is None else total / repetitions,
        j_per_sample=None if total is None else total / (repetitions * max(1, size)),
        net_j_per_batch=None if report.net_j is None or total is None else report.net_j / repetitions,
        estimated_j_per_batch=None if estimated is None else estimated / repetitions,
        precision=precision,
        needed_s=report.duration_s * precision / PRECISE if precision is not None and known else None,
        report=report,
    )
