"""A meter's log against a wattmeter's: the clocks aligned, and what no on-chip sensor sees.

    lag      = where the two powers correlate best (see `alignment`)
    ratio    = Σ w / Σ m
    residual = w − m

Both powers are means over the cells of one grid, from interpolated energies, so that resampling loses no joule.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mcmcopt.energy.accounts import Accounts
from mcmcopt.energy.errors import warn_once
from mcmcopt.energy.foreign.alignment import LEAST_CELLS, best_shift
from mcmcopt.energy.foreign.wattmeter_csv import read_csv
from mcmcopt.energy.log import Log, Segment, read_log
from mcmcopt.energy.outputs.export import figure_class
from mcmcopt.energy.report import Report
from mcmcopt.files import replacing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    AnyFloats = NDArray[np.floating[Any]]

STEP_S = 0.1
MOST_CELLS = 2**21
COVERED = 0.9
"""A cell is used if so much of it was measured, on every channel."""
GAPS = 3
"""Periods without a row after which the wattmeter's power is not interpolated."""
GUESS = 0.5
CALENDAR_S = 1e8
"""Times before March 1973 are not the calendar's: the wattmeter counts from its own start."""


@dataclass(frozen=True)
class Comparison:
    """A wattmeter beside a meter, over the time that both cover.

    Args:
        lag_s: the wattmeter's time of an event minus the meter's; half its averaging time included, if it gives means.
        calendar: whether both times are the calendar's; otherwise each counts from its own first reading.
        ratio: energy of the wattmeter per energy of the meter; None: the meter has none.
        residual_w: mean of the wattmeter's power minus the meter's: what no on-chip sensor sees.
        residual_std_w: its standard deviation over the cells.
        correlation: of the two powers at that lag; None: one of them never changes.
        overlap_s: seconds that are compared.
        meter_j, wattmeter_j: energies over them.
        step_s: length of a cell.
        channels: that the meter's power is the sum of.
        flags: `lag_is_a_guess` where the curves do not resemble, `rival_lag` where another one fits nearly as well,
            `channels_differ` where some segment of the log lacks one.
    """

    lag_s: float
    calendar: bool
    ratio: float | None
    residual_w: float
    residual_std_w: float
    correlation: float | None
    overlap_s: float
    meter_j: float
    wattmeter_j: float
    step_s: float
    channels: tuple[str, ...]
    flags: tuple[str, ...] = ()


class Curve(NamedTuple):
    """Energy so far, and seconds of it that were measured, at rising times; straight lines between them."""

    t_s: Array
    energy_j: Array
    covered_s: Array


