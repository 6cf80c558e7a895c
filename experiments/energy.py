"""What a run uses: joules by window, summed on where a resumed run's checkpoint left them.

    setup     data, model and optimizer
    train     the optimizer's steps; `epoch`, inside it, those of one epoch
    evaluate  accuracies and losses of the network as it is
    prune     the resistance curves, evaluations included
    inference the test set, as often as it takes to measure one pass; where something is measured or estimated

Measured and estimated joules are kept apart; a window that was not measured makes its sum "not measured", never less.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch import nn

from experiments.data import Split, portions
from mcmcopt.energy import EnergyMeter, EnergyWarning, Report, measure_inference

if TYPE_CHECKING:
    from experiments.train import Training
    from mcmcopt.energy.inference import Inference

MEASURED = ("counter", "integrated")


@dataclass
class Sum:
    """All windows of one name."""

    count: int = 0
    seconds: float = 0.0
    measured_j: float | None = 0.0
    estimated_j: float | None = 0.0
    measured_seconds: float = 0.0

    def add(self, report: Report) -> None:
        """Add a window's report."""
        self.count += 1
        self.seconds += report.duration_s
        self.measured_j = _plus(self.measured_j, report.total_measured_j)
        self.estimated_j = _plus(self.estimated_j, report.total_estimated_j)
        self.measured_seconds += report.coverage * report.duration_s


NOT_MEASURED = {"train": asdict(Sum(0, 0.0, None, None))}
"""The state of a run of which nobody knows what it used so far."""


class Energy:
    """The meter of one run.

    Args:
        settings: `enabled`, `cpu_estimate`, `period_s` and `idle_seconds`.
        log: file that samples are appended to.
    """

    def __init__(self, settings: Mapping[str, Any], log: Path) -> None:
        self.sums: dict[str, Sum] = {}
        self.inference: Inference | None = None
        self._idle_seconds, self._inference_seconds = settings["idle_seconds"], settings["inference_seconds"]
        self._meter: EnergyMeter | None = None
        self._open: dict[str, Any] = {}
        if settings["enabled"]:
            self._meter = EnergyMeter(log=log, cpu_estimate=settings["cpu_estimate"], period_s=settings["period_s"])

    def __enter__(self) -> Energy:
        if self._meter is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", EnergyWarning)  # the closing table says it
                self._meter.start()
            if self._idle_seconds and self.measures:
                self._meter.calibrate_idle(self._idle_seconds)
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
    def _nothing(self) -> Sum:
        """What a window that has not been opened used: 0 only where it would have been known."""
        return Sum(0, 0.0, 0.0 if self.measures else None, 0.0 if "estimated" in self.provenances else None)

    @property
    def status(self) -> str:
        """What is measured, or why nothing is."""
        if self._meter is None:
            return "not measured: energy=off"
        used = [f"{c.id} ({c.provenance})" for c in self._meter.channels if c.in_total]
        if self.measures:
            return f"measured: {', '.join(used)}"
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
        while not training.done:
            for name in ("train", "epoch") if self.provenances else ("train",):
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

    def joules(self, name: str = "train") -> dict[str, float | None]:
        """Return a window's sums as they stand in a table's row."""
        total = self.sums.get(name, self._nothing)
        return {"joules": total.measured_j, "joules_estimated": total.estimated_j}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, for a checkpoint."""
        return {name: asdict(total) for name, total in self.sums.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's sums; what this run has used so far is kept."""
        for name, saved in state.items():
            before, now = Sum(**saved), self.sums.get(name)
            if now is not None:
                before = Sum(
                    before.count + now.count,
                    before.seconds + now.seconds,
                    _plus(before.measured_j, now.measured_j),
                    _plus(before.estimated_j, now.estimated_j),
                    before.measured_seconds + now.measured_seconds,
                )
            self.sums[name] = before

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
        train, cost = self.sums.get("train", self._nothing), self.inference
        out: dict[str, Any] = {"status": self.status}
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
        out["coverage"] = train.measured_seconds / train.seconds if train.seconds else 0.0
        out["windows"] = {name: asdict(total) for name, total in self.sums.items()}
        if cost is not None:
            out["inference"] = {
                "samples": cost.batch_size,
                "repetitions": cost.repetitions,
                "seconds_per_batch": cost.seconds_per_batch,
                "precision": cost.precision,
                "needed_s": cost.needed_s,
            }
        report = None if self._meter is None else self._meter.read()
        if report is not None:
            whole = report.to_dict()
            out |= {key: whole[key] for key in ("process", "idle", "memory", "channels")}
        return out

    def _begin(self, name: str) -> None:
        if self._meter is not None and name not in self._open:
            self._open[name] = self._meter.window(name, sync=True)
            self._open[name].__enter__()

    def _end(self, name: str) -> None:
        window = self._open.pop(name, None)
        if window is not None:
            window.__exit__(None, None, None)
            self.sums.setdefault(name, Sum()).add(window.report)


def _plus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


def _per(joules: float | None, n: int) -> float | None:
    return joules / n if joules is not None and n else None
