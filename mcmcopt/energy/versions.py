"""Where a log comes from."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any


@functools.cache
def origin() -> dict[str, Any]:
    """Return the host's name, its boot and the versions that a log's header holds."""
    import platform  # takes longer to import than the rest of the meter's start

    from mcmcopt import __version__

    boot = Path("/proc/sys/kernel/random/boot_id")
    return {
        "host": platform.node(),
        "boot_id": boot.read_text().strip() if boot.exists() else None,
        "versions": {"mcmcopt": __version__, "python": platform.python_version(), "system": platform.release()},
    }
