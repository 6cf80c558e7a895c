"""Differences between methods, paired by seed: a seed fixes split, initial weights and batch order for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.analysis import Group, is_called, t_interval

COMPARED = ("area_all", "area_remaining", "test_accuracy_at_90", "test_accuracy_at_95", "test_accuracy_at_50_remaining")
"""Measures of summary.json, all of them the better the larger."""


@dataclass(frozen=True)
class Difference:
    """A measure of one group minus that of another, with the half-width of its 95 % t-interval."""

    label: str
    baseline: str
    measure: str
    n: int
    mean: float
    half_width: float


def paired_differences(sets: Sequence[Group], baselines: Sequence[str] = ("sgd",)) -> list[Difference]:
    """Return the paired differences of every group against those with a baseline's name or label.

    Pairs are runs of one seed on the same data with the same model, both of which have the measure; it takes two.
    """
    found = []
    for other in dict.fromkeys(g for name in baselines for g in sets if is_called(g, name)):
        for group in sets:
            if group is other or group.runs[0].task != other.runs[0].task:
                continue
            for measure in COMPARED:
                one, two = (dict(zip(g.seeds, g.values(measure), strict=True)) for g in (group, other))
                apart = np.array([one[seed] - two[seed] for seed in one.keys() & two.keys()])
                apart = apart[np.isfinite(apart)]
                if len(apart) > 1:
                    mean, half = t_interval(apart)
                    found.append(Difference(group.label, other.label, measure, len(apart), float(mean), float(half)))
    return found
