"""Intel's and AMD's running average power limit (RAPL) counters, as Linux's powercap shows them.

    <root>/class/powercap/intel-rapl:0/energy_uj      package-0: cores and uncore, not dram
    <root>/class/powercap/intel-rapl:0:0/energy_uj    core, uncore or dram of that package
    <root>/class/powercap/intel-rapl:1/energy_uj      another package, or psys: the board, with all of them in it
    <root>/class/powercap/intel-rapl-mmio:0/…         package-0 once more, by another road

Source: Linux, Documentation/ABI/testing/sysfs-class-powercap and drivers/powercap/intel_rapl_common.c.  Since 5.10 only
root may read `energy_uj` (CVE-2020-8694); names and ranges stay readable, so "there but forbidden" can be told.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mcmcopt.energy.sample import Channel, Kind, Values
from mcmcopt.energy.sensors.base import Scope

ZONE = re.compile(r"(intel-rapl(?:-mmio)?)((?::[0-9a-f]+)+)")
KINDS: dict[str, Kind] = {"package": "cpu_package", "core": "core", "uncore": "uncore", "dram": "dram", "psys": "psys"}
RESOLUTION_S = 0.001
MAX_W: dict[Kind, float] = {"dram": 400.0, "psys": 6000.0}
"""Believed where the zone does not tell its own limit; packages and their parts: 1500 W."""
LIMIT_FACTOR = 4
"""Short peaks exceed a zone's declared `constraint_0_max_power_uw`, ..."""
LEAST_MAX_W = 300.0
"""... and a small processor may be declared far below what its board lets it draw."""
UDEV = (
    'SUBSYSTEM=="powercap", KERNEL=="intel-rapl*", RUN+="/bin/chgrp -f rapl %S%p/energy_uj", '
    'RUN+="/bin/chmod -f g+r %S%p/energy_uj"'
)
"""A rule for udev that lets the group `rapl`, and nobody else, read the counters, also after a reboot."""
GRANT = (
    'sudo groupadd -f rapl && sudo usermod -aG rapl "$USER" && '
    f"echo '{UDEV}' | sudo tee /etc/udev/rules.d/60-rapl.rules && "
    "sudo udevadm control --reload && sudo udevadm trigger --subsystem-match=powercap --action=add"
)
"""The command that puts it there, for the present user, who has to log in anew afterwards."""


class Opener(Protocol):
    """How counters are opened and read; tests put faults here, because root may read everything."""

    def open_fd(self, path: str) -> int:
        """Open a file for reading."""

    def pread(self, fd: int, n: int) -> bytes:
        """Read from its beginning."""


