"""A report as plain text: every number with its unit and its provenance, every missing one with its reason.

table(report) -> str, at most 100 characters wide, no colour, no control characters
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

from mcmcopt.energy.report import Attribution, Reading, Report, WindowTotal
from mcmcopt.energy.sample import DISJOINT

WIDTH = 100
DIGITS = 3
"""Significant ones, at least."""
LAST = 24
"""Characters that the last column of a table gets even beside a long name."""
NO_SENSOR = "no sensor was found"


def number(value: float) -> str:
    """Return a number without a unit: three significant digits, or all whole ones where those are more."""
    size = abs(value)
    if size == 0 or not math.isfinite(size):
        return f"{value:.0f}"
    if size < 1e-3 or size >= 1e12:
        return f"{value:.{DIGITS - 1}e}"
    return f"{value:.{max(0, DIGITS - 1 - math.floor(math.log10(size)))}f}"


def joules(value: float) -> str:
    """Return joules as text, J, from 3600 J on also in Wh and from 3.6 MJ on in kWh."""
    size = abs(value)
    if size >= 3.6e6:
        return f"{number(value)} J ({number(value / 3.6e6)} kWh)"
    return f"{number(value)} J ({number(value / 3600)} Wh)" if size >= 3600 else f"{number(value)} J"


def seconds(value: float) -> str:
    """Return seconds as text, s, from a minute on also in hours, minutes and seconds."""
    if value < 60:
        return f"{number(value)} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return f"{number(value)} s ({' '.join(f'{n} {unit}' for n, unit in parts if n)})"


def size_of(count: int) -> str:
    """Return bytes as text, in the binary unit that leaves at most four digits before the point."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{number(value)} {unit}"


def table(report: Report) -> str:
    """Return what a report says as lines of at most 100 characters: joules (J), watts (W), seconds (s), bytes (B).

    Args:
        report: of a meter, a window or a log.
    """
    title = f"Energy of {report.name}: {seconds(report.duration_s)}"
    if report.flags:
        title += f" [{', '.join(report.flags)}]"
    lines = _wrapped(title)
    lines += _channels({name: r for name, r in report.channels.items() if r.provenance != "absent"})
    for name, reading in report.channels.items():
        if reading.provenance == "absent":
            lines += _wrapped(f"{name}: absent: {reading.reason or 'no reason was given'}")
    lines += _totals(report)
    lines += _windows(report.windows)
    return "\n".join(lines)


def why_not_measured(report: Report) -> str:
    """Return in words why a report has no measured total."""
    reasons = [
        r.reason or f"{name} is absent" if r.provenance == "absent" else f"{name} gave no reading{_because(r)}"
        for name, r in report.channels.items()
        if r.provenance != "estimated" and r.energy_j is None and r.kind in DISJOINT
    ]
    if not reasons and any(r.energy_j is not None and r.provenance != "estimated" for r in report.channels.values()):
        return "no measured channel may be added: psys, core, uncore and duplicates are never summed"
    return "; ".join(dict.fromkeys(reasons)) or NO_SENSOR


def _because(reading: Reading) -> str:
    if "not_moved_yet" in reading.flags:
        return ": its counter has not moved yet, it may be slow or dead"
    return f" ({', '.join(reading.flags)})" if reading.flags else ""


def _channels(readings: Mapping[str, Reading]) -> list[str]:
    rows = [
        (
            " ".join(name.split()),
            "-" if r.energy_j is None else number(r.energy_j),
            "-" if r.mean_w is None else number(r.mean_w),
            r.provenance,
            _percent(r.coverage),
            " ".join((*r.flags, *(() if r.counted else ("not_summed",)))),
        )
        for name, r in readings.items()
    ]
    return _columns(("channel", "J", "mean W", "provenance", "coverage", "flags"), rows, right=(1, 2, 4))


