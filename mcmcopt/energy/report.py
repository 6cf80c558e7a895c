"""What a meter says: joules with their provenance, or why there are none.

    total_measured_j = Σ package + dram + gpu (+ a board's own sensor), measured and disjoint
    net_j            = max(0, total_measured_j − idle_w · duration)

Psys, core, uncore and duplicates are reported and never added; estimates have a total of their own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from mcmcopt.energy.sample import SCHEMA, Kind, Provenance

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Reading:
    """One channel over the time of a report.

    Args:
        kind, device, provenance, reason: as in the channel.
        energy_j: joules of the measured part of that time; None: nothing was measured.
        mean_w: over the measured part.
        coverage: share of the time that was measured, 0 to 1.
        uncertainty_j: of the two edges at the mean power: a counter's quantum each, and what was not read in time.
            Where the power jumps at an edge the error can be larger.  None: an estimate, whose error nobody knows.
        flags: what was wrong; `not_moved_yet`, a counter that has only ever shown one value may be dead: the seconds of
            a slow one (a board's: 0.1 s) count from when it moves.
        counted: whether it enters a total.
        lost_s: seconds whose joules nobody will know.
        integral_j: of the power, where there is a counter too: the second opinion.
    """

    kind: Kind
    device: str
    provenance: Provenance
    energy_j: float | None
    mean_w: float | None = None
    coverage: float = 0.0
    uncertainty_j: float | None = None
    flags: tuple[str, ...] = ()
    counted: bool = True
    lost_s: float = 0.0
    integral_j: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Attribution:
    """This process and its descendants, by their share of the machine's CPU time: an estimate.

    Args:
        cpu_s: CPU seconds that they used.
        machine_cpu_s: CPU seconds of the whole machine.
        share: of the CPU time; None: the machine did too little to tell.
        energy_j: share times energy of the packages, summed over the sampling periods; None: no package is measured.
        provenance: always `estimated`.
    """

    cpu_s: float
    machine_cpu_s: float
    share: float | None
    energy_j: float | None
    provenance: Provenance = "estimated"


@dataclass(frozen=True)
class Baseline:
    """What the machine draws when it does nothing: measured or given, never inferred.

    Args:
        w: of all counted and measured channels together.
        std_w: standard deviation of the means of its parts, one second each; None: given.
        duration_s: seconds that it was measured for; None: given.
        source: `measured` or `given`.
    """

    w: float
    std_w: float | None
    duration_s: float | None
    source: str


@dataclass(frozen=True)
class Memory:
    """Most memory in use, of what was sampled: shorter peaks are not seen.

    Args:
        process_bytes: resident, this process and its descendants together; pages that they share count in each.
        gpu_bytes: in use on a whole board, by channel.
    """

    process_bytes: int | None
    gpu_bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class WindowTotal:
    """All windows of one name together; where such windows ran at the same time, their joules are counted in each.

    Args:
        count: of the windows.
        duration_s: sum of their durations.
        measured_j, estimated_j: sums of theirs; None: there are none.
        coverage: the lowest of the channels in `measured_j`.
    """

    count: int
    duration_s: float
    measured_j: float | None
    estimated_j: float | None
    coverage: float = 0.0


@dataclass(frozen=True)
class Report:
    """Energy over one stretch of time.

    Args:
        name: of the window; `total` for a meter's whole run.
        duration_s: monotonic seconds, time asleep left out.
        channels: every channel, measured or not.
        cpu_j, dram_j, gpu_j: sums of the measured channels of that kind; None: none is measured.
        total_measured_j: sum over disjoint measured channels; None: none is measured.
        total_estimated_j: sum over estimated channels; None: there are none.
        coverage: the lowest of the channels in `total_measured_j`; 0 where there are none.
        process: this process's part; None: not asked for.
        idle: what the machine draws at rest; None: not known.
        net_j: `total_measured_j` above idle in the measured time; None: one of them is not known, or channels were
            measured for different times.
        memory: peaks; None: not looked at.
        windows: of a meter's run, by name.
        flags: of the whole: `suspended`; `cut_by_stop`, a window that the meter's end closed; `stuck`, a sensor did not
            answer at an edge; `log_failed`; `partly_absent`, another device of a measured kind cannot be read.
        meta: where it comes from: versions, a window's own attributes.
        schema: version of this form.
    """

    name: str
    duration_s: float
    channels: Mapping[str, Reading]
    cpu_j: float | None
    dram_j: float | None
    gpu_j: float | None
    total_measured_j: float | None
    total_estimated_j: float | None
    coverage: float
    process: Attribution | None = None
    idle: Baseline | None = None
    net_j: float | None = None
    memory: Memory | None = None
    windows: Mapping[str, WindowTotal] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain containers, as JSON writes it."""
        out = asdict(self)
        out["flags"] = list(self.flags)
        for reading in out["channels"].values():
            reading["flags"] = list(reading["flags"])
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """Return what `to_dict` gave.

        Raises:
            ValueError: if it was written in another form.
        """
        if data.get("schema") != SCHEMA:
            raise ValueError(f"report has schema {data.get('schema')!r}, this version reads {SCHEMA}")
        known = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        known["channels"] = {
            name: Reading(**{**reading, "flags": tuple(reading["flags"])}) for name, reading in data["channels"].items()
        }
        known["flags"] = tuple(data.get("flags", ()))
        for name, kind in (("process", Attribution), ("idle", Baseline), ("memory", Memory)):
            if data.get(name) is not None:
                known[name] = kind(**data[name])
        known["windows"] = {name: WindowTotal(**total) for name, total in data.get("windows", {}).items()}
        return cls(**known)

    def to_json(self, indent: int | None = None) -> str:
        """Return it as JSON."""
        import json

        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one row per channel and rows of the totals; see `export.to_csv`."""
        from mcmcopt.energy.outputs.export import to_csv

        to_csv(self, path)

    def to_prometheus(self) -> str:
        """Return it in Prometheus' text format; see `export.to_prometheus`."""
        from mcmcopt.energy.outputs.export import to_prometheus

        return to_prometheus(self)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw a bar per channel; see `export.plot`."""
        from mcmcopt.energy.outputs.export import plot

        return plot(self, ax)

    def __str__(self) -> str:
        from mcmcopt.energy.outputs.text import table

        return table(self)
