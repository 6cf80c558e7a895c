"""Planted errors × detectors: each error is put into the package for the length of a `with` block.

`python -m tests.statistical.planted [TEXT]` prints which detectors catch which error (the errors whose name contains
TEXT), `--named` only those of the detectors that the error names, `--inclusion` what each error does to the
inclusion probabilities of C3.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from mcmcopt.chain import adapt, inclusion, priors, slabs
from mcmcopt.chain.layer import Edit, Kind, Layer
from mcmcopt.chain.moves import BirthDeath, RandomWalk, SignFlip, Swap, Toggle
from mcmcopt.chain.moves.trans_dimensional import _FAMILIES, TransDimensional
from mcmcopt.chain.random import Streams
from mcmcopt.chain.support import Support
from mcmcopt.loss import objective
from mcmcopt.optim import sweep
from mcmcopt.optim.greedy_mcmc import GreedyMCMC
from tests.statistical import detectors
from tests.statistical.detectors import DETECTORS, REGRESSIONS, inclusion_run
from tests.statistical.exact import Array
from tests.statistical.harness import Verdict


@contextmanager
def replaced(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    """Replace attributes for the length of a block."""
    with ExitStack() as stack:
        for owner, name, new in changes:
            own = name in vars(owner)
            old = vars(owner).get(name)
            stack.callback(partial(setattr, owner, name, old) if own else partial(delattr, owner, name))
            setattr(owner, name, new)
        yield


# The errors, as functions that take the place of the package's ---------------------------------------------------

_ratio, _log_prior_ratio = BirthDeath.log_q_ratio, priors.log_prior_ratio


def _selection(choose: Callable[[int, int, float, float, bool], float]) -> Callable[..., float]:
    """Return a `BirthDeath.log_q_ratio` with another selection ratio: choose(k, D, b, d, is_birth)."""

    def log_q_ratio(self: BirthDeath, edits: tuple[Edit, ...], scale: float) -> float:
        (edit,) = edits
        support = edit.layer.support
        assert support is not None
        birth = edit.kind is Kind.BIRTH
        log_g = -self._log_g(edit.new, scale) if birth else self._log_g(edit.old, scale)
        return choose(support.active, support.size, self.birth, 1 - self.birth, birth) + log_g

    return log_q_ratio


def _right_selection(k: int, size: int, b: float, d: float, birth: bool) -> float:
    if birth:
        return math.log(d / (k + 1)) - math.log(b / (size - k))
    return math.log(b / (size - k + 1)) - math.log(d / k)


def _birth_k(k: int, size: int, b: float, d: float, birth: bool) -> float:
    return math.log(d / max(k, 1)) - math.log(b / (size - k)) if birth else _right_selection(k, size, b, d, birth)


def _death_k(k: int, size: int, b: float, d: float, birth: bool) -> float:
    return _right_selection(k, size, b, d, birth) if birth else math.log(b / max(size - k, 1)) - math.log(d / k)


def _one_block_more(k: int, size: int, b: float, d: float, birth: bool) -> float:
    """Counts one inactive block too many, the same way in both directions."""
    return _right_selection(k, size + 1, b, d, birth)


def _forgets_b(k: int, size: int, b: float, d: float, birth: bool) -> float:
    return math.log((size - k) / (k + 1)) if birth else math.log(k / (size - k + 1))


def _density_factor(birth: float, death: float) -> Callable[..., float]:
    """Return a `BirthDeath.log_q_ratio` in which Σ log g enters births and deaths with these factors."""

    def log_q_ratio(self: BirthDeath, edits: tuple[Edit, ...], scale: float) -> float:
        (edit,) = edits
        if edit.kind is Kind.BIRTH:
            return _ratio(self, edits, scale) + (1 - birth) * self._log_g(edit.new, scale)
        return _ratio(self, edits, scale) - (1 - death) * self._log_g(edit.old, scale)

    return log_q_ratio


def _jacobian_twice(self: BirthDeath, edits: tuple[Edit, ...], scale: float) -> float:
    sign = 1 if edits[0].kind is Kind.BIRTH else -1
    return _ratio(self, edits, scale) + sign * len(edits[0].indices) * math.log(scale)


def _renormalised_ends(self: BirthDeath, layer: Layer, scale: float, rng: np.random.Generator) -> Any:
    support = layer.support
    assert support is not None
    u = rng.random()
    if support.active < support.size and (u < self.birth or support.active == 0):
        return (self._birth(layer, support.draw_inactive(rng), scale, rng),)
    return (self._death(layer, support.draw_active(rng)),)


def _zero(*_: object) -> float:
    return 0.0


def _prior_ratio(change: Callable[[Edit], float], odds: bool) -> Callable[..., float]:
    """Return a `log_prior_ratio` with a term added for each edit; the odds of a swap cancel, and stay as they are."""

    def log_prior_ratio(edits: tuple[Edit, ...]) -> float:
        extra = 0.0 if odds and len(edits) > 1 else sum(change(edit) for edit in edits)
        return _log_prior_ratio(edits) + extra

    return log_prior_ratio


def _odds(edit: Edit, shift: int = 0) -> float:
    layer = edit.layer
    assert layer.support is not None
    assert layer.inclusion is not None
    k = layer.support.active - (edit.kind is Kind.DEATH) + shift
    return layer.inclusion.log_odds(min(max(k, 0), layer.support.size - 1), layer.support.size)


def _without_slab(births: bool, deaths: bool) -> Callable[[Edit], float]:
    def change(edit: Edit) -> float:
        if edit.kind is Kind.BIRTH:
            return -births * float(edit.layer.slab.log_prob(edit.new).sum())
        return deaths * float(edit.layer.slab.log_prob(edit.old).sum()) if edit.kind is Kind.DEATH else 0.0

    return change


def _without_odds(edit: Edit) -> float:
    return {Kind.BIRTH: -1.0, Kind.DEATH: 1.0, Kind.WALK: 0.0}[edit.kind] * (
        0.0 if edit.kind is Kind.WALK else _odds(edit)
    )


def _odds_sign(edit: Edit) -> float:
    return 2 * _odds(edit) if edit.kind is Kind.DEATH else 0.0


def _odds_at_k(edit: Edit) -> float:
    """Deaths take the odds at k instead of k - 1."""
    return _odds(edit) - _odds(edit, shift=1) if edit.kind is Kind.DEATH else 0.0


def _odds_per_weight(edit: Edit) -> float:
    return -(len(edit.indices) - 1) * _without_odds(edit)


def _block_mean(self: TransDimensional, values: torch.Tensor, scale: float) -> float:
    return float(_FAMILIES[self.density](scale).log_prob(values).mean())


_walk_draw = RandomWalk.draw


def _multiplicative(self: RandomWalk, layer: Layer, scale: float, rng: np.random.Generator) -> Any:
    edits = _walk_draw(self, layer, scale, rng)
    if not edits:
        return edits
    (edit,) = edits
    return (edit._replace(new=edit.old * torch.exp((edit.new - edit.old).clamp(-30, 30))),)


def _flip_one_way(self: SignFlip, layer: Layer, scale: float, rng: np.random.Generator) -> Any:
    indices = self._choose(layer, rng)
    old = layer.read(indices)
    new = -old.abs()
    return None if torch.equal(old, new) else (Edit(layer, Kind.WALK, -1, indices, old, new),)


_walk_sample = RandomWalk._sample


def _one_sided(self: RandomWalk, n: int, rng: np.random.Generator) -> Any:
    return np.abs(_walk_sample(self, n, rng))


class _Watched:
    """A generator whose exponential draws are changed."""

    def __init__(self, rng: np.random.Generator, factor: float) -> None:
        self._rng, self._factor = rng, factor

    def standard_exponential(self) -> float:
        return self._factor * self._rng.standard_exponential()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rng, name)


_at = Streams.at


def _square_root(self: Streams, *args: Any) -> Any:
    """Decide by log u < ½ log A."""
    return _Watched(_at(self, *args), 2.0)


_stand_at = sweep.Sweep._stand_at


def _stale(self: sweep.Sweep, loss: torch.Tensor) -> None:
    if not hasattr(self, "_current"):  # the first loss of the step serves to its end
        _stand_at(self, loss)


_decrease = sweep.loss_decrease


def _nan_accepted(current: torch.Tensor, proposed: torch.Tensor) -> float:
    value = _decrease(current, proposed)
    return 0.0 if math.isnan(value) else value


def _inf_accepted(current: torch.Tensor, proposed: torch.Tensor) -> float:
    value = _decrease(current, proposed)
    return 0.0 if value == -math.inf else value


@contextmanager
def _lent_by_subtraction(change: objective.Change) -> Iterator[None]:
    steps = {p: (i, values - p.detach().take(i)) for p, (i, values) in change.items()}
    objective.write(change)
    try:
        yield
    finally:
        objective.write({p: (i, p.detach().take(i) - step) for p, (i, step) in steps.items()})


_acceptance = sweep.log_acceptance


def _wrong_lam(lam: float, decrease: float, log_ratio: float) -> float:
    return _acceptance(-lam, decrease, log_ratio)


def _no_lam(lam: float, decrease: float, log_ratio: float) -> float:
    return _acceptance(1.0, decrease, log_ratio)


def _barker(lam: float, decrease: float, log_ratio: float) -> float:
    """1/(1 + 1/√A): Barker's rule on half the log-ratio."""
    half = 0.5 * _acceptance(lam, decrease, log_ratio)
    return -float(np.logaddexp(0.0, -half))


