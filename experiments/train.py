"""The one training loop, for chains and gradient methods alike.

Both get a closure.  A chain's returns one loss per sample and is called once per proposal; a gradient method's calls
`backward()`.  What either asks for is counted in one currency: evaluations of the loss, gradients, and samples that
went forward through the network.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from experiments.data import Batches, Split
from mcmcopt.optim.greedy_mcmc import GreedyMCMC
from mcmcopt.sparsity import Magnitude, apply_masks, keep_masks, weights


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
    """That went forward through the network."""
    proposals: int = 0
    accepted: int = 0
    seconds: float = 0.0
    """In optimizer steps; evaluation and writing apart."""


@dataclass
class Tally:
    """Proposals of one move on one layer since the last row of layers.csv."""

    proposed: int = 0
    accepted: int = 0


@dataclass
class Training:
    """A model on its way; all that its future depends on is in `state_dict()`.

    Args:
        model: is trained in place.
        optimizer: over the model's parameters.
        split: the training data.
        batches: their order.
        epochs: until pruning, or the end.
        prune_density: share of weights that magnitude pruning keeps after `epochs`; None: no pruning.
        prune_scope: `"layer"` or `"global"`, where that share is counted.
        finetune_epochs: afterwards, with the zeros held.
    """

    model: nn.Module
    optimizer: Optimizer
    split: Split
    batches: Batches
    epochs: int
    prune_density: float | None = None
    prune_scope: str = "layer"
    finetune_epochs: int = 0
    counters: Counters = field(default_factory=Counters)
    tallies: dict[str, dict[str, Tally]] = field(default_factory=dict)
    held: dict[str, Tensor] | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.finetune_epochs < 0:
            raise ValueError(
                f"train.epochs must be at least 1 and train.finetune_epochs at least 0, got {self.epochs} and "
                f"{self.finetune_epochs}"
            )
        if self.prune_density is None:
            if self.finetune_epochs:
                raise ValueError(f"train.finetune_epochs={self.finetune_epochs} needs train.prune_density")
        elif self.chain is not None:
            raise ValueError("train.prune_density is for gradient methods: a chain's zeros come from its prior")
        elif not 0 < self.prune_density <= 1:
            raise ValueError(f"train.prune_density must lie in (0, 1], got {self.prune_density}")
        if self.prune_scope not in ("layer", "global"):
            raise ValueError(f'train.prune_scope must be "layer" or "global", got {self.prune_scope!r}')

    @property
    def chain(self) -> GreedyMCMC | None:
        """The optimizer, if it is a chain."""
        return self.optimizer if isinstance(self.optimizer, GreedyMCMC) else None

    @property
    def total_epochs(self) -> int:
        """Epochs before and after pruning."""
        return self.epochs + self.finetune_epochs

    def run(self) -> Iterator[bool]:
        """Train to the end, yielding after each step whether it ended an epoch."""
        while self.counters.epoch < self.total_epochs:
            if self.prune_density is not None and self.held is None and self.counters.epoch >= self.epochs:
                self._prune(self.prune_density)
            index = self.batches.take()
            self._step(self.split.x[index], self.split.y[index])
            epoch_done = self.batches.position == 0
            self.counters.epoch += epoch_done
            if self.prune_density is not None and self.held is None and self.counters.epoch == self.total_epochs:
                self._prune(self.prune_density)
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
            "held": self.held,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a saved run was."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.batches.load_state_dict(state["batches"])
        self.counters = Counters(**state["counters"])
        self.tallies = {name: {m: Tally(**t) for m, t in moves.items()} for name, moves in state["tallies"].items()}
        self.held = state["held"]

    def _step(self, x: Tensor, y: Tensor) -> None:
        start = time.perf_counter()
        if self.chain is not None:
            self._propose(self.chain, x, y)
        else:
            self._descend(x, y)
        self.counters.step += 1
        self.counters.seconds += time.perf_counter() - start

    def _propose(self, chain: GreedyMCMC, x: Tensor, y: Tensor) -> None:
        self.model.eval()  # a chain's loss must be a function of the parameters: no dropout, no batch statistics
        chain.step(lambda: cross_entropies(self.model(x), y))
        info = chain.info
        assert info is not None  # noqa: S101 -- a step has been made
        self.counters.evaluations += info.evaluations
        self.counters.samples += info.evaluations * len(y)
        self.counters.proposals += info.proposed
        self.counters.accepted += info.accepted
        for name, layer in info.layers.items():
            moves = self.tallies.setdefault(name, {})
            for move, done in layer.moves.items():
                tally = moves.setdefault(move, Tally())
                tally.proposed += done.proposed
                tally.accepted += done.accepted

    def _descend(self, x: Tensor, y: Tensor) -> None:
        self.model.train()

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = cross_entropy(self.model(x), y)
            loss.backward()
            self.counters.evaluations += 1
            self.counters.gradients += 1
            self.counters.samples += len(y)
            return loss

        self.optimizer.step(closure)
        if self.held is not None:
            apply_masks(self.model, self.held)

    def _prune(self, density: float) -> None:
        self.held = keep_masks(Magnitude()(weights(self.model)), 1 - density, self.prune_scope)
        apply_masks(self.model, self.held)
