"""How kernels are compiled (once, cached on disk where possible) and spread over threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numba
import torch

F = TypeVar("F", bound=Callable[..., Any])

_FLAGS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz"},  # nothing that assumes that nan and inf do not occur
}
_pools: dict[int, ThreadPoolExecutor] = {}


def compiled(function: F) -> F:
    """Return a function compiled without the interpreter lock; the machine code is kept on disk if it can be."""
    try:
        return numba.njit(cache=True, **_FLAGS)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # neither the package's folder nor the user's cache folder is writable
        return numba.njit(**_FLAGS)(function)  # type: ignore[no-any-return]


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
    cuts = [tiles * i // threads for i in range(threads + 1)]
    others = [pool.submit(kernel, *arguments, cuts[i], cuts[i + 1]) for i in range(1, threads)]
    kernel(*arguments, cuts[0], cuts[1])
    for other in others:
        other.result()
