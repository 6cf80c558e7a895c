"""Data sets as whole tensors, split by a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images (n, channels, height, width), floats in [0, 1] or uint8, and int64 labels (n,)."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def first(self, n: int | None) -> Split:
        """Return the first n samples, or all."""
        return self if n is None else Split(self.x[:n], self.y[:n])


@dataclass(frozen=True)
class Data:
    """Training data train, validation data (which may be empty) choose settings, test data report."""

    train: Split
    validation: Split
    test: Split


def portions(x: Tensor, y: Tensor, values: int = 2**20) -> list[tuple[Tensor, Tensor]]:
    """Return images and labels cut into portions of at most so many values, to go through a network one by one.

    Activations then stay near the processor: a convolution of 4,096 images at once takes 1.7 times as long.
    """
    size = max(1, values // x[0].numel())
    return list(zip(x.split(size), y.split(size), strict=True))


def divided(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    n_train: int | None,
    n_validation: int,
    seed: int,
) -> Data:
    """Return images and int64 labels as tensors, the training images divided as `drawn` says."""
    x, y = train
    chosen = drawn(len(y), n_train, n_validation, seed)
    return Data(*(_split(x[part], y[part]) for part in chosen), _split(*test))


def drawn(n: int, n_train: int | None, n_validation: int, seed: int) -> tuple[Any, Any]:
    """Return what selects training and validation images among n: a random draw, or all in their order.

    Args:
        n_train: size of the training part; None: all that validation leaves.
        n_validation: size of the validation part, which may be 0.
        seed: of the draw.

    Raises:
        ValueError: if the parts do not fit or the training part is empty.
    """
    if n_validation < 0:
        raise ValueError(f"data.n_validation must be at least 0, got {n_validation}")
    rest = n - n_validation
    if rest < 1 or not 1 <= (n_train := rest if n_train is None else n_train) <= rest:
        raise ValueError(
            f"data.n_train={n_train} and data.n_validation={n_validation} do not fit: there are {n} training images, "
            "and the training part needs at least 1"
        )
    if n_train == n:
        return slice(None), slice(0)
    order = np.random.default_rng([seed, n]).permutation(n)
    return order[n_validation : n_validation + n_train], order[:n_validation]


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


def _split(x: np.ndarray, y: np.ndarray) -> Split:
    return Split(torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y))


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
