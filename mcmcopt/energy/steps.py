"""An optimizer's steps, measured by its hooks: one reading of the counters per step.

    E(steps i … j) = T(after step j) − T(after step i − 1)

so that a step holds all that was done since the one before: the batch, forward, backward and the update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mcmcopt.energy.report import Report
from mcmcopt.energy.window import synchronize

if TYPE_CHECKING:
    from mcmcopt.energy.accounts import State
    from mcmcopt.energy.meter import EnergyMeter


class Steps:
    """Counts and measures the steps of an optimizer until `remove`; made by `EnergyMeter.attach`.

    A step that a gradient scaler skips calls no hook: its energy belongs to the next one.  The first reading is before
    the first step, and what came before it is not counted.

    Args:
        meter: a running one.
        optimizer: has `register_step_pre_hook` and `register_step_post_hook`, as torch's have.
        every: steps between two readings.
        sync: wait for the GPU's work before each reading; it changes what is measured.
        callback: called with the report of each `every` steps.

    Raises:
        TypeError: if the optimizer has no such hooks.
        ValueError: if `every` is not a whole number of at least 1.
    """

    def __init__(
        self,
        meter: EnergyMeter,
        optimizer: Any,
        every: int = 1,
        sync: bool = False,
        callback: Callable[[Report], None] | None = None,
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a whole number of at least 1, got {every!r}")
        for name in ("register_step_pre_hook", "register_step_post_hook"):
            if not hasattr(optimizer, name):
                raise TypeError(f"optimizer must have {name}, as torch.optim.Optimizer has; {optimizer!r} has not")
        self.steps = 0
        self._meter, self._every, self._sync, self._callback = meter, every, sync, callback
        self._first: State | None = None
        self._before: State | None = None
        self._last: State | None = None
        self._handles = [
            optimizer.register_step_pre_hook(self._begin),
            optimizer.register_step_post_hook(self._end),
        ]

    @property
    def report(self) -> Report:
        """All steps up to the last reading.

        Raises:
            RuntimeError: if there was none.
        """
        return self._between(self._first, self._last)

    @property
    def last(self) -> Report:
        """The last `every` steps.

        Raises:
            RuntimeError: if there were not so many.
        """
        return self._between(self._before, self._last)

    def remove(self) -> None:
        """Take the hooks away; can be called again."""
        while self._handles:
            self._handles.pop().remove()

    def _begin(self, *args: Any) -> None:
        if self._first is None:
            self._first = self._last = self._edge()

    def _end(self, *args: Any) -> None:
        self.steps += 1
        if self.steps % self._every == 0:
            self._before, self._last = self._last, self._edge()
            if self._callback is not None:
                self._callback(self.last)

    def _edge(self) -> State:
        if self._sync:
            synchronize()
        return self._meter._edge()

    def _between(self, begin: State | None, end: State | None) -> Report:
        if begin is None or end is None or self.steps < self._every:
            raise RuntimeError(f"no step has been measured: {self.steps} of the {self._every} that a reading needs")
        return self._meter._between("steps", begin, end, {"steps": self.steps, "every": self._every})
