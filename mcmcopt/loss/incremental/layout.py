"""How activations are stored, and what a proposal's changed ones are called.

A stored activation is a tensor whose dimension 1 counts features: (samples, features) in the `Major` layout of torch,
(tiles, features, 64) in the sample-minor `Tiles` of the CPU kernels.  Dimension 1 alone is ever indexed, so most
rules need not know which it is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mcmcopt.loss.kernels import reference
from mcmcopt.loss.kernels.reference import Geometry, expand


class Codes(NamedTuple):
    """An activation kept as integers: value = code · scale + shift, both by channel."""

    data: Tensor
    scale: Tensor  # (channels,)
    shift: Tensor


class Rows(NamedTuple):
    """Some channels of an activation with new values.

    Attributes:
        ids: int64 (k,), ascending; channel i holds the features i · size … (i + 1) · size - 1.
        size: features per channel.
        data: k · size features, in the activation's layout.
    """

    ids: Tensor
    size: int
    data: Tensor

    @property
    def features(self) -> Tensor:
        """The features' numbers, int64 (k · size,)."""
        return expand(self.ids, self.size)


class Full(NamedTuple):
    """All of an activation, or any other value, anew."""

    data: Any


Patch = Rows | Full | None
"""What a proposal makes of a value; None leaves it as it is."""


class Softmax(NamedTuple):
    """The state of a batch's cross-entropy, in tiles; see the kernel `cross_entropy`."""

    top: Tensor
    total: Tensor
    base: Tensor


class Buffers:
    """Memory used again: fresh pages from the operating system cost more than many a kernel.

    Args:
        limit: bytes that are kept for later; beyond it all that is free goes back to the system.
    """

    def __init__(self, limit: int = 2**28) -> None:
        self.limit, self._held = limit, 0
        self._free: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)

    def take(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return an uninitialised tensor."""
        free = self._free[(*shape, dtype)]
        if free:
            tensor = free.pop()
            self._held -= tensor.nbytes
        else:
            tensor = torch.empty(tuple(shape), dtype=dtype, device=device)
        tensor.from_buffers = True  # type: ignore[attr-defined] # views and other tensors lack it
        return tensor

    def give(self, tensor: Tensor) -> None:
        """Take back what `take` returned; tensors from elsewhere, which may be views, are left alone."""
        if getattr(tensor, "from_buffers", False):
            tensor.from_buffers = False  # type: ignore[attr-defined]
            if self._held + tensor.nbytes > self.limit:
                self._free.clear()
                self._held = 0
            self._held += tensor.nbytes
            self._free[(*tensor.shape, tensor.dtype)].append(tensor)


class Major:
    """Activations as (samples, features), on any device and in any floating dtype, by torch operations.

    Args:
        n: samples.
        dtype, device: of the activations.
    """

    tiled = False

    def __init__(self, n: int, dtype: torch.dtype, device: torch.device) -> None:
        self.n, self.dtype, self.device = n, dtype, device
        self.buffers = Buffers()

    def shape(self, features: int) -> tuple[int, ...]:
        """Return the shape of a stored activation."""
        return (self.n, features)

    def empty(self, features: int) -> Tensor:
        """Return memory for features."""
        return self.buffers.take(self.shape(features), self.dtype, self.device)

    def allocate(self, features: int, dtype: torch.dtype) -> Tensor:
        """Return uninitialised memory for a cache."""
        return torch.empty(self.shape(features), dtype=dtype, device=self.device)

    def store(self, major: Tensor) -> Tensor:
        """Return (samples, …) in this layout."""
        return major.reshape(self.n, -1)

    def store_codes(self, major: Tensor) -> Tensor:
        """Return integers (samples, …) as `conv_rows` decodes them."""
        return self.store(major)

    def write(self, target: Tensor, major: Tensor, first: int) -> None:
        """Write samples `first`, `first` + 1, … into stored memory."""
        target[first : first + len(major)] = major.reshape(len(major), -1)

    def major(self, data: Tensor, shape: Sequence[int]) -> Tensor:
        """Return a stored activation as (samples, *shape)."""
        return data.view(self.n, *shape)

    def column(self, per_feature: Tensor) -> Tensor:
        """Return a vector over features so that it broadcasts."""
        return per_feature

    def linear_rows(
        self,
        source: Tensor,
        rows: Tensor,
        weight: Tensor,
        *,
        old: Tensor | None = None,
        base: Tensor | None = None,
        base_rows: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """See `reference.linear_rows`."""
        return reference.linear_rows(source, rows, weight, old=old, base=base, base_rows=base_rows, bias=bias)

    def linear_all(self, source: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the whole linear map."""
        return torch.nn.functional.linear(source, weight, bias)

    def conv_rows(
        self,
        source: Tensor,
        channels: Tensor,
        weight: Tensor,
        geometry: Geometry,
        *,
        old: Tensor | None = None,
        base: Tensor | None = None,
        base_rows: Tensor | None = None,
        bias: Tensor | None = None,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        """See `reference.conv_rows`."""
        return reference.conv_rows(
            source,
            channels,
            weight,
            geometry,
            old=old,
            base=base,
            base_rows=base_rows,
            bias=bias,
            scale=scale,
            shift=shift,
        )

    def relu(self, data: Tensor) -> Tensor:
        """Return max(x, 0)."""
        return torch.relu(data)

    def put(self, target: Tensor, rows: Rows) -> None:
        """Overwrite the features of `rows` in stored memory."""
        target.index_copy_(1, rows.features, rows.data)

    def merged(self, cached: Tensor, rows: Rows) -> Tensor:
        """Return a copy of stored memory with the features of `rows` overwritten."""
        data = cached.clone()
        self.put(data, rows)
        return data

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Softmax | None]:
        """Return the mean cross-entropy in float64, and what `cross_entropy_rows` goes on from, if anything."""
        return reference.cross_entropy(logits, labels).mean(), None

    def cross_entropy_rows(
        self, logits: Tensor, rows: Rows, labels: Tensor, state: Softmax | None
    ) -> tuple[Tensor, Softmax | None]:
        """Return what `cross_entropy` would with the logits of some classes replaced."""
        return self.cross_entropy(self.merged(logits, rows), labels)

    def cross_entropies(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return each sample's cross-entropy in float64."""
        return reference.cross_entropy(logits, labels)

    def prepare_labels(self, labels: Tensor) -> Tensor:
        """Return labels as the two methods above take them."""
        return labels


def features_of(shape: Sequence[int]) -> int:
    """Return the number of features of a sample's shape."""
    return math.prod(shape)