def compare(
    report_or_log: Report | Log | str | os.PathLike[str],
    csv: str | os.PathLike[str],
    *,
    plot: str | os.PathLike[str] | None = None,
    max_lag_s: float | None = None,
) -> Comparison:
    """Return how a meter's log compares with a wattmeter's: lag in s, energies in J, residual power in W.

    Args:
        report_or_log: a log, its path, or a report whose `meta["log"]` is that path.
        csv: of the wattmeter, a column of times and one of powers, whose heads name the units: see `read_csv`.
        plot: a picture of both curves is written there, in the form that its suffix names.
        max_lag_s: the clocks differ by no more than that (of the calendar, or of the two starts); None: by anything.

    Raises:
        FileNotFoundError: if a file is missing.
        ImportError: if a picture is wanted and matplotlib is missing.
        ValueError: if the report names no log, the log has no measured channel, a file cannot be read, or the two have
            too little in common at any lag.
    """
    import numpy as np

    if max_lag_s is not None and not max_lag_s >= 0:
        raise ValueError(f"max_lag_s must be 0 or more, got {max_lag_s!r}")
    log = _log(report_or_log)
    meter, differ = _meter_curves(log)
    times, watts = read_csv(csv)
    calendar = times[0] >= CALENDAR_S
    zero = 0.0 if calendar else min(float(c.t_s[0]) for c in meter.values())
    meter = {name: c._replace(t_s=c.t_s - zero) for name, c in meter.items()}
    wattmeter = _wattmeter_curve(np.asarray(times) - (0.0 if calendar else times[0]), np.asarray(watts))
    step_s = max(STEP_S, *(_period(c.t_s) for c in (wattmeter, *meter.values())))
    starts = max(float(c.t_s[0]) for c in meter.values()), float(wattmeter.t_s[0])
    lengths = min(float(c.t_s[-1]) for c in meter.values()) - starts[0], float(wattmeter.t_s[-1]) - starts[1]
    step_s = max(step_s, max(lengths) / MOST_CELLS)
    counts = [int(length / step_s + 1e-6) for length in lengths]
    if min(counts) < LEAST_CELLS:
        short = "the log" if counts[0] < LEAST_CELLS else f"{csv}"
        raise ValueError(f"{short} must cover at least {LEAST_CELLS} steps of {step_s:g} s, got {min(lengths):g} s")
    edges = [start + step_s * np.arange(count + 1) for start, count in zip(starts, counts, strict=True)]
    m, w = _power(list(meter.values()), edges[0]), _power([wattmeter], edges[1])
    reach = math.inf if max_lag_s is None else max_lag_s
    shift, correlation, rival = best_shift(m, w, (starts[1] - starts[0]) / step_s, reach / step_s)
    lag_s = starts[1] - starts[0] + shift * step_s
    moved = _power([wattmeter], edges[0] + lag_s)  # exact at that lag, also between two cells
    both = np.isfinite(m) & np.isfinite(moved)
    if both.sum() < LEAST_CELLS:
        raise ValueError(f"the log and {csv} have less than {LEAST_CELLS} steps of {step_s:g} s in common")
    rest = moved[both] - m[both]
    meter_j, wattmeter_j = float(m[both].sum()) * step_s, float(moved[both].sum()) * step_s
    flags = ["channels_differ"] if differ else []
    if correlation is None or correlation < GUESS:
        flags.append("lag_is_a_guess")
        known = "they do not change" if correlation is None else f"correlation {correlation:.2f}"
        warn_once(f"lag of {csv}", f"{csv}: the curves do not resemble ({known}): the lag is a guess")
    elif rival:
        flags.append("rival_lag")
    result = Comparison(
        lag_s=lag_s,
        calendar=calendar,
        ratio=wattmeter_j / meter_j if meter_j > 0 else None,
        residual_w=float(rest.mean()),
        residual_std_w=float(rest.std()),
        correlation=correlation,
        overlap_s=float(both.sum()) * step_s,
        meter_j=meter_j,
        wattmeter_j=wattmeter_j,
        step_s=step_s,
        channels=tuple(meter),
        flags=tuple(flags),
    )
    if plot is not None:
        _draw(result, edges[0], m, moved, plot)
    return result


def _log(source: Report | Log | str | os.PathLike[str]) -> Log:
    if isinstance(source, Report):
        path = source.meta.get("log")
        if not isinstance(path, (str, os.PathLike)):
            raise ValueError(f"the report names no log (meta['log'] is {path!r}): give the log or its path instead")
        source = path
    if isinstance(source, Log):
        return source
    if isinstance(source, (str, os.PathLike)):
        return read_log(source)
    raise ValueError(f"report_or_log must be a Report, a Log or a path, got {type(source).__name__}")


def _meter_curves(log: Log) -> tuple[dict[str, Curve], bool]:
    """Return the energy of each counted and measured channel by calendar time, and whether a segment lacks one."""
    import numpy as np

    points: dict[str, list[tuple[float, float, float]]] = {}
    sets = []
    for segment in log.segments:
        of_segment = _segment_points(segment)
        sets.append(set(of_segment))
        for name, new in of_segment.items():
            old = points.setdefault(name, [])
            last = old[-1] if old else (-math.inf, 0.0, 0.0)
            if new[0][0] <= last[0]:
                raise ValueError("the log's segments overlap in time: compare the log of one run at a time")
            # between two segments nothing is covered: the totals stand still
            old += [(t, last[1] + e - new[0][1], last[2] + c - new[0][2]) for t, e, c in new]
    if not points:
        raise ValueError("the log has no channel that is measured and enters the total: there is nothing to compare")
    curves = {name: Curve(*np.array(values, dtype=np.float64).T) for name, values in points.items()}
    return curves, any(one != set(points) for one in sets)


