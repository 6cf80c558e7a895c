"""Blocks: the units that live and die together.

A parameter of shape (out, in, kh, kw) is seen as a matrix of out rows and in·kh·kw columns and cut into r×c tiles;
tiles at the right and lower edge may be smaller.  A scalar is a 1×1 tile, a row (a linear unit, a convolution
filter) a 1×columns tile, so that one class holds them all.  Indices are flat, in the parameter's logical order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BlockSpec: TypeAlias = Literal["scalar", "row", "filter"] | tuple[int, int]


class Tiling:
    """A parameter's partition into blocks numbered row by row.

    Args:
        shape: the parameter's shape; with fewer than two dimensions every entry is a block of its own.
        spec: `"scalar"`, `"row"`, `"filter"` (both: all weights of one output unit), or a tile `(r, c)`.

    Raises:
        ValueError: if `spec` is none of these, or a tile does not fit into the matrix.
    """

    def __init__(self, shape: Sequence[int], spec: BlockSpec = "scalar") -> None:
        check_spec(spec)
        self.shape = tuple(shape)
        self.numel = int(np.prod(self.shape, dtype=np.int64))
        self.rows = self.shape[0] if self.shape else 1
        self.columns = self.numel // self.rows if self.rows else 0
        if len(self.shape) < 2 or spec == "scalar":
            self.r, self.c = 1, 1
        elif isinstance(spec, str):
            self.r, self.c = 1, max(self.columns, 1)
        else:
            self.r, self.c = spec
            if self.r > self.rows or self.c > self.columns:
                raise ValueError(
                    f"blocks={spec!r} does not fit a parameter of shape {self.shape}, which is a matrix of "
                    f"{self.rows} x {self.columns}: use a tile no larger than that"
                )
        self.across = -(-self.columns // self.c) if self.numel else 0
        self.count = -(-self.rows // self.r) * self.across
        if self.count >= 2**31:
            raise ValueError(f"a parameter of shape {self.shape} has {self.count} blocks; 2**31 - 1 are possible")

    @property
    def scalar(self) -> bool:
        """Whether every block is a single entry, so that block numbers are flat indices."""
        return self.r == self.c == 1

    def size(self, block: int) -> int:
        """Return the number of entries of a block."""
        if self.scalar:
            return 1
        i, j = divmod(block, self.across)
        return min(self.r, self.rows - i * self.r) * min(self.c, self.columns - j * self.c)

    def indices(self, block: int) -> Tensor:
        """Return the flat indices of a block's entries, int64 on the CPU, ascending."""
        if self.scalar:
            return torch.from_numpy(np.array((block,), dtype=np.int64))  # half the time of torch.tensor
        i, j = divmod(block, self.across)
        top, left = i * self.r, j * self.c
        height, width = min(self.r, self.rows - top), min(self.c, self.columns - left)
        start = top * self.columns + left
        if height == 1:
            return torch.arange(start, start + width)
        return (torch.arange(height).unsqueeze(1) * self.columns + torch.arange(start, start + width)).view(-1)

    def sample_entry(self, block: int, rng: np.random.Generator) -> int:
        """Return the flat index of one entry of a block, drawn uniformly."""
        if self.scalar:
            return block
        i, j = divmod(block, self.across)
        top, left = i * self.r, j * self.c
        width = min(self.c, self.columns - left)
        y, x = divmod(int(rng.integers(self.size(block))), width)
        return (top + y) * self.columns + left + x

    def sums(self, values: Tensor) -> Tensor:
        """Return the sum over each block (count,) of a flat tensor of the parameter's entries."""
        if self.scalar:
            return values
        rows = torch.arange(self.rows).div(self.r, rounding_mode="floor") * self.across
        blocks = rows.unsqueeze(1) + torch.arange(self.columns).div(self.c, rounding_mode="floor")
        return torch.zeros(self.count, dtype=values.dtype).index_add_(0, blocks.view(-1), values)

    def expand(self, active: NDArray[np.bool_]) -> Tensor:
        """Return the boolean tensor of the parameter's shape that is True on the active blocks."""
        mask = torch.from_numpy(np.ascontiguousarray(active, dtype=np.bool_))
        if self.scalar:
            return mask.reshape(self.shape)
        tiles = mask.view(-1, self.across)
        tiles = tiles.repeat_interleave(self.r, 0)[: self.rows].repeat_interleave(self.c, 1)[:, : self.columns]
        return tiles.reshape(self.shape)


def check_spec(spec: BlockSpec) -> None:
    """Raise ValueError unless `spec` describes blocks."""
    if isinstance(spec, str):
        valid = spec in ("scalar", "row", "filter")
    else:
        valid = isinstance(spec, tuple) and len(spec) == 2
        valid = valid and all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in spec)
    if not valid:
        raise ValueError(f'blocks must be "scalar", "row", "filter" or a tile (r, c) with r, c >= 1, got {spec!r}')
