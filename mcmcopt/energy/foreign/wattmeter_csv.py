"""A wattmeter's CSV: a column of times and a column of powers, whose heads name their units.

time_s | time (ms) | t[min] | timestamp_us | unix_s | date | datetime      power_W | watts | P (mW) | power [kW]
"""

from __future__ import annotations

import csv
import datetime
import math
import os
import re
from pathlib import Path

TIME_UNITS = {
    unit: scale
    for units, scale in (
        ("ns nanoseconds", 1e-9),
        ("us µs μs microseconds", 1e-6),
        ("ms msec milliseconds", 1e-3),
        ("s sec secs second seconds", 1.0),
        ("min mins minute minutes", 60.0),
        ("h hr hrs hour hours", 3600.0),
        ("d day days", 86400.0),
    )
    for unit in units.split()
}
POWER_UNITS = {
    unit: scale
    for units, scale in (
        ("uw µw μw microwatt microwatts", 1e-6),
        ("mw milliwatt milliwatts", 1e-3),
        ("w watt watts", 1.0),
        ("kw kilowatt kilowatts", 1e3),
    )
    for unit in units.split()
}
TIMES = ("time", "t", "timestamp", "unix", "unix time", "epoch", "elapsed", "elapsed time", "relative time")
DATES = ("date", "datetime", "date time", "time", "timestamp")
POWERS = ("power", "p", "pow", "active power", "real power", "load")
SHORT = ("s", "h", "d", "min", "mins")
"""As a head alone these may be anything: `min` is also a least value."""
HEAD = re.compile(r"(.*?)(?:[ _]*[\[(]\s*([^\])]*?)\s*[\])]|[ _/]+([^\W\d_]+))?")
SHOULD = "such as time_s, time (ms), t[min], unix_s or datetime, and power_W, watts or P (mW)"


def read_csv(path: str | os.PathLike[str]) -> tuple[list[float], list[float]]:
    """Return times, s, and powers, W, of a wattmeter's CSV, separated by commas, semicolons or tabs.

    Dates are ISO 8601 and become seconds since 1970; without a zone they are this machine's local time.  Other columns
    are left alone; where the separator is not a comma, numbers may have decimal commas.  A last line without its end of
    line that cannot be read was torn, and is left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the line and the column, if a head is missing, twice there or without a unit, a value is no
            finite number or date, time goes back, or there are fewer than two rows.
    """
    text = Path(path).read_text(encoding="utf-8-sig")
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{path}: the file is empty; it should have columns {SHOULD}")
    first, head = lines[0]
    separator = next((s for s in "\t;," if s in head), ",")
    names = [name.strip() for name in _cells(head, separator)]
    time, time_scale = _column(names, TIMES, TIME_UNITS, DATES, f"{path}, line {first}: time")
    power, power_scale = _column(names, POWERS, POWER_UNITS, (), f"{path}, line {first}: power")
    times: list[float] = []
    watts: list[float] = []
    for number, line in lines[1:]:
        cells = _cells(line, separator)
        try:
            if len(cells) != len(names):
                raise ValueError(f"{path}, line {number}: {len(cells)} columns, the head has {len(names)}")
            where = f"{path}, line {number}, column"
            t = _seconds(cells[time], time_scale, separator, f"{where} {names[time]!r}")
            w = _number(cells[power], separator, f"{where} {names[power]!r}") * power_scale
            if times and t < times[-1]:
                raise ValueError(f"{where} {names[time]!r}: time goes back, to {cells[time].strip()!r}")
        except ValueError:
            if number == lines[-1][0] and not text.endswith(("\n", "\r")):
                break
            raise
        times.append(t)
        watts.append(w)
    if len(times) < 2:
        raise ValueError(f"{path}: at least two rows of values are needed, got {len(times)}")
    return times, watts


def _cells(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator, skipinitialspace=True))


def _column(
    names: list[str], known: tuple[str, ...], units: dict[str, float], dates: tuple[str, ...], where: str
) -> tuple[int, float]:
    """Return the place of a column and what turns its values into the unit of SI; NaN: they are dates."""
    found: list[tuple[int, float]] = []
    problem = f"no such column in {', '.join(map(repr, names))}; heads are {SHOULD}"
    for place, name in enumerate(names):
        plain = re.sub(r"[_ ]+", " ", name.strip().lstrip("#").strip().lower())
        if plain in dates:
            found.append((place, math.nan))
        elif plain in units and plain not in SHORT:  # the unit alone, such as watts
            found.append((place, units[plain]))
        elif plain in known:
            problem = f"column {name!r} does not name its unit; heads are {SHOULD}"
        elif (match := HEAD.fullmatch(plain)) and match[1].strip() in known and (unit := match[2] or match[3]):
            if unit in units:
                found.append((place, units[unit]))
            else:
                problem = f"column {name!r} has an unknown unit; units are {', '.join(units)}"
    if len(found) == 1:
        return found[0]
    if found:
        problem = f"there must be one such column, found {', '.join(repr(names[place]) for place, _ in found)}"
    raise ValueError(f"{where}: {problem}")


def _number(cell: str, separator: str, where: str) -> float:
    text = cell.strip() if separator == "," else cell.strip().replace(",", ".")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: must be a finite number, got {cell.strip()!r}")
    return value


def _seconds(cell: str, scale: float, separator: str, where: str) -> float:
    if not math.isnan(scale):
        return _number(cell, separator, where) * scale
    try:
        return datetime.datetime.fromisoformat(cell.strip()).timestamp()
    except ValueError:
        should = "must be an ISO date such as 2024-05-01T12:00:00.5; a column of numbers names its unit, such as time_s"
        raise ValueError(f"{where}: {should}, got {cell.strip()!r}") from None
