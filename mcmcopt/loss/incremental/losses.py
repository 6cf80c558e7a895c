"""The loss of a model's outputs: cross-entropy and squared error by kernels, any other by calling it.

A loss with reduction "mean" is returned in float64, summed in float64 over the samples; with "none" as one loss per
sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mcmcopt.loss.incremental.layout import Major, Rows
from mcmcopt.loss.objective import as_loss

LossFunction = Callable[[Tensor, Any], Tensor]


class Head(ABC):
    """The loss of one batch as a function of the stored outputs.

    Args:
        backend: the layout of stored outputs.
    """

    lower_bound = -float("inf")

    def __init__(self, backend: Major) -> None:
        self.backend = backend

    @abstractmethod
    def whole(self, outputs: Tensor) -> tuple[Tensor, Any]:
        """Return the loss of outputs in the backend's layout, and what `rows` may go on from."""

    def rows(self, outputs: Tensor, rows: Rows, state: Any) -> tuple[Tensor, Any]:
        """Return the same for outputs of which some rows are replaced.

        Args:
            outputs: the present ones.
            rows: the replaced ones.
            state: what was returned with the present loss.
        """
        data = self.backend.merged(outputs, rows)
        result = self.whole(data)
        self.backend.buffers.give(data)
        return result


class CrossEntropy(Head):
    """Cross-entropy of logits (samples, classes) with class labels; the mean, in float64."""

    lower_bound = 0.0

    def __init__(self, backend: Major, labels: Tensor) -> None:
        super().__init__(backend)
        self._labels = backend.prepare_labels(labels)

    def whole(self, outputs: Tensor) -> tuple[Tensor, Any]:
        """See the base class."""
        return self.backend.cross_entropy(outputs, self._labels)

    def rows(self, outputs: Tensor, rows: Rows, state: Any) -> tuple[Tensor, Any]:
        """Two exponentials a sample and changed class, instead of one for every class."""
        rows = Rows(rows.features, 1, rows.data)  # a class is a feature, whatever it was before it was flattened
        return self.backend.cross_entropy_rows(outputs, rows, self._labels, state)


class CrossEntropies(CrossEntropy):
    """One cross-entropy per sample, in float64."""

    def whole(self, outputs: Tensor) -> tuple[Tensor, Any]:
        """See the base class."""
        return self.backend.cross_entropies(outputs, self._labels), None

    rows = Head.rows


class SquaredError(Head):
    """Mean over all entries of (outputs - targets)²."""

    lower_bound = 0.0

    def __init__(self, backend: Major, targets: Tensor) -> None:
        super().__init__(backend)
        self._targets, self._count = backend.store(targets.to(backend.dtype)), targets.numel()

    def whole(self, outputs: Tensor) -> tuple[Tensor, Any]:
        """Return the sum of squares by output, in float64, as state."""
        sums = self._squares(outputs, self._targets)
        return sums.sum() / self._count, sums

    def rows(self, outputs: Tensor, rows: Rows, state: Any) -> tuple[Tensor, Any]:
        """Sum the squares of the changed outputs alone."""
        features = rows.features
        sums = state.index_copy(0, features, self._squares(rows.data, self._targets.index_select(1, features)))
        return sums.sum() / self._count, sums

    def _squares(self, outputs: Tensor, targets: Tensor) -> Tensor:
        error = (outputs - targets).square_()
        if self.backend.tiled and (spare := error.shape[0] * error.shape[2] - self.backend.n):
            error[-1, :, error.shape[2] - spare :] = 0  # the last tile's spare samples
        return error.sum(tuple(d for d in range(error.dim()) if d != 1), dtype=torch.float64)


class AnyLoss(Head):
    """Any loss, called on the outputs as torch knows them."""

    def __init__(self, loss_fn: LossFunction, backend: Major, shape: tuple[int, ...], y: Any) -> None:
        super().__init__(backend)
        self._loss_fn, self._shape, self._y = loss_fn, shape, y

    def whole(self, outputs: Tensor) -> tuple[Tensor, Any]:
        """Return what the function returns."""
        return as_loss(self._loss_fn(self.backend.major(outputs, self._shape).clone(), self._y)), None


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
        return (CrossEntropy if reduction == "mean" else CrossEntropies)(backend, y)
    if _plain_squared_error(loss_fn) and isinstance(y, Tensor) and y.shape == (backend.n, *shape):
        return SquaredError(backend, y)
    return AnyLoss(loss_fn, backend, shape, y)


def _plain_cross_entropy(loss_fn: LossFunction) -> str:
    if type(loss_fn) is nn.CrossEntropyLoss and loss_fn.weight is None and loss_fn.label_smoothing == 0:
        return loss_fn.reduction if loss_fn.ignore_index < 0 else ""
    return "mean" if loss_fn is functional.cross_entropy else ""


def _plain_squared_error(loss_fn: LossFunction) -> bool:
    return loss_fn is functional.mse_loss or (type(loss_fn) is nn.MSELoss and loss_fn.reduction == "mean")


def _labels(y: Any, n: int, classes: int) -> bool:
    """Whether y holds a class for each sample; ignored ones (-100) are left to torch."""
    if not isinstance(y, Tensor) or y.dtype is not torch.int64 or y.shape != (n,) or n == 0:
        return False
    return int(y.min()) >= 0 and int(y.max()) < classes
