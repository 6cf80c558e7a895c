"""A sysfs tree with the kernel's layout whose counters move by exact integer microjoules, and its faults."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.energy.fakes.clock import FakeClock

RANGE_61 = 262143328850  # (2^32 − 1) × 61.035 µJ
RANGE_15 = 65532610987  # (2^32 − 1) × 15.259 µJ
WIDTH = 20  # digits and spaces of a value that changes: every write covers the whole file


@dataclass(frozen=True)
class Zone:
    """One powercap zone: what it is called, how it is read, and its power at the start."""

    key: str  # "package-0", "package-0/dram", "psys", "mmio:package-0"
    watts: float = 0.0
    range_uj: int = RANGE_61
    limit_w: float | None = None  # constraint_0_max_power_uw; None: no constraint files
    mirrors: str | None = None  # the key of the zone whose register this one shows

    @property
    def control(self) -> str:
        """Its control type."""
        return "intel-rapl-mmio" if self.key.startswith("mmio:") else "intel-rapl"

    @property
    def name(self) -> str:
        """The text of its `name` file."""
        return self.key.split(":")[-1].split("/")[-1]

    @property
    def parent(self) -> str | None:
        """The key of the zone that contains it."""
        return self.key.rpartition("/")[0] or None

    @property
    def disjoint(self) -> bool:
        """Whether its joules belong to the machine's total."""
        return self.control == "intel-rapl" and self.name.startswith(("package", "dram"))


@dataclass(frozen=True)
class Rail:
    """One channel of an INA3221: a fixed voltage, and a current that follows the power."""

    key: str
    watts: float
    millivolts: int = 5000
    range_uj: int = 2**63  # no counter: the register only keeps the truth
    mirrors: None = None
    disjoint: bool = False


LAPTOP = (
    Zone("package-0", 30.0, limit_w=125.0),
    Zone("package-0/core", 20.0),
    Zone("package-0/uncore", 3.0),
    Zone("psys", 45.0, limit_w=0.0),
    Zone("mmio:package-0", limit_w=125.0, mirrors="package-0"),
)
PRESETS: dict[str, tuple[Zone | Rail, ...]] = {
    "laptop": LAPTOP,
    "server": (
        Zone("package-0", 150.0, limit_w=205.0),
        Zone("package-0/dram", 20.0, RANGE_15),
        Zone("package-1", 140.0, limit_w=205.0),
        Zone("package-1/dram", 17.0, RANGE_15),
    ),
    "twodie": tuple(
        Zone(f"package-{package}-die-{die}", watts, limit_w=205.0)
        for package, die, watts in ((0, 0, 50.0), (0, 1, 40.0), (1, 0, 45.0), (1, 1, 35.0))
    ),
    "amd": (
        Zone("package-0-die-0", 68.0, RANGE_15),
        Zone("package-0-die-1", range_uj=RANGE_15, mirrors="package-0-die-0"),
    ),
    "vm": (),
    "forbidden": LAPTOP,
    "jetson": (Rail("VDD_IN", 12.0, 19000), Rail("VDD_CPU_GPU_CV", 6.0), Rail("VDD_SOC", 2.5)),
}


@dataclass
class _Register:
    """What one physical counter holds, and the energy that really passed it."""

    counter: int  # µJ, in [0, range_uj]
    range_uj: int
    true_uj: int = 0
    rest: int = 0  # µW·ns, less than a microjoule
    frozen: bool = False

    def advance(self, microwatts: int, ns: int) -> None:
        whole, self.rest = divmod(self.rest + microwatts * ns, 10**9)
        self.true_uj += whole
        if not self.frozen:
            self.counter = (self.counter + whole) % (self.range_uj + 1)


