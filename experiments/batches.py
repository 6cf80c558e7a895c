"""The order in which batches are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.data import Split

EVERYTHING = slice(None)
"""The full batch; one object, so that who takes it twice sees that nothing has changed."""


class Batches:
    """Index batches in an order of their own, which a checkpoint continues in the middle of an epoch.

    Args:
        n: number of samples.
        size: of a batch; the last of an epoch may be smaller.  None: one batch of everything, always in one order.
        seed: of the order.
        repeats: how often each batch is taken before the next one.
        name: of the setting that gave the size, for messages.
    """

    def __init__(self, n: int, size: int | None, seed: int, repeats: int = 1, name: str = "train.batch_size") -> None:
        if size is not None and not 1 <= size <= n:
            raise ValueError(f"{name} must lie in 1..{n}, or null for the full batch, got {size}")
        if repeats < 1:
            raise ValueError(f"train.steps_per_batch must be at least 1, got {repeats}")
        self.n, self.size, self.repeats = n, size, repeats
        self.generator = torch.Generator().manual_seed(seed)
        self.position = 0
        self.taken = 0
        """How often the batch at `position` has been taken."""
        self._start = self.generator.get_state()
        self._order: list[Tensor] = []

    @property
    def per_epoch(self) -> int:
        """Number of times that a batch is taken in an epoch."""
        return self.repeats * self._count

    @property
    def epoch_done(self) -> bool:
        """Whether the batch taken last ended an epoch; true at the start."""
        return self.position == self.taken == 0

    @property
    def fresh(self) -> bool:
        """Whether the next batch taken is another one than the last."""
        return self.size is not None and self.taken == 0

    @property
    def arrival(self) -> slice | None:
        """What arrives before the next batch, where data arrive while a run goes on (experiments.stream)."""
        return None

    def take(self) -> Tensor | slice:
        """Return the indices of the next batch, the same object each time that it is repeated."""
        if self.epoch_done:
            self._start = self.generator.get_state()
            self._draw()
        batch = EVERYTHING if self.size is None else self._order[self.position]
        self.taken = (self.taken + 1) % self.repeats
        if self.taken == 0:
            self.position = (self.position + 1) % self._count
        return batch

    def resize(self, size: int) -> None:
        """Draw batches of another size from now on, in a new pass; from n on, the full batch."""
        self.size = None if size >= self.n else size
        self.position = self.taken = 0

    def state_dict(self) -> dict[str, Any]:
        """Return size, the generator's state, and where in an epoch begun, with the state at its start."""
        return {
            "size": self.size,
            "generator": self.generator.get_state(),
            "start": self._start,
            "position": self.position,
            "taken": self.taken,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where another one was."""
        self.size, self._start = state["size"], state["start"]
        self.position, self.taken = state["position"], state["taken"]
        self.generator.set_state(self._start)
        if not self.epoch_done:
            self._draw()
        self.generator.set_state(state["generator"])

    @property
    def _count(self) -> int:
        return 1 if self.size is None else -(-self.n // self.size)

    def _draw(self) -> None:
        if self.size is not None:
            self._order = list(torch.randperm(self.n, generator=self.generator).split(self.size))


class Draws:
    """Batches by number, in passes of random order of their own: what pruning criteria are computed on.

    Args:
        split: of which samples are drawn.
        seed: of the orders.
    """

    def __init__(self, split: Split, seed: int) -> None:
        self.split, self.seed = split, seed

    def __call__(self, number: int, size: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a batch, all if there are no more; batches of one pass have none in common."""
        n = len(self.split)
        size = min(size, n)
        run, place = divmod(number, n // size)
        order = torch.from_numpy(np.random.default_rng((self.seed, run)).permutation(n))
        index = order[place * size : (place + 1) * size].to(self.split.x.device)
        return self.split.x[index], self.split.y[index]
