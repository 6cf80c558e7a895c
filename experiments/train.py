"""The one training loop, for chains and gradient methods alike.

Both get a closure.  A chain's returns one loss per sample and is called once per proposal, or is an objective that
recomputes only what a proposal changes; a gradient method's calls `backward()`.  What either asks for is counted in one
currency: evaluations of the loss, gradients, and samples that went forward through the network.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from experiments.batches import Batches
from experiments.data import Split, portions
from experiments.device import settle
from experiments.growth import Growth
from mcmcopt.optim.greedy_mcmc import GreedyMCMC
from mcmcopt.sparsity import Pruner, weights


def cross_entropies(logits: Tensor, y: Tensor) -> Tensor:
    """Return each sample's cross-entropy: `F.cross_entropy(reduction="none")` without its array of log-probabilities.

    On one thread and few classes the loss takes as long as the rest of a small network; this form is 2-3 times faster.
    """
    return logits.logsumexp(1) - logits.gather(1, y.unsqueeze(1)).squeeze(1)


@dataclass
class Counters:
    """What a run has used so far."""

    step: int = 0
    epoch: int = 0
    evaluations: int = 0
    """Of the loss of one batch; a gradient step counts as one."""
    gradients: int = 0
    samples: int = 0
    """That went forward through the network; an evaluation counts in full, also where only a part is recomputed."""
    proposals: int = 0
    accepted: int = 0
    seconds: float = 0.0
    """In optimizer steps; evaluation and writing apart."""
    row_seconds: float = 0.0
    """Those of the last row of metrics.csv."""


@dataclass
class Tally:
    """Proposals of one move on one layer since the last row of layers.csv."""

    proposed: int = 0
    accepted: int = 0


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
        growth: how a chain's batch grows; None: it does not.
        incremental: whether a chain's proposals are scored for what they change alone.
        refresh_steps: steps after which an incremental objective computes all afresh; a checkpoint can be taken there.
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
    growth: Growth | None = None
    incremental: bool = False
    refresh_steps: int = 10
    counters: Counters = field(default_factory=Counters)
    tallies: dict[str, dict[str, Tally]] = field(default_factory=dict)
    fresh_losses: list[float] = field(default_factory=list)
    """Of the batches since the last growth, each before the first proposal there."""

    def __post_init__(self) -> None:
        self._check_length()
        if self.chain is not None and (self.pruning is not None or self.decay != "constant"):
            raise ValueError(
                "train.pruning and train.decay are for gradient methods: a chain's zeros come from its prior, its "
                "proposal scales adapt. Leave them null and constant"
            )
        if self.decay not in ("constant", "cosine"):
            raise ValueError(f'train.decay must be "constant" or "cosine", got {self.decay!r}')
        if self.max_seconds is not None and (self.pruning is not None or self.decay != "constant"):
            raise ValueError("train.pruning and train.decay count in steps of a known number: no train.max_seconds")
        if self.chain is None and (self.incremental or self.growth is not None):
            raise ValueError("train.incremental and train.growth are for chains: leave them false and null")
        if self.refresh_steps < 1:
            raise ValueError(f"train.refresh_steps must be at least 1, got {self.refresh_steps}")
        self._batch: tuple[Tensor | slice, Tensor, Tensor] | None = None
        self._objective: Any = None
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        if self.pruning is not None:
            self.pruning.begin(self.model, self.optimizer, self.total_steps)
        if self.incremental:
            from mcmcopt import IncrementalLoss

            self._objective = IncrementalLoss(self.model, nn.CrossEntropyLoss())

    def _check_length(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                f"exactly one of train.epochs and train.steps must be given, got {self.epochs} and {self.steps}: set "
                "the other one to null"
            )
        length = self.epochs if self.steps is None else self.steps
        if length is None or length < 1:
            raise ValueError(f"train.epochs or train.steps must be at least 1, got {length}")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"train.max_seconds must be larger than 0, or null, got {self.max_seconds}")

    @property
    def chain(self) -> GreedyMCMC | None:
        """The optimizer, if it is a chain."""
        return self.optimizer if isinstance(self.optimizer, GreedyMCMC) else None

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
        while not self.done:
            self._step()
            epoch_done = self.batches.epoch_done
            self.counters.epoch += epoch_done
            if self._objective is not None and self.resumable:
                self._objective.forget()
            yield epoch_done

    def layer_rows(self) -> list[dict[str, Any]]:
        """Return the rows of layers.csv since the last call: by layer and move, for gradients by layer."""
        step, info = self.counters.step, None if self.chain is None else self.chain.info
        if info is None:
            return [
                {"step": step, "layer": name, "active": int(w.detach().count_nonzero()), "size": w.numel()}
                for name, w in weights(self.model).items()
            ]
        rows = []
        for name, layer in info.layers.items():
            size = {"step": step, "layer": name, "active": layer.active_entries, "size": layer.size}
            rows += [
                {
                    **size,
                    "move": move,
                    "proposed": t.proposed,
                    "accepted": t.accepted,
                    "acceptance": t.accepted / t.proposed,
                }
                for move, t in sorted(self.tallies.get(name, {}).items())
                if t.proposed
            ] or [size]
        self.tallies.clear()
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Return all that continues the run bit for bit: tensors, numbers and strings."""
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "batches": self.batches.state_dict(),
            "counters": asdict(self.counters),
            "tallies": {name: {move: asdict(t) for move, t in moves.items()} for name, moves in self.tallies.items()},
            "pruning": None if self.pruning is None else self.pruning.state_dict(),
            "fresh_losses": self.fresh_losses,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a saved run was."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.batches.load_state_dict(state["batches"])
        self.counters = Counters(**state["counters"])
        self.tallies = {name: {m: Tally(**t) for m, t in moves.items()} for name, moves in state["tallies"].items()}
        self.fresh_losses = state["fresh_losses"]
        if self.pruning is not None:
            self.pruning.load_state_dict(state["pruning"])

    def _step(self) -> None:
        start = time.perf_counter()
        if self.chain is not None:
            self._propose(self.chain)
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
            self._count(1, len(y))
        chain.step(loss)
        info = chain.info
        assert info is not None  # noqa: S101 -- a step has been made
        self._count(info.evaluations, len(y))
        self.counters.proposals += info.proposed
        self.counters.accepted += info.accepted
        for name, layer in info.layers.items():
            moves = self.tallies.setdefault(name, {})
            for move, done in layer.moves.items():
                tally = moves.setdefault(move, Tally())
                tally.proposed += done.proposed
                tally.accepted += done.accepted

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

    def _count(self, evaluations: int, samples: int) -> None:
        self.counters.evaluations += evaluations
        self.counters.samples += evaluations * samples

    def _descend(self, x: Tensor, y: Tensor) -> None:
        if not self.model.training:  # to tell every module so takes a tenth of a small network's step
            self.model.train()
        if self.decay == "cosine":
            share = self.counters.step / self.total_steps
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * share))

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = cross_entropy(self.model(x), y)
            loss.backward()
            if self.pruning is not None:
                self.pruning.mask_gradients()
            self._count(1, len(y))
            self.counters.gradients += 1
            return loss

        self.optimizer.step(closure)
        if self.pruning is not None:
            self.pruning.after_step(self.counters.step + 1)
