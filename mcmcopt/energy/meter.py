"""The meter: it reads the sensors at the edges of windows, and in between as often as the counters need.

E(window) = T(end) − T(begin), both edges read at once; at most one daemon thread, no process, no network
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from mcmcopt.energy import forks
from mcmcopt.energy.accounts import State
from mcmcopt.energy.clock import as_clock
from mcmcopt.energy.errors import EnergyMeterForkedError, warn_once
from mcmcopt.energy.idle import measure_idle
from mcmcopt.energy.processes import Processes
from mcmcopt.energy.recorder import Recorder
from mcmcopt.energy.report import Baseline, Report, WindowTotal
from mcmcopt.energy.sample import DISJOINT, Channel
from mcmcopt.energy.sampler import Sampler
from mcmcopt.energy.session import Session
from mcmcopt.energy.sources import Sources, check_required, make_sensors
from mcmcopt.energy.versions import origin
from mcmcopt.energy.window import Window

if TYPE_CHECKING:
    from mcmcopt.energy.sensors.rapl import Opener
    from mcmcopt.energy.steps import Steps

LOOK_S = 0.9
"""Between two looks of the thread at the processes, however often it samples."""
POWER_PERIOD_S = 0.1
"""Between two samples of a power that has no counter."""
STOP_S = 2.0
"""How long a stop, or a window's edge, waits for a sensor that does not answer another thread.  An edge that reads the
sensor itself waits for its answer."""


class EnergyMeter:
    """Measures energy from `start` to `stop`, or inside `with`, and of windows in between.

    Hardware that is missing raises nothing: it is reported as absent, with the reason.

    Args:
        sources: `"auto"`, one of `"rapl"`, `"nvml"`, `"hwmon"`, or several of them, or sensors of one's own.
        period_s: between two samples of everything; counters that wrap sooner are read sooner.
        log: file to append samples to; None: none.
        attribute: whether to estimate this process's part by its share of CPU time.
        require: kinds (`"cpu_package"`) or ids of channels that must be measured.
        gpus: NVML indices or UUIDs; None: those that this process uses.
        cpu_estimate: watts per core for CPU seconds, or `"table"`, for machines without a sensor; None: no estimate.
        idle_w: watts that the machine draws at rest, if known.
        background: whether a thread may sample; without one, call `tick` yourself.
        sysfs_root, nvml, opener, processes, clock, sleep: for tests, and for systems mounted elsewhere.

    Raises:
        ValueError: for an argument that makes no sense.
        SensorUnavailable: if something in `require` cannot be measured.
    """

    def __init__(
        self,
        sources: Sources = "auto",
        *,
        period_s: float = 1.0,
        log: str | os.PathLike[str] | None = None,
        attribute: bool = True,
        require: Sequence[str] = (),
        gpus: Sequence[int | str] | None = None,
        cpu_estimate: float | Literal["table"] | None = None,
        idle_w: float | None = None,
        background: bool = True,
        sysfs_root: str | Path = "/sys",
        nvml: Any = None,
        opener: Opener | None = None,
        processes: Processes | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if isinstance(period_s, bool) or not 0 < period_s < math.inf:
            raise ValueError(f"period_s must be seconds > 0, got {period_s!r}")
        if idle_w is not None and not 0 <= idle_w < math.inf:
            raise ValueError(f"idle_w must be watts >= 0, got {idle_w!r}")
        if isinstance(require, str):
            raise ValueError(f'require must be a sequence of kinds such as ("cpu_package",), got {require!r}')
        self._clock, self._sleep = as_clock(clock), sleep
        self._sensors = make_sensors(
            sources,
            sysfs_root=sysfs_root,
            opener=opener,
            nvml=nvml,
            gpus=gpus,
            cpu_estimate=cpu_estimate,
            clock=self._clock,
        )
        self._period_s, self._background = period_s, background
        self._log_path = None if log is None else Path(log)
        self._attribute, self._processes = attribute, processes
        self._baseline = None if idle_w is None else Baseline(idle_w, None, None, "given")
        self._lock = threading.RLock()
        self._forked = self._running = self._abandoned = False
        self._patience_s, self._depth = STOP_S, 0
        self._session: Session | None = None
        self._report: Report | None = None
        if require:
            try:
                check_required(require, self._sensors)
            finally:
                for sensor in self._sensors:
                    sensor.close()

    def start(self) -> EnergyMeter:
        """Find the sensors, read them and begin; after a stop this begins anew, in a log with a new segment.

        Raises:
            RuntimeError: if it runs already.
            OSError: if the log cannot be written.
        """
        with self._locked(STOP_S) as held:
            self._check_fork()
            if not held:
                raise RuntimeError("a sensor of this meter's last run has not answered yet: use a new meter")
            if self._running:
                raise RuntimeError("this meter runs already: stop it first, or use a second one")
            meta = origin()
            processes = (self._processes or Processes()) if self._attribute else None
            recorder = Recorder(self._sensors, self._clock, self._period_s, processes, self._log_path, meta)
            try:
                kept = meta if self._log_path is None else {**meta, "log": str(self._log_path)}
                self._session = Session(recorder, Window(self, "total", False, kept), self._baseline, self._attribute)
                _warn(recorder.channels)
                tasks = self._tasks(recorder)
                self._sampler = Sampler(tasks) if tasks and self._background else None
                if self._sampler is not None:
                    self._sampler.start()  # waits for the lock
            except BaseException:  # where warnings are errors, or no thread can be had
                recorder.release()
                raise
            self._running, self._abandoned, self._report = True, False, None
            forks.remember(self)
        return self

    def stop(self) -> Report:
        """Read a last time, end the thread and return the report of the whole run; a second stop returns it again.

        Raises:
            RuntimeError: if it was never started.
        """
        self._check_fork()
        if not self._running:
            return self.report
        came_back = self._sampler is None or self._sampler.stop(STOP_S)
        # a thread that is stuck in a sensor holds the lock: then the last sample before has to do
        with self._locked(STOP_S if came_back else 0.1) as held:
            if not self._running:  # another thread was faster
                return self.report
            session = self._current
            try:
                self._report = session.end(None if held else self._clock())
            except BaseException:  # interrupted: without a last reading
                self._report = session.end(self._clock())
                raise
            finally:
                self._running, self._abandoned = False, True
        if not held:
            # the thread may have come back before it could know that it should let go
            with self._locked(0):
                pass
            _warn_stuck()
        return self.report

    def read(self) -> Report:
        """Read all sensors and return the report from the start until now."""
        self._check_runs()
        with self._locked(self._patience_s) as held:
            if held:
                self._current.take("tick")
            return self._current.report(None if held else self._current.recorder.accounts.state(self._stuck()))

    @property
    def windows(self) -> Mapping[str, WindowTotal]:
        """Sums of the windows that are closed, by name; no sensor is read."""
        self._check_runs()
        with self._locked(self._patience_s):
            return self._current.report().windows

    def tick(self) -> None:
        """Take a sample; the thread does so every `period_s`."""
        with self._held():
            self._current.take("tick")

    @property
    def report(self) -> Report:
        """Of the last run.

        Raises:
            RuntimeError: if no run has ended.
        """
        if self._report is None:
            raise RuntimeError("no run has ended: the report comes after start() and stop(); in between use read()")
        return self._report

    @property
    def channels(self) -> tuple[Channel, ...]:
        """What was found at the last start."""
        return self._current.recorder.channels

    def __enter__(self) -> EnergyMeter:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self.stop()
        except Exception:
            if error is None:  # else the block's own error is the one to see
                raise

    def window(self, name: str, *, sync: bool = False, **attrs: Any) -> Window:
        """Return a window to be used with `with`; its report has the attributes in `meta`.

        Args:
            name: of the window.
            sync: wait for the GPU's work at both edges (this changes what runs).
            **attrs: numbers and strings to remember.

        Raises:
            RuntimeError: if the meter does not run.
            TypeError: for an attribute that is neither a number nor a string.
        """
        for key, value in attrs.items():
            plain = value.item() if hasattr(value, "item") else value  # NumPy's and torch's numbers
            if not isinstance(plain, int | float | str | None):
                raise TypeError(f"{key} must be a number or a string, got {value!r}")
            # JSON has no nan: a loss that is one must not end the training here
            attrs[key] = str(plain) if isinstance(plain, float) and not math.isfinite(plain) else plain
        self._check_runs()
        return Window(self, name, sync, attrs)

    def attach(self, optimizer: Any, every: int = 1, sync: bool = False, callback: Any = None) -> Steps:
        """Measure an optimizer's steps by its hooks; see `Steps`."""
        from mcmcopt.energy.steps import Steps

        self._check_fork()
        return Steps(self, optimizer, every, sync, callback)

    def calibrate_idle(self, seconds: float = 30.0) -> Baseline:
        """Measure what the machine draws now, at rest, and use it for `net_j` from here on; takes that long.

        Args:
            seconds: at least 2.

        Raises:
            ValueError: if that is too short.
            RuntimeError: if nothing is measured, not all of the time, or the meter does not run.
        """
        baseline = measure_idle(self, seconds, self._sleep)
        with self._held():
            self._baseline = baseline
            self._current.rest(baseline)
        return baseline

    def log_wandb(self, run: Any = None, prefix: str = "energy/") -> None:
        """Log the report until now to an active Weights & Biases run; see `wandb.log`."""
        from mcmcopt.energy.outputs.wandb import log

        log(self.read() if self._running else self.report, run, prefix)

    @property
    def _current(self) -> Session:
        if self._session is None:
            raise RuntimeError("this meter was not started: call start() or use `with EnergyMeter()`")
        return self._session

    def runs(self, session: Session) -> bool:
        """Return whether a run is the present one, and goes on."""
        return self._running and session is self._session

    def _open(self, window: Window) -> None:
        with self._locked(self._patience_s) as held:
            self._check_runs()
            window.session = self._current
            window.session.open(window, None if held else self._stuck())

    def _close(self, window: Window) -> None:
        self._check_fork()
        assert window.session is not None  # noqa: S101 -- it was opened
        with self._locked(self._patience_s) as held:
            window.session.close(window, None if held else self._stuck())

    def _edge(self) -> tuple[Session, State] | None:
        """Read one value per channel and return the totals: the edge of an optimizer's step; None: it does not run."""
        if self._forked or not self._running:
            return None
        with self._locked(self._patience_s) as held:
            if held:
                self._current.take("edge", look_after_s=math.inf)
            return self._current, self._current.recorder.accounts.state(None if held else self._stuck())

    def _stuck(self) -> float:
        """Return the time of an edge at which no sensor can be read: one does not answer, and training must go on."""
        self._patience_s = 0.0  # until it comes back
        _warn_stuck()
        return self._clock()

    @contextmanager
    def _locked(self, timeout_s: float = -1) -> Iterator[bool]:
        """Hold the lock for a block, which learns whether it could be had in time; -1: wait for it."""
        lock = self._lock
        held = lock.acquire(timeout=timeout_s)
        if held:
            self._depth += 1
            self._patience_s = STOP_S
        try:
            yield held
        finally:
            if held:
                self._depth -= 1
                try:
                    # the run has ended: whoever leaves the lock last lets go of the sensors
                    if self._abandoned and not self._depth:
                        self._abandoned = False
                        self._current.recorder.release()
                finally:
                    lock.release()

    def _tick(self) -> None:
        with self._locked():
            if self._running:
                self._current.take("tick", look_after_s=LOOK_S)

    def _tick_powers(self) -> None:
        with self._locked():
            if self._running:
                self._current.take("powers", look_after_s=math.inf)

    def _tasks(self, recorder: Recorder) -> list[tuple[float, Callable[[], None]]]:
        """Return what the thread has to do: nothing, where nothing would be lost without it."""
        guards = [
            c.range_uj / (2e6 * c.max_w)
            for c in recorder.channels
            if c.provenance == "counter" and c.range_uj is not None and c.max_w is not None
        ]
        powers = any(c.provenance == "integrated" for c in recorder.channels)
        if not (guards or powers or recorder.looks or recorder.logs):
            return []
        tasks: list[tuple[float, Callable[[], None]]] = [(min([self._period_s, *guards]), self._tick)]
        if powers and tasks[0][0] > POWER_PERIOD_S:
            tasks.append((POWER_PERIOD_S, self._tick_powers))
        return tasks

    def _held(self) -> AbstractContextManager[bool]:
        """Return the lock, after a look at whether the meter may be used."""
        self._check_runs()
        return self._locked()

    def _check_runs(self) -> None:
        self._check_fork()
        if not self._running:
            raise RuntimeError("this meter does not run: call start() or use `with EnergyMeter()`")

    def _check_fork(self) -> None:
        if self._forked:
            raise EnergyMeterForkedError("this meter belongs to the parent process: make a new one in the child")

    def _after_fork(self) -> None:
        """In a forked child: let go of everything, write nothing."""
        self._lock, self._depth = threading.RLock(), 0  # the parent's may be held by a thread that is not here
        self._forked, self._running = True, False
        if self._session is not None:
            self._session.recorder.forget()


def _warn_stuck() -> None:
    warn_once("stuck", f"a sensor has not answered for {STOP_S:g} s: the meter goes on without it")


def _warn(channels: Sequence[Channel]) -> None:
    if not any(c.provenance in ("counter", "integrated") for c in channels):
        found = dict.fromkeys(c.reason for c in channels if c.provenance == "absent" and c.kind in DISJOINT)
        reasons = "; ".join(found) or "no source was asked for"
        warn_once("nothing", f"energy is not measured: {reasons}. `python -m mcmcopt.energy doctor` says more")