def _totals(report: Report) -> list[str]:
    rows: list[tuple[str, str]] = []
    if report.total_measured_j is None:
        rows.append(("measured", f"not measured: {why_not_measured(report)}"))
    else:
        rows.append(("measured", f"{joules(report.total_measured_j)}, coverage {_percent(report.coverage)}"))
    if report.total_estimated_j is not None:
        assumed = dict.fromkeys(
            r.reason
            for r in report.channels.values()
            if r.provenance == "estimated" and r.counted and r.energy_j is not None and r.reason
        )
        text = f"{joules(report.total_estimated_j)}, not a measurement"
        rows.append(("estimated", f"{text}: {'; '.join(assumed)}" if assumed else text))
    if report.process is not None:
        rows.append(("this process", _process(report.process)))
    if report.idle is not None:
        idle = report.idle
        known = "" if idle.duration_s is None else f" over {seconds(idle.duration_s)}"
        net = "not known: nothing was measured" if report.net_j is None else joules(report.net_j)
        rows.append(("net above idle", f"{net} (idle {number(idle.w)} W, {idle.source}{known})"))
    else:
        rows.append(("net above idle", "not known: no idle baseline was measured or given"))
    if report.memory is not None:
        if report.memory.process_bytes is not None:
            rows.append(("memory peak", f"{size_of(report.memory.process_bytes)} (this process tree)"))
        rows += [("memory peak", f"{size_of(used)} ({gpu})") for gpu, used in report.memory.gpu_bytes.items()]
    lines = [""]
    for label, text in rows:
        lines += _wrapped(f"{label:<14}  {text}", 16)
    return lines


def _process(part: Attribution) -> str:
    if part.share is None:
        return "not known: the machine used too little CPU time to tell"
    share = f"{_percent(part.share)} of the machine's CPU time ({number(part.cpu_s)} CPU s)"
    if part.energy_j is None:
        return f"energy not known: no package is measured; {share}"
    return f"{joules(part.energy_j)}, {part.provenance}: {share}"


def _windows(windows: Mapping[str, WindowTotal]) -> list[str]:
    if not windows:
        return []
    rows = []
    for name, w in windows.items():
        value = "not measured" if w.measured_j is None else number(w.measured_j)
        if w.measured_j is None and w.estimated_j is not None:
            value = f"{number(w.estimated_j)} estimated"
        rows.append((" ".join(name.split()), str(w.count), number(w.duration_s), value))
    return ["", *_columns(("window", "count", "s", "J"), rows, right=(1, 2, 3))]


def _percent(share: float) -> str:
    """Return a share in per cent; what is not all of it never reads 100 %."""
    text = f"{100 * share:.{DIGITS}g}"
    return f"{'99.9' if share < 1 and float(text) >= 100 else text} %"


def _columns(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: tuple[int, ...]) -> list[str]:
    """Return aligned columns under their heads; the first one is cut to fit, the last one goes on below."""
    if not rows:
        return []
    last = len(head) - 1
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    room = WIDTH - 2 * last - sum(widths[1:last]) - min(widths[last], LAST)
    rows = [(_cut(row[0], room), *row[1:]) for row in rows]
    widths[0] = min(widths[0], room)
    start = sum(widths[:last]) + 2 * last
    lines = []
    for row in (head, *rows):
        cells = [c.rjust(widths[i]) if i in right else c.ljust(widths[i]) for i, c in enumerate(row[:last])]
        tail = row[last].rjust(widths[last]) if last in right else row[last]
        first, *more = textwrap.wrap(tail, WIDTH - start, drop_whitespace=last not in right) or [""]
        lines += ["  ".join([*cells, first]).rstrip(), *(" " * start + part for part in more)]
    return lines


def _cut(name: str, width: int) -> str:
    """Return a name without its middle: boards are told apart by either end."""
    return name if len(name) <= width else f"{name[: (width - 1) // 2]}…{name[-(width // 2) :]}"


def _wrapped(text: str, indent: int = 4) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent)
