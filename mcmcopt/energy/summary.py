"""The arithmetic between totals and a report, the same online and offline.

energy = Σ over segments of T(end) − T(begin),   coverage = measured seconds / duration
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mcmcopt.energy.accounts import Accounts, State, Totals
from mcmcopt.energy.report import Attribution, Baseline, Memory, Reading, Report, WindowTotal
from mcmcopt.energy.sample import Channel

SHORT = 3
"""A power that is an average tells nothing of windows shorter than so many averaging times."""
COMPARE_S = 10.0
"""Counter and integral of a board are compared over at least so long, ..."""
COMPARE_PERIOD_S = 1.0
"""... and where its power, a mean over about a second, was sampled at least so often: else too much is missed."""
DISAGREE = 0.1
SAME_COVERAGE = 0.01
"""Channels whose coverages differ by less were measured for the same time, as far as power at rest goes."""


class Span(NamedTuple):
    """Totals at the two ends of a stretch without interruption, and the accounts that they are from."""

    accounts: Accounts
    begin: State
    end: State


def make_report(
    name: str,
    spans: Sequence[Span],
    *,
    baseline: Baseline | None = None,
    memory: Memory | None = None,
    attribute: bool = True,
    flags: Sequence[str] = (),
    windows: Mapping[str, WindowTotal] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Report:
    """Return the report of one or more stretches of time, added up.

    Args:
        name: of the report.
        spans: the stretches; a channel that is missing in one of them counts as not measured there.
        baseline: what the machine draws at rest.
        memory: peaks.
        attribute: whether this process's part is wanted.
        flags: of the whole.
        windows: sums by name.
        meta: goes into the report as it is.
    """
    duration_s = sum(span.end.t_s - span.begin.t_s for span in spans)
    late_s = sum(span.end.late_s + span.begin.late_s for span in spans)
    channels: dict[str, Channel] = {}
    for span in spans:
        for channel in span.accounts.channels:
            if channel.id not in channels or channels[channel.id].provenance == "absent":
                channels[channel.id] = channel
    mirrors = frozenset[str]().union(*(span.accounts.mirrors for span in spans))
    suspects = frozenset[str]().union(*(span.accounts.suspects for span in spans)) - mirrors
    readings, parts = {}, {}
    for channel in channels.values():
        edges = [(s.begin.totals[channel.id], s.end.totals[channel.id]) for s in spans if channel.id in s.end.totals]
        extra = ("mirror",) if channel.id in mirrors else ("mirror_candidate",) if channel.id in suspects else ()
        often = all(s.accounts.period_s <= COMPARE_PERIOD_S for s in spans)
        reading = _reading(channel, edges, duration_s, late_s, extra, often)
        readings[channel.id] = reading
        # what a look at the processes settles may have been used before the window: it gets no more than it measured
        part = sum(max(0.0, b.process_j - a.process_j) for a, b in edges)
        parts[channel.id] = min(part, reading.energy_j or 0.0)
    counted = {name: r for name, r in readings.items() if r.counted and r.energy_j is not None}
    measured = {name: r for name, r in counted.items() if r.provenance in ("counter", "integrated")}
    total = _total(measured.values())
    expected = [r for r in readings.values() if r.counted and r.provenance in ("counter", "integrated")]
    cpu = [name for name, r in measured.items() if r.kind == "cpu_package"]
    return Report(
        name=name,
        duration_s=duration_s,
        channels=readings,
        cpu_j=_total(r for r in measured.values() if r.kind == "cpu_package"),
        dram_j=_total(r for r in measured.values() if r.kind == "dram"),
        gpu_j=_total(r for r in measured.values() if r.kind == "gpu"),
        total_measured_j=total,
        total_estimated_j=_total(r for r in counted.values() if r.provenance == "estimated"),
        coverage=min((r.coverage for r in expected), default=0.0),
        process=_attribution(spans, sum(parts[name] for name in cpu) if cpu else None) if attribute else None,
        idle=baseline,
        net_j=_net(total, baseline, duration_s, [r.coverage for r in expected]),
        memory=memory,
        windows=dict(windows or {}),
        flags=tuple(sorted({*flags, *_partly_absent(channels.values(), measured.values())})),
        meta=dict(meta or {}),
    )


def _reading(
    channel: Channel,
    edges: Sequence[tuple[Totals, Totals]],
    duration_s: float,
    late_s: float,
    extra: tuple[str, ...],
    often: bool,
) -> Reading:
    counted = channel.in_total and not extra
    if channel.provenance == "absent" or not edges:
        return Reading(channel.kind, channel.device, "absent", None, counted=False, reason=channel.reason)
    by_power = channel.provenance == "integrated"
    integral_j = sum(b.integral_j - a.integral_j for a, b in edges)
    integrated_s = sum(b.integrated_s - a.integrated_s for a, b in edges)
    counter_s = sum(b.counted_s - a.counted_s for a, b in edges)
    seen_s = integrated_s if by_power else counter_s
    energy_j: float | None = integral_j if by_power else sum(b.uj - a.uj for a, b in edges) / 1e6
    lost_s = sum(b.lost_s - a.lost_s for a, b in edges)
    flags = sorted({f for a, b in edges for f, n in b.flags.items() if n > a.flags.get(f, 0)} | set(extra))
    if seen_s <= 0:
        energy_j = None
    sure_j = None if energy_j is None else energy_j - sum(b.dubious_uj - a.dubious_uj for a, b in edges) / 1e6
    mean_w = None if sure_j is None else sure_j / seen_s
    # a window shorter than the counter's own pace may see none of its steps: then the power since the beginning tells
    usual_w = max((b.uj / 1e6 / b.counted_s for _, b in edges if b.counted_s > 0), default=0.0)
    unread_s = sum(a.unread_s + b.unread_s for a, b in edges)
    if energy_j is None and any(b.waiting_s > 0 for _, b in edges):
        flags.append("not_moved_yet")
    if unread_s > 0:
        flags.append("unread_edge")
    if by_power and duration_s < SHORT * channel.averaging_s:
        flags.append("short_window")
    both = often and not by_power and min(integrated_s, counter_s) >= COMPARE_S and energy_j is not None
    if both and energy_j is not None:
        rates = energy_j / counter_s, integral_j / integrated_s
        if abs(rates[0] - rates[1]) > DISAGREE * max(rates):
            flags.append("counter_disagrees")
    return Reading(
        kind=channel.kind,
        device=channel.device,
        provenance=channel.provenance,
        energy_j=energy_j,
        mean_w=mean_w,
        coverage=0.0 if duration_s <= 0 else min(1.0, seen_s / duration_s),
        # of an estimate the edges are the smallest part of the error: nobody knows it
        uncertainty_j=None
        if mean_w is None or channel.provenance == "estimated"
        else max(mean_w, usual_w) * (2 * len(edges) * channel.resolution_s + unread_s + late_s),
        flags=tuple(flags),
        counted=counted,
        lost_s=min(lost_s, duration_s),  # of a gap that began before the window
        integral_j=integral_j if integrated_s > 0 and not by_power else None,
        reason=channel.reason,
    )


def _total(readings: Any) -> float | None:
    values = [r.energy_j for r in readings if r.energy_j is not None]
    return sum(values) if values else None


def _partly_absent(channels: Iterable[Channel], measured: Iterable[Reading]) -> set[str]:
    """Return the flag of a total that lacks a device beside others of its kind: a second socket that is forbidden."""
    kinds = {reading.kind for reading in measured}
    lacking = (c for c in channels if c.provenance == "absent" and c.counted and c.device != "none")
    return {"partly_absent"} if any(c.kind in kinds for c in lacking) else set()


def _net(total: float | None, baseline: Baseline | None, duration_s: float, coverages: list[float]) -> float | None:
    """Return what is above rest in the measured time; where channels were measured for different times nobody knows."""
    if total is None or baseline is None or max(coverages) - min(coverages) > SAME_COVERAGE:
        return None
    return max(0.0, total - baseline.w * duration_s * min(coverages))


def _attribution(spans: Sequence[Span], energy_j: float | None) -> Attribution:
    process_s = sum(s.end.process_s - s.begin.process_s for s in spans)
    machine_s = sum(s.end.machine_s - s.begin.machine_s for s in spans)
    share = min(1.0, process_s / machine_s) if machine_s > 0 else None
    return Attribution(process_s, machine_s, share, None if share is None else energy_j)
