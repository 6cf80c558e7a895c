"""The loss of a model's outputs: cross-entropy and squared error by kernels, any other by calling it.

A loss with reduction "mean" is returned in float64, summed in float64 over the samples; with "none" as one loss per
sample.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from mcmcopt.loss.incremental.layout import Major
from mcmcopt.loss.objective import as_loss

LossFunction = Callable[[Tensor, Any], Tensor]


class Head(Protocol):
    """The loss of one batch as a function of the stored outputs."""

    lower_bound: float

    def __call__(self, outputs: Tensor) -> Tensor:
        """Return the loss of outputs in the backend's layout."""


class CrossEntropy:
    """Cross-entropy of logits (samples, classes) with class labels."""

    lower_bound = 0.0

    def __init__(self, backend: Major, labels: Tensor, mean: bool) -> None:
        self._backend, self._mean, self._labels = backend, mean, backend.prepare_labels(labels)

    def __call__(self, outputs: Tensor) -> Tensor:
        """Return the mean, or one per sample, in float64."""
        if self._mean:
            return self._backend.cross_entropy(outputs, self._labels)
        return self._backend.cross_entropies(outputs, self._labels)


class SquaredError:
    """Mean over all entries of (outputs - targets)²."""

    lower_bound = 0.0

    def __init__(self, backend: Major, targets: Tensor) -> None:
        self._targets, self._count = backend.store(targets.to(backend.dtype)), targets.numel()

    def __call__(self, outputs: Tensor) -> Tensor:
        """Return the mean in float64; spare samples of the last tile are 0 on both sides."""
        error = outputs - self._targets
        return error.square_().sum(dtype=torch.float64) / self._count


class AnyLoss:
    """Any loss, called on the outputs as torch knows them."""

    lower_bound = -float("inf")

    def __init__(self, loss_fn: LossFunction, backend: Major, shape: tuple[int, ...], y: Any) -> None:
        self._loss_fn, self._backend, self._shape, self._y = loss_fn, backend, shape, y

    def __call__(self, outputs: Tensor) -> Tensor:
        """Return what the function returns."""
        return as_loss(self._loss_fn(self._backend.major(outputs, self._shape), self._y))


def make_head(loss_fn: LossFunction, backend: Major, shape: tuple[int, ...], y: Any) -> Head:
    """Return the loss of a batch.

    Args:
        loss_fn: of (outputs, y).
        backend: the layout of stored outputs.
        shape: of one sample's output.
        y: the targets.
    """
    reduction = _plain_cross_entropy(loss_fn)
    if reduction in ("mean", "none") and len(shape) == 1 and _labels(y, backend.n, shape[0]):
        return CrossEntropy(backend, y, reduction == "mean")
    if _plain_squared_error(loss_fn) and isinstance(y, Tensor) and y.shape == (backend.n, *shape):
        return SquaredError(backend, y)
    return AnyLoss(loss_fn, backend, shape, y)


def _plain_cross_entropy(loss_fn: LossFunction) -> str:
    if type(loss_fn) is nn.CrossEntropyLoss and loss_fn.weight is None and loss_fn.label_smoothing == 0:
        return loss_fn.reduction
    return "mean" if loss_fn is functional.cross_entropy else ""


def _plain_squared_error(loss_fn: LossFunction) -> bool:
    return loss_fn is functional.mse_loss or (type(loss_fn) is nn.MSELoss and loss_fn.reduction == "mean")


def _labels(y: Any, n: int, classes: int) -> bool:
    """Whether y holds a class for each sample; ignored ones (-100) are left to torch."""
    if not isinstance(y, Tensor) or y.dtype is not torch.int64 or y.shape != (n,) or n == 0:
        return False
    return int(y.min()) >= 0 and int(y.max()) < classes


def describe(loss_fn: LossFunction) -> str:
    """Return what warnings call a loss."""
    if isinstance(loss_fn, nn.Module):
        return type(loss_fn).__name__
    return getattr(loss_fn, "__name__", type(loss_fn).__name__) if not inspect.isclass(loss_fn) else loss_fn.__name__
