"""From raw samples to joules: running totals per channel, of which every report is a difference.

    E[a, b] = T(b) − T(a),   T(t) = Σ steps of the counter up to t,  or  ∫ w dt by the trapezoid of what was sampled

Totals of counters are whole microjoules, so windows that touch or nest add up exactly.  The same fold runs behind a
live meter and over its log.  A failed reading adds nothing and keeps its baseline: the next good one recovers the gap.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mcmcopt.energy.counter import Step, step
from mcmcopt.energy.sample import Channel, Sample

GAPS = 3
"""Periods without a sample after which a power is not interpolated any more."""
STILL_S = 1.0
"""A package, memory or a board that uses nothing for so long is not measured: its counter stands still."""
NEVER_STILL = ("cpu_package", "dram", "gpu", "board")
MIN_MACHINE_S = 0.05
"""Fewer CPU seconds of the whole machine give no share: they are a few ticks of the kernel's clock."""
AGREEING = 3
"""Steps of at least a joule that must agree before one counter is called another's mirror."""
MIRROR_UJ = 1_000_000
"""Counters that stand at the same value above this are one register until their steps differ."""
DIE = re.compile(r"(package-\d+)-die-\d+$")


class Totals(NamedTuple):
    """A channel since the meter began; what a window used is the difference of two."""

    uj: int = 0
    counted_s: float = 0.0
    """Seconds that `uj` covers."""
    lost_s: float = 0.0
    """Seconds whose joules nobody will know: reset, implausible or ambiguous."""
    dubious_uj: int = 0
    """Of `uj`, what was added for seconds that are not counted."""
    unread_s: float = 0.0
    """Seconds since the last good reading; not a total."""
    waiting_s: float = 0.0
    """Seconds that count if the counter, which has not moved yet, turns out to be alive; not a total."""
    integral_j: float = 0.0
    integrated_s: float = 0.0
    process_j: float = 0.0
    """Of `uj`, the part attributed to this process and its descendants."""
    flags: Mapping[str, int] = {}
    """How often each was raised."""


class State(NamedTuple):
    """All totals at one moment."""

    t_s: float
    totals: dict[str, Totals]
    process_s: float
    """CPU seconds of this process and its descendants."""
    machine_s: float
    """CPU seconds of the whole machine."""
    late_s: float = 0.0
    """How long the last sample took: its values may be so much later than `t_s`."""


@dataclass
class _Account:
    channel: Channel
    gap_s: float
    """A longer time between two samples of its power is not integrated."""
    uj: int = 0
    counted_s: float = 0.0
    lost_s: float = 0.0
    dubious_uj: int = 0
    still_s: float = 0.0
    integral_j: float = 0.0
    integrated_s: float = 0.0
    process_j: float = 0.0
    unattributed_uj: int = 0
    flags: dict[str, int] = field(default_factory=dict)
    waiting_s: float = 0.0
    moved: bool = False
    slept: bool = False
    """Whether the machine has been suspended since `last`."""
    last: tuple[float, int] | None = None
    last_w: tuple[float, float] | None = None

    def raise_flag(self, flag: str) -> None:
        self.flags[flag] = self.flags.get(flag, 0) + 1

    def count(self, t_s: float, raw: int, late_s: float) -> None:
        before, self.last = self.last, (t_s, raw)
        if before is None:
            self.slept = False
            return
        dt, c = t_s - before[0], self.channel
        made = step(before[1], raw, dt, c.range_uj, c.max_w, c.resolution_s, late_s)
        self.still_s = 0.0 if raw != before[1] else self.still_s + dt
        must_move = c.kind in NEVER_STILL and c.provenance == "counter"
        frozen = must_move and self.still_s >= max(STILL_S, 2 * c.resolution_s)
        if self.slept:  # what the machine used in its sleep is not ours, and cannot be told from the rest
            made, self.slept = Step(0, False), False
        self.uj += made.uj
        self.unattributed_uj += made.uj
        if made.flag or frozen:
            self.raise_flag(made.flag or "frozen")
        if must_move and not self.moved and made.trusted and not frozen:
            # a counter that has never moved may be dead: its seconds count when it does
            self.waiting_s += dt
            if raw != before[1]:
                self.moved, self.counted_s, self.waiting_s = True, self.counted_s + self.waiting_s, 0.0
        elif made.trusted and not frozen:
            self.counted_s += dt
        else:
            self.lost_s += dt + self.waiting_s
            self.waiting_s = 0.0
            self.dubious_uj += made.uj

    def integrate(self, t_s: float, w: float) -> None:
        before, self.last_w = self.last_w, (t_s, w)
        if before is None:
            return
        dt = t_s - before[0]
        if dt > self.gap_s:
            self.raise_flag("gap")
            return
        self.integral_j += (before[1] + w) / 2 * dt
        self.integrated_s += dt

    def totals(self, t_s: float, share: float) -> Totals:
        seen = self.last_w if self.channel.provenance == "integrated" else self.last
        process_j = self.process_j + share * self.unattributed_uj / 1e6
        return Totals(
            self.uj, self.counted_s, self.lost_s, self.dubious_uj, 0.0 if seen is None else t_s - seen[0],
            self.waiting_s, self.integral_j, self.integrated_s, process_j, dict(self.flags),
        )  # fmt: skip


