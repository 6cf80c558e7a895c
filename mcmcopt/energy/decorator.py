"""A function's energy, measured at each call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from mcmcopt.energy.meter import EnergyMeter
from mcmcopt.energy.report import Report

P = ParamSpec("P")
R = TypeVar("R")


def measure_energy(
    name: str | None = None,
    *,
    callback: Callable[[Report], None] | None = None,
    meter: EnergyMeter | None = None,
    **settings: Any,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that measures each call; what the function returns or raises stays the same.

    The report of the last call that returned is the function's `last_report`.

    Args:
        name: of the report; None: the function's.
        callback: called with each report.
        meter: a running one, in which each call is a window; None: each call starts a meter of its own.
        **settings: of that meter.

    Raises:
        TypeError: if it is used without its parentheses, or on a coroutine or generator function.
    """
    if callable(name):
        raise TypeError("use it with parentheses: @measure_energy()")

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        import inspect

        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(inspect.unwrap(function)):
            raise TypeError(f"{function!r} returns before its work is done: measure it by a window around its use")
        label = name or function.__name__

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            if meter is not None:
                with meter.window(label) as window:
                    value = function(*args, **kwargs)
            else:
                with EnergyMeter(**settings) as own, own.window(label) as window:
                    value = function(*args, **kwargs)
            wrapper.last_report = window.report  # type: ignore[attr-defined]
            if callback is not None:
                callback(window.report)
            return value

        wrapper.last_report = None  # type: ignore[attr-defined]
        return wrapper

    return decorate
