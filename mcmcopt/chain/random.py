"""Counter-based random numbers: draw t of a chain is a function of (seed, t) and of nothing else.

Philox (Salmon et al. 2011) maps a key and a 256-bit counter to random bits.  The key is the seed, the upper half
of the counter is (purpose, index) and the lower half runs within one draw.  So a chain resumes from two integers,
several proposals can be drawn ahead without disturbing one another, and every device sees the same numbers.
The bits are numpy's; a change of numpy's own transforms (NEP 19) would change them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Purpose(IntEnum):
    """What a stream is used for; streams of different purposes never overlap."""

    PROPOSAL = 0
    INITIAL_MASK = 1
    LAYER_COUNT = 2
    GROUP_COUNT = 3
    MEAN_FIELD = 32
    POSTERIOR_DRAW = 33


class Streams:
    """The independent random streams of one chain, one for each purpose and index.

    Args:
        seed: a non-negative integer below 2**128.
    """

    def __init__(self, seed: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**128:
            raise ValueError(f"seed must be an integer with 0 <= seed < 2**128, got {seed!r}")
        self._bits = np.random.Philox(key=seed)
        self._state: Any = self._bits.state
        self._counter = self._state["state"]["counter"]
        self._generator = np.random.Generator(self._bits)

    def at(self, index: int, purpose: Purpose = Purpose.PROPOSAL) -> np.random.Generator:
        """Return the generator at the start of stream `index`; it is valid until the next call."""
        self._counter[2], self._counter[3] = index, purpose
        self._bits.state = self._state
        return self._generator


def distinct(n: int, k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return min(k, n) different integers of range(n), every subset equally likely, at a cost of O(k)."""
    if k == 1 and n > 0:
        return np.array((rng.integers(n),), dtype=np.int64)
    if 2 * k >= n:
        return rng.permutation(n)[:k]
    chosen: dict[int, None] = {}  # keeps order; a repeated draw is dropped, which leaves all subsets equally likely
    while len(chosen) < k:
        for i in rng.integers(n, size=k - len(chosen)).tolist():
            chosen[i] = None
    return np.fromiter(chosen, dtype=np.int64, count=k)
