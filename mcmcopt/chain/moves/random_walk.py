"""Random walk within the active weights: w'_j = w_j + σ ξ_j with symmetric ξ, so log q(back)/q(forth) = 0.

Which entries move is drawn from the mask alone, which the move leaves as it is: that choice cancels too.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mcmcopt.chain import adapt
from mcmcopt.chain.layer import Edit, Kind, Layer
from mcmcopt.chain.moves.base import Edits, Move
from mcmcopt.chain.random import distinct

Noise = Literal["normal", "student_t", "uniform"]
STUDENT_T_DF = 3.0


class RandomWalk(Move):
    """A symmetric step of some active weights of a layer (Metropolis et al. 1953).

    Args:
        k: how many entries move, each from an active block drawn uniformly, all different (all entries if the layer
            has fewer active blocks than k); None moves one whole active block.
        noise: `"normal"`, `"student_t"` (3 degrees of freedom) or `"uniform"` on ±√3; unit scale each.
        weight: relative frequency.
    """

    def __init__(self, k: int | None = None, noise: Noise = "normal", weight: float = 1.0) -> None:
        super().__init__(weight)
        if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
            raise ValueError(f"k must be an integer of at least 1, or None for a whole block, got {k!r}")
        if noise not in ("normal", "student_t", "uniform"):
            raise ValueError(f'noise must be "normal", "student_t" or "uniform", got {noise!r}')
        self.k, self.noise = k, noise
        options = [f"k={k}"] * (k is not None) + [noise] * (noise != "normal")
        self.labels = (f"walk({', '.join(options)})" if options else "walk",)

    def draw(self, layer: Layer, scale: float, rng: np.random.Generator) -> Edits | None:
        """Return one walk edit, or None where no block is active or the scale is 0."""
        if scale == 0.0 or layer.active == 0:
            return None
        indices = self._choose(layer, rng)
        old = layer.read(indices)
        new = layer.representable(old + torch.from_numpy(scale * self._sample(indices.shape[0], rng)))
        return (Edit(layer, Kind.WALK, -1, indices, old, new),)

    def log_q_ratio(self, edits: Edits, scale: float) -> float:
        """Return 0: the step is symmetric."""
        return 0.0

    def adapt(self, log_scale: float, t: int, edits: Edits, accepted: bool, unit: float) -> float | None:
        """Steer towards 0.44 accepted for one coordinate, 0.234 for several (Roberts and Rosenthal 2001)."""
        return adapt.towards_acceptance(log_scale, t, accepted, 0.44 if edits[0].indices.shape[0] == 1 else 0.234)

    def _choose(self, layer: Layer, rng: np.random.Generator) -> torch.Tensor:
        support, tiling = layer.support, layer.tiling
        if self.k is None:
            return tiling.indices(int(rng.integers(tiling.count)) if support is None else support.draw_active(rng))
        blocks: NDArray[np.int64] = distinct(layer.active, self.k, rng)
        if support is not None:
            blocks = support.order[blocks].astype(np.int64)
        if tiling.scalar:
            return torch.from_numpy(blocks)
        return torch.tensor([tiling.sample_entry(int(block), rng) for block in blocks])

    def _sample(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        if self.noise == "normal":
            return rng.standard_normal(n)
        if self.noise == "student_t":
            return rng.standard_t(STUDENT_T_DF, n)
        return rng.uniform(-(3**0.5), 3**0.5, n)

    def _options(self) -> str:
        return ", ".join(
            ([] if self.k is None else [f"k={self.k}"]) + ([] if self.noise == "normal" else [f"noise={self.noise!r}"])
        )
