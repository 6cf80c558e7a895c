"""The one training loop, for chains and gradient methods alike.

Both get a closure.  A chain's returns one loss per sample and is called once per proposal, or is an objective that
recomputes only what a proposal changes; a gradient method's calls `backward()`; a hybrid gets both, its chain on a
batch of its own.  What either asks for is counted in one currency: evaluations of the loss, gradients, and samples that
went forward through the network, a gradient counted as three.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from experiments.augment import shifted_and_mirrored
from experiments.batches import Batches
from experiments.checks import check
from experiments.counters import Counters, Tallies
from experiments.data import Split, portions
from experiments.device import precision, settle
from experiments.growth import Growth
from experiments.stream import prediction
from mcmcopt.optim.greedy_mcmc import GreedyMCMC
from mcmcopt.optim.hybrid import Hybrid
from mcmcopt.optim.info import StepInfo
from mcmcopt.sparsity import Pruner, count, nonzero, weights
from mcmcopt.sparsity.masked import Source


def cross_entropies(logits: Tensor, y: Tensor) -> Tensor:
    """Return each sample's cross-entropy: `F.cross_entropy(reduction="none")` without its array of log-probabilities.

    On one thread and few classes the loss takes as long as the rest of a small network; this form is 2-3 times faster.
    """
    return logits.logsumexp(1) - logits.gather(1, y.unsqueeze(1)).squeeze(1)


@dataclass
class Training:
    """A model on its way; all that its future depends on is in `state_dict()`, wherever `resumable` holds.

    Args:
        model: is trained in place.
        optimizer: over the model's parameters.
        split: the training data.
        batches: their order.
        epochs: until the end.
        steps: until the end, instead of `epochs`.
        max_seconds: of training, after which the step under way is the last.
        pruning: masks that change while a gradient method trains; None: none.
        decay: of a gradient method's learning rate over the run: `"constant"`, or `"cosine"` from its value to 0.
        density_power: a gradient method's learning rate is multiplied by (share of weights not zero)^-density_power.
        growth: how a chain's batch grows; None: it does not.
        incremental: whether a chain's proposals are scored for what they change alone.
        refresh_steps: steps after which an incremental objective computes all afresh; a checkpoint can be taken there.
        chain_batches: the order of the batches that a hybrid's chain sees; None: those of the gradient steps.
        source: where pruning criteria get batches.
        augment: seed of the shifts and mirrorings of a gradient method's images; None: none.
        bfloat16: gradient steps and evaluations compute products in it.
        eval_train: number of training samples that are evaluated; None: all.
    """

    model: nn.Module
    optimizer: Optimizer
    split: Split
    batches: Batches
    epochs: int | None = None
    steps: int | None = None
    max_seconds: float | None = None
    pruning: Pruner | None = None
    decay: str = "constant"
    density_power: float = 0.0
    growth: Growth | None = None
    incremental: bool = False
    refresh_steps: int = 10
    chain_batches: Batches | None = None
    source: Source | None = None
    augment: int | None = None
    bfloat16: bool = False
    eval_train: int | None = None
    counters: Counters = field(default_factory=Counters)
    tallies: Tallies = field(default_factory=Tallies)
    arrivals: list[dict[str, float]] = field(default_factory=list)
    """Of each chunk of a stream, what it cost before anything was learnt from it."""
    fresh_losses: list[float] = field(default_factory=list)
    """Of the batches since the last growth, each before the first proposal there."""

    def __post_init__(self) -> None:
        check(self)
        self._batch: tuple[Tensor | slice, Tensor, Tensor] | None = None
        self._objective: Any = None
        self._rates = [group["lr"] for group in self.gradient_groups()]
        self._begun = self.pruning is None
        if self.incremental:
            from mcmcopt import IncrementalLoss

            self._objective = IncrementalLoss(self.model, nn.CrossEntropyLoss())

    @property
    def chain(self) -> GreedyMCMC | None:
        """The optimizer, if it is a chain, or the chain that is a part of it."""
        if isinstance(self.optimizer, Hybrid):
            return next(iter(self.optimizer.chains), None)
        return self.optimizer if isinstance(self.optimizer, GreedyMCMC) else None

    @property
    def alone(self) -> bool:
        """Whether the optimizer is a chain, with no gradient method beside it."""
        return isinstance(self.optimizer, GreedyMCMC)

    @property
    def done(self) -> bool:
        """Whether the last step has been made."""
        if self.max_seconds is not None and self.counters.seconds >= self.max_seconds:
            return True
        if self.steps is not None:
            return self.counters.step >= self.steps
        return self.counters.epoch >= (self.epochs or 0)

    @property
    def total_steps(self) -> int:
        """Number of steps, if time does not end the run before."""
        return (self.epochs or 0) * self.batches.per_epoch if self.steps is None else self.steps

    @property
    def resumable(self) -> bool:
        """Whether the state can be saved here: the caches of an incremental objective must just have been dropped.

        They carry the rounding of what they went through, and no state has them.
        """
        return self._objective is None or self.counters.step % self.refresh_steps == 0

    def run(self) -> Iterator[bool]:
        """Train to the end, yielding after each step whether it ended an epoch."""
        self._begin(None)
        while not self.done:
            self._step()
            epoch_done = self.batches.epoch_done
            self.counters.epoch += epoch_done
            if self._objective is not None and self.resumable:
                self._objective.forget()
            yield epoch_done

    def layer_rows(self) -> list[dict[str, Any]]:
        """Return the rows of layers.csv since the last call: by layer and move, for gradients by layer."""
        step = self.counters.step
        if not self.tallies.sizes:
            return [
                {"step": step, "layer": name, "active": int(w.detach().count_nonzero()), "size": w.numel()}
                for name, w in weights(self.model).items()
            ]
        return self.tallies.rows(step)

    def state_dict(self) -> dict[str, Any]:
        """Return all that continues the run bit for bit: tensors, numbers and strings."""
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "batches": self.batches.state_dict(),
            "counters": asdict(self.counters),
            "tallies": self.tallies.state_dict(),
            "chain_batches": None if self.chain_batches is None else self.chain_batches.state_dict(),
            "pruning": None if self.pruning is None else self.pruning.state_dict(),
            "fresh_losses": self.fresh_losses,
            "arrivals": self.arrivals,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a saved run was."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.batches.load_state_dict(state["batches"])
        self.counters = Counters(**state["counters"])
        self.tallies.load_state_dict(state["tallies"])
        if self.chain_batches is not None:
            self.chain_batches.load_state_dict(state["chain_batches"])
        self.fresh_losses, self.arrivals = state["fresh_losses"], state["arrivals"]
        if self._begun and self.pruning is not None:
            self.pruning.load_state_dict(state["pruning"])
        self._begin(state["pruning"])

    def _begin(self, state: dict[str, Any] | None) -> None:
        """Let pruning begin, or go on from its saved state, unless it has."""
        if self.pruning is None or self._begun:
            return
        self._begun = True
        with self._pruning_time():
            self.pruning.begin(self.model, self.optimizer, self.total_steps, cross_entropy, self.source, state)

    @contextmanager
    def _pruning_time(self) -> Iterator[None]:
        """Count what pruning takes, scoring included."""
        settle(self.split.x.device)
        start = time.perf_counter()
        yield
        settle(self.split.x.device)
        self.counters.pruning_seconds += time.perf_counter() - start

    def _step(self) -> None:
        if (arrival := self.batches.arrival) is not None:
            self.arrivals.append(prediction(self.model, self.split, arrival))
        start = time.perf_counter()
        if isinstance(self.optimizer, GreedyMCMC):
            self._propose(self.optimizer)
        else:
            self._descend(*self._take())
        settle(self.split.x.device)  # else the seconds of this step would be what it takes to ask for it
        self.counters.step += 1
        self.counters.seconds += time.perf_counter() - start

    def _take(self) -> tuple[Tensor, Tensor]:
        """Return the next batch; of one that comes again the same tensors, by which an objective knows its caches."""
        index = self.batches.take()
        if self._batch is None or self._batch[0] is not index:
            whole = isinstance(index, slice)
            x, y = self.split.x, self.split.y
            self._batch = (index, x if whole else x[index], y if whole else y[index])
        return self._batch[1:]

    def _propose(self, chain: GreedyMCMC) -> None:
        if self.model.training:
            self.model.eval()  # a chain's loss must be a function of the parameters: no dropout, no batch statistics
        self._grow()
        fresh = self.growth is not None and self.batches.fresh
        x, y = self._take()
        loss = self._loss(x, y)
        if fresh:
            with torch.no_grad():
                self.fresh_losses.append(float(loss().double().mean()))
            self.counters.count(len(y), 1)
        chain.step(loss)
        self._counted(chain.info, len(y))

    def _counted(self, info: StepInfo | None, samples: int) -> None:
        """Count a chain's step on a batch of so many samples."""
        assert info is not None  # noqa: S101 -- a step has been made
        self.counters.count(samples, info.evaluations, info.gradients)
        self.counters.proposals += info.proposed
        self.counters.accepted += info.accepted
        self.tallies.add(info)

    def _loss(self, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
        """Return the loss of a batch as a chain wants it."""
        if self._objective is not None:
            bound: Callable[[], Tensor] = self._objective.bind(x, y)
            return bound
        parts = portions(x, y)
        return lambda: torch.cat([cross_entropies(self.model(x), y) for x, y in parts])

    def _grow(self) -> None:
        """Let the batch grow if the next one is to be drawn and the fresh losses say so."""
        size = self.batches.size
        if self.growth is None or size is None or not self.batches.fresh:
            return
        grown = self.growth.next_size(size, self.batches.n, self.fresh_losses)
        if grown > size:
            self.batches.resize(grown)
            self.fresh_losses = []

    def _descend(self, x: Tensor, y: Tensor) -> None:
        if not self.model.training:  # to tell every module so takes a tenth of a small network's step
            self.model.train()
        factor = 1.0
        if self.decay == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * self.counters.step / self.total_steps))
        if self.density_power:
            factor *= (max(nonzero(self.model), 1) / count(self.model)) ** -self.density_power
        if self.density_power or self.decay != "constant":
            for group, rate in zip(self.gradient_groups(), self._rates, strict=True):
                group["lr"] = rate * factor

        if self.augment is not None:
            x = shifted_and_mirrored(x, self.augment, self.counters.step)

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            with precision(x.device, self.bfloat16):
                loss = cross_entropy(self.model(x), y)
            loss.backward()
            if self.pruning is not None:
                self.pruning.mask_gradients()
            self.counters.count(len(y), 1, 1)
            return loss

        if isinstance(self.optimizer, Hybrid):
            self._alternate(self.optimizer, closure, x, y)
        else:
            self.optimizer.step(closure)
        if self.pruning is not None:
            with self._pruning_time():
                self.pruning.after_step(self.counters.step + 1)

    def _alternate(self, hybrid: Hybrid, closure: Callable[[], Tensor], x: Tensor, y: Tensor) -> None:
        """Make a step of a hybrid, whose chains score their proposals on a batch of their own."""
        chains = [part for part in hybrid.turns if isinstance(part, GreedyMCMC)]
        if not chains:
            hybrid.step(closure)
            return
        if self.chain_batches is not None:
            index = self.chain_batches.take()
            x, y = self.split.x[index], self.split.y[index]
        if self._objective is None:
            loss = self._loss(x, y)

            def objective() -> Tensor:
                self.model.eval()
                return loss()

            hybrid.step(closure, objective)
        else:  # traced in one mode: the gradient step before the chain's turn is made in it as well
            self.model.eval()
            hybrid.step(closure, self._loss(x, y))
        self.model.train()
        for chain in chains:
            self._counted(chain.info, len(y))

    def gradient_groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups of gradient methods, whose learning rate may decay."""
        if not isinstance(self.optimizer, Hybrid):
            return self.optimizer.param_groups
        parts = [part for part in self.optimizer.optimizers if not isinstance(part, GreedyMCMC)]
        return [group for part in parts for group in part.param_groups]
