"""The proposals of one step: drawn, scored, accepted or rejected; and all undone if anything raises.

Proposals are scored in windows of K from one state; the first accepted one ends the window, and those after it are
drawn anew from the state that it leaves.  Within a window each is drawn as if all before it were rejected, which is
so whenever it is reached, and proposal t has a random stream of its own: the chain is the same for every K.

A proposal is rejected early, without a look at its loss, if not even the lowest loss possible could save it:

    λ (ℓ - lower bound) + r ≤ log u,   or r = -∞ or not a number,   r = log π'/π + log q(back)/q(forth)

Informed moves look at the gradient at the present state, which stays known until something is accepted, and need the
one at the proposed state for the way back, which is the next present one if the proposal is accepted: one gradient per
proposal.  They are scored one at a time.  Under `rule="improve"` no way back enters, so none is computed.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from mcmcopt.chain.accept import Rule, log_acceptance, loss_decrease
from mcmcopt.chain.kernel import Kernel, Learned
from mcmcopt.chain.layer import Edit, Kind
from mcmcopt.chain.moves import Edits, InformedMove, Move
from mcmcopt.chain.point import Point
from mcmcopt.chain.priors import log_prior_ratio
from mcmcopt.chain.random import Streams
from mcmcopt.loss.objective import Change, GradientObjective, Objective, SpeculativeObjective, write
from mcmcopt.optim.info import Counts, LayerTally, MoveInfo
from mcmcopt.optim.speculation import AutoWindow

SLACK = 1e-9
"""Relative distance from the threshold within which an early rejection is left to the evaluation, for rounding."""


class Turn(NamedTuple):
    """A layer that may be drawn during a step, with the settings that hold for that step."""

    kernel: Kernel
    probability: float
    lam: float
    lr: float
    adapt: bool
    tally: LayerTally


class Drawn(NamedTuple):
    """A proposal, drawn but not yet decided.

    Attributes:
        turn: its layer.
        move: number of its move.
        edits: what changes; none where the move is impossible.
        change: the same for objectives; None where the proposal is rejected unseen.
        log_u: threshold of the decision.
        prior_ratio: log π'/π.
        log_ratio: log π'/π + log q(back)/q(forth); of an informed proposal, without q until it has been scored.
        scale: of the proposal.
        point: where an informed proposal was drawn; None for a blind one.
        slope: gradients at the proposed state, once an informed proposal has been scored.
    """

    turn: Turn
    move: int
    edits: Edits = ()
    change: Change | None = None
    log_u: float = 0.0
    prior_ratio: float = 0.0
    log_ratio: float = 0.0
    scale: float = 0.0
    point: Point | None = None
    slope: Mapping[Tensor, Tensor] | None = None


class Sweep:
    """A number of proposals from one state on one batch.

    Args:
        objective: scores proposals.
        turns: the layers.
        streams: the chain's random streams.
        rule: how decisions are made.
        speculate: proposals in a window, or what chooses them; 1 if the objective has no `propose_many`.
    """

    def __init__(
        self,
        objective: Objective,
        turns: Sequence[Turn],
        streams: Streams,
        rule: Rule,
        speculate: int | AutoWindow = 1,
    ) -> None:
        self.counts = Counts()
        self._objective, self._turns, self._streams, self._rule = objective, turns, streams, rule
        self._many = objective if isinstance(objective, SpeculativeObjective) else None
        self._auto = speculate if isinstance(speculate, AutoWindow) and self._many is not None else None
        self._window = speculate if isinstance(speculate, int) and self._many is not None else 1
        self._slope: Mapping[Tensor, Tensor] | None = None  # the gradient at the present state, where it is known
        self._first: Mapping[Tensor, Tensor] | None = None
        self._informed = any(turn.kernel.informed for turn in turns)
        if self._informed:
            if not isinstance(objective, GradientObjective):
                raise TypeError(
                    "informed moves need an objective with propose_with_gradient(change, params); "
                    f"{type(objective).__name__} has none"
                )
            self._auto, self._window = None, 1  # an informed proposal is drawn from the gradient of a known state
            self._sloped = [turn.kernel.layer.param for turn in turns]
        self._lower = lower_bound(objective)
        self._cumulative = list(accumulate(turn.probability for turn in turns))
        self._adapted = [turn.kernel.snapshot() for turn in turns]
        self._journal: list[tuple[Change, list[tuple[Edit, int]]]] = []

    def run(self, loss: Tensor, first: int, n: int) -> Tensor:
        """Make proposals `first` … `first + n - 1` and return the losses of the state that remains, in float64.

        Args:
            loss: loss or losses at the present state.
            first: index of the first proposal, which selects its random stream.
            n: number of proposals.

        Raises:
            ValueError: if the objective's losses have changing shapes or number, or lie below its lower bound.
        """
        self._stand_at(loss)
        if self._headroom < -self._rounding:
            raise ValueError(f"lower_bound must lie below every loss, got {self._lower} with a loss of {loss.mean()}")
        self._look_around()
        index, end = first, first + n
        while index < end:
            index = self._propose(index, end)
        return self._current

    def undo(self) -> None:
        """Restore parameters, masks and adaptation bitwise as they were before the first proposal."""
        for change, flips in reversed(self._journal):
            write(change)
            for edit, came_from in reversed(flips):
                if edit.layer.support is not None:
                    edit.layer.support.restore(edit.block, came_from)
        for turn, snapshot in zip(self._turns, self._adapted, strict=True):
            turn.kernel.restore(snapshot)

    def _stand_at(self, loss: Tensor) -> None:
        """Make `loss` that of the present state."""
        self._current = loss.double()
        if self._lower > -math.inf:
            self._headroom = float(self._current.mean()) - self._lower  # no decrease is larger
            self._rounding = SLACK * (float(self._current.abs().mean()) + abs(self._lower))
        else:
            self._headroom, self._rounding = math.inf, 0.0

    def _propose(self, first: int, end: int) -> int:
        """Decide proposals `first` … up to the first accepted one of a window; return the next one's index."""
        auto = self._auto
        started = 0.0 if auto is None else perf_counter()
        window = self.counts.speculate = self._window if auto is None else auto.size()
        drawn: list[Drawn] = []
        changes: list[Change] = []
        learned: list[Learned | None] = []
        index = first
        while index < end and len(changes) < window:
            if drawn:  # the next one is drawn as if the last one were rejected already
                learned.append(_learn(drawn[-1], False))
            proposal = self._draw(index)
            drawn.append(proposal)
            if proposal.change is not None:
                changes.append(proposal.change)
            index += 1
        informed = bool(changes) and drawn[-1].point is not None
        losses = [self._score_informed(drawn)] if informed else self._score(changes)
        number, accepted = -1, False
        for position, proposal in enumerate(drawn):
            if proposal.change is None:
                self._reject_unseen(proposal)
                continue
            number += 1
            accepted = self._decide(proposal, losses[number])
            if auto is not None and number == 0:
                started = perf_counter() - started  # here a device has been waited for
            if accepted:
                for ahead in range(len(learned) - 1, position - 1, -1):
                    _forget(drawn[ahead], learned[ahead])
                self._accept(proposal, number, losses[number])
                index = first + position + 1
                break
        else:
            if changes:
                self._objective.rollback()
            _learn(drawn[-1], False)
        self.counts.speculated += len(changes) - number - 1
        if auto is not None and changes:
            auto.observe(len(changes), started, number + 1, accepted)
        return index

    def _draw(self, index: int) -> Drawn:
        """Draw a proposal from the present state."""
        rng = self._streams.at(index)
        turn = self._turns[bisect_right(self._cumulative, rng.random() * self._cumulative[-1])]
        kernel = turn.kernel
        number = kernel.choose(rng.random())
        log_u = -rng.standard_exponential()  # the log of a uniform: drawn first, so the decision is a threshold on ℓ'
        move, scale = kernel.moves[number], kernel.scale(number, turn.lr)
        if isinstance(move, InformedMove):
            slope = self._first_slope if move.reuse else self._present_slope
            point = Point(turn.lam, slope)  # asked for where a move needs it
            edits = move.draw(kernel.layer, scale, rng, point)
            if edits is None:
                return Drawn(turn, number)
            prior_ratio = log_prior_ratio(edits)
            if move.reuse:  # the way back is known before the loss is, as that of a blind move
                after = Point(turn.lam, slope, edits)
                log_ratio = prior_ratio + move.log_q_ratio(kernel.layer, edits, scale, point, after)
                hopeless = self._hopeless(turn.lam, log_u, prior_ratio, log_ratio)
                change = None if hopeless else as_change(edits, old=False)
                return Drawn(turn, number, edits, change, log_u, prior_ratio, log_ratio, scale)
            change = as_change(edits, old=False) if prior_ratio > -math.inf else None
            return Drawn(turn, number, edits, change, log_u, prior_ratio, prior_ratio, scale, point)
        assert isinstance(move, Move)  # noqa: S101 -- a move is informed or it is not
        edits = move.draw(kernel.layer, scale, rng)
        if edits is None:
            return Drawn(turn, number)
        prior_ratio = log_prior_ratio(edits)
        log_ratio = prior_ratio + move.log_q_ratio(edits, scale)
        hopeless = self._hopeless(turn.lam, log_u, prior_ratio, log_ratio)
        change = None if hopeless else as_change(edits, old=False)
        return Drawn(turn, number, edits, change, log_u, prior_ratio, log_ratio, scale)

    def _look_around(self) -> None:
        """Let the running moments see the gradient that the step starts from, where a move goes by them."""
        for turn in self._turns:
            if turn.adapt and turn.kernel.informed and turn.kernel.layer.moments is not None:
                turn.kernel.layer.moments.see(self._present_slope()[turn.kernel.layer.param])

    def _present_slope(self) -> Mapping[Tensor, Tensor]:
        """Return the gradients at the present state, computed where they are not known."""
        if self._slope is None:
            _, self._slope = self._with_gradient({})
        return self._slope

    def _first_slope(self) -> Mapping[Tensor, Tensor]:
        """Return the gradients that the step began with, or, where none was asked for then, those of the present."""
        if self._first is None:
            self._first = self._present_slope()
        return self._first

    def _with_gradient(self, change: Change) -> tuple[Tensor, Mapping[Tensor, Tensor]]:
        """Return the loss and the gradients that a change would give."""
        assert isinstance(self._objective, GradientObjective)  # noqa: S101 -- seen to when the step began
        self.counts.evaluations += 1
        self.counts.gradients += 1
        return self._objective.propose_with_gradient(change, self._sloped)

    def _score_informed(self, drawn: list[Drawn]) -> Tensor:
        """Return the loss of the proposal drawn last, and complete its ratio with that of the way back."""
        proposal = drawn[-1]
        assert proposal.change is not None  # noqa: S101 -- the caller has looked
        if self._rule == "improve":
            return self._score([proposal.change])[0]
        loss, slope = self._with_gradient(proposal.change)
        if not bool(loss.isfinite().all()):  # rejected whatever the gradient is, which need not be finite either
            return loss
        turn = proposal.turn
        move = turn.kernel.moves[proposal.move]
        assert isinstance(move, InformedMove)  # noqa: S101 -- it was drawn at a point
        assert proposal.point is not None  # noqa: S101
        after = Point(turn.lam, slope, proposal.edits)
        log_q = move.log_q_ratio(turn.kernel.layer, proposal.edits, proposal.scale, proposal.point, after)
        log_ratio = proposal.prior_ratio + log_q
        drawn[-1] = proposal._replace(log_ratio=log_ratio if log_ratio == log_ratio else -math.inf, slope=slope)
        return loss

    def _hopeless(self, lam: float, log_u: float, prior_ratio: float, log_ratio: float) -> bool:
        """Return whether the decision is a rejection whatever the loss will be; when in doubt it is not."""
        if log_ratio == -math.inf or log_ratio != log_ratio:
            return True
        if self._headroom == math.inf:
            return False
        most, slack = lam * self._headroom, lam * self._rounding
        if self._rule == "metropolis":
            return most + log_ratio + slack + SLACK * (abs(log_ratio) - log_u) <= log_u
        return most + prior_ratio + slack + SLACK * abs(prior_ratio) <= 0.0

    def _score(self, changes: list[Change]) -> Sequence[Tensor]:
        """Return the losses of changes, each from the present state."""
        self.counts.evaluations += len(changes)
        if len(changes) == 1:
            return (self._objective.propose(changes[0]),)
        if self._many is None or not changes:
            return ()
        losses = self._many.propose_many(changes)
        if len(losses) != len(changes):
            raise ValueError(f"propose_many must return one loss per change, got {len(losses)} for {len(changes)}")
        return losses

    def _decide(self, proposal: Drawn, loss: Tensor) -> bool:
        """Return whether a proposal of that loss is accepted, and count it."""
        turn, current = proposal.turn, self._current
        if loss.shape != current.shape:
            raise ValueError(
                f"the closure returned a loss of shape {tuple(loss.shape)} after one of shape {tuple(current.shape)}: "
                "during a step it must evaluate one batch, always in the same form"
            )
        decrease = loss_decrease(current, loss)
        if math.isfinite(decrease):
            log_a = log_acceptance(turn.lam, decrease, proposal.log_ratio)
        else:
            self.counts.non_finite += 1
            log_a = -math.inf
        if self._rule == "metropolis":
            accepted = proposal.log_u < log_a
        else:
            accepted = log_a > -math.inf and turn.lam * decrease + proposal.prior_ratio > 0
        record = _record(proposal)
        record.proposed += 1
        record.accepted += accepted
        record.probability += math.exp(min(log_a, 0.0))
        return accepted

    def _reject_unseen(self, proposal: Drawn) -> None:
        """Count a proposal that is impossible or rejected early."""
        if not proposal.edits:
            proposal.turn.tally.impossible += 1
        else:
            self.counts.early += 1
            _record(proposal).proposed += 1

    def _accept(self, proposal: Drawn, number: int, loss: Tensor) -> None:
        """Make a proposal, number `number` of those scored together, the present state."""
        assert proposal.change is not None  # noqa: S101 -- it was scored
        self._write(proposal.edits, proposal.change)
        if number:
            self._objective.commit(number)
        else:
            self._objective.commit()
        _learn(proposal, True)
        self._stand_at(loss)
        self._slope = proposal.slope

    def _write(self, edits: Edits, change: Change) -> None:
        """Write an accepted proposal, and into the journal first what undoes it."""
        flips: list[tuple[Edit, int]] = []
        self._journal.append((as_change(edits, old=True), flips))
        write(change)
        for edit in edits:
            if edit.layer.support is not None and edit.kind is not Kind.WALK:
                flip = edit.layer.support.activate if edit.kind is Kind.BIRTH else edit.layer.support.deactivate
                flips.append((edit, flip(edit.block)))


