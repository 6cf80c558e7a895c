"""Which sensors a meter asks, by name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from mcmcopt.energy.errors import SensorUnavailable
from mcmcopt.energy.sample import Channel, Kind, Values
from mcmcopt.energy.sensors.base import Scope, Sensor
from mcmcopt.energy.sensors.rapl import GRANT, Opener, Rapl

NAMES = ("rapl", "nvml", "hwmon")
Sources = str | Sequence[str | Sensor]


class Absent:
    """In place of a sensor that this process leaves to another one.

    Args:
        name: of the sensor.
        kind: of its channel.
        reason: why it is left out.
    """

    def __init__(self, name: str, kind: Kind, reason: str) -> None:
        self.name, self._kind, self._reason = name, kind, reason

    def open(self) -> tuple[Channel, ...]:
        """Return one absent channel."""
        return (Channel(self.name, self._kind, "none", "absent", reason=self._reason),)

    def read(self, scope: Scope = "tick") -> Values:
        """Read nothing."""
        return Values()

    def close(self) -> None:
        """Nothing is held."""

    def forget(self) -> None:
        """Nothing is held."""


def make_sensors(
    sources: Sources,
    *,
    sysfs_root: str | Path = "/sys",
    opener: Opener | None = None,
    nvml: Any = None,
    gpus: Sequence[int | str] | None = None,
    cpu_estimate: float | Literal["table"] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Sensor]:
    """Return the sensors that are asked for, none of them opened.

    `"auto"` leaves the host's own counters to local rank 0 of a distributed run: they are the same for all ranks.

    Raises:
        ValueError: naming an unknown source.
    """
    wanted: list[str | Sensor] = (
        list(NAMES) if sources == "auto" else [sources] if isinstance(sources, str) else [*sources]
    )
    rank = os.environ.get("LOCAL_RANK", "0")
    sensors: list[Sensor] = []
    for source in wanted:
        if not isinstance(source, str):
            missing = [name for name in ("open", "read", "close", "forget", "name") if not hasattr(source, name)]
            if missing:
                raise ValueError(f"sources: {source!r} is no sensor, it lacks {', '.join(missing)}")
            sensors.append(source)
        elif source in ("rapl", "hwmon") and sources == "auto" and rank != "0":
            kind: Kind = "cpu_package" if source == "rapl" else "board"
            sensors.append(Absent(source, kind, f"rank 0 measures the host, this is local rank {rank}"))
        elif source == "rapl":
            sensors.append(Rapl(sysfs_root, opener, clock))
        elif source == "nvml":
            from mcmcopt.energy.sensors.nvml import Nvml

            sensors.append(Nvml(nvml, gpus))
        elif source == "hwmon":
            from mcmcopt.energy.sensors.hwmon import Hwmon

            sensors.append(Hwmon(sysfs_root))
        else:
            raise ValueError(f'sources: unknown {source!r}, must be "auto" or among {", ".join(NAMES)}')
    if cpu_estimate is not None:
        from mcmcopt.energy.sensors.cpu_time import CpuTime

        sensors.append(CpuTime(cpu_estimate))
    return sensors


def check_required(require: Sequence[str], sensors: Sequence[Sensor]) -> None:
    """Open sensors and see that each required kind or id of channel gives a value.

    Raises:
        SensorUnavailable: naming the files, the errors and what would help.
    """
    channels: list[Channel] = []
    alive: set[str] = set()
    for sensor in sensors:
        channels += sensor.open()
        values = sensor.read("tick")
        alive |= values.uj.keys() | values.w.keys()
    for kind in require:
        of_kind = [c for c in channels if kind in (c.kind, c.id)]
        measured = [c for c in of_kind if c.provenance in ("counter", "integrated")]
        if any(c.id in alive for c in measured):
            continue
        reasons = [c.reason for c in of_kind if c.provenance == "absent"] + [f"{c.id} gives no value" for c in measured]
        why = "; ".join(dict.fromkeys(reasons)) or "no sensor of that kind was found"
        if "permission denied" in why:
            why += f"\nA udev rule lets one group read them; then log in anew:\n{GRANT}"
        raise SensorUnavailable(f"{kind} is required and cannot be measured: {why}")