class SystemOpener:
    """The system's own calls."""

    def open_fd(self, path: str) -> int:
        """Open a file for reading; children do not inherit it."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def pread(self, fd: int, n: int) -> bytes:
        """Read from its beginning: one call, no path to follow."""
        return os.pread(fd, n, 0)


@dataclass(frozen=True)
class Zone:
    """A folder of powercap.

    Args:
        path: where the system really keeps it.
        control: `intel-rapl` or `intel-rapl-mmio`.
        name: what the zone calls itself.
        parent: path of the zone that contains it; None: none.
    """

    path: Path
    control: str
    name: str
    parent: Path | None


class Rapl:
    """The RAPL counters of one host.

    Args:
        root: of sysfs.
        opener: opens and reads counters.
        clock: tells how long a reading of all counters takes; mirrored counters are told by that.
    """

    name = "rapl"

    def __init__(
        self, root: str | Path = "/sys", opener: Opener | None = None, clock: Callable[[], float] | None = None
    ) -> None:
        self._root, self._opener = Path(root), opener or SystemOpener()
        self._clock = clock or (lambda: 0.0)
        self._fds: dict[str, int] = {}

    def open(self) -> tuple[Channel, ...]:
        """Find the zones, open their counters and read each once."""
        self.close()
        zones = find_zones(self._root)
        if not zones:
            folder = self._root / "class" / "powercap"
            why = "has no intel-rapl zone" if folder.is_dir() else "is missing"
            if folder.is_dir() and any(ZONE.fullmatch(entry.name) for entry in folder.iterdir()):
                why = "has zones whose folders are masked, as in containers"
            reason = f"no RAPL on this machine: {folder} {why}"
            return (Channel("rapl", "cpu_package", "none", "absent", reason=reason),)
        msr = {zone.name for zone in zones if zone.control == "intel-rapl"}
        ids = _ids(zones)
        return tuple(self._channel(zone, ids, zone.control != "intel-rapl" and zone.name in msr) for zone in zones)

    def read(self, scope: Scope = "tick") -> Values:
        """Read the counters."""
        if scope == "powers":
            return Values()
        uj, flags = {}, {}
        start = self._clock()
        for name, fd in self._fds.items():
            try:
                uj[name] = int(self._opener.pread(fd, 32))
            except (OSError, ValueError):  # EINVAL, EIO; ENODEV of a processor taken out; an empty file
                flags[name] = ("read_error",)
        return Values(uj=uj, flags=flags, span_s=self._clock() - start)

    def close(self) -> None:
        """Close the counters."""
        while self._fds:
            os.close(self._fds.popitem()[1])

    def forget(self) -> None:
        """Close a forked child's copies."""
        self.close()

    def _channel(self, zone: Zone, ids: dict[Path, str], duplicate: bool) -> Channel:
        name, kind = ids[zone.path], zone_kind(zone.name)
        parent = None if zone.parent is None else ids.get(zone.parent)
        path = zone.path / "energy_uj"
        reason = "the same counter as without -mmio" if duplicate else ""
        try:
            fd = self._opener.open_fd(str(path))
        except OSError as error:
            return Channel(name, kind, zone.name, "absent", parent, reason=refusal(path, error), counted=not duplicate)
        try:
            int(self._opener.pread(fd, 32))
        except (OSError, ValueError) as error:
            # it may recover: a reading that fails now is a gap, not a missing sensor, unless the system says so
            if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.ENODEV):
                os.close(fd)
                return Channel(
                    name, kind, zone.name, "absent", parent, reason=refusal(path, error), counted=not duplicate
                )
        self._fds[name] = fd
        limits = [_number(zone.path / f"constraint_{n}_max_power_uw") or 0 for n in (0, 1)]
        return Channel(
            name,
            kind,
            zone.name,
            "counter",
            parent,
            range_uj=_number(zone.path / "max_energy_range_uj"),
            resolution_s=RESOLUTION_S,
            max_w=max(LEAST_MAX_W, LIMIT_FACTOR * max(limits) / 1e6) if any(limits) else MAX_W.get(kind, 1500.0),
            reason=reason,
            counted=not duplicate,
        )


def find_zones(root: Path) -> list[Zone]:
    """Return the zones under a sysfs root, each once, parents before their children."""
    folder = root / "class" / "powercap"
    try:
        entries = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []
    found: dict[Path, Zone] = {}
    for entry in entries:
        match = ZONE.fullmatch(entry)
        if not match:
            continue
        path = Path(os.path.realpath(folder / entry))
        try:
            name = (path / "name").read_text().strip()
        except (OSError, UnicodeDecodeError):
            continue
        parent = path.parent if ZONE.fullmatch(path.parent.name) else None
        found.setdefault(path, Zone(path, match[1], name, parent))
    return sorted(found.values(), key=lambda zone: (zone.control, [int(x, 16) for x in zone.path.name.split(":")[1:]]))


def zone_kind(name: str) -> Kind:
    """Return what a zone of that name measures."""
    return KINDS.get(name.split("-")[0], "soc")  # a name that nobody knows is shown and never added


def refusal(path: Path, error: OSError) -> str:
    """Return why a counter cannot be read, in words."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{path}: permission denied (errno {error.errno}): only root may read it unless a udev rule allows it"
    return f"{path}: {os.strerror(error.errno or 0)} (errno {error.errno})"


def _ids(zones: list[Zone]) -> dict[Path, str]:
    ids: dict[Path, str] = {}
    for zone in zones:
        prefix = "rapl" if zone.control == "intel-rapl" else "rapl-mmio"
        name = f"{prefix}:{zone.name}" if zone.parent not in ids else f"{ids[zone.parent]}/{zone.name}"
        while name in ids.values():  # psys once per package on some servers
            name += f"@{zone.path.name.rpartition(':')[2]}"
        ids[zone.path] = name
    return ids


def _number(path: Path) -> int | None:
    """Return a positive number from a file; None where there is none that makes sense."""
    try:
        value = int(path.read_text())
    except (OSError, ValueError):
        return None
    return value if value > 0 else None
