"""Checks of arguments where they enter."""

from __future__ import annotations

import math


def positive(name: str, value: float) -> float:
    """Return `value` as a float, or raise ValueError unless it is a positive, finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive, finite number, got {value!r}")
    return float(value)


def non_negative(name: str, value: float) -> float:
    """Return `value` as a float, or raise ValueError unless it is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
    return float(value)


def fraction(name: str, value: float) -> float:
    """Return `value` as a float, or raise ValueError unless it lies strictly between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value!r}")
    return float(value)
