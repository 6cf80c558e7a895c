"""Kernels over ranges of tiles, in as many threads as torch uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import count
from typing import Any

import torch

_pools: dict[int, ThreadPoolExecutor] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # a child process does not inherit the threads


def over_tiles(kernel: Callable[..., Any], tiles: int, work: float, *arguments: Any) -> None:
    """Call `kernel(*arguments, first, last)` on ranges of tiles, in as many threads as torch uses, if it is worth it.

    Every tile is computed in the same way whatever the split, so results do not depend on the number of threads.

    Args:
        tiles: their number.
        work: multiply-adds or entries touched, to judge whether threads pay.
    """
    threads = min(torch.get_num_threads(), tiles)
    if threads == 1 or work < 1e6:
        kernel(*arguments, 0, tiles)
        return
    pool = _pools.get(threads)
    if pool is None:
        pool = _pools[threads] = ThreadPoolExecutor(threads - 1, thread_name_prefix="mcmcopt")
    # more parts than threads: cores that share a physical one, or that others use, are not equally fast
    parts = min(tiles, threads * (8 if work > 2e7 else 2))
    cuts = [tiles * i // parts for i in range(parts + 1)]
    number = count()

    def take_parts() -> None:
        while (i := next(number)) < parts:
            kernel(*arguments, cuts[i], cuts[i + 1])

    others = [pool.submit(take_parts) for _ in range(threads - 1)]
    try:
        take_parts()
    finally:  # also after Ctrl-C: nobody may still write when the memory is used again
        wait(others)
    for other in others:
        other.result()
