"""Planted errors of informed moves × their detectors, and changes that look like errors and leave the chain exact.

`python -m tests.statistical.informed_planted [TEXT]` prints which detectors catch which error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcmcopt.chain.layer import Kind, Layer
from mcmcopt.chain.moves import Edits, InformedBirthDeath, InformedFlip, InformedMove, Langevin, base, langevin
from mcmcopt.chain.moves import informed as moves
from mcmcopt.chain.moves import selection as choice
from mcmcopt.chain.moves.informed import Candidates, InformedSupport
from mcmcopt.chain.point import Point
from mcmcopt.chain.random import Streams
from mcmcopt.optim import sweep
from tests.statistical.harness import Verdict
from tests.statistical.informed_detectors import DETECTORS
from tests.statistical.planted import Changes, Planted, _on, _say, _square_root, _wrong_lam, _zero, replaced

# What takes the place of the package's functions -------------------------------------------------------------------

_forth = InformedMove.log_q_ratio


def _back_under(*changes: tuple[Any, str, Any]) -> Any:
    """Return a `log_q_ratio` whose way back, and only that, is computed with attributes replaced."""

    def log_q_ratio(self: InformedMove, layer: Layer, edits: Edits, scale: float, before: Point, after: Point) -> float:
        with replaced(*changes):
            back = self.log_q(layer, base.way_back(edits), scale, after)
        return back - self.log_q(layer, edits, scale, before)

    return log_q_ratio


class _OldValues(Point):
    """The mask of the proposed state with the weights and the gradient of the present one."""

    def values(self, layer: Layer) -> Tensor:
        return Point(self.lam, self._gradients).values(layer)


def _at_old_state(self: InformedMove, layer: Layer, edits: Edits, scale: float, before: Point, after: Point) -> float:
    return _forth(self, layer, edits, scale, before, _OldValues(before.lam, before._gradients, edits))


def _old_gradient(self: InformedMove, layer: Layer, edits: Edits, scale: float, before: Point, after: Point) -> float:
    return _forth(self, layer, edits, scale, before, Point(before.lam, before._gradients, edits))


def _by_number(edits: Edits) -> Edits:
    """Undo things in the order of their numbers, whatever the order in which they were done."""
    return tuple(sorted(_way_back(edits), key=lambda e: (e.kind is not Kind.DEATH, e.layer.name, e.block)))


def _in_the_same_order(edits: Edits) -> Edits:
    """Undo things in the order in which they were done; of swaps the deaths still come first."""
    back = [edit.reversed() for edit in edits]
    return tuple(sorted(back, key=lambda e: e.kind is not Kind.DEATH))


_way_back = base.way_back


def _with_replacement(log_weights: Any, sequence: Any) -> float:
    return float((log_weights[sequence] - np.logaddexp.reduce(log_weights)).sum())


def _one_set(log_weights: Any, sequence: Any) -> float:
    """Take away what was drawn by subtraction from the last: the denominators are those of the reversed sequence."""
    return float(_log_prob(log_weights, sequence[::-1]))


_log_prob, _weighted, _draw = choice.log_prob, choice.weighted, choice.draw


def _no_drift(self: InformedSupport, layer: Layer, births: Edits, scale: float, point: Point) -> float:
    return sum(
        float(moves.births_from(self.density, scale * e.layer.rms / layer.rms).log_prob(e.new).sum()) for e in births
    )


def _same_temperature(
    self: InformedMove, layer: Layer, edits: Edits, scale: float, before: Point, after: Point
) -> float:
    """Take the temperature of the present state on both ways."""
    seen: list[float] = []

    def watch(gains: Any, k: int, temperature: Any) -> Any:
        logs = _weighted(gains, k, temperature)
        i = int(np.argmax(np.abs(gains))) if len(gains) else 0
        seen.append(float(logs[i] / gains[i]) if len(gains) and gains[i] else 0.5)
        return logs

    if getattr(self, "temperature", None) != "auto":
        return _forth(self, layer, edits, scale, before, after)
    with replaced((moves, "weighted", watch)):
        forth = self.log_q(layer, edits, scale, before)
    factors = iter(seen)
    with replaced((moves, "weighted", lambda gains, *_: gains * next(factors))):
        return self.log_q(layer, base.way_back(edits), scale, after) - forth


def _one_gradient(self: Langevin, layer: Layer, edits: Edits, scale: float, before: Point, after: Point) -> float:
    return _forth(self, layer, edits, scale, before, Point(before.lam, before._gradients, edits))


def _no_score(self: Langevin, owner: Layer, layer: Layer, indices: Tensor, scale: float, point: Point) -> Any:
    mean, sd = _law(self, owner, layer, indices, scale, point)
    return mean - 0.5 * sd.square() * layer.slab.score(point.values(layer)[indices]), sd


_law = Langevin._law


def _full_drift(self: Langevin, owner: Layer, layer: Layer, indices: Tensor, scale: float, point: Point) -> Any:
    mean, sd = _law(self, owner, layer, indices, scale, point)
    values = point.values(layer)[indices]
    return values + 2 * (mean - values), sd


def _drawn_wide(self: Langevin, layer: Layer, scale: float, rng: np.random.Generator, point: Point) -> Any:
    return _langevin_draw(self, layer, 1.3 * scale, rng, point)


_langevin_draw = Langevin.draw
_accept = sweep.Sweep._accept


def _slope_of_the_start(self: sweep.Sweep, proposal: Any, number: int, loss: Tensor) -> None:
    old = self._slope
    _accept(self, proposal, number, loss)
    self._slope = old


def _slope_kept_after_blind(self: sweep.Sweep, proposal: Any, number: int, loss: Tensor) -> None:
    old = self._slope
    _accept(self, proposal, number, loss)
    self._slope = old if proposal.point is None else self._slope


def _reversed_draw(log_weights: Any, k: int, rng: np.random.Generator) -> Any:
    return _draw(log_weights, k, rng)[::-1].copy()


def _drawn_cold(log_weights: Any, k: int, rng: np.random.Generator) -> Any:
    return _draw(2 * log_weights, k, rng)


def _no_birth_probability(self: InformedBirthDeath, *args: Any) -> float:
    return _birth_death_q(self, *args) - float(np.log(self.birth if args[1][0].kind is Kind.BIRTH else 1 - self.birth))


_birth_death_q = InformedBirthDeath.log_q


def _births_at_zero(self: InformedSupport, layer: Layer, unit: float, point: Point) -> Tensor:
    return torch.zeros_like(_centre(self, layer, unit, point))


_centre = InformedSupport._centre


def _births_drawn_at_zero(self: InformedSupport, *args: Any) -> Any:
    with replaced((InformedSupport, "_centre", _births_at_zero)):
        return _draw_births(self, *args)


_draw_births = InformedSupport._draw_births


def _half_gain(self: InformedFlip, layer: Layer, point: Point) -> Candidates:
    found = _flip_candidates(self, layer, point)
    found.log_weights = 0.5 * found.log_weights
    return found


_flip_candidates = InformedFlip._candidates


def _uniform(gains: Any, *_: Any) -> Any:
    return np.zeros_like(gains)


# The matrix -------------------------------------------------------------------------------------------------------


def _selected(log_prob: Any) -> Changes:
    return _on(choice, "log_prob", log_prob)


ERRORS: dict[str, Planted] = {
    "selection of the way back dropped": Planted(
        _on(InformedMove, "log_q_ratio", _back_under((Candidates, "log_prob", _zero))),
        (
            "C1 antisymmetry",
            "C2 acceptance",
            "C2 transitions one",
            "C2 transitions two of two layers",
            "C2 transitions two and three",
            "C2 transitions two by rank",
            "C2 transitions one and a blind one",
        ),
    ),
    "selection dropped both ways": Planted(
        _on(Candidates, "log_prob", _zero),
        (
            "C2 transitions one",
            "C2 acceptance",
            "C2 transitions two of two layers",
            "C2 transitions two by rank",
            "C2 transitions one and a blind one",
        ),
    ),
    "way back computed at the present state": Planted(
        _on(InformedMove, "log_q_ratio", _at_old_state), ("C1 antisymmetry", "C2 acceptance")
    ),
    "gradient of the way back stale": Planted(
        _on(InformedMove, "log_q_ratio", _old_gradient),
        (
            "C2 transitions one and a blind one",
            "C2 acceptance",
            "C1 antisymmetry",
            "C2 transitions one",
            "C2 transitions two of two layers",
            "C2 transitions two by rank",
        ),
    ),
    "way back in the order of numbers": Planted(
        _on(base, "way_back", _by_number), ("C2 transitions two by rank", "C2 acceptance")
    ),
    "drawn without replacement, counted with": Planted(_selected(_with_replacement), ("C2 acceptance",)),
    "drawn in one order, counted in the other": Planted(_selected(_one_set), ("C2 acceptance",)),
    "sequence drawn backwards": Planted(_on(choice, "draw", _reversed_draw), ("C2 proposals",)),
    "drawn at half the temperature": Planted(
        _on(choice, "draw", _drawn_cold),
        ("C2 transitions two of two layers", "C2 proposals", "C2 transitions one", "C2 transitions two by rank"),
    ),
    "drift left out of the density of births": Planted(
        _on(InformedSupport, "_log_values", _no_drift), ("C2 acceptance",)
    ),
    "drift left out of the density of the way back": Planted(
        _on(InformedMove, "log_q_ratio", _back_under((InformedSupport, "_log_values", _no_drift))),
        ("C1 antisymmetry", "C2 acceptance"),
    ),
    "births drawn without their drift": Planted(
        _on(InformedSupport, "_draw_births", _births_drawn_at_zero), ("C2 proposals",)
    ),
    "b and d left out": Planted(_on(InformedBirthDeath, "log_q", _no_birth_probability), ("C2 acceptance",)),
    "density of births dropped": Planted(
        _on(InformedSupport, "_log_values", _zero),
        (
            "C4 prior birth_death",
            "C2 acceptance",
            "C4 prior two of two layers",
            "C3 inclusion two and swaps",
            "C3 inclusion blocks",
        ),
    ),
    "temperature of the present state on both ways": Planted(
        _on(InformedMove, "log_q_ratio", _same_temperature), ("C1 antisymmetry", "C2 acceptance")
    ),
    "Langevin without correction": Planted(
        _on(Langevin, "log_q_ratio", _zero), ("C13 moments", "C2 acceptance", "C13 moments preconditioned")
    ),
    "Langevin with the gradient of one end": Planted(
        _on(Langevin, "log_q_ratio", _one_gradient), ("C1 antisymmetry", "C2 acceptance")
    ),
    "preconditioner left out of the way back": Planted(
        _on(InformedMove, "log_q_ratio", _back_under((langevin, "preconditioner", torch.ones_like))),
        ("C1 antisymmetry", "C2 acceptance"),
    ),
    "Langevin drawn wider than its density": Planted(_on(Langevin, "draw", _drawn_wide), ("C2 proposals",)),
    "Langevin towards another acceptance": Planted(_on(langevin, "TARGET", 0.44), ("C11 target",)),
    "prior left out": Planted(
        _on(sweep, "log_prior_ratio", _zero),
        ("C4 prior flip and langevin", "C2 acceptance", "C4 prior two and swaps"),
    ),
    "lam with the wrong sign": Planted(
        _on(sweep, "log_acceptance", _wrong_lam),
        (
            "C5 invariance flip",
            "C2 acceptance",
            "C5 invariance birth_death",
            "C5 invariance two births",
            "C5 invariance magnitude",
            "C5 invariance rank",
            "C5 invariance swap",
            "C5 invariance swap over layers",
            "C5 invariance langevin",
            "C5 invariance preconditioned",
            "C5 invariance mixture",
            "C3 inclusion one",
            "C3 inclusion two and swaps",
            "C3 inclusion blocks",
            "C13 moments",
            "C13 moments preconditioned",
        ),
    ),
    "decision on half of log A": Planted(
        _on(Streams, "at", _square_root), ("C4 prior birth_death", "C2 transitions one")
    ),
    "slope not updated after an acceptance": Planted(
        _on(sweep.Sweep, "_accept", _slope_of_the_start),
        ("C2 acceptance", "C2 transitions two of two layers", "C2 transitions two by rank"),
    ),
    "slope kept after a blind acceptance": Planted(
        _on(sweep.Sweep, "_accept", _slope_kept_after_blind), ("C2 acceptance",)
    ),
}

HARMLESS: dict[str, Changes] = {
    "the way back keeps the order": _on(base, "way_back", _in_the_same_order),
    "gain of flips without its factor 2": _on(InformedFlip, "_candidates", _half_gain),
    "all candidates alike": _on(moves, "weighted", _uniform),
    "births without drift at all": _on(InformedSupport, "_centre", _births_at_zero),
    "Langevin without the slab's score": _on(Langevin, "_law", _no_score),
    "Langevin with twice the drift": _on(Langevin, "_law", _full_drift),
}
"""Changes of what is proposed, made alike in draws and densities: efficiency may suffer, the law does not."""

AGNOSTIC = ("C1", "C3", "C4", "C5", "C13")
"""Detectors that know what law must come out, and nothing about how it is proposed."""


def verdict(detector: str) -> Verdict:
    """Return a detector's verdict; one that the package makes raise has caught something too."""
    try:
        with np.errstate(all="ignore"):
            return DETECTORS[detector]()
    except Exception as error:
        return Verdict(False, f"raises {type(error).__name__}: {error}")


