"""The proposals of one step: drawn, scored, accepted or rejected; and all undone if anything raises."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from mcmcopt.chain.accept import Rule, log_acceptance, loss_decrease
from mcmcopt.chain.kernel import Kernel
from mcmcopt.chain.layer import Edit, Kind
from mcmcopt.chain.moves import Edits
from mcmcopt.chain.priors import log_prior_ratio
from mcmcopt.chain.random import Streams
from mcmcopt.loss.objective import Change, Objective, write
from mcmcopt.optim.info import LayerTally, MoveInfo


class Turn(NamedTuple):
    """A layer that may be drawn during a step, with the settings that hold for that step."""

    kernel: Kernel
    probability: float
    lam: float
    lr: float
    adapt: bool
    tally: LayerTally


class Sweep:
    """A number of proposals from one state on one batch.

    Args:
        objective: scores proposals.
        turns: the layers.
        streams: the chain's random streams.
        rule: how decisions are made.
    """

    def __init__(self, objective: Objective, turns: Sequence[Turn], streams: Streams, rule: Rule) -> None:
        self.evaluations = self.non_finite = 0
        self._objective, self._turns, self._streams, self._rule = objective, turns, streams, rule
        self._cumulative = list(accumulate(turn.probability for turn in turns))
        self._adapted = [turn.kernel.snapshot() for turn in turns]
        self._journal: list[tuple[Change, list[tuple[Edit, int]]]] = []

    def run(self, loss: Tensor, first: int, n: int) -> Tensor:
        """Make proposals `first` … `first + n - 1` and return the losses of the state that remains, in float64.

        Args:
            loss: loss or losses at the present state.
            first: index of the first proposal, which selects its random stream.
            n: number of proposals.
        """
        current = loss.double()
        for index in range(first, first + n):
            current = self._propose(index, current)
        return current

    def undo(self) -> None:
        """Restore parameters, masks and adaptation bitwise as they were before the first proposal."""
        for change, flips in reversed(self._journal):
            write(change)
            for edit, came_from in reversed(flips):
                if edit.layer.support is not None:
                    edit.layer.support.restore(edit.block, came_from)
        for turn, snapshot in zip(self._turns, self._adapted, strict=True):
            turn.kernel.restore(snapshot)

    def _propose(self, index: int, current: Tensor) -> Tensor:
        rng = self._streams.at(index)
        turn = self._turns[bisect_right(self._cumulative, rng.random() * self._cumulative[-1])]
        kernel, lr, tally = turn.kernel, turn.lr, turn.tally
        number = kernel.choose(rng.random())
        log_u = -rng.standard_exponential()  # the log of a uniform: drawn first, so the decision is a threshold on ℓ'
        move, scale = kernel.moves[number], kernel.scale(number, lr)
        edits = move.draw(kernel.layer, scale, rng)
        if edits is None:
            tally.impossible += 1
            return current

        prior_ratio = log_prior_ratio(edits)
        log_ratio = prior_ratio + move.log_q_ratio(edits, scale)
        change = as_change(edits, old=False)
        loss = self._objective.propose(change)
        self.evaluations += 1
        if loss.shape != current.shape:
            raise ValueError(
                f"the closure returned a loss of shape {tuple(loss.shape)} after one of shape {tuple(current.shape)}: "
                "during a step it must evaluate one batch, always in the same form"
            )
        decrease = loss_decrease(current, loss)
        if math.isfinite(decrease):
            log_a = log_acceptance(turn.lam, decrease, log_ratio)
        else:
            self.non_finite += 1
            log_a = -math.inf
        if self._rule == "metropolis":
            accepted = log_u < log_a
        else:
            accepted = log_a > -math.inf and turn.lam * decrease + prior_ratio > 0

        label = move.label(edits)
        record = tally.moves.get(label)
        if record is None:
            record = tally.moves[label] = MoveInfo()
        record.proposed += 1
        record.probability += math.exp(min(log_a, 0.0))
        if accepted:
            record.accepted += 1
            self._commit(edits, change)
            current = loss.double()
        else:
            self._objective.rollback()
        if turn.adapt:
            kernel.adapt(number, lr, edits, accepted)
        return current

    def _commit(self, edits: Edits, change: Change) -> None:
        flips: list[tuple[Edit, int]] = []
        self._journal.append((as_change(edits, old=True), flips))
        write(change)
        for edit in edits:
            if edit.layer.support is not None and edit.kind is not Kind.WALK:
                flip = edit.layer.support.activate if edit.kind is Kind.BIRTH else edit.layer.support.deactivate
                flips.append((edit, flip(edit.block)))
        self._objective.commit()


def as_change(edits: Edits, *, old: bool) -> Change:
    """Return the old or the new values of edits as objectives and `write` take them."""
    change: dict[Tensor, tuple[Tensor, Tensor]] = {}
    for edit in edits:
        values = edit.layer.values
        indices = edit.indices if values.is_cpu else edit.indices.to(values.device)
        new = (edit.old if old else edit.new).to(values.device, values.dtype)
        if edit.layer.param in change:
            before = change[edit.layer.param]
            indices, new = torch.cat((before[0], indices)), torch.cat((before[1], new))
        change[edit.layer.param] = (indices, new)
    return change
