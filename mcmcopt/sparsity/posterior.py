"""Criteria that a posterior over weights gives: how often is a weight in use, how often was it worth a move?

    Inclusion          P(γ_j = 1 | data), from a chain's masks or a mean-field law     Barbieri and Berger (2004)
    AcceptanceCounts   accepted proposals in which w_j changed: the criterion of the 2021 reference implementation

Both let a sampler run on a copy of the network, over the batches that they are given; it is the whole network's
posterior, so they score no masked one.  Counts tie often: among weights of equal counts the copy's smaller |w| goes
first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from mcmcopt.loss.incremental import IncrementalLoss
from mcmcopt.loss.objective import Change, Objective
from mcmcopt.optim.greedy_mcmc import GreedyMCMC
from mcmcopt.optim.kl_mirror_descent import KLMirrorDescent
from mcmcopt.sparsity.criteria import Batch, LossFn
from mcmcopt.sparsity.masks import weights
from mcmcopt.sparsity.network import checked

Sampler: TypeAlias = Callable[..., Any]
"""Makes the optimizer from named parameters, as `functools.partial(GreedyMCMC, lam=60_000)` does."""


class Inclusion:
    """Posterior probability of a weight's inclusion; those of at least ½ are the median model (Barbieri and Berger).

    Args:
        sampler: makes a `GreedyMCMC`, whose masks are averaged over steps, or a `KLMirrorDescent`, whose `inclusion()`
            after the last step counts.
        repeats: steps on each batch, one after the other.
        burn_in: share of a chain's steps that do not enter the average, in [0, 1).

    A chain's average estimates a posterior probability where the chain is exact and has converged: one batch, fixed λ,
    frozen adaptation.  A mean-field law knows no correlations.

    Raises:
        ValueError: for an argument out of range.
    """

    name = "inclusion"

    def __init__(self, sampler: Sampler, repeats: int = 1, burn_in: float = 0.5) -> None:
        if isinstance(burn_in, bool) or not isinstance(burn_in, int | float) or not 0 <= burn_in < 1:
            raise ValueError(f"burn_in must be a share in [0, 1), got {burn_in!r}")
        self.sampler, self.repeats, self.burn_in = sampler, _check_repeats(repeats), float(burn_in)

    @torch.enable_grad()
    def __call__(
        self,
        model: nn.Module,
        loss_fn: LossFn | None = None,
        batches: Sequence[Batch] = (),
        keep: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return float64 scores by weight: of a mean-field law the probabilities, of a chain counts with ties broken.

        Raises:
            ValueError: without a loss function or batches, or for masks with anything off.
            TypeError: if the sampler makes another optimizer.
        """
        loss_fn, _ = checked(loss_fn, batches, self.name)
        twin, own, optimizer = _twin(model, keep, self.sampler, self.name)
        if isinstance(optimizer, KLMirrorDescent):
            for x, y in batches:
                for _ in range(self.repeats):
                    optimizer.step(_closure(twin, optimizer, loss_fn, x, y))
            return {name: optimizer.inclusion(weight).double() for name, weight in own.items()}
        counts = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in own.items()}
        objective = IncrementalLoss(twin, loss_fn)
        steps = len(batches) * self.repeats
        first = min(self.burn_in * steps, steps - 1)  # the last one counts in any case
        for i, (x, y) in enumerate(batches):
            bound = objective.bind(x, y)
            for t in range(i * self.repeats, (i + 1) * self.repeats):
                optimizer.step(bound)
                if t >= first:
                    for name, weight in own.items():
                        counts[name] += optimizer.mask(weight)
        return _without_ties(counts, own)

    def __repr__(self) -> str:
        return f"Inclusion({self.sampler}, repeats={self.repeats}, burn_in={self.burn_in})"


