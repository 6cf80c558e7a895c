"""One step of an energy counter in whole microjoules, exact or refused.

With `d = now − before`, range `R` (the counter returns to 0 after R, so its modulus is R + 1) and `most`, the energy of
the highest believable power over the gap:

    d ≥ 0:  d is added if d ≤ most, else nothing (`implausible`)
    d < 0:  d + R + 1 is added if R is known and 0 ≤ d + R + 1 ≤ most, else nothing (`reset`)

A gap in which the counter could have wrapped more than once adds the least that explains it (`ambiguous_wrap`).
Source: Linux, drivers/powercap; the register has 32 bits of a unit of 15.3 or 61 µJ: a wrap is exact to one unit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

SLACK_S = 0.01
"""Counters are updated about every millisecond, not at the moment of reading (Khan et al. 2018): a step may hold the
energy of so much more time than lies between two readings."""


class Step(NamedTuple):
    """What a step adds."""

    uj: int
    trusted: bool
    """Whether the gap counts as measured."""
    flag: str = ""


def step(
    before: int,
    now: int,
    dt_s: float,
    range_uj: int | None,
    max_w: float | None,
    resolution_s: float = 0.0,
    late_s: float = 0.0,
) -> Step:
    """Return what lies between two readings of a counter.

    Args:
        before, now: readings, µJ.
        dt_s: monotonic seconds between them.
        range_uj: last value before the counter wraps to 0; None: it does not wrap, or nobody knows where.
        max_w: highest believable power; None: everything is believed, and no wrap is ambiguous.
        resolution_s: seconds between two updates of the counter.
        late_s: the second reading may have been made so many seconds after its time.
    """
    most = math.inf if max_w is None else max_w * 1e6 * (dt_s + late_s + max(resolution_s, SLACK_S))
    added = now - before
    if added < 0:
        added = -1 if range_uj is None else added + range_uj + 1
        if not 0 <= added <= most:
            return Step(0, False, "reset")
    elif added > most:
        return Step(0, False, "implausible")
    if range_uj is not None and max_w is not None and dt_s * max_w * 1e6 > range_uj:
        return Step(added, False, "ambiguous_wrap")
    return Step(added, True)
