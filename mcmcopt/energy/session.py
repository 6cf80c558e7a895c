"""One run of a meter, from start to stop: what is recorded, the windows on it, and their reports.

    report(window) = T(its end) − T(its begin);   sums by name: Σ over its windows, channel by channel

Its owner calls it under a lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcmcopt.energy.report import Baseline, Memory, Report, WindowTotal
from mcmcopt.energy.summary import Span, make_report

if TYPE_CHECKING:
    from mcmcopt.energy.accounts import State
    from mcmcopt.energy.recorder import Recorder
    from mcmcopt.energy.sensors.base import Scope
    from mcmcopt.energy.window import Window

EDGE_LOOK_S = 0.1
"""Between two looks at the processes at windows' edges: the kernel's own clock ticks every 10 ms."""


@dataclass
class _Sum:
    """All closed windows of one name; by channel, because which channels count may turn out later."""

    count: int = 0
    duration_s: float = 0.0
    joules: dict[str, float] = field(default_factory=dict)
    measured_s: dict[str, float] = field(default_factory=dict)

    def add(self, report: Report) -> None:
        self.count += 1
        self.duration_s += report.duration_s
        for name, reading in report.channels.items():
            self.joules[name] = self.joules.get(name, 0.0) + (reading.energy_j or 0.0)
            self.measured_s[name] = self.measured_s.get(name, 0.0) + reading.coverage * report.duration_s

    def total(self, whole: Report) -> WindowTotal:
        """Return the sum over the channels that count in the report of the run."""
        counted = {name: r.provenance for name, r in whole.channels.items() if r.counted and r.provenance != "absent"}
        known = {name: p for name, p in counted.items() if self.measured_s.get(name, 0.0) > 0}
        measured = [self.joules[name] for name, p in known.items() if p != "estimated"]
        estimated = [self.joules[name] for name, p in known.items() if p == "estimated"]
        covered = [self.measured_s.get(name, 0.0) for name, p in counted.items() if p != "estimated"]
        return WindowTotal(
            self.count,
            self.duration_s,
            sum(measured) if measured else None,
            sum(estimated) if estimated else None,
            min(covered) / self.duration_s if covered and self.duration_s > 0 else 0.0,
        )


class Session:
    """A run of a meter.

    Args:
        recorder: of its samples.
        whole: the window that is the run; opened here.
        baseline: what the machine draws at rest, if known.
        attribute: whether this process's part is wanted.
    """

    def __init__(self, recorder: Recorder, whole: Window, baseline: Baseline | None, attribute: bool) -> None:
        self.recorder, self.whole, self.baseline = recorder, whole, baseline
        self._attribute, self._taking = attribute, False
        self._windows = [whole]
        self._sums: dict[str, _Sum] = {}
        if baseline is not None:
            recorder.write(lambda log: log.baseline(baseline))
        self.take("tick")
        whole.begin = self.state

    @property
    def state(self) -> State:
        """Totals at the last sample."""
        return self.recorder.accounts.state()

    def take(self, scope: Scope, mark: Mapping[str, Any] | None = None, look_after_s: float = 0.0) -> bool:
        """Take a sample and return whether that could be done; open windows take note of its memory and flags."""
        if self._taking:  # a signal's handler asks in the midst of a sample
            return False
        self._taking = True
        try:
            sample = self.recorder.take(scope, mark, look_after_s)
        finally:
            self._taking = False
        for window in self._windows:
            window.see(sample)
        return True

    def open(self, window: Window, stuck_at: float | None = None) -> None:
        """Begin a window.

        Args:
            window: to begin.
            stuck_at: the moment, where the sensors cannot be read; None: they can.
        """
        window.begin = self._edge(window, "begin", stuck_at)
        self._windows.append(window)

    def close(self, window: Window, stuck_at: float | None = None) -> None:
        """End a window, unless the run's end has done so; arguments as in `open`."""
        if window in self._windows:
            self._finish(window, self._edge(window, "end", stuck_at))

    def _edge(self, window: Window, edge: str, stuck_at: float | None) -> State:
        mark = {**window.attrs, "window": window.name, "edge": edge}
        if stuck_at is None and self.take("edge", mark, EDGE_LOOK_S):
            return self.state
        window.flags.add("stuck")
        return self.recorder.accounts.state(self.recorder.now if stuck_at is None else stuck_at)

    def rest(self, baseline: Baseline) -> None:
        """Use a baseline from here on."""
        self.baseline = baseline
        self.recorder.write(lambda log: log.baseline(baseline))

    def report(self, end: State | None = None) -> Report:
        """Return the report of the run so far, with the sums of its windows."""
        whole = self._of(self.whole, end or self.state)
        return self._of(self.whole, end or self.state, {name: s.total(whole) for name, s in self._sums.items()})

    def end(self, stuck_at: float | None = None) -> Report:
        """Take the last sample, cut what is still open and return the report of the run.

        Args:
            stuck_at: the moment, where the sensors cannot be read a last time; None: they can.
        """
        if stuck_at is None and not self.take("tick"):
            stuck_at = self.recorder.now
        if stuck_at is not None:
            self.whole.flags.add("stuck")
        end = self.recorder.accounts.state(stuck_at)
        for window in self._windows[1:]:
            window.flags.add("cut_by_stop")
            self._finish(window, end)
        report = self.report(end)
        self.recorder.write(lambda log: log.report(report))
        return report

    def between(self, name: str, begin: State, end: State, meta: Mapping[str, Any]) -> Report:
        """Return the report between two moments that were kept."""
        return make_report(name, [Span(self.recorder.accounts, begin, end)], attribute=False, meta=meta)

    def _finish(self, window: Window, end: State) -> None:
        self._windows = [w for w in self._windows if w is not window]
        report = self._of(window, end)
        window.close(report)
        self._sums.setdefault(window.name, _Sum()).add(report)

    def _of(self, window: Window, end: State, sums: Mapping[str, WindowTotal] | None = None) -> Report:
        assert window.begin is not None  # noqa: S101 -- it was opened
        peaks = dict(window.peaks)
        process = peaks.pop("process", None)
        return make_report(
            window.name,
            [Span(self.recorder.accounts, window.begin, end)],
            baseline=self.baseline,
            memory=None if process is None and not peaks else Memory(process, peaks),
            attribute=self._attribute,
            flags=sorted(window.flags | ({"log_failed"} if self.recorder.log_failed else set())),
            windows=sums,
            meta=window.attrs,
        )
