"""A stretch of a meter's time, read at both edges."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcmcopt.energy.accounts import State
    from mcmcopt.energy.meter import EnergyMeter
    from mcmcopt.energy.report import Report
    from mcmcopt.energy.sample import Sample
    from mcmcopt.energy.session import Session


class Window:
    """A named stretch, opened and closed by `with`; windows nest, overlap and may share names.

    Made by `EnergyMeter.window`.

    Args:
        meter: that reads.
        name: of the window.
        sync: whether the GPU's work is awaited at both edges.
        attrs: of the user's, kept in the report.
    """

    def __init__(self, meter: EnergyMeter, name: str, sync: bool, attrs: Mapping[str, Any]) -> None:
        self.name, self.attrs = name, dict(attrs)
        self._meter, self._sync = meter, sync
        self._report: Report | None = None
        self.session: Session | None = None
        self.begin: State | None = None
        self.peaks: dict[str, int] = {}
        self.flags: set[str] = set()

    @property
    def report(self) -> Report:
        """What the window used.

        Raises:
            RuntimeError: if it is still open.
        """
        if self._report is None:
            raise RuntimeError(f"window {self.name!r} is not closed yet: its report comes after the `with` block")
        return self._report

    def __enter__(self) -> Window:
        if self.begin is not None:
            raise RuntimeError(f"window {self.name!r} was entered before: ask the meter for a new one")
        if self._sync:
            synchronize()
        self._meter._open(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._sync and error is None:
            synchronize()
        try:
            self._meter._close(self)
        except Exception:
            if error is None:  # else the block's own error is the one to see
                raise

    def see(self, sample: Sample) -> None:
        """Take note of the memory and the flags of a sample."""
        for name, used in sample.memory.items():
            if used > self.peaks.get(name, -1):
                self.peaks[name] = used
        self.flags.update(sample.flags.get("", ()))

    def close(self, report: Report) -> None:
        """Set the report."""
        self._report = report


def synchronize() -> None:
    """Wait for the GPU's work, if torch is loaded and uses one."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
