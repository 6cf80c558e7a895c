"""The last resort: CPU time of this process and its descendants times watts per hardware thread, an estimate.

    E ≈ C(t) · w,   w given by the user, or TDP / hardware threads of a processor that the table knows

It sees neither idle power nor memory nor frequency; what it assumes stands in the channel's reason, in every report.
"""

from __future__ import annotations

from typing import Literal

from mcmcopt.energy.processes import Processes
from mcmcopt.energy.sample import Channel, Values
from mcmcopt.energy.sensors.base import Scope
from mcmcopt.energy.sensors.processors import detect, model_name


class CpuTime:
    """A counter that advances by `w` joules per CPU second; only used when asked for.

    Args:
        w: watts per hardware thread; `"table"`: of the detected processor.
        processes: what counts as this process.
        model: the processor's name; None: as the system tells it.

    Raises:
        ValueError: if `w` is neither a positive number nor `"table"`.
    """

    name = "cpu_estimate"

    def __init__(
        self, w: float | Literal["table"], processes: Processes | None = None, model: str | None = None
    ) -> None:
        if w != "table" and (isinstance(w, str | bool) or not 0 < w < float("inf")):
            raise ValueError(f'cpu_estimate must be watts per core > 0 or "table", got {w!r}')
        self._w, self._processes, self._model = w, processes or Processes(), model
        self._per_s = 0.0
        self._used_s = self._last_s = 0.0

    def open(self) -> tuple[Channel, ...]:
        """Find the figure."""
        if self._w == "table":
            model = self._model or model_name()
            found = None if model is None else detect(model)
            if found is None:
                reason = f"processor {model!r} is not in the table: give watts per core, cpu_estimate=…"
                return (Channel("cpu_estimate", "cpu_package", model or "unknown", "absent", reason=reason),)
            self._per_s, device = found.w_per_thread, found.name
            reason = (
                f"CPU seconds × {self._per_s:.2f} W per hardware thread: TDP {found.tdp_w:g} W of {found.name} over "
                f"{found.threads} threads ({found.source})"
            )
        else:
            self._per_s, device = float(self._w), "given"
            reason = f"CPU seconds × {self._per_s:g} W per core, as given"
        self._last_s = self._processes.look().process_s
        channel = Channel("cpu_estimate", "cpu_package", device, "estimated", resolution_s=0.01, reason=reason)
        return (channel,)

    def read(self, scope: Scope = "tick") -> Values:
        """Read the CPU time; it never falls, also where a descendant was lost sight of."""
        if scope == "powers" or not self._per_s:
            return Values()
        now_s = self._processes.look().process_s
        self._used_s += max(0.0, now_s - self._last_s)
        self._last_s = now_s
        return Values(uj={"cpu_estimate": round(self._used_s * self._per_s * 1e6)})

    def close(self) -> None:
        """Nothing is held."""

    def forget(self) -> None:
        """Nothing is held."""
