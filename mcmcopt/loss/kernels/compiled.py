"""How kernels are compiled: once, and kept on disk where possible."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])

_FLAGS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz"},  # nothing that assumes that nan and inf do not occur
}


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
