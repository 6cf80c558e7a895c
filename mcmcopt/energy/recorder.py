"""Reads the sensors, and puts what they say into totals and into a log.

A sensor that raises is not asked again: its channels end there, flagged, and what runs goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcmcopt.energy.accounts import Accounts
from mcmcopt.energy.clock import Clock
from mcmcopt.energy.errors import warn_once
from mcmcopt.energy.processes import Processes
from mcmcopt.energy.sample import Channel, Sample, Values
from mcmcopt.energy.sensors.base import Scope, Sensor

if TYPE_CHECKING:
    from mcmcopt.energy.log import LogWriter

ASLEEP_S = 1.0
"""A longer suspension is flagged."""


class Recorder:
    """One segment: from opening the sensors to letting go of them.  Its owner calls it under a lock.

    Args:
        sensors: to be opened.
        clock: of the samples.
        period_s: between two samples of everything.
        processes: looked at for attribution; None: not wanted.
        log: file to append to; None: none.
        meta: of the log's header.

    Raises:
        OSError: if the log cannot be opened.
    """

    def __init__(
        self,
        sensors: Sequence[Sensor],
        clock: Clock,
        period_s: float,
        processes: Processes | None,
        log: Path | None,
        meta: Mapping[str, Any],
    ) -> None:
        self._sensors, self._clock, self._processes = tuple(sensors), clock, processes
        self._failed: dict[str, tuple[str, ...]] = {}
        self._looked_s = -float("inf")
        self._asleep_s = clock.asleep()
        self._log: LogWriter | None = None
        self.log_failed = False
        self._active: list[tuple[Sensor, tuple[Channel, ...]]] = []
        try:
            if log is not None:
                from mcmcopt.energy.log import LogWriter

                self._log = LogWriter(log)
            for sensor in self._sensors:
                self._active.append((sensor, sensor.open()))
            self.channels = tuple(c for _, channels in self._active for c in channels)
            self.accounts = Accounts(self.channels, period_s)
            self.write(lambda log: log.header(self.channels, period_s, meta))
        except BaseException:
            self.release()
            raise

    @property
    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock()

    @property
    def looks(self) -> bool:
        """Whether the processes are looked at."""
        return self._processes is not None

    @property
    def logs(self) -> bool:
        """Whether there is a log."""
        return self._log is not None

    def take(self, scope: Scope, mark: Mapping[str, Any] | None = None, look_after_s: float = 0.0) -> Sample:
        """Take a sample.

        Args:
            scope: of the sensors.
            mark: for the log.
            look_after_s: look at the processes if the last look is so long ago.
        """
        t_s, unix_s = self._clock(), self._clock.unix()
        uj: dict[str, int] = {}
        w: dict[str, float] = {}
        memory: dict[str, int] = {}
        flags: dict[str, tuple[str, ...]] = dict(self._failed)
        span_s = 0.0
        for sensor, channels in tuple(self._active):
            values = self._read(sensor, channels, scope, flags)
            uj.update(values.uj)
            memory.update(values.memory)
            flags.update(values.flags)
            span_s = max(span_s, values.span_s)
            for name, watts in values.w.items():
                if 0 <= watts < math.inf:
                    w[name] = watts
                else:
                    flags[name] = (*flags.get(name, ()), "read_error")
        late_s = self._clock() - t_s
        asleep_s = self._clock.asleep()
        if asleep_s - self._asleep_s > ASLEEP_S:
            flags[""] = ("suspended",)
        self._asleep_s = asleep_s
        cpu_s = self._look(t_s, memory) if t_s - self._looked_s >= look_after_s else {}
        sample = Sample(t_s, unix_s, uj, w, cpu_s, memory, flags, mark, span_s, late_s)
        self.accounts.add(sample)
        self.write(lambda log: log.sample(sample))
        return sample

    def write(self, line: Callable[[LogWriter], None]) -> None:
        """Write to the log, if there is one."""
        if self._log is None:
            return
        try:
            line(self._log)
        except OSError as error:  # a full disk must not end the training; the report stays whole
            path = self._log.path
            self._log.close()
            self._log, self.log_failed = None, True
            warn_once(f"log {path}", f"the log {path} is not written any more: {error}")

    def release(self) -> None:
        """Close sensors and log, whatever one of them raises; can be called again."""
        with ExitStack() as stack:
            stack.callback(self._close)
            for sensor in reversed(self._sensors):
                stack.callback(_close, sensor)

    def forget(self) -> None:
        """In a forked child: let go of what the parent uses, and write nothing."""
        try:
            for sensor in self._sensors:
                sensor.forget()
        finally:
            self._close()

    def _close(self) -> None:
        self._active = []
        if self._log is not None:
            self._log.close()
            self._log = None

    def _read(
        self, sensor: Sensor, channels: tuple[Channel, ...], scope: Scope, flags: dict[str, tuple[str, ...]]
    ) -> Values:
        try:
            return sensor.read(scope)
        except Exception as error:  # a driver that breaks must not break the training
            self._active = [(s, c) for s, c in self._active if s is not sensor]
            self._failed.update({c.id: ("source_failed",) for c in channels if c.provenance != "absent"})
            flags.update(self._failed)
            warn_once(f"failed {sensor.name}", f"the sensor {sensor.name} is not read any more: {error!r}")
            return Values()

    def _look(self, t_s: float, memory: dict[str, int]) -> dict[str, float]:
        if self._processes is None:
            return {}
        try:
            usage = self._processes.look()
        except (OSError, ValueError) as error:
            self._processes = None
            warn_once("processes", f"CPU time cannot be read, nothing more is attributed to this process: {error!r}")
            return {}
        self._looked_s = t_s
        memory["process"] = usage.rss_bytes
        return {"process": usage.process_s, "machine": usage.machine_s}


def _close(sensor: Sensor) -> None:
    try:
        sensor.close()
    except Exception as error:  # a driver that breaks must not break the training
        warn_once(f"close {sensor.name}", f"the sensor {sensor.name} could not be closed: {error!r}")