@dataclass
class _Pair:
    """Two dies of one package: two counters, or one seen twice (AMD Zen 1 and 2)."""

    first: str
    second: str
    status: str = "unknown"
    """unknown, candidate, mirror or apart."""
    agreed: int = 0
    compared_uj: int = 0

    def see(self, raw: tuple[int, int], used_uj: int, range_uj: int | None, slack_uj: float) -> None:
        """Compare what the two show at one moment: one register never differs from itself, whatever befalls it.

        Args:
            raw: readings of the two.
            used_uj: total of the first one, µJ.
            range_uj: of the counters.
            slack_uj: the most by which two readings of one register can differ here.
        """
        if self.status == "apart" or (self.status == "unknown" and min(raw) < MIRROR_UJ):
            return  # two counters that have just begun look alike
        off = abs(raw[0] - raw[1])
        off = off if range_uj is None else min(off, range_uj + 1 - off)
        if off > max(1e-6 * max(raw), slack_uj):
            self.status = "apart"
        elif self.status == "unknown":
            self.status, self.compared_uj = "candidate", used_uj
        elif used_uj - self.compared_uj >= max(MIRROR_UJ, 10 * slack_uj):
            self.compared_uj = used_uj
            self.agreed += 1
            if self.agreed >= AGREEING:
                self.status = "mirror"


class Accounts:
    """Folds samples into totals.

    Args:
        channels: of the meter.
        period_s: seconds between two samples of channels that have a counter.
    """

    def __init__(self, channels: Iterable[Channel], period_s: float) -> None:
        self.channels, self.period_s = tuple(channels), period_s
        self._of = {c.id: _Account(c, longest_gap_s(c, period_s)) for c in self.channels if c.provenance != "absent"}
        self._pairs = _pairs(self.channels)
        self._t_s = self._late_s = 0.0
        self._cpu: tuple[float, float] | None = None
        self._process_s = self._machine_s = self._share = 0.0

    @property
    def mirrors(self) -> frozenset[str]:
        """Channels whose steps have shown them to be another one's joules: reported, never added."""
        return frozenset(pair.second for pair in self._pairs if pair.status == "mirror")

    @property
    def suspects(self) -> frozenset[str]:
        """Channels that stand where another one stands; not added either, unless their steps come to differ."""
        return frozenset(pair.second for pair in self._pairs if pair.status == "candidate")

    def add(self, sample: Sample) -> None:
        """Take a sample into account; samples come in the order of their time."""
        self._t_s, self._late_s = sample.t_s, sample.late_s
        if "suspended" in sample.flags.get("", ()):
            for account in self._of.values():
                account.slept, account.last_w = True, None
        for name, raw in sample.uj.items():
            if name in self._of:
                self._of[name].count(sample.t_s, raw, sample.late_s)
        for name, w in sample.w.items():
            if name in self._of:
                self._of[name].integrate(sample.t_s, w)
        for name, flags in sample.flags.items():
            for account in self._of.values() if not name else filter(None, [self._of.get(name)]):
                for flag in flags:
                    account.raise_flag(flag)
        for pair in self._pairs:
            self._compare(pair, sample)
        if sample.cpu_s:
            self._attribute(sample.cpu_s["process"], sample.cpu_s["machine"])

    def state(self, t_s: float | None = None) -> State:
        """Return the totals at the last sample, or at a later moment at which nothing could be read."""
        now = self._t_s if t_s is None else t_s
        totals = {name: account.totals(now, self._share) for name, account in self._of.items()}
        return State(now, totals, self._process_s, self._machine_s, self._late_s)

    def _compare(self, pair: _Pair, sample: Sample) -> None:
        first = self._of[pair.first]
        if pair.first in sample.uj and pair.second in sample.uj:
            raw = sample.uj[pair.first], sample.uj[pair.second]
            # between the two readings the one register may have been updated
            slack_uj = (first.channel.max_w or 0.0) * 1e6 * (sample.span_s + first.channel.resolution_s)
            pair.see(raw, first.uj, first.channel.range_uj, slack_uj)

    def _attribute(self, process_s: float, machine_s: float) -> None:
        before, now = self._cpu, (process_s, machine_s)
        if before is None:
            self._cpu = now
            for account in self._of.values():  # what came before the first look at the processor belongs to nobody
                account.unattributed_uj = 0
            return
        busy = machine_s - before[1]
        if busy < MIN_MACHINE_S:
            return  # too little to divide by: the next look takes it in
        self._cpu = now
        used = max(0.0, process_s - before[0])
        self._share = min(1.0, used / busy)
        self._process_s += used
        self._machine_s += busy
        for account in self._of.values():
            account.process_j += self._share * account.unattributed_uj / 1e6
            account.unattributed_uj = 0


def longest_gap_s(channel: Channel, period_s: float) -> float:
    """Return the longest time between two samples of a channel's power that is still integrated."""
    return GAPS * (channel.resolution_s if channel.provenance == "integrated" else max(period_s, 0.1))


def _pairs(channels: Iterable[Channel]) -> list[_Pair]:
    """Return the pairs to compare: each further die of a package with its first."""
    packages: dict[str, list[str]] = {}
    for c in channels:
        if c.provenance == "counter" and (match := DIE.match(c.device)):
            packages.setdefault(match[1], []).append(c.id)
    return [_Pair(a, b) for dies in packages.values() for a, b in itertools.product(dies[:1], dies[1:])]
