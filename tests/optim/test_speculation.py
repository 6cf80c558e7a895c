"""C10: however many proposals are scored at once, the chain is the serial one."""

import copy
import io
import pickle

import pytest
import torch

from mcmcopt.chain.random import Streams
from mcmcopt.loss.objective import ClosureObjective, Objective, SpeculativeObjective
from mcmcopt.optim import sweep
from mcmcopt.optim.speculation import LIMIT
from mcmcopt.optim.sweep import Sweep
from tests.optim.problems import CONFIGS, INFORMED, make, snapshot
from tests.optim.scored import Scored, decided, serial_chain, trajectory
from tests.statistical.planted import replaced

WINDOWS = (2, 5, 16, "auto")
EACH = pytest.mark.parametrize("config", [config for config in CONFIGS if config not in INFORMED])  # windows of one


@EACH
@pytest.mark.parametrize("speculate", WINDOWS)
def test_the_chain_is_the_same_for_every_window(config, speculate):
    serial, info, _ = serial_chain(config)
    windows, other, scored = trajectory(config, speculate)
    assert windows == serial
    assert info.speculated == 0
    assert info.evaluations <= other.evaluations == info.evaluations + other.speculated
    assert max(scored.windows) <= (LIMIT if speculate == "auto" else speculate)
    assert max(scored.windows) > 1


def test_a_chain_may_be_resumed_with_another_window():
    serial, _, _ = serial_chain("scalar")
    model, optimizer, closure = make("scalar", dtype=torch.float64, n_proposals=53, speculate=5)
    for _ in range(3):
        optimizer.step(Scored(closure))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    for speculate in (1, 16, "auto"):
        resumed, second, other = make("scalar", dtype=torch.float64, n_proposals=53, seed=9, speculate=speculate)
        resumed.load_state_dict(saved["model"])
        second.load_state_dict(saved["optimizer"])
        for number in (3, 4, 5):
            second.step(Scored(other))
            assert decided(resumed, second) == serial[number]
        assert second.speculate == speculate


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])  # noqa: S301
def test_copies_keep_their_window(copied):
    _, optimizer, closure = make("dense", speculate="auto")
    optimizer.step(Scored(closure))
    assert copied(optimizer).speculate == "auto"
    other = copied(make("dense", speculate=3)[1])
    other.step(Scored(lambda: torch.tensor(1.0)))
    assert other.info.speculate == 3


@pytest.mark.parametrize("config", ["scalar", "hot", "climb"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [3, 40, 61])
def test_an_exception_in_the_middle_of_a_window_undoes_the_step(config, error, call):
    serial, _, _ = serial_chain(config)
    model, optimizer, closure = make(config, dtype=torch.float64, n_proposals=53, speculate=7)
    optimizer.step(Scored(closure))
    before = snapshot(model, optimizer)
    with pytest.raises(error, match="in the middle"):
        optimizer.step(Scored(closure, fail=(call, error)))
    assert snapshot(model, optimizer) == before
    for number in (1, 2):
        optimizer.step(Scored(closure))
        assert decided(model, optimizer) == serial[number]


def test_a_window_ends_with_the_step(monkeypatch):
    drawn, at = [], Streams.at
    monkeypatch.setattr(Streams, "at", lambda self, index, *purpose: drawn.append(index) or at(self, index, *purpose))
    _, optimizer, closure = make("scalar", n_proposals=10, speculate=64, init="dense")
    for step in range(3):
        drawn.clear()
        optimizer.step(Scored(closure))
        assert (min(drawn), max(drawn)) == (10 * step, 10 * step + 9)


def test_an_objective_that_scores_one_at_a_time_wastes_nothing():
    model, optimizer, closure = make("dense", speculate=16)
    calls = []
    optimizer.step(lambda: calls.append(1) or closure())
    info = optimizer.info
    assert (info.speculated, info.speculate) == (0, 1)
    assert len(calls) == info.evaluations == info.proposed + 2
    inner = ClosureObjective(closure, model.parameters(), False)
    assert isinstance(inner, Objective)
    assert not isinstance(inner, SpeculativeObjective)
    assert isinstance(Scored(closure), SpeculativeObjective)


@pytest.mark.parametrize("losses", [0, 1, 3])
def test_a_wrong_number_of_losses_is_refused_and_undone(losses):
    class Short(Scored):
        def propose_many(self, changes):
            return [torch.tensor(1.0)] * losses

    model, optimizer, closure = make("dense", speculate=2)
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match=f"one loss per change, got {losses} for 2"):
        optimizer.step(Short(closure))
    assert snapshot(model, optimizer) == before


# Planted errors ----------------------------------------------------------------------------------------------------

_at, _draw, _propose, _decide, _learn = Streams.at, Sweep._draw, Sweep._propose, Sweep._decide, sweep._learn
_score = Sweep._score


def _counts_at_drawing(self, index):
    drawn = _draw(self, index)
    if not drawn.edits:
        drawn.turn.tally.impossible += 1
    return drawn


def _skips_one(self, first, end):
    evaluated, accepted = self.counts.speculated, _propose(self, first, end)
    return accepted if self.counts.speculated == evaluated else min(accepted + 1, end)


def _score_noting(self, changes):
    self.passed_over = len(changes) < 2
    return _score(self, changes)


def _second_wins(self, proposal, loss):
    accepted = _decide(self, proposal, loss)
    if accepted and not self.passed_over:
        self.passed_over = True
        return False
    return accepted


def _one_stream(self, index, *purpose):
    return _at(self, index - index % 4, *purpose) if index % 4 == 0 else self._generator


ERRORS = {
    "adaptation of discarded proposals kept": [(sweep, "_forget", lambda *_: None)],
    "rejections not learnt ahead": [(sweep, "_learn", lambda p, accepted: _learn(p, accepted) if accepted else None)],
    "impossible moves counted when drawn": [
        (Sweep, "_draw", _counts_at_drawing),
        (Sweep, "_reject_unseen", lambda self, proposal: None),
    ],
    "impossible moves counted twice": [(Sweep, "_draw", _counts_at_drawing)],
    "a discarded proposal is not drawn again": [(Sweep, "_propose", _skips_one)],
    "the second accepted one wins": [(Sweep, "_score", _score_noting), (Sweep, "_decide", _second_wins)],
    "one random stream for several proposals": [(Streams, "at", _one_stream)],
    "losses in the wrong order": [(Sweep, "_score", lambda self, changes: _score(self, changes)[::-1])],
}


@pytest.mark.parametrize("error", ERRORS)
def test_a_planted_error_shows_in_the_chain(error):
    serial, _, _ = trajectory("scalar", 1, init="dense")
    assert trajectory("scalar", 5, init="dense")[0] == serial
    with replaced(*ERRORS[error]):
        try:
            windows, _, _ = trajectory("scalar", 5, init="dense")
        except AssertionError:
            return
    assert windows != serial


def test_a_commit_of_the_wrong_number_shows():
    class Wrong(Scored):
        def commit(self, number=0):
            super().commit(number - 1 if number else 0)

    with pytest.raises(AssertionError):
        trajectory("scalar", 5, objective=Wrong)


def test_the_errors_are_sought_where_there_is_something_to_find():
    infos = [record["info"] for record in trajectory("scalar", 5, init="dense")[0]]
    assert sum(layer.impossible for info in infos for layer in info.layers.values()) > 0
    assert 30 < sum(info.accepted for info in infos) < 0.7 * sum(info.proposed for info in infos)
