"""How kernels are compiled (once, cached on disk where possible) and spread over threads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
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
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # a child process does not inherit the threads


def _forget_stale() -> None:
    """Delete cached machine code of older sources: numba looks at a kernel's own file, not at those it is made from."""
    folder = Path(__file__).parent
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))).hexdigest()
    stamp = folder / "__pycache__" / "sources.sha256"
    with suppress(OSError):  # an install that cannot be written to does not change either
        if not stamp.exists() or stamp.read_text(encoding="ascii") != sources:
            for index in stamp.parent.glob("*.nbi"):
                index.unlink()
            stamp.parent.mkdir(exist_ok=True)
            stamp.write_text(sources, encoding="ascii")


_forget_stale()


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
    try:
        kernel(*arguments, cuts[0], cuts[1])
    finally:  # also after Ctrl-C: nobody may still write when the memory is used again
        wait(others)
    for other in others:
        other.result()
