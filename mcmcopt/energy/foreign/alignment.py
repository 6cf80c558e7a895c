"""The lag at which two curves with holes resemble each other most.

    r(lag) = Σ (w − w̄)(m − m̄) / √(Σ (w − w̄)² Σ (m − m̄)²)  over the cells that both curves cover at that lag
    lag    = argmax artanh(0.95 r) · √cells, then the vertex of the parabola through r at its neighbours

Fisher's z over its standard error: a few cells that fit by chance do not win over many that fit well; the 0.95 is for
grids and noise, which keep r from 1 even at the right lag.  Source: Padfield, Masked object registration in the Fourier
domain, IEEE Trans. Image Process. 21(5), 2012.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

LEAST_CELLS = 8
LEAST_PART = 1 / 3
"""A lag must leave so much of the shorter curve: any two short pieces resemble each other somewhere."""
LESS = 0.95
RIVAL = 0.98
"""Of the best score: another peak of so much is nearly as good."""


def best_shift(m: Array, w: Array, offset: float, reach: float) -> tuple[float, float | None, bool]:
    """Return by how many cells `w` lies behind `m`, the correlation there, and whether a far one is nearly as high.

    Args:
        m, w: powers of the cells; NaN: not covered.
        offset: cells by which the first of `w` lies behind the first of `m`, by the clocks.
        reach: the clocks differ by no more cells.

    Raises:
        ValueError: if the two have too little in common at every lag that is allowed.
    """
    import numpy as np

    size = 1 << (len(m) + len(w) - 1).bit_length()
    shifts = np.arange(-(len(m) - 1), len(w))
    masks = np.isfinite(m).astype(np.float64), np.isfinite(w).astype(np.float64)
    if not masks[0].any() or not masks[1].any():
        raise ValueError("one of the two curves covers no whole step: its readings are too far apart")
    a, b = (np.where(k > 0, x - np.nanmean(x), 0.0) for k, x in zip(masks, (m, w), strict=True))
    a, b = a / (np.abs(a).max() or 1.0), b / (np.abs(b).max() or 1.0)
    spectra = [[np.fft.rfft(x, size) for x in (k, v, v * v)] for k, v in zip(masks, (a, b), strict=True)]

    def sums(i: int, j: int) -> Array:
        """Return Σ over cells of `m`'s i-th power times `w`'s j-th one, `shift` cells later, for each shift."""
        every = np.fft.irfft(np.conj(spectra[0][i]) * spectra[1][j], size)
        return np.asarray(every[shifts % size], dtype=np.float64)

    cells = np.rint(sums(0, 0))
    n = np.maximum(cells, 1.0)
    sum_a, sum_b = sums(1, 0), sums(0, 1)
    spread_a, spread_b = sums(2, 0) - sum_a**2 / n, sums(0, 2) - sum_b**2 / n
    tiny = 1e-9 * n
    allowed = (cells >= max(LEAST_CELLS, LEAST_PART * min(masks[0].sum(), masks[1].sum()))) & (
        np.abs(shifts + offset) <= reach + 0.5
    )
    if not allowed.any():
        raise ValueError("the log and the wattmeter have too little time in common at any lag that is allowed")
    usable = allowed & (spread_a > tiny) & (spread_b > tiny)
    if not usable.any():  # nothing to see: the clocks are believed as far as that is possible
        near = shifts[allowed]
        return float(np.clip(-offset, near[0], near[-1])), None, False
    r = np.full(len(shifts), -1.0)
    scale = np.sqrt(spread_a[usable] * spread_b[usable])
    r[usable] = (sums(1, 1)[usable] - sum_a[usable] * sum_b[usable] / n[usable]) / scale
    score = np.where(usable, np.arctanh(LESS * np.clip(r, -1.0, 1.0)) * np.sqrt(n), -np.inf)
    best = int(np.argmax(score))
    shift, top = float(shifts[best]), float(r[best])
    if 0 < best < len(r) - 1 and usable[best - 1] and usable[best + 1]:
        left, right = float(r[best - 1]), float(r[best + 1])
        bend = left - 2 * top + right
        if bend < 0:
            shift += min(0.5, max(-0.5, (left - right) / (2 * bend)))
    return shift, min(1.0, max(-1.0, top)), rival(score, best)


def rival(score: Array, best: int) -> bool:
    """Return whether another peak is nearly as high as the best one: the load repeats itself."""
    import numpy as np

    lower = np.flatnonzero(score < 0.9 * score[best])  # the best peak reaches to the first of them on each side
    before, after = lower[lower < best], lower[lower > best]
    outside = np.concatenate([score[: before[-1]] if len(before) else [], score[after[0] :] if len(after) else []])
    return bool(len(outside)) and float(outside.max()) >= RIVAL * float(score[best])
