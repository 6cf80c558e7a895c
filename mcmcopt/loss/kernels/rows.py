"""Moving rows of tiles: from (samples, features), from one array to another, with a sum or a ReLU on the way."""

from __future__ import annotations

from mcmcopt.loss.kernels.compiled import compiled
from mcmcopt.loss.kernels.memory import TILE, Array
from mcmcopt.loss.kernels.micro import RUN, address, copy, decode


@compiled
def start_rows(base: Array, base_rows: Array, bias: Array, per: int, out: Array, first: int, last: int) -> None:
    """Set each output row to its row of `base` (none where `base` is empty) plus its channel's bias."""
    rows, tile = out.shape[1], out.shape[2]
    n, m = base.shape[1], base_rows.shape[0]
    for t in range(first, last):
        for i in range(rows):
            o = i // per
            added = bias[o]
            at = (t * rows + i) * tile
            if m > 0:
                origin = (t * n + base_rows[o] * per + i - o * per) * tile
                if added == 0:
                    for s in range(0, tile, RUN):
                        copy(address(base, origin + s), address(out, at + s))
                else:
                    for s in range(0, tile, RUN):
                        decode(address(base, origin + s), address(out, at + s), base.dtype.type(1), added)
            else:
                row = out[t, i]
                for s in range(tile):
                    row[s] = added


@compiled
def relu_rows(source: Array, out: Array, first: int, last: int) -> None:
    """Write max(x, 0) of every entry; nan stays nan."""
    x, y = source[first:last].reshape(-1), out[first:last].reshape(-1)
    for i in range(x.size):
        v = x[i]
        y[i] = source.dtype.type(0) if v < 0 else v


@compiled
def put_rows(source: Array, rows: Array, target: Array, first: int, last: int) -> None:
    """Copy all source rows into the given rows of the target."""
    n, m, tile = source.shape[1], target.shape[1], source.shape[2]
    for t in range(first, last):
        for i in range(n):
            for s in range(0, tile, RUN):
                copy(address(source, (t * n + i) * tile + s), address(target, (t * m + rows[i]) * tile + s))


@compiled
def transpose_in(source: Array, target: Array, first: int, last: int) -> None:
    """Write (samples, features) into tiles; what is left of the last tile becomes 0."""
    samples, features = source.shape
    for t in range(first, last):
        n = min(TILE, samples - t * TILE)
        for f in range(0, features, 16):  # a cache line of every sample at a time
            for s in range(n):
                line = source[t * TILE + s]
                for i in range(f, min(f + 16, features)):
                    target[t, i, s] = line[i]
            for i in range(f, min(f + 16, features)):
                for s in range(n, TILE):
                    target[t, i, s] = 0