class FakeMachine:
    """A machine under `tmp_path/"sys"`; also the opener (`open_fd`, `pread`) through which its faults are seen.

    `power[zone]` is in watts and may be set at any time; it holds for the next `advance`. A zone that mirrors another
    has no power of its own: both show one register, and a fault of the register is seen in both.
    """

    def __init__(self, tmp_path: Path, preset: str | Sequence[Zone | Rail] = "laptop", clock: FakeClock | None = None):
        parts = PRESETS[preset] if isinstance(preset, str) else tuple(preset)
        self.root = tmp_path / "sys"
        self.clock = clock or FakeClock()
        self.zones = {part.key: part for part in parts}
        self.power = {part.key: part.watts for part in parts if part.mirrors is None}
        self._powered = set(self.power)
        self.forbidden = set(self.zones) if preset == "forbidden" else set()  # keys whose energy_uj is refused
        self.removed: set[str] = set()
        self._lock = threading.Lock()  # a read through the seam never sees half a write
        self._registers: dict[str, _Register] = {}
        self._folders: dict[str, Path] = {}  # as a reader walks: through class/
        self._values: dict[Path, str] = {}  # resolved path of every changing file -> key
        self._raw: set[str] = set()  # zones whose energy_uj holds what write_raw put there
        self._faults: dict[str, tuple[float, int]] = {}
        self._fds: dict[int, str | None] = {}
        for folder in ("class", "devices"):
            (self.root / folder).mkdir(parents=True)
        for number, part in enumerate(parts):
            fresh = _Register((1_234_567_890 + 10_000_019 * number) % (part.range_uj + 1), part.range_uj)
            self._registers[part.key] = self._registers[part.mirrors] if part.mirrors else fresh
        self._build_powercap([part for part in parts if isinstance(part, Zone)])
        self._build_hwmon([part for part in parts if isinstance(part, Rail)])
        self._write_all()

    def advance(self, dt: float) -> None:
        """Let `dt` seconds pass at the present powers."""
        if self.power.keys() != self._powered:
            raise KeyError(f"powers are set for {sorted(self._powered)}, got {sorted(self.power)}")
        with self._lock:
            ns = self.clock.advance(dt)
            for key, watts in self.power.items():
                self._registers[key].advance(round(watts * 1e6), ns)
            self._write_all()

    @property
    def true_uj(self) -> dict[str, int]:
        """Microjoules that passed each zone since creation: never wraps, knows no fault."""
        return {key: register.true_uj for key, register in self._registers.items()}

    def true_j(self, *keys: str) -> float:
        """Joules that passed the named zones since creation, each register once; without names, packages and DRAM."""
        chosen = keys or [key for key, part in self.zones.items() if part.disjoint]
        registers = {id(self._registers[key]): self._registers[key] for key in chosen}
        return sum(register.true_uj for register in registers.values()) / 1e6

    def path(self, key: str, file: str = "energy_uj") -> Path:
        """The path of a zone's file as a reader finds it, through `class/`."""
        return self._folders[key] / file

    def open_fd(self, path: str) -> int:
        """`os.open(path, os.O_RDONLY)`, but refused for a forbidden zone's counter."""
        key = self._values.get(Path(path).resolve())
        if key in self.forbidden:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        fd = os.open(path, os.O_RDONLY)
        self._fds[fd] = key
        return fd

    def pread(self, fd: int, n: int) -> bytes:
        """`os.pread(fd, n, 0)`, but with the scheduled faults."""
        with self._lock:
            key = self._fds.get(fd)
            if key in self.removed:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
            if key is not None and key in self._faults:
                times, error = self._faults.pop(key)
                if times > 1:
                    self._faults[key] = (times - 1, error)
                raise OSError(error, os.strerror(error))
            return os.pread(fd, n, 0)

    def fail_next_read(self, key: str, times: int = 1, error: int = errno.EIO) -> None:
        """The next `times` reads of the zone through the seam raise."""
        self._faults[self.zones[key].key] = (times, error)

    def fail_always(self, key: str, error: int = errno.EIO) -> None:
        """Every read of the zone through the seam raises, until `heal`."""
        self._faults[self.zones[key].key] = (float("inf"), error)

    def heal(self, key: str) -> None:
        """Read faults, refusals and raw text of the zone's counter end."""
        with self._lock:
            self._faults.pop(self.zones[key].key, None)
            self.forbidden.discard(key)
            self._raw.discard(key)
            self._write_all()

    def reset(self, key: str, to: int = 0) -> None:
        """The counter restarts at `to`; the truth goes on."""
        self.set_counter(key, to)

    def set_counter(self, key: str, value: int) -> None:
        """Place the counter without a change of the truth."""
        register = self._registers[key]
        if not 0 <= value <= register.range_uj:
            raise ValueError(f"{key} counts from 0 to {register.range_uj}, got {value}")
        with self._lock:
            register.counter = value
            self._write_all()

    def freeze(self, key: str) -> None:
        """The counter stands still; the truth goes on."""
        self._registers[key].frozen = True

    def thaw(self, key: str) -> None:
        """The counter moves again from where it stood."""
        self._registers[key].frozen = False

    def remove_zone(self, key: str) -> None:
        """The zone, and those inside it, leave the tree; a read of an open descriptor gives ENODEV."""
        folder = self._folders[key].resolve()
        with self._lock:
            gone = [other for other, link in self._folders.items() if link.resolve().is_relative_to(folder)]
            self.removed.update(gone)
            shutil.rmtree(folder)
            for other in gone:
                self._folders[other].unlink(missing_ok=True)

    def write_raw(self, key: str, file: str, text: str | None) -> None:
        """Put any text into a file of the zone, or delete it (None); in `energy_uj` it stays until `heal`."""
        path = self.path(key, file)
        with self._lock:
            if path.resolve() in self._values:
                self._raw.add(key)
            path.unlink() if text is None else path.write_text(text)

    def _build_powercap(self, zones: Sequence[Zone]) -> None:
        folders: dict[str, Path] = {}  # of control types and of zones
        children: Counter[Path] = Counter()
        for control in sorted({zone.control for zone in zones}):
            folders[control] = self.root.resolve() / "devices/virtual/powercap" / control
            folders[control].mkdir(parents=True)
            (folders[control] / "enabled").write_text("1\n")
            self._link("powercap", folders[control])
        for zone in zones:
            above = folders[zone.parent or zone.control]
            folder = folders[zone.key] = above / f"{above.name}:{children[above]:x}"
            folder.mkdir()
            children[above] += 1
            self._folders[zone.key] = self._link("powercap", folder)
            self._values[folder / "energy_uj"] = zone.key
            texts = {"name": zone.name, "max_energy_range_uj": str(zone.range_uj), "enabled": "1"}
            if zone.limit_w is not None:
                texts |= {"constraint_0_name": "long_term", "constraint_0_max_power_uw": f"{zone.limit_w * 1e6:.0f}"}
            for file, text in texts.items():
                (folder / file).write_text(f"{text}\n")

    def _link(self, subsystem: str, folder: Path) -> Path:
        link = self.root / "class" / subsystem / folder.name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(Path("..") / ".." / folder.relative_to(self.root.resolve()))
        return link

    def _build_hwmon(self, rails: Sequence[Rail]) -> None:
        if not rails:
            return
        folder = self.root.resolve() / "devices/platform/c240000.i2c/i2c-1/1-0040/hwmon/hwmon0"
        folder.mkdir(parents=True)
        link = self._link("hwmon", folder)
        (folder / "name").write_text("ina3221\n")
        (folder / "in7_label").write_text("sum of shunt voltages\n")
        for shunt in range(4, 8):
            (folder / f"in{shunt}_input").write_text(f"{2 * shunt}\n")
        for number, rail in enumerate(rails, start=1):
            self._folders[rail.key] = link
            (folder / f"in{number}_label").write_text(f"{rail.key}\n")
            for file in (f"in{number}_input", f"curr{number}_input"):
                self._values[folder / file] = rail.key

    def _write_all(self) -> None:
        for path, key in self._values.items():
            if key in self.removed or key in self._raw:
                continue
            part, value = self.zones[key], self._registers[key].counter
            if isinstance(part, Rail):
                milliamps = round(self.power[key] * 1e6 / part.millivolts)
                value = milliamps if path.name.startswith("curr") else part.millivolts
            fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
            os.pwrite(fd, f"{value:<{WIDTH}d}\n".encode(), 0)
            os.ftruncate(fd, WIDTH + 1)
            os.close(fd)
