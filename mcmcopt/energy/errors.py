"""What the meter raises, and the warning that it gives once per cause and process."""

from __future__ import annotations

import threading
import warnings


class EnergyWarning(UserWarning):
    """A sensor is missing, failed or cannot be trusted; the report says which."""


class SensorUnavailable(RuntimeError):  # noqa: N818 -- the name that is documented
    """A sensor that was required is not there, or may not be read."""


class EnergyMeterForkedError(RuntimeError):
    """A meter was used in a forked child: its file descriptors and its log belong to the parent."""


_warned: set[str] = set()
_lock = threading.Lock()


def warn_once(cause: str, message: str) -> None:
    """Warn of a cause that this process has not been warned of yet."""
    with _lock:
        if cause in _warned:
            return
        _warned.add(cause)
    warnings.warn(message, EnergyWarning, stacklevel=3)
