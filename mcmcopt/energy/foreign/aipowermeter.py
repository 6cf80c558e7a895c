"""Logs of AIPowerMeter (`power_metrics.json`, one JSON line per sample) as logs of this meter.

    {"date": "2023-06-30 16:32:14.588530", "metrics": {"cpu": {"intel_power": 49.4, "psys_power": -1, …}, "gpu": {…}}}
    "END OF RECORDING SEGMENT"

What ends in `_power` or `_draw` is watts, the mean since the sample before; the counters themselves were not kept.  So
its channels are `integrated`: joules by the trapezoid, without what came before the first line and after the last.
Source: GreenAI-Uppa/AIPowerMeter, `rapl_power.py`, `parsers.py` and `examples/`.
"""

from __future__ import annotations

import datetime
import itertools
import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mcmcopt.energy.log import Log, Segment
from mcmcopt.energy.sample import Channel, Kind, Sample

FILE = "power_metrics.json"
END = "END OF RECORDING SEGMENT"
CPU: tuple[tuple[str, str, Kind, str | None], ...] = (
    ("intel_power", "aipm:package", "cpu_package", None),  # the sum of all packages
    ("total_dram_power", "aipm:dram", "dram", None),
    ("total_cpu_power", "aipm:core", "core", "aipm:package"),
    ("uncore_power", "aipm:uncore", "uncore", "aipm:package"),
    ("psys_power", "aipm:psys", "psys", None),
)
PER_GPU = ("per_gpu_nvidia_power", "per_gpu_power_draw")  # since the change to NVML, and before
ALL_GPUS = ("nvidia_power", "nvidia_draw_absolute")


class _Line(NamedTuple):
    date: datetime.datetime
    w: dict[str, float]
    memory: dict[str, int]


def from_aipowermeter(path: str | os.PathLike[str]) -> Log:
    """Return an AIPowerMeter log as a log that `summarize` reads: powers in W, times in s, memory in bytes.

    Its dates name no time zone: `unix_s` takes them for this machine's local time, `t_s` counts from the first one.
    Where the dates go back, as at the end of summer time, a new segment begins, and `t_s` goes on from the last sample.
    A power that is negative (`psys_power` −1: no such sensor) or no number is left out; a last line that was torn, too.

    Args:
        path: of the file, or of the folder that holds it under the name `power_metrics.json`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the line that is not one of such a log, or if there is none that holds a sample.
    """
    file = Path(path)
    file = file / FILE if file.is_dir() else file
    parts = _parts(file)
    if not parts:
        raise ValueError(f"{file}: holds no sample of AIPowerMeter")
    gpus = sorted({name for part in parts for line in part for name in line.w if name.startswith("aipm:gpu")})
    overall = _period([line.date for part in parts for line in part])
    segments = []
    t_s, last = 0.0, parts[0][0].date
    for part in parts:
        period_s = _period([line.date for line in part]) or overall
        seen = frozenset(name for line in part for name in line.w)
        samples = []
        for line in part:
            t_s += max(0.0, (line.date - last).total_seconds())
            last = line.date
            samples.append(Sample(t_s, line.date.timestamp(), w=line.w, memory=line.memory))
        meta = {"source": str(file), "converted_from": "AIPowerMeter", "time_zone": "assumed local"}
        segments.append(Segment(_channels(seen, gpus, period_s), period_s, samples, meta=meta))
    return Log(segments)


def _parts(file: Path) -> list[list[_Line]]:
    """Return the lines of each segment that has any."""
    parts: list[list[_Line]] = [[]]
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            entry = json.loads(text)
        except ValueError:
            if number == len(lines):
                break  # torn by the end of the process
            raise ValueError(f"{file}, line {number}: not JSON, so not a line of AIPowerMeter") from None
        if entry == END:
            parts.append([])
            continue
        line = _line(entry, f"{file}, line {number}")
        if parts[-1] and line.date < parts[-1][-1].date:
            parts.append([])
        parts[-1].append(line)
    return [part for part in parts if part]


def _line(entry: Any, where: str) -> _Line:
    if not isinstance(entry, dict) or not isinstance(entry.get("metrics"), dict):
        raise ValueError(f"{where}: no `metrics`, so not a line of AIPowerMeter")
    try:
        date = datetime.datetime.fromisoformat(entry["date"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{where}: date must be such as 2023-06-30 16:32:14.5, got {entry.get('date')!r}") from None
    if date.tzinfo is not None:
        date = date.astimezone().replace(tzinfo=None)
    cpu, gpu = (entry["metrics"].get(name) or {} for name in ("cpu", "gpu"))
    powers = {name: _power(cpu.get(key)) for key, name, _, _ in CPU}
    each: Mapping[str, Any] = next((gpu[key] for key in PER_GPU if isinstance(gpu.get(key), dict) and gpu[key]), {})
    powers |= {f"aipm:gpu{index}": _power(value) for index, value in each.items()}
    if not each:
        powers["aipm:gpus"] = next((_power(gpu[key]) for key in ALL_GPUS if key in gpu), None)
    memory = cpu.get("per_process_mem_use_abs")
    used = [_power(value) for value in memory.values()] if isinstance(memory, dict) else []
    total = sum(int(value) for value in used if value is not None)
    return _Line(date, {n: w for n, w in powers.items() if w is not None}, {"process": total} if total else {})


def _power(value: Any) -> float | None:
    """Return a number that is not negative, also out of a list of one; None: it is none."""
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        return None
    return float(value)


def _period(dates: Sequence[datetime.datetime]) -> float:
    """Return the median of the seconds between two dates that follow each other; 0 where there are none."""
    steps = [(b - a).total_seconds() for a, b in itertools.pairwise(dates)]
    return statistics.median(s for s in steps if s > 0) if any(s > 0 for s in steps) else 0.0


def _channels(seen: frozenset[str], gpus: Sequence[str], period_s: float) -> tuple[Channel, ...]:
    known: list[tuple[str, Kind, str | None]] = [(name, kind, parent) for _, name, kind, parent in CPU]
    known += [(name, "gpu", None) for name in gpus]
    keys: Mapping[str, str] = {name: key for key, name, _, _ in CPU}
    return tuple(
        Channel(
            id=name,
            kind=kind,
            device=keys.get(name, name.removeprefix("aipm:")),
            provenance="integrated" if name in seen else "absent",
            parent=parent,
            resolution_s=period_s,
            averaging_s=0.0 if kind == "gpu" else period_s,
            reason="" if name in seen else "the AIPowerMeter log has no value of it",
            # the sum over all boards would count those again that are there one by one
            counted=name != "aipm:gpus" or len(gpus) == 1,
        )
        for name, kind, parent in known
    )
