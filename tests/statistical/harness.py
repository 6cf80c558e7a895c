"""One sparse weight matrix under the package's chain, seen from outside: placed in a state, stepped, recorded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

import mcmcopt
from mcmcopt.chain.inclusion import Inclusion
from mcmcopt.chain.moves import Move
from mcmcopt.chain.slabs import Slab
from tests.statistical.exact import Array, Density, Pattern, partition

Loss = Callable[[Array], float]
BIRTH_FAMILIES = {"normal": "gaussian", "laplace": "laplace", "student_t": "student_t"}


class Verdict(NamedTuple):
    """What a detector found."""

    passed: bool
    detail: str


def slab(density: Density) -> Slab:
    """Return the package's slab of that density."""
    if density.family == "student_t":
        return mcmcopt.StudentT(density.df, density.scale)
    return {"gaussian": mcmcopt.Gaussian, "laplace": mcmcopt.Laplace}[density.family](density.scale)


def inclusion(pattern: Pattern) -> Inclusion:
    """Return the package's inclusion prior of that law."""
    return {
        "bernoulli": lambda: mcmcopt.Bernoulli(pattern.a),
        "beta_binomial": lambda: mcmcopt.BetaBinomial(pattern.a, pattern.b),
        "complexity": lambda: mcmcopt.Complexity(pattern.a, pattern.b),
        "alquier_lounici": lambda: mcmcopt.AlquierLounici(pattern.a),
        "rigollet_tsybakov": mcmcopt.RigolletTsybakov,
        "soft_cap": lambda: mcmcopt.SoftCap(pattern.a, pattern.b),
    }[pattern.name]()


@dataclass(frozen=True)
class Case:
    """A prior, a partition, moves and a proposal scale; without a pattern the matrix is dense."""

    moves: tuple[Move, ...]
    slab: Density = field(default_factory=lambda: Density("gaussian", 0.8))
    pattern: Pattern | None = field(default_factory=lambda: Pattern("bernoulli", 0.4))
    shape: tuple[int, int] = (1, 4)
    blocks: str | tuple[int, int] = "scalar"
    scale: float = 0.6

    @property
    def partition(self) -> list[Array]:
        return partition(self.shape, self.blocks)

    def prior(self, per: str = "layer") -> Slab | mcmcopt.SpikeSlab:
        if self.pattern is None:
            return slab(self.slab)
        return mcmcopt.SpikeSlab(inclusion=inclusion(self.pattern), slab=slab(self.slab), per=per)

    def active(self, w: Array) -> tuple[int, ...]:
        """Return the active blocks: active entries are zero with probability zero."""
        return tuple(b for b, where in enumerate(self.partition) if w[where].any())

    def draw(self, rng: np.random.Generator) -> Array:
        """Return weights drawn from the prior."""
        w = np.zeros(math.prod(self.shape))
        size = len(self.partition)
        for b in range(size) if self.pattern is None else self.pattern.sample(size, rng):
            where = self.partition[b]
            w[where] = self.slab.sample(len(where), rng)
        return w

    def log_prior(self, w: Array) -> float:
        """Return log π(w, γ)."""
        active = self.active(w)
        total = sum(self.slab.log(w[self.partition[b]]) for b in active)
        return total + (self.pattern.log(len(active), len(self.partition)) if self.pattern else 0.0)

    def log_q(self, before: Array, after: Array, label: str) -> float:
        """Return the log-density of proposing `after` from `before` by the move with that label.

        Walks and flips are symmetric with an unchanged choice of entries: theirs counts as 0.
        """
        if label.startswith(("walk", "flip")):
            return 0.0
        source, target, size = set(self.active(before)), set(self.active(after)), len(self.partition)
        k, born = len(source), [self.partition[b] for b in target - source]
        move = next(m for m in self.moves if label in m.labels)
        g = Density(BIRTH_FAMILIES[move.density], self.scale)
        density = sum(g.log(after[where]) for where in born)
        if label == "toggle":
            return density - math.log(size)
        if label == "swap":
            return density - math.log(k * (size - k))
        return density + math.log(move.birth / (size - k) if born else (1 - move.birth) / k)

    def alpha(self, before: Array, after: Array, label: str, lam: float, loss: Loss) -> float:
        """Return the acceptance probability min(1, A), from four densities."""
        log_a = self.log_prior(after) - lam * loss(after) + self.log_q(after, before, label)
        log_a -= self.log_prior(before) - lam * loss(before) + self.log_q(before, after, label)
        return math.exp(min(0.0, log_a))


