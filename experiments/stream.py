"""Data that arrive once, in order, and change half-way: predict a chunk, then learn from what a fixed memory holds.

    regret(n) = Σ_{t ≤ n} ℓ_t(w_t) - Σ_{t ≤ n} ℓ_t(w*),   w* one fixed network, trained on the whole stream in hindsight

ℓ_t(w_t) is the loss of sample t under the network before that sample was learnt from (prequential: Dawid 1984).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from experiments.batches import Batches
from experiments.data import Data, Split

CHANGES = ("rotate", "labels", "none")
CLASSES = 10
"""Of every data set here."""

ONLY = {
    "epochs": (1, "data arrive once"),
    "steps": (None, "train.stream.steps says how many follow a chunk"),
    "max_seconds": (None, "all data must arrive"),
    "steps_per_batch": (1, "each step draws from the memory afresh"),
    "growth": (None, "the memory says what there is to draw from"),
    "chain_batch_size": (None, "it would be drawn from samples that have not arrived"),
}
"""Settings of train that must have one value in a stream, and why."""


@dataclass(frozen=True)
class Stream:
    """How data arrive: what the configuration says under `train.stream`.

    Args:
        chunk: samples that arrive together.
        memory: samples that are kept, the last ones.
        steps: of the optimizer after each chunk.
        change: at the middle of the stream, images turn by 90 degrees (`"rotate"`), every class takes the next one's
            label (`"labels"`), or nothing happens (`"none"`).
        hindsight_epochs: of Adam over the whole stream for the network that regret is taken to.

    Raises:
        ValueError: for a setting out of range.
    """

    chunk: int
    memory: int
    steps: int
    change: str = "rotate"
    hindsight_epochs: int = 200

    def __post_init__(self) -> None:
        for name in ("chunk", "memory", "steps", "hindsight_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.stream.{name} must be at least 1, got {getattr(self, name)}")
        if self.memory < self.chunk:
            raise ValueError(f"train.stream.memory={self.memory} must hold a chunk of {self.chunk}")
        if self.change not in CHANGES:
            raise ValueError(f"train.stream.change must be one of {', '.join(CHANGES)}, got {self.change!r}")


def chosen(train: Mapping[str, Any]) -> Stream | None:
    """Return the stream that the settings of `train` ask for, None where data are passed over as often as one likes.

    Raises:
        ValueError: naming a setting that has no meaning in a stream.
    """
    if train["stream"] is None:
        return None
    for name, (value, why) in ONLY.items():
        if train[name] != value:
            raise ValueError(
                f"train.{name} must be {'null' if value is None else value} with train.stream, got {train[name]}: {why}"
            )
    return Stream(**train["stream"])


class StreamBatches(Batches):
    """Batches of a stream: after each chunk, so many from the samples that the memory holds.

    Args:
        stream: how data arrive.
        n: samples of the stream.
        size: of a batch, drawn from the memory without replacement; None: all that it holds.
        seed: of the draws.

    Raises:
        ValueError: if there is no chunk on either side of the middle, or a batch is larger than the memory.
    """

    def __init__(self, stream: Stream, n: int, size: int | None, seed: int) -> None:
        if 2 * stream.chunk > n:
            raise ValueError(f"train.stream.chunk must be at most half of the {n} training samples, got {stream.chunk}")
        if size is not None and not 1 <= size <= stream.memory:
            raise ValueError(f"train.batch_size must lie in 1..{stream.memory} (train.stream.memory), got {size}")
        super().__init__(n, min(size or stream.memory, n), seed, stream.steps)
        self.stream = stream
        self._held = torch.arange(0)

    @property
    def arrival(self) -> slice | None:
        """The chunk that arrives before the next batch, if one does."""
        if self.taken:
            return None
        start = self.position * self.stream.chunk
        return slice(start, min(start + self.stream.chunk, self.n))

    def take(self) -> Tensor:
        """Return the indices of the next batch; the same object while it is all that the memory holds."""
        end = min((self.position + 1) * self.stream.chunk, self.n)
        start = max(0, end - self.stream.memory)
        if len(self._held) == 0 or (int(self._held[0]), int(self._held[-1]) + 1) != (start, end):
            self._held = torch.arange(start, end)
        batch = self._held
        if self.size is not None and self.size < len(batch):
            batch = batch[torch.randperm(len(batch), generator=self.generator)[: self.size]]
        self.taken = (self.taken + 1) % self.repeats
        if self.taken == 0:
            self.position = (self.position + 1) % self._count
        return batch

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where another one was."""
        self.size, self.position, self.taken = state["size"], state["position"], state["taken"]
        self.generator.set_state(state["generator"])

    @property
    def _count(self) -> int:
        return -(-self.n // self.stream.chunk)


def changed(data: Data, stream: Stream) -> Data:
    """Return the data of a stream: the second half of training, and validation and test, after the change.

    Raises:
        ValueError: if images are to turn that are not square.
    """
    if stream.change == "rotate" and data.train.x.shape[2] != data.train.x.shape[3]:
        raise ValueError(
            f'train.stream.change="rotate" is for square images, got {tuple(data.train.x.shape[2:])}: choose "labels"'
        )
    half = len(data.train) // 2
    late = _after(Split(data.train.x[half:], data.train.y[half:]), stream.change)
    x, y = torch.cat((data.train.x[:half], late.x)), torch.cat((data.train.y[:half], late.y))
    return Data(Split(x, y), _after(data.validation, stream.change), _after(data.test, stream.change))


def _after(split: Split, change: str) -> Split:
    if change == "rotate":
        return Split(split.x.rot90(1, (2, 3)).contiguous(), split.y)
    if change == "labels":
        return Split(split.x, (split.y + 1) % CLASSES)
    return split


@torch.no_grad()
def prediction(model: nn.Module, split: Split, chunk: slice) -> dict[str, float]:
    """Return the summed loss (nats) and the errors of a chunk under the present network, and where it ends."""
    model.eval()
    x, y = split.x[chunk], split.y[chunk]
    logits = model(x)
    errors = int((logits.argmax(1) != y).sum())
    return {"seen": chunk.stop, "loss": float(cross_entropy(logits.double(), y, reduction="sum")), "errors": errors}


def with_hindsight(
    rows: list[dict[str, float]], initial: nn.Module, split: Split, stream: Stream, seed: int
) -> list[dict[str, Any]]:
    """Return the rows of stream.csv: those of the learner, with the losses of one network fixed in hindsight.

    Args:
        rows: by chunk, of `prediction`.
        initial: the network before training; a copy is trained.
        split: the stream.
        stream: how it arrived.
        seed: of the order of batches.
    """
    best = fixed(initial, split, stream.hindsight_epochs, seed)
    found, start = [], 0
    for row in rows:
        own = prediction(best, split, slice(start, int(row["seen"])))
        found.append({**row, "hindsight_loss": own["loss"], "hindsight_errors": own["errors"]})
        start = int(row["seen"])
    return found


def totals(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return what summary.json says of a stream: nats and errors of the learner before and after the change, regret.

    A chunk that has the middle of the stream inside counts as after it.
    """
    half = rows[-1]["seen"] // 2
    before, after = ([r for r in rows if (r["seen"] <= half) == early] for early in (True, False))
    return {
        "stream_loss": sum(r["loss"] for r in rows),
        "stream_loss_before": sum(r["loss"] for r in before),
        "stream_loss_after": sum(r["loss"] for r in after),
        "stream_errors_before": sum(r["errors"] for r in before),
        "stream_errors_after": sum(r["errors"] for r in after),
        "stream_hindsight_loss": sum(r["hindsight_loss"] for r in rows),
        "stream_hindsight_errors": sum(r["hindsight_errors"] for r in rows),
        "stream_regret": sum(r["loss"] - r["hindsight_loss"] for r in rows),
    }


def fixed(initial: nn.Module, split: Split, epochs: int, seed: int) -> nn.Module:
    """Return one network trained on the whole stream, by Adam with batches of 64 and a rate that falls to 0."""
    model = copy.deepcopy(initial).train()
    order = Batches(len(split), min(64, len(split)), seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    steps = epochs * order.per_epoch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        index = order.take()
        optimizer.zero_grad()
        cross_entropy(model(split.x[index]), split.y[index]).backward()
        optimizer.step()
        schedule.step()
    return model