def _last_died(self: Support, _rng: np.random.Generator) -> int:
    return int(self.order[self.active])


def _laplace_normaliser(self: slabs.Laplace, x: torch.Tensor) -> torch.Tensor:
    return -x.abs() / self.scale - math.log(self.scale)


def _student_ratio(self: slabs.StudentT, new: torch.Tensor, old: torch.Tensor) -> float:
    return -0.5 * self.df * float((self._kernel(new) - self._kernel(old)).sum())


def _own_count(pool: Sequence[Layer]) -> int:
    return pool[0].active if len(pool) == 1 else max(1, pool[0].active)


def _gaussian_variance(self: slabs.Gaussian, new: torch.Tensor, old: torch.Tensor) -> float:
    """Take the scale for a variance."""
    return (float(old.dot(old)) - float(new.dot(new))) / (2 * self.scale)


def _beta_binomial_odds(self: inclusion.BetaBinomial, k: int, size: int) -> float:
    return math.log((self.a + k) / (self.b + size - k))


def _sizes_as_patterns(self: Any, k: int, size: int) -> float:
    """The ratio of the laws of k, as if they were those of a pattern."""
    rate = math.log(self.alpha) if hasattr(self, "alpha") else -math.log(self.c) - self.a * math.log(size)
    return float(rate)


