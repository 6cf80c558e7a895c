"""Matrices under moves that use the gradient, seen from outside: losses by formula, proposal densities, chains.

Losses and gradients are numpy formulas behind an objective of its own, so that neither autograd nor the package's
objectives take part.  Proposal densities q are written here once more, from the definitions: Plackett-Luce over
ordered sequences, draw by draw, and one density per birth and per Langevin step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from scipy.special import logsumexp
from torch import Tensor, nn

import mcmcopt
from mcmcopt import InformedBirthDeath, Langevin, RandomWalk
from mcmcopt.chain.layer import Layer
from mcmcopt.chain.moves import AnyMove, Edits, InformedMove
from tests.statistical.exact import Array, Density, Pattern, partition
from tests.statistical.harness import BIRTH_FAMILIES, inclusion, slab

# Losses -----------------------------------------------------------------------------------------------------------


class Loss(NamedTuple):
    """A loss of the flat weights and what informed moves are told is its gradient."""

    value: Callable[[Array], float]
    slope: Callable[[Array], Array]


def bowl(n: int) -> Loss:
    """Return a quartic in n weights."""
    rng = np.random.default_rng(n)
    A = rng.standard_normal((n, n)) / math.sqrt(n)
    centre = 0.4 * rng.standard_normal(n)
    return Loss(
        lambda w: float(((w - centre) @ A.T) @ (A @ (w - centre)) + 0.1 * (w**4).sum()),
        lambda w: 2 * A.T @ (A @ (w - centre)) + 0.4 * w**3,
    )


def flat(n: int) -> Loss:
    """Return a loss of zero with a slope that is made up: whatever positive weights come of it, the chain is exact."""
    rng = np.random.default_rng(n + 1)
    B, shift = rng.standard_normal((n, n)) / math.sqrt(n), rng.standard_normal(n)
    return Loss(lambda w: 0.0, lambda w: np.sin(2 * (B @ w) + shift) + 0.5 * shift)


def least_squares(x: Array, y: Array, noise: float = 1.0) -> Loss:
    """Return the mean negative log-likelihood of y = xβ + N(0, noise²)."""
    scale = len(y) * noise**2
    return Loss(
        lambda w: float((y - x @ w) @ (y - x @ w)) / (2 * scale),
        lambda w: x.T @ (x @ w - y) / scale,
    )


class Told:
    """An objective that knows a loss and its slope by formula; it writes nothing."""

    def __init__(self, params: Sequence[Tensor], loss: Loss) -> None:
        self._params, self._loss = params, loss
        self._starts = np.cumsum([0, *(param.numel() for param in params)])

    def flat(self, change: Mapping[Tensor, tuple[Tensor, Tensor]] | None = None) -> Array:
        """Return all weights, with a change laid over them."""
        parts = []
        for param in self._params:
            part = param.detach().numpy().reshape(-1).copy()
            if change and param in change:
                indices, values = change[param]
                part[indices.numpy()] = values.numpy()
            parts.append(part)
        return np.concatenate(parts)

    def evaluate(self) -> Tensor:
        return torch.tensor(self._loss.value(self.flat()), dtype=torch.float64)

    def propose(self, change: Mapping[Tensor, tuple[Tensor, Tensor]]) -> Tensor:
        return torch.tensor(self._loss.value(self.flat(change)), dtype=torch.float64)

    def propose_with_gradient(
        self, change: Mapping[Tensor, tuple[Tensor, Tensor]], params: Sequence[Tensor]
    ) -> tuple[Tensor, dict[Tensor, Tensor]]:
        w = self.flat(change)
        slope = self._loss.slope(w)
        gradients = {
            param: torch.from_numpy(slope[start : start + param.numel()].copy()).view(param.shape)
            for param, start in zip(self._params, self._starts, strict=False)
        }
        return torch.tensor(self._loss.value(w), dtype=torch.float64), {p: gradients[p] for p in params}

    def commit(self) -> None: ...

    def rollback(self) -> None: ...


# Cases, with the densities of their moves -------------------------------------------------------------------------


class Step(NamedTuple):
    """One part of a proposal: what happens to which block, or to which entries, of which matrix."""

    layer: int
    kind: str
    block: int
    where: Array
    old: Array
    new: Array

    def back(self) -> Step:
        kind = {"birth": "death", "death": "birth", "walk": "walk"}[self.kind]
        return Step(self.layer, kind, self.block, self.where, self.new, self.old)


@dataclass(frozen=True)
class Case:
    """Matrices in one parameter group under one prior, counted by matrix, with moves at one scale and fixed moments."""

    moves: tuple[AnyMove, ...]
    slab: Density = field(default_factory=lambda: Density("gaussian", 0.8))
    pattern: Pattern | None = field(default_factory=lambda: Pattern("bernoulli", 0.5))
    shapes: tuple[tuple[int, int], ...] = ((1, 4),)
    blocks: str | tuple[int, int] = "scalar"
    scale: float = 0.6
    rms: tuple[float, ...] = (1.0, 0.6)

    @property
    def partitions(self) -> list[list[Array]]:
        """The flat entries, counted over all matrices, of each block of each matrix."""
        starts = np.cumsum([0, *(math.prod(shape) for shape in self.shapes)])
        return [
            [where + start for where in partition(shape, self.blocks)]
            for shape, start in zip(self.shapes, starts, strict=False)
        ]

    @property
    def entries(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def unit(self) -> Array:
        """The scale of proposals, entry by entry: lr times the matrix's own root-mean-square."""
        sizes = [math.prod(shape) for shape in self.shapes]
        return self.scale * np.concatenate([np.full(n, r) for n, r in zip(sizes, self.rms, strict=False)])

    @property
    def second_moment(self) -> Array:
        return 0.2 + np.random.default_rng(3).exponential(size=self.entries)

    def prior(self) -> Any:
        if self.pattern is None:
            return slab(self.slab)
        return mcmcopt.SpikeSlab(inclusion=inclusion(self.pattern), slab=slab(self.slab))

    def active(self, w: Array, layer: int) -> list[int]:
        """Return a matrix's active blocks: active entries are zero with probability zero."""
        blocks = self.partitions[layer]
        return [b for b, where in enumerate(blocks) if self.pattern is None or w[where].any()]

    def draw(self, rng: np.random.Generator) -> Array:
        """Return weights drawn from the prior."""
        w = np.zeros(self.entries)
        for blocks in self.partitions:
            size = len(blocks)
            for b in range(size) if self.pattern is None else self.pattern.sample(size, rng):
                w[blocks[b]] = self.slab.sample(len(blocks[b]), rng)
        return w

    def log_prior(self, w: Array) -> float:
        total = 0.0
        for layer, blocks in enumerate(self.partitions):
            active = self.active(w, layer)
            total += sum(self.slab.log(w[blocks[b]]) for b in active)
            total += self.pattern.log(len(active), len(blocks)) if self.pattern else 0.0
        return total

    def candidates(self, move: Any, kind: str, w: Array, g: Array, lam: float, owner: int) -> tuple[list[Any], Array]:
        """Return what a move may choose, (matrix, block) by (matrix, block), and its log-weights: G/2τ, or by rank."""
        chosen, gains, unit, v = [], [], self.unit, self.second_moment
        for layer in range(len(self.shapes)) if move.scope == "group" else [owner]:
            active = self.active(w, layer)
            for b, where in enumerate(self.partitions[layer]):
                if (b in active) == (kind == "birth"):
                    continue
                x, slope, u = w[where], g[where], unit[where]
                if kind == "walk":
                    start = self.partitions[layer][0][0]
                    chosen += [(layer, int(i - start)) for i in where]
                    gains += (2 * lam * x * slope).tolist()
                    continue
                if kind == "birth":
                    gain = (lam * u * np.abs(slope)).sum()
                elif move.saliency == "snip":
                    gain = -(lam * np.abs(x * slope)).sum()
                elif move.saliency == "obd":
                    gain = -(0.5 * lam * v[where] * x**2).sum()
                elif move.saliency == "adam":
                    gain = -(0.5 * lam * np.sqrt(v[where]) * x**2).sum()
                elif move.saliency == "magnitude":
                    gain = -(0.5 * x**2 / u**2).sum()
                else:
                    centre = -u * np.clip(lam * u * slope, -1, 1)
                    q = self._density(move, float(u[0])).log(x - centre)
                    gain = (lam * x * slope).sum() - self.slab.log(x) + q
                chosen.append((layer, b))
                gains.append(gain)
        if kind == "walk":  # entries of a matrix in their order, whatever the blocks
            order = sorted(range(len(chosen)), key=lambda i: chosen[i])
            chosen, gains = [chosen[i] for i in order], [gains[i] for i in order]
        return chosen, weights(np.array(gains), move.k, move.temperature)

    @staticmethod
    def _density(move: Any, scale: float) -> Density:
        return Density(BIRTH_FAMILIES[move.density], scale)

    def log_births(self, move: Any, steps: Sequence[Step], g: Array, lam: float) -> float:
        total = 0.0
        for step in steps:
            u, slope = self.unit[step.where], g[step.where]
            centre = -u * np.clip(lam * u * slope, -1, 1)
            total += self._density(move, float(u[0])).log(step.new - centre)
        return total

    def langevin(self, move: Any, step: Step, w: Array, g: Array, lam: float) -> tuple[Array, Array]:
        """Return mean and standard deviation of a matrix's proposed values."""
        x, u = w[step.where], self.unit[step.where]
        score = {
            "gaussian": -x / self.slab.scale**2,
            "laplace": -np.sign(x) / self.slab.scale,
            "student_t": -(self.slab.df + 1) * x / (self.slab.df * self.slab.scale**2 + x**2),
        }[self.slab.family]
        M = np.ones(self.entries)
        if move.precondition:
            for blocks in self.partitions:
                own = np.concatenate(blocks)
                root = np.sqrt(self.second_moment[own])
                M[own] = 1 / (root + 0.1 * root.mean())
                M[own] /= M[own].mean()
        variance = u**2 * M[step.where]
        return x + 0.5 * variance * (score - lam * g[step.where]), np.sqrt(variance)

    def log_q(self, move: Any, steps: Sequence[Step], w: Array, g: Array, lam: float) -> float:
        """Return the log-density of proposing these steps in their order; symmetric blind moves count as 0."""
        owner = steps[0].layer
        if isinstance(move, Langevin):
            total = 0.0
            for step in steps:
                mean, sd = self.langevin(move, step, w, g, lam)
                total += float(stats.norm(mean, sd).logpdf(step.new).sum())
            return total
        if not isinstance(move, InformedMove):
            assert isinstance(move, RandomWalk)
            return 0.0
        total = 0.0
        for kind in ("death", "birth", "walk"):
            own = [step for step in steps if step.kind == kind]
            if own:
                chosen, logs = self.candidates(move, kind, w, g, lam, owner)
                total += sequence_log_prob(logs, [chosen.index((step.layer, step.block)) for step in own])
        births = [step for step in steps if step.kind == "birth"]
        total += self.log_births(move, births, g, lam)
        if isinstance(move, InformedBirthDeath):
            total += math.log(move.birth if births else 1 - move.birth)
        return total

    def alpha(self, move: Any, steps: Sequence[Step], w: Array, lam: float, loss: Loss) -> float:
        """Return the acceptance probability min(1, A), from four densities."""
        after = w.copy()
        for step in steps:
            after[step.where] = step.new
        back = [step.back() for step in reversed(steps)]
        log_a = self.log_prior(after) - lam * loss.value(after) + self.log_q(move, back, after, loss.slope(after), lam)
        log_a -= self.log_prior(w) - lam * loss.value(w) + self.log_q(move, steps, w, loss.slope(w), lam)
        return math.exp(min(0.0, log_a))


