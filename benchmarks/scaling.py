"""How the cost of a proposal grows with batch, width and depth below the change; and what each choice brought."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cases import Case, Kind, cnn, floats, labels, seeded
from benchmarks.costs import dense
from benchmarks.machine import Machine, seconds, settle
from benchmarks.rounds import MARK, Pair, propose_all, several, unsteady
from experiments import models
from mcmcopt import IncrementalLoss
from mcmcopt.loss.incremental.layout import Buffers, Rows
from mcmcopt.loss.incremental.tiles import Tiles
from mcmcopt.loss.objective import Change, Objective

HEADER = f"{'':<34}{'ours ms':>10}{'limit ms':>10}{'share':>7}{'MB':>9}{'MFMA':>9}"


def _bound(case: Case, layout: str = "auto") -> Objective:
    return IncrementalLoss(case.model, nn.CrossEntropyLoss(), layout=layout).bind(case.x, case.y)


def _times(case: Case, kind: Kind, rounds: int) -> list[float]:
    """Return the seconds of a proposal, by round."""
    gc.collect()  # the last objective and its cache are a cycle
    rng, bound = np.random.default_rng(0), _bound(case)
    changes = [case.draw(kind, rng) for _ in range(case.repeats)]
    settle(lambda: propose_all(bound, changes[:2]))
    return [seconds(lambda: propose_all(bound, changes)) / len(changes) for _ in range(rounds)]


def _slope(sizes: Sequence[float], times: Sequence[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0]) if len(sizes) > 1 else float("nan")


def _series(title: str, cases: Mapping[int, Case], kind: Kind, machine: Machine, rounds: int, wanted: str) -> None:
    print(f"\n{title}")
    print(HEADER)
    times, limits = [], []
    for size, case in cases.items():
        work = case.work(kind)
        by_round = _times(case, kind, rounds)
        times.append(statistics.median(by_round))
        limits.append(machine.limit(work))
        print(
            f"{size:<34,}{times[-1] * 1e3:>10.3f}{limits[-1] * 1e3:>10.3f}{limits[-1] / times[-1]:>7.0%}"
            f"{work.bytes / 1e6:>9.2f}{work.fma / 1e6:>9.2f}{MARK * unsteady(by_round)}"
        )
    sizes = list(cases)
    print(
        f"  slope of log time: {_slope(sizes, times):.2f}, of log limit: {_slope(sizes, limits):.2f} (wanted: {wanted})"
    )


def _mlp(sizes: Sequence[int], n: int) -> Case:
    model = seeded(lambda: models.mlp(sizes))
    return Case("", model, floats(n, sizes[0]), labels(n), [], repeats=32)


def growth(machine: Machine, rounds: int, quick: bool) -> None:
    """Print how the cost grows."""
    batches = (128, 256) if quick else (2_500, 5_000, 10_000, 20_000, 40_000)
    cases = {n: cnn(n) for n in batches}
    for kind in cases[batches[0]].kinds:
        _series(f"batch: reference CNN, {kind.label}", cases, kind, machine, rounds, "1")
    del cases
    widths = (16, 32) if quick else (16, 32, 64, 128, 256)
    n = 128 if quick else 2_500
    _series(
        f"width: reference CNN with {widths[0]} … {widths[-1]} filters, one filter, n = {n:,}",
        {width: cnn(n, width) for width in widths}, Kind("filter", "conv1"), machine, rounds, "0, flat",
    )  # fmt: skip
    widths = (32, 64) if quick else (128, 256, 512, 1024, 2048)
    n = 128 if quick else 1_024
    wide = {width: _mlp((256, width, 10), n) for width in widths}
    title = f"width: MLP 256-w-10, one row of the {{}}, n = {n:,}"
    _series(title.format("hidden layer"), wide, Kind("row", "fc1"), machine, rounds, "0, flat")
    _series(title.format("output layer, which reads w"), wide, Kind("row", "fc2"), machine, rounds, "1 or less")
    width = 32 if quick else 256
    deep = _mlp((width,) * 6 + (10,), n)
    print(f"\ndepth: MLP of 5 hidden layers of {width}, one row of layer d, n = {n:,}")
    print(f"{'':<34}{'plain ms':>10}{'ours ms':>10}{'ratio':>9}{'min–max':>17}{'work÷':>8}{'MFMA':>9}")
    rng, plain, bound = np.random.default_rng(0), deep.plain(), _bound(deep)
    for d in range(1, 7):
        kind, pair = Kind("row", f"fc{d}"), Pair()
        changes = [deep.draw(kind, rng) for _ in range(16)]
        propose_all(bound, changes[:2])
        for _ in range(rounds):
            settle(plain.evaluate)
            slow = statistics.fmean(seconds(lambda c=c: plain.propose(c)) for c in changes[:8])
            settle(lambda: propose_all(bound, changes[:1]))  # noqa: B023
            pair.add(slow, seconds(lambda: propose_all(bound, changes)) / len(changes))  # noqa: B023
        fma = deep.work(kind).fma
        label = f"d = {d}, {6 - d} layers below"
        print(f"{label:<34}{pair.text()}{several(dense(deep.layers) * n / fma):>8}{fma / 1e6:>9.2f}")


def _versus(
    label: str, predicted: str, before: Objective, ours: Objective, changes: tuple[Sequence[Change], Sequence[Change]],
    rounds: int,
) -> str:  # fmt: skip
    pair = Pair()
    propose_all(before, changes[0][:2])
    propose_all(ours, changes[1][:2])
    for _ in range(rounds):
        settle(lambda: propose_all(ours, changes[1][:1]))
        pair.add(
            seconds(lambda: propose_all(before, changes[0])) / len(changes[0]),
            seconds(lambda: propose_all(ours, changes[1])) / len(changes[1]),
        )
    without, with_ = (statistics.median(times) * 1e3 for times in (pair.plain, pair.ours))
    return f"{label:<68}{predicted:>14}{pair.ratio:>11.2f}{without:>12.3f}{with_:>10.3f}{MARK * pair.unsteady}"


class Without:
    """An objective with one method of the engine replaced while it scores.

    Args:
        objective: the objective.
        owner, name: the method.
        other: what stands in for it.
    """

    def __init__(self, objective: Objective, owner: type, name: str, other: Callable[..., Any]) -> None:
        self.objective, self.owner, self.name, self.other = objective, owner, name, other
        self.evaluate, self.commit = objective.evaluate, objective.commit

    def propose(self, change: Change) -> Tensor:
        before = getattr(self.owner, self.name)
        setattr(self.owner, self.name, self.other)
        try:
            return self.objective.propose(change)
        finally:
            self.rollback()
            setattr(self.owner, self.name, before)

    def rollback(self) -> None:
        self.objective.rollback()


def _whole_softmax(self: Tiles, logits: Tensor, rows: Rows, labels: Tensor, state: Any) -> Any:
    return self.cross_entropy(self.merged(logits, rows), labels)


def _keep_nothing(self: Buffers, tensor: Tensor) -> None:
    """Leave the memory to the allocator."""


@torch.no_grad()
def gains(cases: Sequence[Case], n: int, machine: Machine, rounds: int, more: Sequence[str]) -> None:
    """Print what each choice brought that can be switched from outside.

    Args:
        cases: networks on which the two layouts are compared.
        n: samples of the reference CNN.
        machine: for predictions.
        rounds: of alternation.
        more: lines measured elsewhere.
    """
    print(f"\n{'what each brought':<68}{'predicted ×':>14}{'measured ×':>11}{'without ms':>12}{'with ms':>10}")
    rng = np.random.default_rng(0)
    case = cnn(n)
    normalised: Tensor | None = case.plain_x
    assert normalised is not None  # noqa: S101 -- set by cnn
    alone = case.model[1:]
    floating = Case("", alone, normalised, case.y, [])
    objective, bare = _bound(case), IncrementalLoss(alone, nn.CrossEntropyLoss()).bind(normalised, case.y)
    for kind in case.kinds:
        changes = [case.draw(kind, rng) for _ in range(4)]
        predicted = machine.limit(floating.work(kind)) / machine.limit(case.work(kind))
        label = f"inputs as uint8: reference CNN, n = {n:,}, {kind.label}"
        print(_versus(label, f"{predicted:.2f}", bare, objective, (changes, changes), rounds))
    fc = case.model.fc.weight
    one = [{fc: (at, fc.detach().take(at) + 0.01)} for at in torch.from_numpy(rng.integers(fc.numel(), size=(20, 1)))]
    label = f"cross-entropy of changed classes alone: n = {n:,}, fc 1 weight"
    print(
        _versus(
            label, "-", Without(objective, Tiles, "cross_entropy_rows", _whole_softmax), objective, (one, one), rounds
        )
    )
    filters = [case.draw(case.kinds[0], rng) for _ in range(4)]
    label = f"memory used again: n = {n:,}, {case.kinds[0].label}"
    print(
        _versus(label, "-", Without(objective, Buffers, "give", _keep_nothing), objective, (filters, filters), rounds)
    )
    del objective, bare, floating, normalised
    gc.collect()
    for case in cases:
        tiles, major = _bound(case, "tiles"), _bound(case, "major")
        for kind in case.kinds[:3]:
            changes = [case.draw(kind, rng) for _ in range(case.repeats)]
            label = f"tiles, own kernels: {case.name}, {kind.label}"
            print(_versus(label, "-", major, tiles, (changes[:4], changes), rounds))
        del tiles, major
        gc.collect()
    for line in more or ["speculation: not measured, since neither mlp nor digits is among the parts run"]:
        print(line)
    print("not switchable from outside, so not measured here: aligned arrays, vector micro-kernels, early rejection,")
    print("skipping zero taps, differences of few weights instead of whole rows")