def _cap_after_birth(self: inclusion.SoftCap, k: int, size: int) -> float:
    return -self._rate(size) * self._over(k + 1, size)


def _without_atom(self: inclusion.RigolletTsybakov, k: int, size: int) -> float:
    return inclusion._pattern_weight(k + 1, size) - inclusion._pattern_weight(k, size)


_towards = adapt.towards_acceptance


def _reversed_adaptation(log_scale: float, t: int, accepted: bool, target: float) -> float:
    return 2 * log_scale - _towards(log_scale, t, accepted, target)


def _other_target(log_scale: float, t: int, accepted: bool, target: float) -> float:
    return _towards(log_scale, t, accepted, 0.234 if target == 0.44 else 0.44)


def _freeze_with_reset(self: GreedyMCMC) -> None:
    for group in self.param_groups:
        group["adapt"] = False
    for entry in self.state.values():
        entry["log_scale"].zero_()


# The matrix -------------------------------------------------------------------------------------------------------


Changes = tuple[tuple[Any, str, Any], ...]
"""Attributes to be replaced: owner, name, what takes the place."""


class Planted(NamedTuple):
    """An error and detectors that catch it: the first in every test run, the others behind the marker."""

    changes: Changes
    caught_by: tuple[str, ...]

    def plant(self) -> AbstractContextManager[None]:
        """Return the context in which the package has the error."""
        return replaced(*self.changes)


def _on(owner: Any, name: str, new: Any) -> Changes:
    return ((owner, name, new),)


def _prior(change: Callable[[Edit], float], odds: bool = False) -> Changes:
    new = _prior_ratio(change, odds)
    return (sweep, "log_prior_ratio", new), (detectors, "log_prior_ratio", new)


def _selected(choose: Callable[[int, int, float, float, bool], float]) -> Changes:
    return _on(BirthDeath, "log_q_ratio", _selection(choose))


