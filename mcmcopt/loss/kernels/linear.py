"""Linear maps of some rows, on tiles.

    out[o] += Σ_j w[o, j] · (source[j] - old[j])

Weights of exactly 0 are skipped where there are many: only changed weights cost anything, and sparse networks less.
"""

from __future__ import annotations

import numpy as np

from mcmcopt.loss.kernels.compiled import compiled
from mcmcopt.loss.kernels.memory import Array
from mcmcopt.loss.kernels.micro import RUN, address, copy, difference, rows_tile, taps_tile


@compiled
def linear_taps(source: Array, rows: Array, weight: Array, out: Array, first: int, last: int) -> None:
    """Add weight (o, n) times n source rows to the output rows, skipping zeros: for few weights per output."""
    features, tile, n = source.shape[1], source.shape[2], rows.shape[0]
    outputs = out.shape[1]
    starts = np.zeros(outputs + 1, np.int64)
    offsets = np.empty(weight.size, np.int64)
    values = np.empty(weight.size, weight.dtype)
    k = 0
    for o in range(outputs):
        for j in range(n):
            w = weight[o, j]
            if w != 0:
                offsets[k] = rows[j] * tile
                values[k] = w
                k += 1
        starts[o + 1] = k
    for t in range(first, last):
        for o in range(outputs):
            b = starts[o]
            if starts[o + 1] > b:
                taps_tile(
                    address(source, t * features * tile),
                    address(offsets, b),
                    address(values, b),
                    starts[o + 1] - b,
                    0,
                    address(out, (t * outputs + o) * tile),
                    0,
                )


@compiled
def linear_dense(
    source: Array, rows: Array, old: Array, old_rows: Array, weight: Array, out: Array, first: int, last: int
) -> None:
    """Add weight (n, o), o a multiple of 4, times source rows (minus rows of `old`, if given) to the output rows."""
    features, tile, n = source.shape[1], source.shape[2], rows.shape[0]
    outputs, padded = out.shape[1], weight.shape[1]
    subtract = old_rows.shape[0] > 0
    offsets = np.empty(n, np.int64)
    for m in range(n):
        offsets[m] = (m if subtract else rows[m]) * tile
    buffer = np.empty((n if subtract else 0) * tile + 64, source.dtype)
    shift = (-buffer.ctypes.data % 64) // buffer.itemsize
    tail = np.empty(4 * tile + 64, source.dtype)
    for t in range(first, last):
        origin = t * features * tile
        if subtract:
            for m in range(n):
                for s in range(0, tile, RUN):
                    difference(
                        address(source, origin + rows[m] * tile + s),
                        address(old, (t * old.shape[1] + old_rows[m]) * tile + s),
                        address(buffer, shift + m * tile + s),
                    )
            base = address(buffer, shift)
        else:
            base = address(source, origin)
        for o in range(0, outputs - 3, 4):
            rows_tile(
                base,
                address(offsets, 0),
                address(weight, o),
                n,
                padded,
                address(out, (t * outputs + o) * tile),
                tile,
            )
        left = outputs % 4
        if left:
            o = outputs - left
            for i in range(left):
                for s in range(0, tile, RUN):
                    copy(address(out, (t * outputs + o + i) * tile + s), address(tail, i * tile + s))
            for i in range(left * tile, 4 * tile):
                tail[i] = 0
            rows_tile(base, address(offsets, 0), address(weight, o), n, padded, address(tail, 0), tile)
            for i in range(left):
                for s in range(0, tile, RUN):
                    copy(address(tail, i * tile + s), address(out, (t * outputs + o + i) * tile + s))
