"""Activations in tiles of 64 samples, (tiles, features, 64): what the numba kernels work on, on CPUs, in float32/64.

A filter's output over one tile stays in the first-level cache while it is computed; a feature of a tile is one or a
few cache lines, so that a proposal reads no more than the features that it needs.  The last tile may be part empty:
its spare samples are zeros that nothing reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcmcopt.loss.incremental.layout import Major, Rows, Softmax
from mcmcopt.loss.kernels import conv, linear, softmax
from mcmcopt.loss.kernels import rows as moves
from mcmcopt.loss.kernels.memory import TILE
from mcmcopt.loss.kernels.micro import RUN
from mcmcopt.loss.kernels.reference import Geometry, cross_entropy
from mcmcopt.loss.kernels.threads import over_tiles

SMALL = 20_000
"""Weights of a matrix below which the own kernel is faster than torch's batched product."""
_NO_IDS = np.empty(0, np.int64)


class Tiles(Major):
    """Activations as (tiles, features, 64).

    Args:
        n: samples.
        dtype: float32 or float64.
    """

    tiled = True

    def __init__(self, n: int, dtype: torch.dtype) -> None:
        super().__init__(n, dtype, torch.device("cpu"))
        self.tiles = -(-n // TILE)
        self._nothing = torch.empty((self.tiles, 0, TILE), dtype=dtype).numpy()

    def shape(self, features: int) -> tuple[int, ...]:
        """Return the shape of a stored activation."""
        return (self.tiles, features, TILE)

    def store(self, major: Tensor) -> Tensor:
        """Return (samples, …) in this layout."""
        flat = major.reshape(self.n, -1)
        data = torch.empty(self.shape(flat.shape[1]), dtype=flat.dtype)
        self.write(data, flat, 0)
        return data

    def store_codes(self, major: Tensor) -> Tensor:
        """Return integers (samples, …) as `conv_rows` decodes them: runs of 16 samples by themselves."""
        data = self.store(major)
        return data.view(self.tiles, -1, TILE // RUN, RUN).transpose(1, 2).contiguous().view(data.shape)

    def write(self, target: Tensor, major: Tensor, first: int) -> None:
        """Write samples `first` (a multiple of 64), `first` + 1, … into stored memory."""
        flat = major.reshape(len(major), -1).contiguous()
        tiles = -(-len(flat) // TILE)
        part = target[first // TILE : first // TILE + tiles]
        over_tiles(moves.transpose_in, tiles, 4 * flat.numel(), flat.numpy(), part.numpy())

    def major(self, data: Tensor, shape: Sequence[int]) -> Tensor:
        """Return a stored activation as (samples, *shape), a copy."""
        return data.transpose(1, 2).reshape(self.tiles * TILE, -1)[: self.n].view(self.n, *shape)

    def column(self, per_feature: Tensor) -> Tensor:
        """Return a vector over features so that it broadcasts."""
        return per_feature.unsqueeze(1)

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
        outputs, n = weight.shape
        out = self._start(outputs, 1, base, base_rows, bias)
        w = weight.numpy()
        if old is None and (outputs < 4 or 2 * np.count_nonzero(w) < w.size):
            arguments = (source.numpy(), rows.numpy(), np.ascontiguousarray(w), out.numpy())
            over_tiles(linear.linear_taps, self.tiles, float(np.count_nonzero(w)) * self.n, *arguments)
            return out
        transposed = np.zeros((n, -(-outputs // 4) * 4), w.dtype)
        transposed[:, :outputs] = w.T
        if old is None:
            ids, subtracted, subtracted_ids = rows.numpy(), self._nothing, _NO_IDS
        else:
            ids, subtracted, subtracted_ids = np.arange(n), old.numpy(), rows.numpy()
        over_tiles(
            linear.linear_dense,
            self.tiles,
            w.size * self.n,
            source.numpy(),
            ids,
            subtracted,
            subtracted_ids,
            transposed,
            out.numpy(),
        )
        return out

    def linear_all(self, source: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the whole linear map."""
        if weight.numel() < SMALL:
            return self.linear_rows(source, torch.arange(weight.shape[1]), weight, bias=bias)
        out = self.empty(len(weight))
        torch.matmul(weight, source, out=out)
        return out if bias is None else out.add_(bias.unsqueeze(1))

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
        per = geometry.out[0] * geometry.out[1]
        out = self._start(len(weight), per, base, base_rows, bias)
        w = np.ascontiguousarray(weight.numpy())
        a = np.ones(len(channels), w.dtype) if scale is None else scale.numpy()
        b = np.zeros(len(channels), w.dtype) if shift is None else shift.numpy()
        sizes = (*geometry.size, *geometry.out, *geometry.stride, *geometry.padding, *geometry.dilation)
        if old is None:
            ids, subtracted, subtracted_ids = channels.numpy(), self._nothing, _NO_IDS
        else:
            ids, subtracted, subtracted_ids = np.arange(len(channels)), old.numpy(), channels.numpy()
        over_tiles(
            conv.conv_taps,
            self.tiles,
            float(np.count_nonzero(w) * per + 1) * self.n,
            source.numpy(),
            ids,
            subtracted,
            subtracted_ids,
            a,
            b,
            w,
            np.array(sizes, np.int64),
            int(scale is not None),
            out.numpy(),
        )
        return out

    def relu(self, data: Tensor) -> Tensor:
        """Return max(x, 0)."""
        out = self.empty(data.shape[1])
        over_tiles(moves.relu_rows, self.tiles, data.numel(), data.numpy(), out.numpy())
        return out

    def put(self, target: Tensor, rows: Rows) -> None:
        """Overwrite the features of `rows` in stored memory."""
        arguments = (rows.data.numpy(), rows.features.numpy(), target.numpy())
        over_tiles(moves.put_rows, self.tiles, rows.data.numel(), *arguments)

    def merged(self, cached: Tensor, rows: Rows) -> Tensor:
        """Return a copy of stored memory with the features of `rows` overwritten."""
        data = self._start(cached.shape[1], 1, cached, None, None)
        self.put(data, rows)
        return data

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Softmax | None]:
        """Return the mean cross-entropy in float64, and what `cross_entropy_rows` goes on from."""
        if self.dtype is not torch.float32:
            return self.cross_entropies(logits, labels).mean(), None
        state, sums = self._softmax(), np.empty(self.tiles)
        arguments = (*(part.numpy() for part in state), sums, self.n)
        over_tiles(softmax.cross_entropy, self.tiles, logits.numel() * 4, logits.numpy(), labels.numpy(), *arguments)
        return torch.tensor(sums.sum() / self.n, dtype=torch.float64), state

    def cross_entropy_rows(
        self, logits: Tensor, rows: Rows, labels: Tensor, state: Softmax | None
    ) -> tuple[Tensor, Softmax | None]:
        """Return what `cross_entropy` would with the logits of some classes replaced."""
        if state is None or 2 * len(rows.ids) > logits.shape[1]:
            data = self.merged(logits, rows)
            result = self.cross_entropy(data, labels)
            self.buffers.give(data)
            return result
        new, sums = self._softmax(), np.empty(self.tiles)
        over_tiles(
            softmax.cross_entropy_rows,
            self.tiles,
            rows.data.numel() * 12,
            logits.numpy(),
            rows.ids.numpy(),
            rows.data.numpy(),
            labels.numpy(),
            *(part.numpy() for part in state),
            *(part.numpy() for part in new),
            sums,
            self.n,
        )
        return torch.tensor(sums.sum() / self.n, dtype=torch.float64), new

    def _softmax(self) -> Softmax:
        shape, take = (self.tiles, TILE), self.buffers.take
        one, other = (take(shape, torch.float32, self.device) for _ in range(2))
        return Softmax(one, other, take(shape[:1], torch.float64, self.device))

    def cross_entropies(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return each sample's cross-entropy in float64."""
        if self.dtype is not torch.float32:
            return cross_entropy(self.major(logits, (-1,)), labels.view(-1)[: self.n])
        out = torch.empty(self.n, dtype=torch.float64)
        arguments = (logits.numpy(), labels.numpy(), out.numpy(), self.n)
        over_tiles(softmax.cross_entropies, self.tiles, logits.numel() * 8, *arguments)
        return out

    def prepare_labels(self, labels: Tensor) -> Tensor:
        """Return labels as the two methods above take them: (tiles, 64)."""
        padded = torch.zeros(self.tiles * TILE, dtype=torch.int64)
        padded[: self.n] = labels
        return padded.view(self.tiles, TILE)

    def _start(
        self, outputs: int, per: int, base: Tensor | None, base_rows: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        out = self.empty(outputs * per)
        if base is None:
            from_, ids = self._nothing, _NO_IDS
        else:
            from_, ids = base.numpy(), np.arange(outputs) if base_rows is None else base_rows.numpy()
        added: Any = np.zeros(outputs, out.numpy().dtype) if bias is None else bias.numpy()
        over_tiles(moves.start_rows, self.tiles, out.numel(), from_, ids, added, per, out.numpy())
        return out