ERRORS: dict[str, Planted] = {
    # births and deaths
    "selection ratio dropped": Planted(
        _selected(_zero),
        ("C5 invariance birth_death", "C2 acceptance", "C3 inclusion birth_death", "C4 prior bernoulli"),
    ),
    "selection ratio without b and d": Planted(
        _selected(_forgets_b),
        ("C3 inclusion birth_death_laplace", "C2 acceptance", "C5 invariance birth_death", "C4 prior beta_binomial"),
    ),
    "birth: death chosen at k, not k+1": Planted(
        _selected(_birth_k), ("C1 antisymmetry", "C2 acceptance", "C3 inclusion swap")
    ),
    "death: birth chosen at k, not k-1": Planted(
        _selected(_death_k),
        ("C2 acceptance", "C1 antisymmetry", "C5 invariance birth_death", "C6 geweke"),
    ),
    "one inactive block too many": Planted(
        _selected(_one_block_more),
        ("C6 geweke", "C2 acceptance", "C5 invariance birth_death", "C3 inclusion birth_death"),
    ),
    "ends renormalised, ratio not": Planted(
        _on(BirthDeath, "draw", _renormalised_ends),
        ("C2 transitions masks", "C5 invariance birth_death", "C3 inclusion birth_death", "C4 prior complexity"),
    ),
    "q density dropped": Planted(
        _on(BirthDeath, "log_q_ratio", _density_factor(0.0, 0.0)),
        ("C5 invariance mixture", "C2 acceptance", "C3 inclusion birth_death", "C4 prior bernoulli"),
    ),
    "q density dropped from births": Planted(
        _on(BirthDeath, "log_q_ratio", _density_factor(0.0, 1.0)),
        ("C3 inclusion swap", "C1 antisymmetry", "C2 acceptance", "C5 invariance blocks"),
    ),
    "q density of deaths with wrong sign": Planted(
        _on(BirthDeath, "log_q_ratio", _density_factor(1.0, -1.0)),
        ("C4 prior beta_binomial", "C1 antisymmetry", "C2 acceptance", "C5 invariance birth_death"),
    ),
    "Jacobian counted twice": Planted(
        _on(BirthDeath, "log_q_ratio", _jacobian_twice),
        ("C3 inclusion birth_death", "C2 acceptance", "C5 invariance birth_death", "C4 prior bernoulli"),
    ),
    "block density averaged, not summed": Planted(
        _on(TransDimensional, "_log_g", _block_mean),
        ("C4 prior rows", "C2 acceptance", "C5 invariance blocks", "C3 inclusion blocks"),
    ),
    "births prefer the block that died last": Planted(_on(Support, "draw_inactive", _last_died), ("C2 proposals",)),
    "toggle without q density": Planted(
        _on(Toggle, "log_q_ratio", _zero),
        ("C5 invariance toggle", "C2 acceptance", "C3 inclusion toggle", "C4 prior alquier_lounici"),
    ),
    "swap without q density": Planted(_on(Swap, "log_q_ratio", _zero), ("C5 invariance swap", "C2 acceptance")),
    # priors
    "slab dropped": Planted(
        _prior(_without_slab(True, True)),
        ("C3 inclusion blocks", "C2 acceptance", "C5 invariance swap", "C4 prior bernoulli"),
    ),
    "slab dropped from births": Planted(
        _prior(_without_slab(True, False)),
        ("C4 prior complexity", "C1 antisymmetry", "C2 acceptance", "C5 invariance swap"),
    ),
    "inclusion odds dropped": Planted(
        _prior(_without_odds, odds=True),
        ("C4 prior ragged", "C2 acceptance", "C3 inclusion birth_death", "C5 invariance mixture"),
    ),
    "inclusion odds of deaths with wrong sign": Planted(
        _prior(_odds_sign, odds=True),
        ("C4 prior bernoulli", "C1 antisymmetry", "C2 acceptance", "C5 invariance birth_death"),
    ),
    "inclusion odds of deaths at k, not k-1": Planted(
        _prior(_odds_at_k, odds=True),
        ("C1 antisymmetry", "C2 acceptance", "C5 invariance birth_death", "C3 inclusion birth_death_laplace"),
    ),
    "inclusion odds once per weight of a block": Planted(
        _prior(_odds_per_weight, odds=True), ("C5 invariance blocks", "C2 acceptance", "C3 inclusion blocks")
    ),
    "pooled k counted per layer": Planted(_on(priors, "_pool_active", _own_count), ("C4 prior pooled",)),
    "Laplace normaliser wrong": Planted(
        _on(slabs.Laplace, "log_prob", _laplace_normaliser),
        ("C2 acceptance", "C5 invariance birth_death", "C3 inclusion birth_death_laplace", "C4 prior beta_binomial"),
    ),
    "Student-t exponent wrong": Planted(_on(slabs.StudentT, "log_ratio", _student_ratio), ("C2 acceptance",)),
    "Gaussian scale taken for a variance": Planted(
        _on(slabs.Gaussian, "log_ratio", _gaussian_variance), ("C2 acceptance",)
    ),
    "Beta-Binomial odds off by one": Planted(
        _on(inclusion.BetaBinomial, "log_odds", _beta_binomial_odds),
        ("C2 acceptance", "C5 invariance birth_death", "C3 inclusion birth_death_laplace"),
    ),
    "Alquier-Lounici odds of k, not of a pattern": Planted(
        _on(inclusion.AlquierLounici, "log_odds", _sizes_as_patterns), ("C4 prior alquier_lounici", "C2 acceptance")
    ),
    "cap without effect": Planted(
        _on(inclusion.SoftCap, "log_odds", lambda self, k, size: 0.0), ("C4 prior soft_cap", "C2 acceptance")
    ),
    "cap's odds at the density after the birth": Planted(
        _on(inclusion.SoftCap, "log_odds", _cap_after_birth), ("C2 acceptance",)
    ),
    "Complexity odds of k, not of a pattern": Planted(
        _on(inclusion.Complexity, "log_odds", _sizes_as_patterns),
        ("C3 inclusion toggle", "C2 acceptance", "C4 prior complexity"),
    ),
    "Rigollet-Tsybakov without its atom": Planted(
        _on(inclusion.RigolletTsybakov, "log_odds", _without_atom), ("C4 prior rigollet_tsybakov", "C2 acceptance")
    ),
    # walks
    "multiplicative walk without Jacobian": Planted(
        _on(RandomWalk, "draw", _multiplicative),
        ("C4 prior dense", "not finite", "C5 invariance walk", "C2 proposals"),
    ),
    "walk with one-sided noise": Planted(
        _on(RandomWalk, "_sample", _one_sided),
        ("C5 invariance walk_block", "not finite", "C2 proposals", "C13 moments"),
    ),
    "prior ratio of walks dropped": Planted(
        _on(slabs.Gaussian, "log_ratio", _zero),
        ("C13 moments", "not finite", "C2 acceptance", "C4 prior rows"),
    ),
    "sign flips in one direction": Planted(
        _on(SignFlip, "draw", _flip_one_way),
        ("C5 invariance flip", "C2 proposals", "C13 moments", "C4 prior dense"),
    ),
    # decisions
    "lam with the wrong sign": Planted(
        _on(sweep, "log_acceptance", _wrong_lam),
        ("C6 calibration", "C11 schedule", "C2 acceptance", "C5 invariance flip"),
    ),
    "lam left out": Planted(
        _on(sweep, "log_acceptance", _no_lam),
        ("C2 transitions binary", "C5 invariance flip", "C13 moments", "C3 inclusion birth_death"),
    ),
    "decision on half of log A": Planted(
        _on(Streams, "at", _square_root), ("C5 invariance walk", "not finite", "C2 acceptance", "C13 moments")
    ),
    "Barker's rule on half of log A": Planted(
        _on(sweep, "log_acceptance", _barker),
        ("C2 acceptance", "not finite", "C5 invariance flip", "C13 moments"),
    ),
    "loss stale after an acceptance": Planted(
        _on(sweep.Sweep, "_stand_at", _stale), ("C2 transitions binary", "C13 moments")
    ),
    "rejection by subtraction": Planted(_on(objective, "lent", _lent_by_subtraction), ("C2 acceptance",)),
    "nan accepted": Planted(_on(sweep, "loss_decrease", _nan_accepted), ("not finite",)),
    "infinite loss accepted": Planted(_on(sweep, "loss_decrease", _inf_accepted), ("not finite",)),
    # adaptation
    "constant gain": Planted(_on(adapt, "gain", lambda _: 0.3), ("C11 target",)),
    "adaptation away from its target": Planted(
        _on(adapt, "towards_acceptance", _reversed_adaptation), ("C11 schedule",)
    ),
    "targets of one and of many exchanged": Planted(_on(adapt, "towards_acceptance", _other_target), ("C11 schedule",)),
    "freeze without effect": Planted(_on(GreedyMCMC, "freeze_adaptation", lambda self: None), ("C11 frozen",)),
    "freeze resets the scales": Planted(_on(GreedyMCMC, "freeze_adaptation", _freeze_with_reset), ("C11 frozen",)),
}