class Chain:
    """The package's optimizer on one case, adaptation off, proposals at exactly `case.scale`.

    Args:
        case: what to run.
        loss: the loss as a function of the flat weights.
        lam: inverse temperature.
        start: flat weights, whose zero blocks are inactive; None starts dense from ones.
        n_proposals: proposals per step.
        seed: the chain's seed.
        watch: called with the flat weights at each evaluation of the loss.
    """

    def __init__(
        self,
        case: Case,
        loss: Loss,
        lam: float,
        *,
        start: Array | None = None,
        n_proposals: int = 1,
        seed: int = 0,
        watch: Callable[[Array], None] | None = None,
        adapt: bool = False,
    ) -> None:
        self.case = case
        self.param = nn.Parameter(torch.ones(case.shape, dtype=torch.float64))  # rms 1: lr is the scale
        self.weights = self.param.detach().numpy().reshape(-1)  # shares memory: sees every proposal
        self.optimizer = mcmcopt.GreedyMCMC(
            [self.param],
            lam,
            n_proposals=n_proposals,
            prior=case.prior(),
            moves=case.moves,
            blocks=case.blocks,
            lr=case.scale,
            adapt=adapt,
            grad=False,
            seed=seed,
        )
        self.loss, self.watch = loss, watch
        if start is not None:
            self.weights[:] = start
            self._load_mask()

    def step(self) -> None:
        self.optimizer.step(self._closure)

    def trace(self, steps: int, burn: int = 0) -> Array:
        """Return the weights after each of `steps` steps, shape (steps, entries)."""
        for _ in range(burn):
            self.step()
        out = np.empty((steps, len(self.weights)))
        for i in range(steps):
            self.step()
            out[i] = self.weights
        return out

    def _closure(self) -> float:
        if self.watch is not None:
            self.watch(self.weights)
        return self.loss(self.weights)

    def _load_mask(self) -> None:
        if self.case.pattern is None:
            return
        active, size = self.case.active(self.weights), len(self.case.partition)
        saved = self.optimizer.state_dict()
        order = [*active, *(b for b in range(size) if b not in active)]
        saved["state"][0].update(order=torch.tensor(order, dtype=torch.int32), active=torch.tensor(len(active)))
        self.optimizer.load_state_dict(saved)


class Proposal(NamedTuple):
    """One proposal as seen from outside; without a label it was impossible."""

    before: Array
    proposed: Array
    kept: Array
    label: str | None
    alpha: float
    accepted: bool
    scale: dict[str, float]


def record(chain: Chain, steps: int) -> list[Proposal]:
    """Run a chain of one proposal per step and return what it proposed, decided and reported."""
    seen: list[Array] = []
    chain.watch = lambda w: seen.append(w.copy())
    records = []
    for _ in range(steps):
        seen.clear()
        chain.step()
        assert chain.optimizer.info is not None
        (layer,) = chain.optimizer.info.layers.values()
        (label, move), *_ = [*layer.moves.items(), (None, None)]
        alpha, accepted = (move.probability, bool(move.accepted)) if move is not None else (math.nan, False)
        records.append(Proposal(seen[0], seen[-1], chain.weights.copy(), label, alpha, accepted, layer.scales))
    return records


def masks(case: Case, trace: Array) -> Array:
    """Return which blocks are active at each time, shape (n, blocks)."""
    return np.stack([(trace[:, where] != 0).any(1) for where in case.partition], 1)


def with_moves(case: Case, moves: Sequence[Move]) -> Case:
    """Return the case with other moves."""
    return replace(case, moves=tuple(moves))
