"""Baseline and ours in turns: medians of times, and medians of the ratios of the same round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cases import Case, Kind
from benchmarks.costs import dense
from benchmarks.machine import Machine, seconds, settle
from mcmcopt import IncrementalLoss
from mcmcopt.loss.objective import Change, Objective


@dataclass
class Pair:
    """Times of the baseline and of ours, by round."""

    plain: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)

    def add(self, plain: float, ours: float) -> None:
        self.plain.append(plain)
        self.ours.append(ours)

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.plain, self.ours, strict=True)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def unsteady(self) -> bool:
        """Whether the times show that something else took the cores."""
        return unsteady(self.plain) or unsteady(self.ours)

    def text(self) -> str:
        """Return median times in ms, the median ratio and its range."""
        low, high = min(self.ratios), max(self.ratios)
        times = f"{statistics.median(self.plain) * 1e3:>10.3f}{statistics.median(self.ours) * 1e3:>10.3f}"
        return f"{times}{self.ratio:>9.2f}{f'{low:.2f}–{high:.2f}':>17}"


UNSTEADY = 1.5
"""Ratio of the slowest to the fastest round from which a row is marked."""
MARK = " UNSTEADY"

HEADER = (
    f"{'proposal':<36}{'plain ms':>10}{'ours ms':>10}{'ratio':>9}{'min–max':>17}"
    f"{'work÷':>8}{'MB':>9}{'MFMA':>9}{'limit ms':>10}{'share':>7}  target"
)


def verdict(pair: Pair, target: float | None) -> str:
    """Return what to print of a target."""
    disturbed = MARK if pair.unsteady else ""
    if target is None:
        return "-" + disturbed
    return f"≥ {target:g}×: {'met' if pair.ratio >= target else 'MISSED'}{disturbed}"


def unsteady(times: Sequence[float]) -> bool:
    """Whether rounds of the same work took too different times."""
    return max(times) > UNSTEADY * min(times)


def several(value: float) -> str:
    """Return a ratio with few digits, at most 8 characters."""
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


@torch.no_grad()
def compare(case: Case, machine: Machine, rounds: int) -> None:
    """Print one network's table."""
    rng = np.random.default_rng(0)
    plain, whole = case.plain(), case.plain(len(case.x)) if case.target_whole else None
    bound = IncrementalLoss(case.model, nn.CrossEntropyLoss()).bind(case.x, case.y)
    fill = seconds(bound.evaluate)
    error = 0.0
    for kind in case.kinds:  # warms up
        propose_all(bound, [case.draw(kind, rng)])
    plain.evaluate()
    if case.together:
        bound.propose_many([case.draw(case.kinds[i % len(case.kinds)], rng) for i in range(case.together)])
        bound.rollback()
    pairs, mean = {kind.label: Pair() for kind in case.kinds}, Pair()
    together, against_whole = Pair(), Pair()
    for number in range(rounds):
        times = [_one_kind(case, kind, plain, bound, rng) for kind in case.kinds]
        for kind, (slow, fast, apart) in zip(case.kinds, times, strict=True):
            pairs[kind.label].add(slow, fast)
            error = max(error, apart)
        slow, fast = (statistics.fmean(times_of[i] for times_of in times) for i in (0, 1))
        mean.add(slow, fast)
        if case.together:
            changes = [case.draw(case.kinds[i % len(case.kinds)], rng) for i in range(case.together)]

            def score(changes: Sequence[Change] = changes) -> None:
                bound.propose_many(changes)
                bound.rollback()

            settle(score)
            calls = max(1, case.repeats // case.together)
            together.add(slow, statistics.fmean(seconds(score) for _ in range(calls)) / case.together)
        if whole is not None:
            change = case.draw(case.kinds[number % len(case.kinds)], rng)
            settle()
            against_whole.add(seconds(lambda: whole.propose(change)), fast)  # noqa: B023
    print(f"\n{case.name}: {rounds} rounds, cache {bound.bytes / 1e6:.0f} MB filled in {fill:.2f} s, "
          f"largest relative difference of losses {error:.1e}")  # fmt: skip
    if case.note:
        print(f"  ({case.note})")
    print(HEADER)
    forward = dense(case.layers) * len(case.x)
    for kind in case.kinds:
        work, pair = case.work(kind), pairs[kind.label]
        limit = machine.limit(work)
        share = limit / statistics.median(pair.ours)
        goal = verdict(pair, None)
        if case.target_whole:
            goal = f"share ≥ 40 %: {'met' if share >= 0.4 else 'MISSED'}{goal[1:]}"
        ratio = several(forward / work.fma)
        print(
            f"{kind.label:<36}{pair.text()}{ratio:>8}{work.bytes / 1e6:>9.2f}{work.fma / 1e6:>9.2f}"
            f"{limit * 1e3:>10.3f}{share:>7.0%}  {goal}"
        )
    ratio = several(forward / statistics.fmean(case.work(kind).fma for kind in case.kinds))
    print(f"{'mean over these, one at a time':<36}{mean.text()}{ratio:>8}{'':>35}  {verdict(mean, case.target)}")
    each = statistics.fmean(pair.ratio for pair in pairs.values())
    print(f"{'mean of the ratios above':<36}{'':>20}{each:>9.2f}")
    if case.together:
        label = f"{case.together} together (propose_many), each"
        print(f"{label:<36}{together.text()}{'':>43}  {verdict(together, case.target_together)}")
    if whole is not None:
        label = "against one forward on all samples"
        print(f"{label:<36}{against_whole.text()}{'':>43}  {verdict(against_whole, case.target_whole)}")


def _one_kind(
    case: Case, kind: Kind, plain: Objective, bound: Objective, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return seconds of the baseline and of ours, and how far their losses are apart, relatively."""
    changes = [case.draw(kind, rng) for _ in range(max(case.repeats, case.plain_repeats))]
    expected: list[Tensor] = []
    settle(plain.evaluate if case.plain_repeats > 1 else None)  # else long enough not to matter
    slow = seconds(lambda: expected.extend(plain.propose(change) for change in changes[: case.plain_repeats]))
    losses: list[Tensor] = []
    settle(lambda: propose_all(bound, changes[-1:]))
    fast = seconds(lambda: losses.extend(propose_all(bound, changes[: case.repeats])))
    both = zip(expected, losses, strict=False)
    return slow / case.plain_repeats, fast / case.repeats, max(float(((a - b) / a).abs()) for a, b in both)


def propose_all(bound: Objective, changes: Sequence[Change]) -> list[Tensor]:
    """Score changes one after the other, each rolled back."""
    losses = []
    for change in changes:
        losses.append(bound.propose(change))
        bound.rollback()
    return losses