def verdict(detector: str) -> Verdict:
    """Return a detector's verdict; one that the package makes raise has caught something too."""
    try:
        return DETECTORS[detector]()
    except Exception as error:
        return Verdict(False, f"raises {type(error).__name__}: {error}")


def caught_by(error: str, names: Iterable[str]) -> list[str]:
    """Return which of the named detectors fail under an error."""
    with ERRORS[error].plant():
        return [name for name in names if not verdict(name).passed]


def reached(names: Iterable[str]) -> dict[str, set[str]]:
    """Return for each detector the errors whose place in the package it comes by at all."""
    found: dict[str, set[str]] = {}
    for detector in names:
        calls: set[tuple[int, str]] = set()

        def counted(owner: Any, name: str, calls: set[tuple[int, str]] = calls) -> Callable[..., Any]:
            old = getattr(owner, name)

            def call(*args: Any, **kwargs: Any) -> Any:
                calls.add((id(owner), name))
                return old(*args, **kwargs)

            return call

        places = {(id(o), name): (o, name) for error in ERRORS.values() for o, name, _ in error.changes}
        with replaced(*((o, name, counted(o, name)) for o, name in places.values())):
            verdict(detector)
        found[detector] = {
            name
            for name, error in ERRORS.items()
            if any((id(owner), attribute) in calls for owner, attribute, _ in error.changes)
        }
    return found