def caught_by(changes: Changes, names: Iterable[str]) -> list[str]:
    """Return which of the named detectors fail under some changes."""
    with replaced(*changes):
        return [name for name in names if not verdict(name).passed]


def reached() -> dict[str, set[str]]:
    """Return for each detector the errors whose place in the package it comes by at all."""
    found: dict[str, set[str]] = {}
    places = {(o, name) for error in ERRORS.values() for o, name, _ in error.changes if callable(getattr(o, name))}
    for detector in DETECTORS:
        calls: set[tuple[Any, str]] = set()

        def counted(owner: Any, name: str, calls: set[tuple[Any, str]] = calls) -> Any:
            old = getattr(owner, name)

            def call(*args: Any, **kwargs: Any) -> Any:
                calls.add((owner, name))
                return old(*args, **kwargs)

            return call

        with replaced(*((owner, name, counted(owner, name)) for owner, name in places)):
            verdict(detector)
        found[detector] = {
            label
            for label, error in ERRORS.items()
            if any((o, name) in calls or (o, name) not in places for o, name, _ in error.changes)
        }
    return found


def table(parts: Sequence[str]) -> None:
    """Print each error with the detectors that catch it, and each detector with the number of its errors."""
    hits = dict.fromkeys(DETECTORS, 0)
    reach = reached()
    for name, error in ERRORS.items():
        if all(part in name for part in parts):
            found = caught_by(error.changes, [detector for detector in DETECTORS if name in reach[detector]])
            for detector in found:
                hits[detector] += 1
            _say(f"{name:48s} {len(found):2d}: {', '.join(found) or 'NOTHING'}")
    _say()
    for detector, count in hits.items():
        _say(f"{detector:36s} catches {count:2d}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    table(sys.argv[1:])
