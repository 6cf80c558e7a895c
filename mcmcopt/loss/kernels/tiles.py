"""The kernels over sample-minor tiles: arrays (tiles, rows, TILE), a row being one feature of 64 samples.

    conv_rows      out[o] = base[o] + bias[o] + Σ_{c, y, x} w[o, c, y, x] · pad(source[c])[· stride + · dilation]
    linear_rows    out[o] = base[o] + bias[o] + Σ_j w[o, j] · source[j]
    cross_entropy  Σ_i (log Σ_c exp z_ci - z_{y_i, i}), in float64

The source is a tensor of activations, the difference of two, or integer codes times a scale plus a shift.  Taps with
a weight of exactly 0 are skipped, so that only changed weights cost anything, and sparse networks cost less.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcmcopt.loss.kernels.compiled import compiled
from mcmcopt.loss.kernels.micro import (
    PIXELS,
    RUN,
    address,
    copy,
    decode,
    decode_line,
    difference,
    exp_change,
    max_and_sum_exp,
    rows_tile,
    taps_one,
    taps_tile,
    taps_wide,
)

TILE = 64
"""Samples in a tile."""

Array = NDArray[Any]


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return an uninitialised array that starts on 64 bytes."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


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


@compiled
def conv_taps(
    source: Array,
    channels: Array,
    old: Array,
    old_channels: Array,
    scale: Array,
    shift: Array,
    weight: Array,
    geometry: Array,
    by_runs: int,
    out: Array,
    first: int,
    last: int,
) -> None:
    """Add the convolution of source channels with weight (o, c, kh, kw) to the output rows.

    Args:
        source: (tiles, channels · height · width, TILE); floats, or codes with a scale and shift per used channel.
        channels: which channels of the source the c are.
        old: as `source`; its channels `old_channels` are subtracted, if there are any.
        by_runs: whether the source is stored as (tiles, TILE / RUN, features, RUN), which suits narrow integers: a run
            of 16 codes is a quarter of a cache line.
        geometry: height, width, out height, out width, and stride, padding and dilation, each (y, x).
        out: (tiles, o · out height · out width, TILE).
    """
    H, W, OH, OW = geometry[0], geometry[1], geometry[2], geometry[3]
    sy, sx, py, px, dy, dx = geometry[4], geometry[5], geometry[6], geometry[7], geometry[8], geometry[9]
    O, C, KH, KW = weight.shape
    tile = source.shape[2]
    wide = max(W + 2 * px, (OW - 1) * sx + (KW - 1) * dx + 1)
    high = max(H + 2 * py, (OH - 1) * sy + (KH - 1) * dy + 1)
    # the taps, by source channel and then output: offsets into one padded channel of RUN samples
    starts = np.zeros(C * O + 1, np.int64)
    offsets = np.empty(weight.size, np.int64)
    values = np.empty(weight.size, out.dtype)
    lowest = np.zeros(C, np.int64)
    wanted = np.zeros((C, H), np.bool_)  # rows of the source that some tap reads
    k = 0
    for c in range(C):
        for o in range(O):
            for y in range(KH):
                for x in range(KW):
                    w = weight[o, c, y, x]
                    if w != 0:
                        offsets[k] = (y * dy * wide + x * dx) * RUN
                        values[k] = w
                        k += 1
                        lowest[c] = max(lowest[c], y * dy)
            starts[c * O + o + 1] = k
        for y in range(KH):
            used = False
            for o in range(O):
                for x in range(KW):
                    used |= weight[o, c, y, x] != 0
            if used:
                for r in range(OH):
                    i = r * sy + y * dy - py
                    if 0 <= i < H:
                        wanted[c, i] = True
    buffer = np.empty(high * wide * RUN + 64, out.dtype)
    aligned_by = (-buffer.ctypes.data % 64) // buffer.itemsize
    subtract = old_channels.shape[0] > 0
    per = OH * OW
    step = RUN if by_runs else tile
    for i in range(buffer.size):
        buffer[i] = 0
    for t in range(first, last):
        for s in range(0, tile, RUN):
            for c in range(C):
                if starts[(c + 1) * O] == starts[c * O]:
                    continue
                if by_runs:
                    origin = (
                        t * source.shape[1] * (tile // RUN) + s // RUN * source.shape[1] + channels[c] * H * W
                    ) * RUN
                else:
                    origin = (t * source.shape[1] + channels[c] * H * W) * tile + s
                origin_old = (t * old.shape[1] + old_channels[c] * H * W) * tile + s if subtract else 0
                filled = 0  # rows of the channel that are in the buffer: few at a time, to find them in the cache again
                for r in range(OH):
                    need = min(H, r * sy + lowest[c] + 1 - py)
                    while filled < need:
                        if wanted[c, filled]:
                            at = aligned_by + ((filled + py) * wide + px) * RUN
                            i = filled * W * step
                            if subtract:
                                for x in range(W):
                                    difference(
                                        address(source, origin + i + x * tile),
                                        address(old, origin_old + i + x * tile),
                                        address(buffer, at + x * RUN),
                                    )
                            else:
                                decode_line(
                                    address(source, origin + i), step, address(buffer, at), RUN, W, scale[c], shift[c]
                                )
                        filled += 1
                    for o in range(O):
                        b = starts[c * O + o]
                        count = starts[c * O + o + 1] - b
                        if count == 0:
                            continue
                        q = 0
                        row = aligned_by + r * sy * wide * RUN
                        target = (t * O * per + o * per + r * OW) * tile + s
                        while q + PIXELS <= OW:
                            taps_wide(
                                address(buffer, row + q * sx * RUN),
                                address(offsets, b),
                                address(values, b),
                                count,
                                sx * RUN,
                                address(out, target + q * tile),
                                tile,
                            )
                            q += PIXELS
                        while q < OW:
                            taps_one(
                                address(buffer, row + q * sx * RUN),
                                address(offsets, b),
                                address(values, b),
                                count,
                                0,
                                address(out, target + q * tile),
                                0,
                            )
                            q += 1


@compiled
def relu_rows(source: Array, out: Array, first: int, last: int) -> None:
    """Write max(x, 0) of every entry; nan stays nan."""
    x, y = source[first:last].reshape(-1), out[first:last].reshape(-1)
    for i in range(x.size):
        v = x[i]
        y[i] = source.dtype.type(0) if v < 0 else v


@compiled
def cross_entropy(
    logits: Array,
    labels: Array,
    top: Array,
    total: Array,
    base: Array,
    sums: Array,
    samples: int,
    first: int,
    last: int,
) -> None:
    """Write the sum of each tile's cross-entropies, in float64, and what `cross_entropy_rows` goes on from.

    Args:
        top, total: (tiles, TILE), each sample's highest logit and Σ_c exp(z_c - top).
        base: (tiles,), Σ_i (top_i - z_{y_i, i}) in float64.
    """
    classes, tile = logits.shape[1], logits.shape[2]
    for t in range(first, last):
        for s in range(0, tile, RUN):
            at = t * tile + s
            max_and_sum_exp(
                address(logits, t * classes * tile + s), tile, classes, address(top, at), address(total, at)
            )
        n = min(tile, samples - t * tile)
        for s in range(n, tile):
            total[t, s] = 1
        base[t] = _label_terms(logits[t], labels[t], top[t], n)
        sums[t] = base[t] + _sum_of_logs(total[t])


@compiled
def cross_entropy_rows(
    logits: Array,
    ids: Array,
    rows: Array,
    labels: Array,
    top: Array,
    total: Array,
    base: Array,
    new_top: Array,
    new_total: Array,
    new_base: Array,
    sums: Array,
    samples: int,
    first: int,
    last: int,
) -> None:
    """Write the sums of `cross_entropy` with the logits of some classes replaced, from the state of the present ones.

    Each Σ_c exp(z_c - top) changes by two exponentials a class; where it leaves [1/2, 100] (top is no longer near the
    highest logit), the tile is computed afresh.
    """
    classes, tile = logits.shape[1], logits.shape[2]
    merged = np.empty((classes, tile), np.float32)
    for t in range(first, last):
        n = min(tile, samples - t * tile)
        for s in range(0, tile, RUN):
            copy(address(top, t * tile + s), address(new_top, t * tile + s))
            copy(address(total, t * tile + s), address(new_total, t * tile + s))
        changed = base[t]
        for k in range(ids.shape[0]):
            c = ids[k]
            for s in range(0, tile, RUN):
                exp_change(
                    address(logits, (t * classes + c) * tile + s),
                    address(rows, (t * ids.shape[0] + k) * tile + s),
                    address(top, t * tile + s),
                    address(new_total, t * tile + s),
                )
            new, old, label = rows[t, k], logits[t, c], labels[t]
            for s in range(n):
                if label[s] == c:
                    changed -= np.float64(new[s]) - np.float64(old[s])
        sound = 0
        after = new_total[t]
        for s in range(n):
            sound += 1 if (after[s] >= 0.5) & (after[s] <= 100) else 0
        for s in range(n, tile):
            after[s] = 1
        if sound < n:
            for c in range(classes):
                for s in range(0, tile, RUN):
                    copy(address(logits, (t * classes + c) * tile + s), address(merged, c * tile + s))
            for k in range(ids.shape[0]):
                for s in range(0, tile, RUN):
                    copy(address(rows, (t * ids.shape[0] + k) * tile + s), address(merged, ids[k] * tile + s))
            for s in range(0, tile, RUN):
                at = t * tile + s
                max_and_sum_exp(address(merged, s), tile, classes, address(new_top, at), address(new_total, at))
            for s in range(n, tile):
                after[s] = 1
            changed = _label_terms(merged, labels[t], new_top[t], n)
        new_base[t] = changed
        sums[t] = changed + _sum_of_logs(after)


@compiled
def _label_terms(logits: Array, labels: Array, top: Array, n: int) -> float:
    result = 0.0
    for s in range(n):
        result += np.float64(top[s]) - np.float64(logits[labels[s], s])
    return result


@compiled
def _sum_of_logs(values: Array) -> float:
    """Return Σ log of at most 64 values: one logarithm of their product, unless that overflows."""
    product = 1.0
    for s in range(values.shape[0]):
        product *= np.float64(values[s])
    if 0 < product < 1e300:
        return math.log(product)
    result = 0.0
    for s in range(values.shape[0]):
        result += math.log(np.float64(values[s]))
    return result


@compiled
def cross_entropies(logits: Array, labels: Array, out: Array, samples: int, first: int, last: int) -> None:
    """Write each sample's cross-entropy, in float64."""
    classes, tile = logits.shape[1], logits.shape[2]
    top = np.empty(tile, np.float32)
    total = np.empty(tile, np.float32)
    for t in range(first, last):
        for s in range(0, tile, RUN):
            max_and_sum_exp(address(logits, t * classes * tile + s), tile, classes, address(top, s), address(total, s))
        for s in range(min(tile, samples - t * tile)):
            out[t * tile + s] = (
                np.float64(top[s]) - np.float64(logits[t, labels[t, s], s]) + math.log(np.float64(total[s]))
            )


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