def _say(line: str = "") -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def table(named: bool, part: str = "") -> None:
    """Print each error with the detectors that catch it, and each detector with the number of its errors."""
    hits = dict.fromkeys(DETECTORS, 0)
    reach = {} if named else reached(DETECTORS)
    for name, error in ERRORS.items():
        if part not in name:
            continue
        found = caught_by(name, error.caught_by if named else [d for d in DETECTORS if name in reach[d]])
        for detector in found:
            hits[detector] += 1
        _say(f"{name:44s} {len(found):2d}: {', '.join(found) or 'NOTHING'}")
    _say()
    for detector, count in hits.items():
        _say(f"{detector:36s} catches {count:2d}")


def inclusion_table(steps: int = 2000) -> None:
    """Print the inclusion probabilities of C3, exact, estimated, and under each error that moves them by 4 SE."""
    reach = reached(f"C3 inclusion {name}" for name in REGRESSIONS)
    for name, case in REGRESSIONS.items():
        blocks = len(case.partition)
        right = inclusion_run(name, steps)
        _say(f"\n{name}: {case.moves}")
        _say(f"{'closed form':44s} {_row(right.exact[:blocks])}")
        _say(f"{'package':44s} {_row(right.estimate[:blocks])}   (standard errors {_row(right.error[:blocks])})")
        for label in (label for label in ERRORS if label in reach[f"C3 inclusion {name}"]):
            error = ERRORS[label]
            try:
                with error.plant():
                    wrong = inclusion_run(name, steps)
            except Exception as failure:
                _say(f"{label:44s} raises {type(failure).__name__}")
                continue
            z = np.minimum(np.abs(wrong.estimate - wrong.exact) / np.maximum(wrong.error, 1e-12), 99)
            if z.max() > 4:
                worst = f"{z[:blocks].max():.0f} SE, means {z[blocks:].max():.0f} SE"
                _say(f"{label:44s} {_row(wrong.estimate[:blocks])}   {worst}")


def _row(values: Array) -> str:
    return " ".join(f"{value:.3f}" for value in values)


if __name__ == "__main__":
    torch.set_num_threads(1)
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    if "--inclusion" in sys.argv:
        inclusion_table()
    else:
        table("--named" in sys.argv, " ".join(words))
