"""Cross-entropy of logits (tiles, classes, 64), whole or after some classes have changed.

Σ_i (log Σ_c exp(z_ci - top_i) + top_i - z_{y_i, i}),   summed in float64
"""

from __future__ import annotations

import math

import numpy as np

from mcmcopt.loss.kernels.compiled import compiled
from mcmcopt.loss.kernels.memory import Array
from mcmcopt.loss.kernels.micro import RUN, address, copy, exp_change, max_and_sum_exp


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
