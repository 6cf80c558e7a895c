"""Boards with an INA3221 power monitor (NVIDIA Jetson), as Linux's hwmon shows it.

    w = in<N>_input [mV] · curr<N>_input [mA] / 10⁶,   N = 1, 2, 3 with a label; in4 … in7 are shunt voltages

The rail that feeds the module (`VDD_IN` and its kin) is the total; the others are parts of it.  What sits on the
carrier board is not seen.  There is no counter: the power is integrated.  The older kernels' `in_power<N>_input` files
are not read.  Source: Linux, Documentation/hwmon/ina3221.rst.
"""

from __future__ import annotations

from pathlib import Path

from mcmcopt.energy.sample import Channel, Kind, Values
from mcmcopt.energy.sensors.base import Scope

TOTALS = ("VDD_IN", "POM_5V_IN", "SYS_VIN_MUX", "VDD_IN_SYS_5V0")
"""Labels of the rail that feeds all others, one per generation of boards."""
PERIOD_S = 0.1


class Hwmon:
    """The rails of a board.

    Args:
        root: of sysfs.
    """

    name = "hwmon"

    def __init__(self, root: str | Path = "/sys") -> None:
        self._root = Path(root)
        self._rails: dict[str, tuple[Path, Path]] = {}

    def open(self) -> tuple[Channel, ...]:
        """Find the rails."""
        self.close()
        folder = self._root / "class" / "hwmon"
        channels: list[Channel] = []
        total = None
        for chip in sorted(folder.glob("hwmon*")):
            if _text(chip / "name") != "ina3221":
                continue
            for number in (1, 2, 3):
                label = _text(chip / f"in{number}_label")
                if not label or label == "NC":
                    continue
                name = f"hwmon:{label}" if f"hwmon:{label}" not in self._rails else f"hwmon:{chip.name}:{label}"
                self._rails[name] = chip / f"in{number}_input", chip / f"curr{number}_input"
                total = name if label in TOTALS else total
                reason = "voltage times current, every 0.1 s"
                kind: Kind = "board" if label in TOTALS else "soc"
                channels.append(Channel(name, kind, label, "integrated", None, resolution_s=PERIOD_S, reason=reason))
        if not channels:
            reason = f"no board with an INA3221 power monitor in {folder}"
            return (Channel("hwmon", "board", "none", "absent", reason=reason),)
        return tuple(
            c if c.kind == "board" else Channel(**{**vars(c), "parent": total, "counted": False}) for c in channels
        )

    def read(self, scope: Scope = "tick") -> Values:
        """Read voltages and currents."""
        w, flags = {}, {}
        for name, (volts, amperes) in self._rails.items():
            try:
                w[name] = int(volts.read_text()) * int(amperes.read_text()) / 1e6
            except (OSError, ValueError):
                flags[name] = ("read_error",)
        return Values(w=w, flags=flags)

    def close(self) -> None:
        """Forget the rails; no file is held open."""
        self._rails = {}

    def forget(self) -> None:
        """Forget a forked child's copies."""
        self.close()


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
