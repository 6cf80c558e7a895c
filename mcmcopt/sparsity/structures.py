"""Structures: tiles, filters and units of a weight, which are pruned as one.

A weight of shape (out, in, kh, kw) is seen as a matrix of out rows and in·kh·kw columns.  A structure is an r×c tile of
it (Narang, Undersander and Diamos, 2017) or a whole row: a filter of a convolution, a unit of a linear layer (Li et
al., 2017), or all columns of one input: the weights that leave a unit or channel of the layer before (Mozer and
Smolensky, 1988).  All are tiles as the chain's blocks are, numbered as there (mcmcopt/chain/blocks.py), and a
structure's score is the mean of its entries' scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from mcmcopt.chain.blocks import Tiling


def tiling(shape: Sequence[int], structure: str, block: tuple[int, int]) -> Tiling:
    """Return a weight's partition into tiles ("block"), rows ("filter") or columns of one input ("unit").

    A tile larger than the matrix is cut to it.
    """
    if structure == "filter" or len(shape) < 2 or 0 in shape:
        return Tiling(shape, "filter")
    if structure == "unit":
        return Tiling(shape, (max(shape[0], 1), max(torch.Size(shape[2:]).numel(), 1)))
    rows, columns = shape[0], max(torch.Size(shape[1:]).numel(), 1)
    return Tiling(shape, (min(block[0], max(rows, 1)), min(block[1], columns)))


def check_block(block: tuple[int, int]) -> tuple[int, int]:
    """Return a tile, or raise ValueError unless it is a pair of integers of at least 1."""
    valid = isinstance(block, tuple) and len(block) == 2
    if not (valid and all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in block)):
        raise ValueError(f"block must be a tile (rows, columns) of integers of at least 1, got {block!r}")
    return block


def means(values: Tensor, tiles: Tiling) -> Tensor:
    """Return the mean of a weight's values over each structure, by its number: float64 on the CPU."""
    return _sums(values, tiles) / _sums(torch.ones(tiles.shape), tiles)


def touched(marked: Tensor, tiles: Tiling) -> Tensor:
    """Return which structures have a marked entry, by their numbers: booleans on the CPU."""
    return _sums(marked, tiles) > 0


def numbers(tiles: Tiling) -> Tensor:
    """Return the number of the structure that each entry belongs to, in the weight's shape."""
    down = torch.arange(tiles.rows).div(tiles.r, rounding_mode="floor").unsqueeze(1)
    return (down * tiles.across + torch.arange(tiles.columns) // tiles.c).view(tiles.shape)


def _sums(values: Tensor, tiles: Tiling) -> Tensor:
    matrix = values.detach().to("cpu", torch.float64).reshape(tiles.rows, tiles.columns)
    down = tiles.count // tiles.across if tiles.across else 0
    missing = (0, tiles.across * tiles.c - tiles.columns, 0, down * tiles.r - tiles.rows)
    return pad(matrix, missing).view(down, tiles.r, tiles.across, tiles.c).sum((1, 3)).flatten()
