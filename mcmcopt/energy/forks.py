"""What a forked child must know: the meters that it has copies of belong to its parent."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something that lets go in a child."""

    def _after_fork(self) -> None: ...


_alive: weakref.WeakSet[Forked] = weakref.WeakSet()
_registered = False


def remember(thing: Forked) -> None:
    """Have a thing told in every forked child."""
    global _registered
    if not _registered and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_tell)
        _registered = True
    _alive.add(thing)


def _tell() -> None:
    for thing in tuple(_alive):
        thing._after_fork()
