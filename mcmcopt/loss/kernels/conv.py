"""Convolution of some channels to some channels, on tiles.

    out[o] += Σ_{c, y, x} w[o, c, y, x] · pad(source[c] - old[c])[· stride + · dilation]

One channel of 16 samples is copied, decoded or subtracted into a padded buffer, few rows at a time, and read from there
while it is in the first-level cache.  Taps with a weight of exactly 0 are skipped.
"""

from __future__ import annotations

import numpy as np

from mcmcopt.loss.kernels.compiled import compiled
from mcmcopt.loss.kernels.memory import Array
from mcmcopt.loss.kernels.micro import PIXELS, RUN, address, decode_line, difference, taps_one, taps_wide


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
    F, C, KH, KW = weight.shape
    tile = source.shape[2]
    wide = max(W + 2 * px, (OW - 1) * sx + (KW - 1) * dx + 1)
    high = max(H + 2 * py, (OH - 1) * sy + (KH - 1) * dy + 1)
    # the taps, by source channel and then output: offsets into one padded channel of RUN samples
    starts = np.zeros(C * F + 1, np.int64)
    offsets = np.empty(weight.size, np.int64)
    values = np.empty(weight.size, out.dtype)
    lowest = np.zeros(C, np.int64)
    wanted = np.zeros((C, H), np.bool_)  # rows of the source that some tap reads
    k = 0
    for c in range(C):
        for o in range(F):
            for y in range(KH):
                for x in range(KW):
                    w = weight[o, c, y, x]
                    if w != 0:
                        offsets[k] = (y * dy * wide + x * dx) * RUN
                        values[k] = w
                        k += 1
                        lowest[c] = max(lowest[c], y * dy)
            starts[c * F + o + 1] = k
        for y in range(KH):
            used = False
            for o in range(F):
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
                if starts[(c + 1) * F] == starts[c * F]:
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
                    for o in range(F):
                        b = starts[c * F + o]
                        count = starts[c * F + o + 1] - b
                        if count == 0:
                            continue
                        q = 0
                        row = aligned_by + r * sy * wide * RUN
                        target = (t * F * per + o * per + r * OW) * tile + s
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