def weights(gains: Array, k: int, temperature: Any) -> Array:
    """Return log-weights for k draws."""
    n = len(gains)
    if temperature == "rank":
        above = [
            sum(other > gain or (other == gain and j < i) for j, other in enumerate(gains))
            for i, gain in enumerate(gains)
        ]
        return -8 * np.log1p(np.array(above) / k)
    if temperature == "auto":
        temperature = max(1.0, (gains.max() - gains.mean()) / (2 * math.log(n + 1))) if n > 1 else 1.0
    return gains / (2 * temperature)


def sequence_log_prob(logs: Array, order: Sequence[int]) -> float:
    """Return log P of drawing these one after the other without replacement."""
    total, left = 0.0, list(range(len(logs)))
    for j in order:
        total += float(logs[j] - logsumexp(logs[left]))
        left.remove(j)
    return total


class Drawn(NamedTuple):
    """A proposal that a move made, and the weights that it made it at."""

    move: AnyMove
    before: Array
    steps: tuple[Step, ...]


class Chain:
    """The package's optimizer on one case, adaptation off, told its losses and slopes, with its draws recorded.

    Args:
        case: what to run.
        loss: the loss.
        lam: inverse temperature.
        start: flat weights, whose zero blocks are inactive; None starts dense from each matrix's rms.
        n_proposals: proposals per step.
        seed: the chain's seed.
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
        adapt: bool = False,
        rule: Any = "metropolis",
    ) -> None:
        self.case = case
        self.params = [
            nn.Parameter(torch.full(shape, r, dtype=torch.float64))
            for shape, r in zip(case.shapes, case.rms, strict=False)
        ]
        self.objective = Told(self.params, loss)
        self.drawn: list[Drawn] = []
        self.optimizer = mcmcopt.GreedyMCMC(
            self.params,
            lam,
            n_proposals=n_proposals,
            prior=case.prior(),
            moves=[self._watched(move) for move in case.moves],
            blocks=case.blocks,
            lr=case.scale,
            adapt=adapt,
            rule=rule,
            seed=seed,
        )
        self._place(start)

    def step(self) -> list[Drawn]:
        """Make a step and return what was proposed in it."""
        self.drawn.clear()
        self.optimizer.step(self.objective)
        return list(self.drawn)

    @property
    def weights(self) -> Array:
        return self.objective.flat()

    def trace(self, steps: int, burn: int = 0) -> Array:
        for _ in range(burn):
            self.step()
        out = np.empty((steps, self.case.entries))
        for row in out:
            self.step()
            row[:] = self.weights
        return out

    def _watched(self, move: AnyMove) -> AnyMove:
        twin: Any = copy.copy(move)

        def draw(layer: Layer, *args: Any) -> Edits | None:
            edits = type(twin).draw(twin, layer, *args)
            if edits is not None:
                starts = np.cumsum([0, *(param.numel() for param in self.params)])
                number = {id(param): i for i, param in enumerate(self.params)}
                steps = []
                for edit in edits:
                    i = number[id(edit.layer.param)]
                    where = edit.indices.numpy() + starts[i]
                    steps.append(Step(i, edit.kind.value, edit.block, where, edit.old.numpy(), edit.new.numpy()))
                self.drawn.append(Drawn(twin, self.weights, tuple(steps)))
            return edits

        twin.draw = draw
        return twin

    def _place(self, start: Array | None) -> None:
        saved = self.optimizer.state_dict()
        w = self.weights if start is None else start
        with torch.no_grad():
            for param, first in zip(self.params, np.cumsum([0, *(p.numel() for p in self.params)]), strict=False):
                param.view(-1)[:] = torch.from_numpy(w[first : first + param.numel()].copy())
        first = 0
        for i, param in enumerate(self.params):
            if self.case.pattern is not None:
                active, size = self.case.active(w, i), len(self.case.partitions[i])
                order = [*active, *(b for b in range(size) if b not in active)]
                saved["state"][i].update(order=torch.tensor(order, dtype=torch.int32), active=torch.tensor(len(active)))
            if "second_moment" in saved["state"][i]:
                v = self.case.second_moment[first : first + param.numel()]
                saved["state"][i].update(second_moment=torch.from_numpy(v.copy()), gradients_seen=torch.tensor(5))
            first += param.numel()
        self.optimizer.load_state_dict(saved)
