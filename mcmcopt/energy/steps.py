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
    from mcmcopt.energy.session import Session


class Steps:
    """Counts and measures the steps of an optimizer until `remove`; made by `EnergyMeter.attach`.

    A step that a gradient scaler skips calls no hook: its energy belongs to the next one (a fused optimizer is
    called all the same, and counts it).  The first reading is before
    the first step, and what came before it is not counted.  While the meter does not run, steps are not counted; in its
    next run they are counted anew.

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
        self._session: Session | None = None
        self._edges: list[tuple[int, State]] = []
        """Steps and totals at the first reading, the one before the last, and the last."""
        self._handles = [
            optimizer.register_step_pre_hook(self._begin),
            optimizer.register_step_post_hook(self._end),
        ]

    @property
    def report(self) -> Report:
        """All steps up to the last reading, in the meter's present run.

        Raises:
            RuntimeError: if there was none.
        """
        return self._between(0)

    @property
    def last(self) -> Report:
        """The last `every` steps.

        Raises:
            RuntimeError: if there were not so many.
        """
        return self._between(-2)

    def remove(self) -> None:
        """Take the hooks away; can be called again."""
        while self._handles:
            self._handles.pop().remove()

    def _begin(self, *args: Any) -> None:
        if self._session is None or not self._meter.runs(self._session):
            read = self._read()
            if read is not None:  # else the meter does not run: training goes on, and the report stays
                self._session, self._edges, self.steps = read[0], [(0, read[1])], 0

    def _end(self, *args: Any) -> None:
        if self._session is None or not self._meter.runs(self._session):
            return
        self.steps += 1
        if self.steps % self._every == 0:
            read = self._read()
            if read is None or read[0] is not self._session:
                return
            self._edges = [self._edges[0], self._edges[-1], (self.steps, read[1])]
            if self._callback is not None:
                self._callback(self.last)

    def _read(self) -> tuple[Session, State] | None:
        if self._sync:
            synchronize()
        return self._meter._edge()

    def _between(self, first: int) -> Report:
        if self._session is None or len(self._edges) < 3:
            raise RuntimeError(f"no step has been measured: {self.steps} of the {self._every} that a reading needs")
        (before, begin), (after, end) = self._edges[first], self._edges[-1]
        return self._session.between("steps", begin, end, {"steps": after - before, "every": self._every})