def _segment_points(segment: Segment) -> dict[str, list[tuple[float, float, float]]]:
    """Return (calendar time, energy, measured seconds) wherever a channel was read; those never measured are left out.

    The calendar goes on while the machine sleeps, and measured seconds do not: such a gap shows as not covered.
    """
    accounts = Accounts(segment.channels, segment.period_s)
    points: dict[str, list[tuple[float, float, float]]] = {
        c.id: [] for c in segment.channels if c.in_total and c.provenance in ("counter", "integrated")
    }
    by_power = {c.id for c in segment.channels if c.provenance == "integrated"}
    for sample in segment.samples:
        accounts.add(sample)
        totals = accounts.state().totals
        for name, so_far in points.items():
            read: Any = sample.w if name in by_power else sample.uj
            if name in read and (not so_far or sample.unix_s > so_far[-1][0]):
                t = totals[name]
                energy = (t.integral_j, t.integrated_s) if name in by_power else (t.uj / 1e6, t.counted_s)
                so_far.append((sample.unix_s, *energy))
    measured = {n: p for n, p in points.items() if p and p[-1][2] > p[0][2]}
    return {n: p for n, p in measured.items() if n not in accounts.mirrors | accounts.suspects}


def _wattmeter_curve(t_s: Array, w: Array) -> Curve:
    """Return the energy under a wattmeter's powers, by the trapezoid; gaps are not covered."""
    import numpy as np

    dt = np.diff(t_s)
    near = dt <= GAPS * _period(t_s)
    energy = np.where(near, dt * (w[1:] + w[:-1]) / 2, 0.0)
    return Curve(t_s, *(np.concatenate([[0.0], np.cumsum(part)]) for part in (energy, np.where(near, dt, 0.0))))


def _period(t_s: Array) -> float:
    import numpy as np

    steps = np.diff(t_s)
    return float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0


def _power(curves: Sequence[Curve], edges: AnyFloats) -> Array:
    """Return the mean power, W, of each cell between two edges, summed over curves; NaN where one is not covered."""
    import numpy as np

    dt = np.diff(edges)
    total = np.zeros(len(dt))
    for curve in curves:
        covered = np.diff(np.interp(edges, curve.t_s, curve.covered_s))
        power = np.diff(np.interp(edges, curve.t_s, curve.energy_j)) / np.maximum(covered, 1e-12)
        total += np.where(covered >= COVERED * dt, power, np.nan)
    return total


def _draw(result: Comparison, edges: AnyFloats, m: Array, w: Array, path: str | os.PathLike[str]) -> None:
    import numpy as np

    figure = figure_class()(figsize=(8, 3.5), layout="constrained")
    axes = figure.add_subplot()
    middle = (edges[1:] + edges[:-1]) / 2 - edges[0]
    axes.plot(middle, w, label=f"wattmeter, {result.lag_s:+.2f} s", color="tab:gray")
    axes.plot(middle, m, label=f"meter: {', '.join(result.channels)}", color="tab:blue")
    axes.set(xlabel="time (s)", ylabel="power (W)", ylim=(min(0.0, float(np.nanmin(w)), float(np.nanmin(m))), None))
    known = "unknown" if result.ratio is None else f"{result.ratio:.3f}"
    axes.set_title(
        f"ratio {known}, residual {result.residual_w:.1f} ± {result.residual_std_w:.1f} W", fontsize="medium"
    )
    axes.legend(loc="best", fontsize="small")
    with replacing(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.lstrip(".") or "svg")
