"""What a run uses: joules by window, going on where a resumed run's checkpoint left them.

    setup     data, model and optimizer
    train     the optimizer's steps; `epoch`, inside it, those of one epoch
    evaluate  accuracies and losses of the network as it is
    prune     the resistance curves, evaluations included
    inference the test set, as often as it takes to measure one pass; where something is measured or estimated

Measured and estimated joules are kept apart.  A run of which a part was made without a sensor is "not measured".  Sums
are of the steps that led to the result: what a killed process did after its last checkpoint, and is done again, is in
the log `energy.jsonl` alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch import nn

from experiments.data import Split, portions
from mcmcopt.energy import EnergyMeter, EnergyWarning, measure_inference
from mcmcopt.energy.report import WindowTotal

if TYPE_CHECKING:
    from experiments.train import Training
    from mcmcopt.energy.inference import Inference

MEASURED = ("counter", "integrated")
UNKNOWN = WindowTotal(0, 0.0, None, None)
NOT_MEASURED = {"windows": {}, "measured": [], "assumption": None, "known": [False, False], "processes": 1}
"""The state of a run of which nobody knows what it used so far."""


INFERENCE = ("batch_size", "repetitions", "seconds_per_batch", "j_per_batch", "estimated_j_per_batch", "precision")


class Energy:
    """The meter of one run.

    Args:
        settings: `enabled`, `cpu_estimate`, `period_s`, `idle_seconds` and `inference_seconds`.
        log: file that samples are appended to.

    Raises:
        ValueError: naming the setting that makes no sense.
    """

    def __init__(self, settings: Mapping[str, Any], log: Path) -> None:
        for name, least in (("idle_seconds", 2), ("inference_seconds", 0)):
            value = settings[name]
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not (value == 0 or least <= value < math.inf)
            ):
                raise ValueError(f"energy.{name} must be 0 or at least {least} seconds, got {value!r}")
        self._idle_seconds, self._inference_seconds = settings["idle_seconds"], settings["inference_seconds"]
        self.inference: Inference | None = None
        self._before: dict[str, WindowTotal] = {}
        self._known = (settings["enabled"], settings["enabled"])
        """Whether all parts of the run so far were measured by the same sensors, and estimated by the same watts."""
        self._processes = 1
        self._open: dict[str, Any] = {}
        self._meter: EnergyMeter | None = None
        if settings["enabled"]:
            try:
                self._meter = EnergyMeter(log=log, cpu_estimate=settings["cpu_estimate"], period_s=settings["period_s"])
            except (TypeError, ValueError) as error:
                raise ValueError(f"energy: {error}") from error

    def __enter__(self) -> Energy:
        if self._meter is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", EnergyWarning)  # the closing table says it
                self._meter.start()
            try:
                if self._idle_seconds and self.measures:
                    self._meter.calibrate_idle(self._idle_seconds)
            except BaseException:
                self._meter.stop()
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._meter is not None:
            self._meter.stop()

    @property
    def measures(self) -> bool:
        """Whether any sensor is read."""
        return any(provenance in MEASURED for provenance in self.provenances)

    @property
    def provenances(self) -> set[str]:
        """How the channels that enter a total are known."""
        return set() if self._meter is None else {c.provenance for c in self._meter.channels if c.in_total}

    @property
    def assumption(self) -> str | None:
        """What the estimate assumes; None: there is none."""
        channels = () if self._meter is None else self._meter.channels
        return next((c.reason for c in channels if c.provenance == "estimated"), None)

    @property
    def status(self) -> str:
        """What is measured, by kind, or why nothing is."""
        if self._meter is None:
            return "not measured: energy=off"
        if self.measures:
            used = (f"{c.kind} ({c.provenance})" for c in self._meter.channels if c.in_total)
            return f"measured: {', '.join(dict.fromkeys(used))}"
        why = next((c.reason for c in self._meter.channels if c.kind == "cpu_package" and c.reason), "no sensor")
        return f"not measured: {why}"

    def window(self, name: str) -> Any:
        """Return a context whose energy is added to a name's sum."""
        return nullcontext() if self._meter is None else self._window(name)

    @contextmanager
    def _window(self, name: str) -> Iterator[None]:
        self._begin(name)
        try:
            yield
        finally:
            self._end(name)

    def steps(self, training: Training) -> Iterator[bool]:
        """Train to the end inside `train` and `epoch`, yielding after each step whether it ended an epoch."""
        run = training.run()
        names = ("train", "epoch") if self.provenances else ("train",)
        while not training.done:
            for name in names:
                self._begin(name)
            epoch_done = next(run)
            if epoch_done:
                self._end("epoch")
            yield epoch_done
        self.pause()

    def pause(self) -> None:
        """Close the training's windows until the next step."""
        for name in ("epoch", "train"):
            self._end(name)

    def total(self, name: str) -> WindowTotal:
        """Return the sum of a window's closed stretches, those before a resumption among them."""
        before = self._before.get(name)
        if self._meter is None:
            total = before or UNKNOWN
        else:
            now = self._meter.windows.get(name)
            if now is None:  # not opened by this process: nothing more was used
                zero = 0.0 if self.measures else None
                now = WindowTotal(0, 0.0, zero, None if self.assumption is None else 0.0)
            total = now if before is None else _added(before, now)
        measured, estimated = self._known
        if not measured:
            total = replace(total, measured_j=None, coverage=0.0)
        return total if estimated else replace(total, estimated_j=None)

    def joules(self, name: str = "train") -> dict[str, float | None]:
        """Return a window's sums as they stand in a table's row."""
        total = self.total(name)
        return {"joules": total.measured_j, "joules_estimated": total.estimated_j}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, for a checkpoint."""
        names = {*self._before, *(() if self._meter is None else self._meter.windows)}
        return {
            "windows": {name: asdict(self.total(name)) for name in sorted(names)},
            "measured": self._measured,
            "assumption": self.assumption,
            "known": list(self._known),
            "processes": self._processes,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's sums; what this process has used so far is kept."""
        self._before = {name: WindowTotal(**total) for name, total in state["windows"].items()}
        self._processes = state["processes"] + 1
        # joules of other sensors, or of other watts, cannot be added
        self._known = (
            self._known[0] and state["known"][0] and state["measured"] == self._measured,
            self._known[1] and state["known"][1] and state["assumption"] == self.assumption,
        )

    @property
    def _measured(self) -> list[str]:
        channels = () if self._meter is None else self._meter.channels
        return sorted(c.id for c in channels if c.in_total and c.provenance in MEASURED)

    def measure_inference(self, model: nn.Module, split: Split) -> None:
        """Repeat the inference of a part of the data until its energy is known, if any is."""
        if self._meter is None or not self.provenances or not len(split) or not self._inference_seconds:
            return
        training = model.training
        model.eval()
        parts = portions(split.x, split.y)
        self.inference = measure_inference(
            lambda _: [model(x) for x, _ in parts],
            split.y,
            self._inference_seconds,
            warm_up=min(0.2, self._inference_seconds),
            meter=self._meter,
        )
        model.train(training)

    def summary(self, epochs: int, accepted: int, correct: int) -> dict[str, Any]:
        """Return what summary.json says of energy.

        Args:
            epochs: of training.
            accepted: proposals.
            correct: right predictions in one inference of the part of the data that was measured.
        """
        train, cost = self.total("train"), self.inference
        status = self.status
        if self.measures and train.measured_j is None:
            status = "not measured: a part of this run was made without these sensors"
        out: dict[str, Any] = {"status": status, "assumption": self.assumption, "processes": self._processes}
        for name, of in (("measured", "j_per_batch"), ("estimated", "estimated_j_per_batch")):
            used = getattr(train, f"{name}_j")
            answering = None if cost is None else getattr(cost, of)
            out[name] = (
                None
                if used is None
                else {
                    "joules": used,
                    "joules_per_epoch": _per(used, epochs),
                    "joules_per_accepted_proposal": _per(used, accepted),
                    "joules_per_correct_prediction": _per(answering, correct),
                }
            )
        out["coverage"] = train.coverage
        out["windows"] = self.state_dict()["windows"]
        if cost is not None:
            names = (
                "batch_size",
                "repetitions",
                "seconds_per_batch",
                "j_per_batch",
                "estimated_j_per_batch",
                "precision",
            )
            out["inference"] = {name: getattr(cost, name) for name in names}
        if self._meter is not None:
            whole = self._meter.read().to_dict()
            out["this_process"] = {key: whole[key] for key in ("duration_s", "process", "idle", "memory", "channels")}
        return out

    def _begin(self, name: str) -> None:
        if self._meter is not None and name not in self._open:
            self._open[name] = self._meter.window(name, sync=True)
            self._open[name].__enter__()

    def _end(self, name: str) -> None:
        window = self._open.pop(name, None)
        if window is not None:
            window.__exit__(None, None, None)


def _added(a: WindowTotal, b: WindowTotal) -> WindowTotal:
    """Return two sums as one; a part that is not known makes it unknown."""
    seconds = a.duration_s + b.duration_s
    return WindowTotal(
        a.count + b.count,
        seconds,
        None if a.measured_j is None or b.measured_j is None else a.measured_j + b.measured_j,
        None if a.estimated_j is None or b.estimated_j is None else a.estimated_j + b.estimated_j,
        (a.coverage * a.duration_s + b.coverage * b.duration_s) / seconds if seconds else 0.0,
    )


def _per(joules: float | None, n: int) -> float | None:
    return joules / n if joules is not None and n else None
