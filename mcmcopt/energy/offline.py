"""A report of a log, by the arithmetic of the live meter.

A moment between two samples is read off a straight line: of a counter's joules, or of a power between its two values.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from mcmcopt.energy.accounts import Accounts, longest_gap_s
from mcmcopt.energy.counter import step
from mcmcopt.energy.log import Log, Segment
from mcmcopt.energy.report import Baseline, Memory, Report
from mcmcopt.energy.sample import Sample
from mcmcopt.energy.summary import Span, make_report


def summarize(
    log: Iterable[Sample], start: float | None = None, end: float | None = None, *, name: str = "total"
) -> Report:
    """Return the report of a log, or of the part of it between two moments.

    Args:
        log: of `read_log`; a plain list of samples does not say what its channels are.
        start, end: monotonic seconds as in `Sample.t_s`; None: the first and the last sample of each segment.
        name: of the report.

    Raises:
        ValueError: if it is no log, holds no samples there, is of several boots or of meters that counted the same
            joules, or the end comes before the start.
    """
    if not isinstance(log, Log):
        raise ValueError(f"log must come from read_log, which knows the channels, got {type(log).__name__}")
    if start is not None and end is not None and end < start:
        raise ValueError(f"end must not come before start={start}, got {end}")
    if (start is not None or end is not None) and len({segment.meta.get("boot_id") for segment in log.segments}) > 1:
        raise ValueError("the log is of several boots, whose seconds are not the same: leave start and end out")
    _check_apart(log.segments)
    spans: list[Span] = []
    inside: list[Sample] = []
    nets: list[float | None] = []
    baselines: list[Baseline | None] = []
    for segment in log.segments:
        part = _between(segment, start, end)
        if part is not None:
            spans.append(part[0])
            inside += part[1]
            baselines.append(segment.baseline)
            nets.append(make_report(name, part[:1], baseline=segment.baseline).net_j)
    if not spans:
        raise ValueError(f"the log has no samples between {start} and {end}")
    report = make_report(
        name,
        spans,
        baseline=baselines[0] if all(b == baselines[0] for b in baselines) else None,
        memory=peak_memory(inside),
        attribute=any(sample.cpu_s for sample in log),
        flags=sorted({flag for sample in inside for flag in sample.flags.get("", ())}),
        meta={"segments": len(spans)},
    )
    # each run has its own power at rest
    known = [net for net in nets if net is not None]
    return dataclasses.replace(report, net_j=sum(known) if len(known) == len(nets) else None)


def _check_apart(segments: Sequence[Segment]) -> None:
    """See that no channel was read by two meters at the same time: its joules would count twice.

    Raises:
        ValueError: naming it.
    """
    for number, one in enumerate(segments):
        for other in segments[:number]:
            if not one.samples or not other.samples or one.meta.get("boot_id") != other.meta.get("boot_id"):
                continue
            if one.meta.get("boot_id") is None and (
                one.samples[0].unix_s >= other.samples[-1].unix_s or other.samples[0].unix_s >= one.samples[-1].unix_s
            ):
                continue  # a system that does not tell its boots
            apart = one.samples[0].t_s >= other.samples[-1].t_s or other.samples[0].t_s >= one.samples[-1].t_s
            both = {c.id for c in one.channels if c.in_total} & {c.id for c in other.channels if c.in_total}
            if both and not apart:
                names = ", ".join(sorted(both))
                raise ValueError(
                    f"two meters read {names} at the same time and logged to one file: summarize one of them, "
                    "Log([log.segments[0]])"
                )


def peak_memory(samples: Iterable[Sample]) -> Memory | None:
    """Return the most memory that any sample saw in use; None where none looked."""
    peaks: dict[str, int] = {}
    for sample in samples:
        for name, used in sample.memory.items():
            peaks[name] = max(peaks.get(name, 0), used)
    process = peaks.pop("process", None)
    return None if process is None and not peaks else Memory(process, peaks)


def _between(segment: Segment, start: float | None, end: float | None) -> tuple[Span, list[Sample]] | None:
    """Return the totals at two moments of a segment, and the samples from the one to the other."""
    samples = list(segment.samples)
    if not samples:
        return None
    first = samples[0].t_s if start is None else max(start, samples[0].t_s)
    last = samples[-1].t_s if end is None else min(end, samples[-1].t_s)
    if first > last:
        return None
    for moment in (first, last):
        _insert(samples, moment, segment)
    times = [sample.t_s for sample in samples]
    # of several samples at one moment the first begins a stretch, the last ends it
    begins, ends = times.index(first), bisect_right(times, last) - 1
    accounts = Accounts(segment.channels, segment.period_s)
    for number, sample in enumerate(samples[: ends + 1]):
        accounts.add(sample)
        if number == begins:
            begin = accounts.state()
    return Span(accounts, begin, accounts.state()), samples[begins : ends + 1]


def _insert(samples: list[Sample], moment: float, segment: Segment) -> None:
    """Put a sample between two others, unless there is one at that moment."""
    times = [sample.t_s for sample in samples]
    place = bisect_right(times, moment)
    if times[place - 1] == moment:
        return
    before, after = samples[place - 1], samples[place]
    dt = after.t_s - before.t_s
    part = (moment - before.t_s) / dt
    uj = {}
    w = {}
    for c in segment.channels:
        if c.id in before.w and c.id in after.w and dt <= longest_gap_s(c, segment.period_s):
            w[c.id] = before.w[c.id] + part * (after.w[c.id] - before.w[c.id])
        if c.id in before.uj and c.id in after.uj:
            made = step(before.uj[c.id], after.uj[c.id], dt, c.range_uj, c.max_w, c.resolution_s, after.late_s)
            if made.trusted:  # elsewhere nobody knows what lay between: the edge stays unread
                raw = before.uj[c.id] + round(part * made.uj)
                uj[c.id] = raw if c.range_uj is None else raw % (c.range_uj + 1)
    cpu_s = {name: b + part * (after.cpu_s[name] - b) for name, b in before.cpu_s.items() if name in after.cpu_s}
    unix_s = before.unix_s + part * (after.unix_s - before.unix_s)
    samples.insert(place, Sample(moment, unix_s, uj, w, cpu_s, late_s=after.late_s))
