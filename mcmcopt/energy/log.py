"""The meter's log: one JSON line per sample, appended, read back with the same arithmetic.

    {"type": "header", "of": "3f9a", "schema": 1, "channels": […], "period_s": 1.0, "host": …, "boot_id": …, …}
    {"type": "sample", "of": "3f9a", "t_s": …, "unix_s": …, "uj": {"rapl:package-0": 123}, "w": {…}, "cpu_s": {…}, …}
    {"type": "baseline", "of": "3f9a", "w": 12.5, …}
    {"type": "report", "of": "3f9a", …}

A header begins a segment: a meter that was started again, or another one; its lines say whose they are (`of`), so
several may write to one file at once.  Nothing is ever erased; a line that a crash has torn is left out by the reader.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mcmcopt.energy.report import Baseline, Report
from mcmcopt.energy.sample import SCHEMA, Channel, Sample, channel_from_dict, channel_to_dict


@dataclass
class Segment:
    """One start of a meter.

    Args:
        channels: what it found.
        period_s: seconds between two samples of channels with a counter.
        samples: in the order of their time.
        baseline: what the machine draws at rest, if that was known.
        meta: host, versions and so on.
    """

    channels: tuple[Channel, ...]
    period_s: float
    samples: list[Sample] = field(default_factory=list)
    baseline: Baseline | None = None
    meta: dict[str, Any] = field(default_factory=dict)


class Log(list[Sample]):
    """All samples of a log, with the segments that they belong to, and the numbers of lines that were torn."""

    def __init__(self, segments: Iterable[Segment], torn: Iterable[int] = ()) -> None:
        self.segments, self.torn = tuple(segments), tuple(torn)
        super().__init__(sample for segment in self.segments for sample in segment.samples)


class LogWriter:
    """Appends lines to a file, each with one call of the system, so that a line is there whole or not at all.

    Args:
        path: of the file; folders that are missing are made.

    Raises:
        OSError: if it cannot be opened for appending.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._of = uuid.uuid4().hex[:8]
        self._mend()

    def write(self, kind: str, content: Mapping[str, Any]) -> None:
        """Append one line."""
        line = json.dumps(
            {"type": kind, "of": self._of, **content}, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
        data = memoryview(line.encode("utf-8", "replace") + b"\n")
        while data:  # a second call only where the disk took a part
            data = data[os.write(self._fd, data) :]

    def header(self, channels: Iterable[Channel], period_s: float, meta: Mapping[str, Any]) -> None:
        """Begin a segment."""
        described = [channel_to_dict(c) for c in channels]
        self.write("header", {"schema": SCHEMA, "period_s": period_s, **meta, "channels": described})

    def sample(self, sample: Sample) -> None:
        """Append a sample."""
        self.write("sample", sample.to_dict())

    def baseline(self, baseline: Baseline) -> None:
        """Append what the machine draws at rest."""
        self.write("baseline", asdict(baseline))

    def report(self, report: Report) -> None:
        """End a segment."""
        self.write("report", report.to_dict())

    def close(self) -> None:
        """Close the file; can be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _mend(self) -> None:
        """End a line that a crash has torn, so that the next one begins on its own."""
        size = os.fstat(self._fd).st_size
        if size:
            with self.path.open("rb") as file:
                file.seek(size - 1)
                torn = file.read(1) != b"\n"
            if torn:
                os.write(self._fd, b"\n")


def read_log(path: str | os.PathLike[str]) -> Log:
    """Return what meters have logged; a line torn by a crash is left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming a line that is whole and no log's; or if there is no log in the file.
    """
    segments: dict[str, Segment] = {}
    torn: list[int] = []
    latest = ""
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                kind = entry.pop("type")
                # lines of before there was `of` belong to the header above them
                latest = f"line {number}" if kind == "header" else latest
                of = entry.pop("of", latest)
            except (ValueError, KeyError, AttributeError):
                torn.append(number)
                continue
            try:
                _take(kind, of, entry, segments)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
    if torn and not segments:
        raise ValueError(f"{path}, line {torn[0]}: not a line of an energy log")
    return Log(segments.values(), torn)


def _take(kind: str, of: str, entry: dict[str, Any], segments: dict[str, Segment]) -> None:
    if kind == "header":
        if (schema := entry.pop("schema", None)) != SCHEMA:
            raise ValueError(f"written in schema {schema!r}, this version reads schema {SCHEMA}")
        channels = tuple(channel_from_dict(c) for c in entry.pop("channels"))
        segments[of] = Segment(channels, entry.pop("period_s"), meta=entry)
    elif of not in segments:
        raise ValueError(f"a {kind} before any header")
    elif kind == "sample":
        segments[of].samples.append(Sample.from_dict(entry))
    elif kind == "baseline":
        segments[of].baseline = Baseline(**entry)
    elif kind != "report":
        raise ValueError(f"unknown line of type {kind!r}")
