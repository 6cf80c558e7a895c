"""Greenhouse gas of a report, from a factor that the user brings along with its source.

    grams = energy_j / 3.6e6 · pue · g_per_kwh

The result is an estimate whatever the energy was: grids differ by the hour, and a factor is a mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from mcmcopt.energy.report import Report
from mcmcopt.energy.sample import Provenance

J_PER_KWH = 3.6e6
Of = Literal["measured", "estimated"]


@dataclass(frozen=True)
class Carbon:
    """Grams of CO2 equivalent, and all that they were computed from.

    Args:
        grams: of CO2 equivalent; None: the energy is not known.
        energy_j: that was used, before `pue`; None: not known.
        g_per_kwh: of the electricity.
        pue: energy of the whole building per energy of its computers.
        source: of `g_per_kwh`.
        of: which total of the report was used.
        provenance: always `estimated`.
    """

    grams: float | None
    energy_j: float | None
    g_per_kwh: float
    pue: float
    source: str
    of: Of = "measured"
    provenance: Provenance = "estimated"


def carbon(report: Report, g_per_kwh: float, pue: float = 1.0, *, source: str, of: Of = "measured") -> Carbon:
    """Return the CO2 equivalent, g, of a report's energy; the measured and the estimated total are never mixed.

    Args:
        report: whose energy is used.
        g_per_kwh: grams of CO2 equivalent per kWh of electricity, 0 or more.
        pue: power usage effectiveness of the building, 1 or more.
        source: where `g_per_kwh` comes from, such as `RTE eCO2mix, mean of 2024`.
        of: the total that is used; one that the report does not have gives None.

    Raises:
        TypeError: if a number or the source is of another type.
        ValueError: if a number is out of its range, the source is empty, or `of` names no total.
    """
    for name, value, least in (("g_per_kwh", g_per_kwh, 0.0), ("pue", pue, 1.0)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number, got {value!r}")
        if not (math.isfinite(value) and value >= least):
            raise ValueError(f"{name} must be finite and at least {least:g}, got {value!r}")
    if not isinstance(source, str):
        raise TypeError(f"source must be a string that says where g_per_kwh comes from, got {source!r}")
    if not source.strip():
        raise ValueError("source must say where g_per_kwh comes from, got an empty string")
    if of not in get_args(Of):
        raise ValueError(f"of must be one of {', '.join(get_args(Of))}, got {of!r}")
    energy_j = report.total_measured_j if of == "measured" else report.total_estimated_j
    grams = None if energy_j is None else energy_j / J_PER_KWH * pue * g_per_kwh
    return Carbon(grams, energy_j, float(g_per_kwh), float(pue), source.strip(), of)
