"""Which blocks of a layer are active, with uniform draws from either kind at a cost of O(1).

`order` is a permutation of the blocks whose first k entries are the active ones, and `position` is its inverse.
A birth or a death swaps two entries.  The permutation is part of the state: two chains with the same mask but a
different order would draw different blocks from the same random numbers.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Support:
    """The set of active blocks among `size`.

    Args:
        order: int32 tensor (size,), a permutation of the blocks, active ones first; shared, changed in place.
        count: int64 tensor (), the number of active blocks; shared, changed in place.

    Raises:
        ValueError: if `order` is no permutation or `count` is out of range.
    """

    def __init__(self, order: Tensor, count: Tensor) -> None:
        self.order: NDArray[np.int32] = order.numpy()
        self.size = len(self.order)
        self.active = int(count)  # k, the number of active blocks
        self._count: NDArray[np.int64] = count.numpy()
        if not 0 <= self.active <= self.size:
            raise ValueError(f"the number of active blocks must lie in 0..{self.size}, got {self.active}")
        self.position = np.full(self.size, -1, dtype=np.int32)
        inside = self.order[(self.order >= 0) & (self.order < self.size)]
        self.position[inside] = np.arange(len(inside), dtype=np.int32)
        if len(inside) != self.size or (self.position < 0).any():
            raise ValueError(f"order must be a permutation of the {self.size} blocks")

    @staticmethod
    def full(size: int) -> tuple[Tensor, Tensor]:
        """Return the (order, count) tensors of a support with every block active."""
        return torch.arange(size, dtype=torch.int32), torch.tensor(size)

    def is_active(self, block: int) -> bool:
        """Return whether a block is active."""
        return bool(self.position[block] < self.active)

    def draw_active(self, rng: np.random.Generator) -> int:
        """Return an active block drawn uniformly; there must be one."""
        return int(self.order[rng.integers(self.active)])

    def draw_inactive(self, rng: np.random.Generator) -> int:
        """Return an inactive block drawn uniformly; there must be one."""
        return int(self.order[rng.integers(self.active, self.size)])

    def activate(self, block: int) -> int:
        """Make an inactive block active and return what `restore` needs to undo that."""
        return self._exchange(block, self.active, self.active + 1)

    def deactivate(self, block: int) -> int:
        """Make an active block inactive and return what `restore` needs to undo that."""
        return self._exchange(block, self.active - 1, self.active - 1)

    def restore(self, block: int, came_from: int) -> None:
        """Undo the last `activate` or `deactivate`, the permutation included."""
        self._exchange(block, came_from, self.active - 1 if self.is_active(block) else self.active + 1)

    def mask(self) -> NDArray[np.bool_]:
        """Return a boolean array (size,), True for active blocks."""
        return self.position < self.active

    def _exchange(self, block: int, target: int, active: int) -> int:
        here, other = int(self.position[block]), int(self.order[target])
        self.order[here], self.order[target] = other, block
        self.position[other], self.position[block] = here, target
        self.active = active
        self._count[()] = active
        return here
