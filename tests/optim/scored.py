"""Objectives that score several proposals at once and check how they are used, and the chains that they decide."""

from __future__ import annotations

import functools

import torch

from mcmcopt.loss.objective import ClosureObjective
from tests.optim.problems import bits, chain, make, make_closure


class Scored:
    """A closure that scores several proposals at a time, one after the other; it checks how it is used."""

    def __init__(self, closure, fail=None):
        self._inner = ClosureObjective(closure, [], False)
        self._fail = fail  # (call, kind of error): raised in the middle of that evaluation
        self._pending = []
        self.calls, self.windows = 0, []

    def evaluate(self):
        return self._inner.evaluate()

    def propose(self, change):
        return self._all([change])[0]

    def propose_many(self, changes):
        assert len(changes) > 1
        return self._all(changes)

    def commit(self, number=0):
        for param, (indices, values) in self._pending[number].items():
            assert bits(param.take(indices)) == bits(values)
        self._pending = []

    def rollback(self):
        assert self._pending
        self._pending = []

    def _all(self, changes):
        assert not self._pending  # the window before was committed or rolled back
        before = [[bits(param) for param in change] for change in changes]
        losses = []
        for change in changes:
            self.calls += 1
            if self._fail and self.calls == self._fail[0]:
                raise self._fail[1]("in the middle of a window")
            losses.append(self._inner.propose(change))
        assert before == [[bits(param) for param in change] for change in changes]
        self._pending = changes
        self.windows.append(len(changes))
        return losses


class Bounded(Scored):
    """The same, stating that a cross-entropy is never negative."""

    lower_bound = 0.0


def trajectory(config, speculate, steps=6, objective=Scored, per_sample=False, **options):
    """Return what decisions made of parameters, masks, scales and tallies after every step, and the last report."""
    options = {"dtype": torch.float64, "n_proposals": 53} | options
    model, optimizer, _ = make(config, speculate=speculate, **options)
    scored, records = objective(make_closure(model, per_sample)), []
    for _ in range(steps):
        optimizer.step(scored)
        records.append(decided(model, optimizer))
    return records, optimizer.info, scored


@functools.cache
def serial_chain(config):
    """Return the trajectory of one proposal at a time; not to be changed."""
    return trajectory(config, 1)


def decided(model, optimizer):
    record = chain(model, optimizer)
    info = record["info"]
    info.evaluations -= info.speculated
    info.speculated = info.speculate = 0
    return record
