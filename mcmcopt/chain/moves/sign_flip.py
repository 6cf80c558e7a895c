"""Sign flip: w'_j = -w_j for k active entries drawn uniformly; log q(back)/q(forth) = 0.

For binary weights ±c it is a complete sampler; the slabs are symmetric, so the prior does not change either.
"""

from __future__ import annotations

import numpy as np
import torch

from mcmcopt.chain.layer import Edit, Kind, Layer
from mcmcopt.chain.moves.base import Edits
from mcmcopt.chain.moves.random_walk import RandomWalk


class SignFlip(RandomWalk):
    """The signs of k active entries change.

    Args:
        k: how many entries flip, each from an active block drawn uniformly, all different.
        weight: relative frequency.
    """

    def __init__(self, k: int = 1, weight: float = 1.0) -> None:
        super().__init__(k, weight=weight)
        self.labels = (f"flip(k={k})",)

    def draw(self, layer: Layer, scale: float, rng: np.random.Generator) -> Edits | None:
        """Return one walk edit with the signs changed, or None where no block is active; `scale` plays no part."""
        if layer.active == 0:
            return None
        indices = self._choose(layer, rng)
        old = layer.read(indices)
        new = -old
        return None if torch.equal(old, new) else (Edit(layer, Kind.WALK, -1, indices, old, new),)

    def adapt(self, log_scale: float, t: int, edits: Edits, accepted: bool, unit: float) -> float | None:
        """Return None: a flip has no scale."""
        return None
