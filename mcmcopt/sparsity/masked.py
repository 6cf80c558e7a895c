"""Training with zeros held: what one-shot pruning, gradual pruning and rewiring have in common.

A weight whose mask m is off stays exactly zero under any optimizer: its gradient is masked before the step, so that
moments and weight decay have nothing to move, and the weight itself after the step, which takes back what momentum of
before its pruning still moves:

    g ← m ⊙ g,    w ← m ⊙ step(w, g)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mcmcopt.sparsity.criteria import Batch, LossFn
from mcmcopt.sparsity.freeze import forget
from mcmcopt.sparsity.masks import apply_masks, weights

Source: TypeAlias = Callable[[int, int], Batch]
"""Inputs and targets from the number of a draw and that of samples: the same for the same two numbers."""


class Pruner(ABC):
    """Masks that change while a gradient method trains.

    In the order of a training step: `begin` once, then after each backward pass `mask_gradients()`, and after each
    optimizer step `after_step(t)` with t = 1, 2, …, the number of steps made.

    Between them the caller leaves parameters' `.grad` alone; one backward pass, one step.
    """

    def __init__(self) -> None:
        self.masks: dict[str, Tensor] = {}
        """True where a weight may differ from zero, by the weights' names; empty before the first pruning."""
        self.steps = 0
        self.draws = 0
        """Batches that criteria have been given so far."""
        self._loss_fn: LossFn | None = None
        self._source: Source | None = None
        self._model: nn.Module | None = None
        self._optimizer: Optimizer | None = None

    def begin(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        steps: int,
        loss_fn: LossFn | None = None,
        source: Source | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Take hold of a model that is about to be trained for so many steps; some prune it here and now.

        Args:
            loss_fn: mean loss of a batch, for criteria that look at it.
            source: where they get batches.
            state: of a run that is to go on: nothing is scored or drawn again.

        Raises:
            ValueError: for fewer than 1 step, or a model without linear or convolutional layers; if weights are scored
                now, whatever the criterion raises.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if not weights(model):
            raise ValueError(f"model {type(model).__name__} has no linear or convolutional layer, so nothing to prune")
        self._model, self._optimizer, self.steps, self.masks = model, optimizer, steps, {}
        self._loss_fn, self._source, self.draws = loss_fn, source, 0
        if state is None:
            self._begun()
        else:
            self.load_state_dict(state)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of the weights that are off to zero."""
        for name, mask in self.masks.items():
            grad = self._weights[name].grad
            if grad is not None:
                grad.masked_fill_(~mask, 0.0)  # inf or nan times 0 would be nan

    @torch.no_grad()
    def after_step(self, t: int) -> None:
        """Update the masks if step t asks for it, and put weights that are off back to zero."""
        self._update(t)
        if self.masks:
            apply_masks(self._bound_model, self.masks)

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes: the masks, and how many batches criteria have seen."""
        return {"masks": {name: mask.clone() for name, mask in self.masks.items()}, "draws": self.draws}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with saved masks; after `begin`.

        Raises:
            ValueError: if they are not those of this model's weights.
        """
        own = self._weights
        masks: dict[str, Tensor] = dict(state["masks"])
        if masks and {n: m.shape for n, m in masks.items()} != {n: w.shape for n, w in own.items()}:
            raise ValueError(f"the saved masks are of {', '.join(masks)}, the model's weights are {', '.join(own)}")
        self.masks = {name: mask.to(own[name].device, torch.bool, copy=True) for name, mask in masks.items()}
        self.draws = state.get("draws", 0)

    def _begun(self) -> None:  # noqa: B027 -- most have nothing to do
        """Do what is to be done before the first step."""

    @abstractmethod
    def _update(self, t: int) -> None:
        """Change `masks` if step t asks for it."""

    @property
    def _bound_model(self) -> nn.Module:
        if self._model is None:
            raise RuntimeError(f"{type(self).__name__}.begin(model, optimizer, steps) comes first")
        return self._model

    @property
    def _weights(self) -> dict[str, nn.Parameter]:
        return weights(self._bound_model)

    def _forget(self, name: str, where: Tensor) -> None:
        """Set an optimizer's memory of some entries of a weight to zero: momentum, moments."""
        assert self._optimizer is not None  # noqa: S101 -- begin has set it
        forget(self._optimizer, self._weights[name], where)

    def _batches(self, number: int, size: int) -> list[Batch]:
        """Return fresh batches for a criterion; none where `begin` was given no source."""
        if self._source is None:
            return []
        self.draws += number
        return [self._source(self.draws - number + i, size) for i in range(number)]

    def __repr__(self) -> str:
        own = {k: v for k, v in vars(self).items() if k not in ("masks", "steps", "draws") and not k.startswith("_")}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in own.items())})"
