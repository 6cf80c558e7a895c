"""Pruning criteria: a score for each weight; the lowest scores are pruned first.

Magnitude()     |w|                                  Janowsky (1989), Han et al. (2015)
Random(seed)    independent uniforms, the control that any criterion has to beat
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class Criterion(Protocol):
    """What a pruning criterion provides."""

    @property
    def name(self) -> str:
        """The name under which records list it."""

    def __call__(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return one score per weight, by the weights' names and in their shapes."""


class Magnitude:
    """The absolute value of each weight."""

    name = "magnitude"

    def __call__(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return |w| in each weight's shape and dtype."""
        return {name: weight.detach().abs() for name, weight in weights.items()}

    def __repr__(self) -> str:
        return "Magnitude()"


class Random:
    """Independent uniform scores from a generator of their own; the same seed and shapes give the same scores."""

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be an integer of at least 0, got {seed!r}")
        self.seed = seed

    def __call__(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return float64 uniforms in each weight's shape, on its device, whatever the weights' values."""
        generator = torch.Generator().manual_seed(self.seed)
        return {
            name: torch.rand(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)
            for name, weight in weights.items()
        }

    def __repr__(self) -> str:
        return f"Random(seed={self.seed})"
