"""Seconds per decision of the same chain, with a plain closure and with the incremental loss, for several windows."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import Case, plain_objective
from benchmarks.machine import seconds, settle
from benchmarks.rounds import MARK, Pair
from mcmcopt import GreedyMCMC, IncrementalLoss, RandomWalk
from mcmcopt.loss.objective import Objective
from mcmcopt.optim.speculation import Speculate, expected_decisions

WINDOWS: tuple[Speculate, ...] = (1, 4, 16, "auto")
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "rows": {"blocks": "row", "moves": RandomWalk()},
    "default moves": {},
}


class Chain:
    """One chain from the case's initial parameters.

    Args:
        case: network and batch.
        settings: of the optimizer.
        n: proposals per step.
        window: of speculation; None for the plain closure.
    """

    def __init__(self, case: Case, settings: Mapping[str, Any], n: int, window: Speculate | None) -> None:
        self.model = copy.deepcopy(case.model)
        self.objective: Objective
        if window is None:
            self.objective = plain_objective(self.model, case.x, case.y)
        else:
            self.objective = IncrementalLoss(self.model, nn.CrossEntropyLoss()).bind(case.x, case.y)
        lam = len(case.x)
        self.optimizer = GreedyMCMC(
            self.model.parameters(), lam, n_proposals=n, speculate=window or 1, seed=0, grad=False, **settings
        )
        self.counts: list[int] = []
        self.decided, self.wasted, self.early, self.skip, self.window = 0, 0, 0, 0, 1

    def round(self) -> float:
        """Make a step and return its seconds per proposal."""
        settle(self.objective.evaluate)
        time = seconds(lambda: self.optimizer.step(self.objective))
        info = self.optimizer.info
        assert info is not None  # noqa: S101 -- a step was made
        self.decided += info.proposed
        self.counts.append(info.accepted)
        self.wasted += info.speculated
        self.early += info.early
        self.window = info.speculate
        return time / max(info.proposed, 1)

    def warm_up(self, steps: int) -> None:
        """Make steps that only the comparison of decisions counts."""
        for _ in range(steps):
            self.round()
        self.decided, self.wasted, self.early, self.skip = 0, 0, 0, len(self.counts)

    @property
    def accepted(self) -> int:
        return sum(self.counts[self.skip :])

    @property
    def rate(self) -> float:
        return self.accepted / max(self.decided, 1)

    def params(self) -> Tensor:
        return torch.cat([param.detach().view(-1) for param in self.model.parameters()])


def compare(case: Case, names: list[str], n: int, rounds: int) -> list[str]:
    """Print the table of each setting; return lines on what speculation brought."""
    lines = []
    for name in names:
        plain = Chain(case, SETTINGS[name], n, None)
        ours = {window: Chain(case, SETTINGS[name], n, window) for window in WINDOWS}
        for chain in (plain, *ours.values()):  # warms up, and lets the scales settle
            chain.warm_up(2)
        pairs: dict[Speculate, Pair] = {window: Pair() for window in WINDOWS}
        for _ in range(rounds):
            slow = plain.round()
            for window, chain in ours.items():
                pairs[window].add(slow, chain.round())
        print(f"\nper decision: {case.name}, {name}, λ = n, {rounds} rounds of {n} proposals, same seed, float32")
        print(f"  plain chain: {plain.rate:.1%} accepted ({plain.accepted} of {plain.decided})")
        print(
            f"{'speculate':<12}{'plain ms':>10}{'ours ms':>10}{'ratio':>9}{'min–max':>17}"
            f"{'accepted':>10}{'scored in vain':>16}{'early':>8}  decisions"
        )
        for window, chain in ours.items():
            label = f"auto (now {chain.window})" if window == "auto" else str(window)
            print(
                f"{label:<12}{pairs[window].text()}{chain.rate:>10.1%}{chain.wasted:>16}{chain.early:>8}"
                f"  {_agreement(plain, chain)}"
            )
        best = max(WINDOWS, key=lambda window: pairs[window].ratio)
        print(f"  best K: {best}, {pairs[best].ratio:.2f}× per decision{MARK * pairs[best].unsteady}")
        one = statistics.median(pairs[1].ours)
        gains = [a / b for a, b in zip(pairs[1].ours, pairs[best].ours, strict=True)]
        size = best if isinstance(best, int) else ours[best].window
        if size == 1:
            found = "none of 4, 16, auto is faster than K = 1"
        else:
            most = expected_decisions(size, plain.rate)
            found = f"predicted at most {most:.1f}× (further proposals free); measured {statistics.median(gains):.2f}×"
            found += f" with K = {best}" + f" (now {size})" * (best == "auto")
        rate = f"{one * 1e3:.3f} ms per decision at K = 1, {plain.rate:.0%} accepted"
        lines.append(f"speculation: {case.name}, {name}: {found} ({rate})")
    return lines


def _agreement(a: Chain, b: Chain) -> str:
    for number, (x, y) in enumerate(zip(a.counts, b.counts, strict=True)):
        if x != y:
            in_all = f"{sum(a.counts)} and {sum(b.counts)} in all"
            return f"DIFFER from step {number + 1}: {x} and {y} accepted there ({in_all})"
    error = float((a.params() - b.params()).abs().max())
    return "same counts, same parameters" if error == 0 else f"same counts, parameters differ by up to {error:.1e}"
