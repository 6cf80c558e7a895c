"""Data sets as whole tensors, split by a seed, and the order in which batches are drawn from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images (n, channels, height, width) in [0, 1] and int64 labels (n,)."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Data:
    """Training data train, validation data choose settings, test data report."""

    train: Split
    validation: Split
    test: Split


def digits(n_train: int, n_validation: int, n_test: int, stratified: bool, seed: int) -> Data:
    """Return scikit-learn's 1,797 digits of 8x8 pixels, divided by 16, in a random split that the seed fixes.

    Args:
        n_train, n_validation, n_test: sizes; what is left over is not used.
        stratified: whether each part has the classes in the proportions of the whole, to within one sample a class.
        seed: of the split alone.

    Raises:
        ValueError: for a part below 1 or more samples than there are.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    sizes = {"n_train": n_train, "n_validation": n_validation, "n_test": n_test}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"data.{name} must be at least 1, got {size}")
    if sum(sizes.values()) > len(labels):
        raise ValueError(f"{sizes} are {sum(sizes.values())} samples together, the digits are {len(labels)}")
    order = _order(labels, stratified, np.random.default_rng([seed, len(labels)]))
    x = torch.from_numpy((images / 16).astype(np.float32)).view(-1, 1, 8, 8)
    y = torch.from_numpy(labels.astype(np.int64))
    parts, start = [], 0
    for size in sizes.values():
        index = torch.from_numpy(order[start : start + size])
        parts.append(Split(x[index], y[index]))
        start += size
    return Data(*parts)


def _order(labels: np.ndarray, stratified: bool, rng: np.random.Generator) -> np.ndarray:
    """Return a random order of the samples; stratified, one of which every stretch has the classes' proportions."""
    order = rng.permutation(len(labels))
    if not stratified:
        return order
    # Each class is spread evenly over [0, 1); sorting by that place deals the classes out in proportion.
    place = np.empty(len(labels))
    for label in np.unique(labels):
        own = order[labels[order] == label]
        place[own] = (np.arange(len(own)) + rng.random()) / len(own)
    return np.argsort(place, kind="stable")


class Batches:
    """Index batches in an order of their own, which a checkpoint continues in the middle of an epoch.

    Args:
        n: number of samples.
        size: of a batch; the last of an epoch may be smaller.  None: one batch of everything, always in one order.
        seed: of the order.
    """

    def __init__(self, n: int, size: int | None, seed: int) -> None:
        if size is not None and not 1 <= size <= n:
            raise ValueError(f"train.batch_size must lie in 1..{n}, or null for the full batch, got {size}")
        self.n, self.size = n, size
        self.generator = torch.Generator().manual_seed(seed)
        self.position = 0
        self._start = self.generator.get_state()
        self._order: list[Tensor] = []

    @property
    def per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return 1 if self.size is None else -(-self.n // self.size)

    def take(self) -> Tensor | slice:
        """Return the indices of the next batch; `position` is 0 again after the last one of an epoch."""
        if self.position == 0:
            self._start = self.generator.get_state()
            self._draw()
        batch = slice(None) if self.size is None else self._order[self.position]
        self.position = (self.position + 1) % self.per_epoch
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state, and where in an epoch begun, with the state at its start."""
        return {"generator": self.generator.get_state(), "start": self._start, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where another one was."""
        self._start, self.position = state["start"], state["position"]
        self.generator.set_state(self._start)
        if self.position:
            self._draw()
        self.generator.set_state(state["generator"])

    def _draw(self) -> None:
        if self.size is not None:
            self._order = list(torch.randperm(self.n, generator=self.generator).split(self.size))
