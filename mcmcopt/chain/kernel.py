"""The mixture of moves on one layer: which move is tried, at which scale, and how the scale learns."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mcmcopt.chain.layer import Layer
from mcmcopt.chain.moves import AnyMove, Edits, InformedMove

Snapshot: TypeAlias = tuple[NDArray[np.float64], NDArray[np.int64], tuple[Tensor, Tensor] | None]

Learned: TypeAlias = tuple[float, int]
"""The adapted log-scale of a move and the number of its adaptations as they were before it learnt."""


class Kernel:
    """One layer and the moves that apply to it, chosen with constant probabilities.

    Args:
        layer: the layer.
        moves: all moves of its group; those that do not apply to the layer are never chosen.
        log_scale: float64 tensor (moves,), the adapted part of each move's log-scale; shared, changed in place.
        adaptations: int64 tensor (moves,), how often each was adapted; shared, changed in place.
    """

    def __init__(self, layer: Layer, moves: Sequence[AnyMove], log_scale: Tensor, adaptations: Tensor) -> None:
        self.layer, self.moves = layer, moves
        self._log_scale: NDArray[np.float64] = log_scale.numpy()
        self._adaptations: NDArray[np.int64] = adaptations.numpy()
        self.choices = [i for i, move in enumerate(moves) if layer.support is not None or not move.changes_support]
        self._cumulative = list(accumulate(moves[i].weight for i in self.choices))

    @property
    def informed(self) -> bool:
        """Whether a move that may be chosen needs the gradient."""
        return any(isinstance(self.moves[i], InformedMove) for i in self.choices)

    def choose(self, u: float) -> int:
        """Return the number of the move that a uniform u in [0, 1) selects."""
        return self.choices[bisect_right(self._cumulative, u * self._cumulative[-1])]

    def scale(self, move: int, lr: float) -> float:
        """Return a move's proposal scale, lr · rms · exp(adapted part)."""
        return lr * self.layer.rms * math.exp(self._log_scale[move])

    def adapt(self, move: int, lr: float, edits: Edits, accepted: bool) -> Learned | None:
        """Learn from a decision and return what `forget` needs to undo that, None where nothing was learnt."""
        log_scale, t = self._log_scale.item(move), self._adaptations.item(move)
        unit = lr * edits[0].layer.rms  # of a move over several layers the first edit is not always on the kernel's own
        adapted = self.moves[move].adapt(log_scale, t, edits, accepted, unit)
        if adapted is None:
            return None
        self._log_scale[move] = adapted
        self._adaptations[move] = t + 1
        return log_scale, t

    def forget(self, move: int, learned: Learned) -> None:
        """Undo the last `adapt` of a move."""
        self._log_scale[move], self._adaptations[move] = learned

    def snapshot(self) -> Snapshot:
        """Return a copy of the adaptation's state."""
        moments = self.layer.moments
        return self._log_scale.copy(), self._adaptations.copy(), None if moments is None else moments.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot."""
        self._log_scale[:], self._adaptations[:] = snapshot[:2]
        if self.layer.moments is not None and snapshot[2] is not None:
            self.layer.moments.restore(snapshot[2])
