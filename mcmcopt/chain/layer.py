"""A layer: one parameter tensor with its blocks, its active set and its prior; and the edits proposed on it.

An edit names entries of one layer with their present and proposed values.  Values are float64 on the CPU and
always exactly representable in the parameter's dtype, so that ratios are those of the numbers really stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from mcmcopt.chain.blocks import Tiling
from mcmcopt.chain.inclusion import Inclusion
from mcmcopt.chain.moments import Moments
from mcmcopt.chain.slabs import Slab
from mcmcopt.chain.support import Support


class Layer:
    """One parameter tensor in the chain.

    Args:
        name: what reports call it.
        param: the parameter; only the optimizer writes it.
        tiling: its partition into blocks.
        slab: the density of its active entries.
        inclusion: the prior on its active blocks, or None for a dense layer.
        support: its active blocks, or None for a dense layer.
        rms: its initial root-mean-square, the unit of its proposal scales.
    """

    __slots__ = (
        "_written",
        "group",
        "inclusion",
        "moments",
        "name",
        "param",
        "pool",
        "rms",
        "slab",
        "support",
        "tiling",
        "values",
    )

    def __init__(
        self,
        name: str,
        param: Tensor,
        tiling: Tiling,
        slab: Slab,
        inclusion: Inclusion | None,
        support: Support | None,
        rms: float,
    ) -> None:
        self.name, self.param, self.tiling, self.slab = name, param, tiling, slab
        self.inclusion, self.support, self.rms = inclusion, support, rms
        self.pool: Sequence[Layer] = (self,)  # the layers whose active blocks the inclusion prior counts together
        self.group: Sequence[Layer] = (self,)  # the layers of its parameter group
        self.moments: Moments | None = None  # running mean of squared gradients, where a move goes by it
        self.values = param.detach()
        self._written: tuple[int, int] | None = None  # storage and version as the chain last left them

    @property
    def active(self) -> int:
        """The number of active blocks."""
        return self.tiling.count if self.support is None else self.support.active

    @property
    def active_entries(self) -> int:
        """The number of entries in active blocks; O(1) where all blocks have one size."""
        tiling = self.tiling
        if self.support is None:
            return tiling.numel
        if tiling.rows % tiling.r == 0 and tiling.columns % tiling.c == 0:
            return self.support.active * tiling.r * tiling.c
        return int(self.mask().sum())

    def mask(self) -> Tensor:
        """Return the boolean tensor of the parameter's shape, on the CPU, True where active."""
        if self.support is None:
            return torch.ones(self.tiling.shape, dtype=torch.bool)
        return self.tiling.expand(self.support.mask())

    def refresh(self) -> None:
        """Follow the parameter to wherever its storage is now.

        Raises:
            ValueError: if somebody else wrote non-zero weights where the layer is inactive.  Writes through
                `.data` leave no trace and are not seen.
        """
        self.values = self.param.detach()
        if self.support is None or self._written == (self.values.data_ptr(), self.param._version):
            return
        if bool(self.values[~self.mask().to(self.values.device)].any()):
            raise ValueError(
                f"parameter {self.name!r} has non-zero weights where mask(...) is False: it was written by something "
                "else. Load the optimizer's state together with the model's, or multiply the weights by the mask"
            )

    def mark_written(self) -> None:
        """Remember that what the parameter holds now is the chain's own work."""
        self._written = (self.values.data_ptr(), self.param._version)

    def read(self, indices: Tensor) -> Tensor:
        """Return the present values at flat CPU indices, float64 on the CPU."""
        values = self.values
        if values.is_cpu:
            return values.take(indices).double()
        return values.take(indices.to(values.device)).to("cpu", torch.float64)

    def representable(self, values: Tensor) -> Tensor:
        """Return float64 values rounded to the nearest ones that the parameter's dtype can store."""
        dtype = self.values.dtype
        return values if dtype is torch.float64 else values.type(dtype).double()


class Kind(Enum):
    """What an edit does to its entries."""

    WALK = "walk"  # active before and after
    BIRTH = "birth"  # a whole block, inactive before
    DEATH = "death"  # a whole block, inactive after


class Edit(NamedTuple):
    """A proposed change of some entries of one layer.

    Attributes:
        layer: the layer.
        kind: what happens to the block.
        block: the block born or dead; -1 for a walk, or the entry of an informed flip.
        indices: flat indices, int64 (m,) on the CPU, all different.
        old: present values, float64 (m,).
        new: proposed values, float64 (m,).
    """

    layer: Layer
    kind: Kind
    block: int
    indices: Tensor
    old: Tensor
    new: Tensor

    def reversed(self) -> Edit:
        """Return the edit that leads back."""
        kind = {Kind.BIRTH: Kind.DEATH, Kind.DEATH: Kind.BIRTH, Kind.WALK: Kind.WALK}[self.kind]
        return Edit(self.layer, kind, self.block, self.indices, self.new, self.old)