class AcceptanceCounts:
    """Number of accepted proposals that changed a weight: what the chain never found worth moving goes first.

    Args:
        sampler: makes a `GreedyMCMC` from named parameters.
        repeats: steps on each batch, one after the other.

    Raises:
        ValueError: for an argument out of range.
    """

    name = "acceptance"

    def __init__(self, sampler: Sampler, repeats: int = 1) -> None:
        self.sampler, self.repeats = sampler, _check_repeats(repeats)

    @torch.enable_grad()
    def __call__(
        self,
        model: nn.Module,
        loss_fn: LossFn | None = None,
        batches: Sequence[Batch] = (),
        keep: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the counts by weight, float64, with ties broken.

        Raises:
            ValueError: without a loss function or batches, or for masks with anything off.
            TypeError: if the sampler makes no `GreedyMCMC`.
        """
        loss_fn, _ = checked(loss_fn, batches, self.name)
        twin, own, optimizer = _twin(model, keep, self.sampler, self.name)
        if not isinstance(optimizer, GreedyMCMC):
            raise TypeError(f"sampler must make a GreedyMCMC, which accepts and rejects, got {optimizer!r}")
        objective, counts = IncrementalLoss(twin, loss_fn), dict[Tensor, Tensor]()
        for x, y in batches:
            counting = Counting(objective.bind(x, y), counts)
            for _ in range(self.repeats):
                optimizer.step(counting)
        return _without_ties({n: counts.get(w, torch.zeros(w.shape, dtype=torch.float64)) for n, w in own.items()}, own)

    def __repr__(self) -> str:
        return f"AcceptanceCounts({self.sampler}, repeats={self.repeats})"


class Counting:
    """An objective that counts, entry by entry, how often a committed change touched it.

    Args:
        objective: does the work.
        counts: parameter → float64 counts of its shape, on the CPU; grows and is added to.
    """

    def __init__(self, objective: Objective, counts: dict[Tensor, Tensor]) -> None:
        self._objective, self.counts = objective, counts
        self._proposed: Change = {}
        self.lower_bound: float = getattr(objective, "lower_bound", -float("inf"))

    def evaluate(self) -> Tensor:
        """Return the loss at the present parameters."""
        return self._objective.evaluate()

    def propose(self, change: Change) -> Tensor:
        """Return the loss that the change would give."""
        self._proposed = change
        return self._objective.propose(change)

    def propose_with_gradient(self, change: Change, params: Sequence[Tensor]) -> tuple[Tensor, dict[Tensor, Tensor]]:
        """Return the loss that the change would give, with the gradient there."""
        if change:
            self._proposed = change
        answer: tuple[Tensor, dict[Tensor, Tensor]] = self._objective.propose_with_gradient(change, params)  # type: ignore[attr-defined]
        return answer

    def commit(self, number: int = 0) -> None:
        """Count the change proposed last."""
        for param, (indices, _) in self._proposed.items():
            own = self.counts.setdefault(param, torch.zeros(param.shape, dtype=torch.float64))
            own.view(-1).index_add_(0, indices.cpu(), torch.ones(len(indices), dtype=torch.float64))
        self._objective.commit(number)

    def rollback(self) -> None:
        """Forget the change proposed last."""
        self._objective.rollback()


def _twin(
    model: nn.Module, keep: Mapping[str, Tensor] | None, sampler: Sampler, name: str
) -> tuple[nn.Module, dict[str, nn.Parameter], GreedyMCMC | KLMirrorDescent]:
    """Return a copy of a model, in eval mode, its weights, and the optimizer over it."""
    if keep is not None and not all(bool(mask.all()) for mask in keep.values()):
        raise ValueError(f"{name} scores whole networks, keep has weights that are off: prune once, in one round")
    twin = copy.deepcopy(model).eval()
    twin.zero_grad()
    optimizer = sampler(list(twin.named_parameters()))
    if not isinstance(optimizer, GreedyMCMC | KLMirrorDescent):
        raise TypeError(f"sampler must make a GreedyMCMC or a KLMirrorDescent, got {optimizer!r}")
    return twin, weights(twin), optimizer


def _closure(
    twin: nn.Module, optimizer: KLMirrorDescent, loss_fn: LossFn, x: Tensor, y: Tensor
) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_fn(twin(x), y)
        torch.autograd.backward(loss)
        return loss

    return closure


def _without_ties(counts: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return whole numbers plus less than one half, which grows with |w| over all layers."""
    largest = max((float(weight.detach().abs().max()) for weight in own.values()), default=0.0) or 1.0
    return {n: c.to(own[n].device) + own[n].detach().double().abs() / (2.001 * largest) for n, c in counts.items()}


def _check_repeats(repeats: int) -> int:
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"repeats must be an integer of at least 1, got {repeats!r}")
    return repeats
