"""A point of the chain: where the weights are, which blocks are active, and the gradient of the loss there.

Informed moves ask for it twice: at the present state, and at the state that a proposal would lead to, which is the
present one with the proposal's edits laid over it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcmcopt.chain.layer import Edit, Kind, Layer


class Point:
    """What an informed move may look at.

    Args:
        lam: inverse temperature λ.
        gradients: of the mean loss by parameter, each of the parameter's shape; or a function that returns them, which
            is called when a move asks for one.
        edits: laid over the layers' present state; none for the present itself.
    """

    def __init__(
        self,
        lam: float,
        gradients: Mapping[Tensor, Tensor] | Callable[[], Mapping[Tensor, Tensor]],
        edits: tuple[Edit, ...] = (),
    ) -> None:
        self.lam, self._gradients, self._edits = lam, gradients, edits

    def values(self, layer: Layer) -> Tensor:
        """Return all weights of a layer, flat, float64 on the CPU; a copy."""
        values = layer.values.reshape(-1).to("cpu", torch.float64, copy=True)
        own = [edit for edit in self._edits if edit.layer is layer]
        if own:  # in one write: a proposal may have thousands of edits
            values[torch.cat([edit.indices for edit in own])] = torch.cat([edit.new for edit in own])
        return values

    def gradient(self, layer: Layer) -> Tensor:
        """Return the gradient of the mean loss, flat, float64 on the CPU."""
        if callable(self._gradients):
            self._gradients = self._gradients()
        return self._gradients[layer.param].reshape(-1).to("cpu", torch.float64)

    def active(self, layer: Layer) -> NDArray[np.bool_]:
        """Return which blocks of a layer are active; a copy."""
        if layer.support is None:
            return np.ones(layer.tiling.count, dtype=np.bool_)
        active = layer.support.mask()
        for edit in self._edits:
            if edit.layer is layer and edit.kind is not Kind.WALK:
                active[edit.block] = edit.kind is Kind.BIRTH
        return active

    def active_entries(self, layer: Layer) -> Tensor:
        """Return which entries of a layer are active, a flat boolean tensor."""
        return layer.tiling.expand(self.active(layer)).reshape(-1)