def lower_bound(objective: Objective) -> float:
    """Return a value that no loss of the objective lies below, minus infinity where it states none.

    Raises:
        ValueError: if what it states is not a number below infinity.
    """
    value = getattr(objective, "lower_bound", -math.inf)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value < math.inf:
        raise ValueError(f"an objective's lower_bound must be a number below infinity, got {value!r}")
    return float(value)


def as_change(edits: Edits, *, old: bool) -> Change:
    """Return the old or the new values of edits as objectives and `write` take them."""
    by_layer: dict[Tensor, list[Edit]] = {}
    for edit in edits:
        by_layer.setdefault(edit.layer.param, []).append(edit)
    change: dict[Tensor, tuple[Tensor, Tensor]] = {}
    for param, own in by_layer.items():
        values = own[0].layer.values
        if len(own) == 1:
            indices, new = own[0].indices, own[0].old if old else own[0].new
        else:
            indices = torch.cat([edit.indices for edit in own])
            new = torch.cat([edit.old if old else edit.new for edit in own])
        change[param] = (indices.to(values.device), new.to(values.device, values.dtype))
    return change


def _learn(proposal: Drawn, accepted: bool) -> Learned | None:
    """Adapt to a decision and return what undoes that."""
    turn, edits = proposal.turn, proposal.edits
    return turn.kernel.adapt(proposal.move, turn.lr, edits, accepted) if edits and turn.adapt else None


def _forget(proposal: Drawn, learned: Learned | None) -> None:
    """Undo what `_learn` did last."""
    if learned is not None:
        proposal.turn.kernel.forget(proposal.move, learned)


def _record(proposal: Drawn) -> MoveInfo:
    """Return the tally of a proposal's move on its layer."""
    turn = proposal.turn
    label = turn.kernel.moves[proposal.move].label(proposal.edits)
    record = turn.tally.moves.get(label)
    if record is None:
        record = turn.tally.moves[label] = MoveInfo()
    return record
