"""The page's tables: what is in which column, and numbers as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.analysis import Group
from experiments.differences import Difference
from mcmcopt.diagnostics import ess, rhat


@dataclass(frozen=True)
class Column:
    """A measure of summary.csv as a table has it."""

    heading: str
    measure: str
    factor: float
    decimals: int


TRAINING = (
    Column("test accuracy, %", "test_accuracy", 100, 2),
    Column("weights active, %", "share_active", 100, 1),
    Column("loss evaluations", "evaluations", 1, 0),
    Column("gradients", "gradients", 1, 0),
    Column("samples evaluated, millions", "samples", 1e-6, 2),
    Column("forward-equivalents, millions", "forwards", 1e-6, 2),
    Column("training time, s", "seconds", 1, 1),
)
PRUNED = (
    Column("accuracy, %, 90 % of all pruned", "test_accuracy_at_90", 100, 2),
    Column("95 % of all pruned", "test_accuracy_at_95", 100, 2),
    Column("98 % of all pruned", "test_accuracy_at_98", 100, 2),
    Column("50 % of the remaining pruned", "test_accuracy_at_50_remaining", 100, 2),
    Column("area, all", "area_all", 1, 3),
    Column("area, remaining", "area_remaining", 1, 3),
    Column("pruned for 1 point, % of all", "sparsity_at_minus_1_all", 100, 1),
    Column("pruned for 1 point, % of the remaining", "sparsity_at_minus_1_remaining", 100, 1),
)
FINETUNED = (
    Column("accuracy, %, 90 % pruned and fine-tuned", "test_accuracy_finetuned_at_90", 100, 2),
    Column("95 % pruned and fine-tuned", "test_accuracy_finetuned_at_95", 100, 2),
    Column("98 % pruned and fine-tuned", "test_accuracy_finetuned_at_98", 100, 2),
)
STREAMED = (
    Column("loss before the change, nats", "stream_loss_before", 1, 1),
    Column("after it", "stream_loss_after", 1, 1),
    Column("errors before", "stream_errors_before", 1, 1),
    Column("errors after", "stream_errors_after", 1, 1),
    Column("fixed network: loss, nats", "stream_hindsight_loss", 1, 1),
    Column("fixed network: errors", "stream_hindsight_errors", 1, 1),
    Column("regret, nats", "stream_regret", 1, 1),
)
COMPARED = (
    Column("area, all", "area_all", 1, 3),
    Column("area, remaining", "area_remaining", 1, 3),
    Column("points, 90 % of all pruned", "test_accuracy_at_90", 100, 1),
    Column("points, 95 % of all pruned", "test_accuracy_at_95", 100, 1),
    Column("points, 50 % of the remaining pruned", "test_accuracy_at_50_remaining", 100, 1),
)
DIFFERENCE_HEADINGS = ("difference [95 % t-interval]", "pairs", *(column.heading for column in COMPARED))

Row = dict[str, Any]


def number(row: Row, column: Column) -> str:
    """Return a mean, with ± its standard deviation where there is one, and n where not all seeds have a value."""
    mean, sd, n = (row[f"{column.measure}_{what}"] for what in ("mean", "sd", "n"))
    if mean is None:
        return "–"
    text = f"{column.factor * mean:,.{column.decimals}f}"
    if sd is not None:
        text += f" ± {column.factor * sd:,.{column.decimals}f}"
    return text if n == row["n_seeds"] else f"{text} (n = {n})"


def cells(row: Row, columns: Sequence[Column], joules: bool = False) -> list[str]:
    """Return one row of a table: label, number of seeds, measures, joules if asked."""
    found = [row["label"], str(row["n_seeds"]), *(number(row, column) for column in columns)]
    return [*found, row["joules"]] if joules else found


def headings(columns: Sequence[Column], joules: bool = False) -> list[str]:
    """Return the headings of `cells`."""
    found = ["method", "seeds", *(column.heading for column in columns)]
    return [*found, "energy of training, J"] if joules else found


def difference_rows(differences: Sequence[Difference]) -> list[list[str]]:
    """Return one row per pair of methods: which, number of pairs, and mean and 95 % t-interval of each measure."""
    table: dict[tuple[str, str], dict[str, Difference]] = {}
    for difference in differences:
        table.setdefault((difference.label, difference.baseline), {})[difference.measure] = difference
    rows = []
    for (label, baseline), own in table.items():
        pairs = max(difference.n for difference in own.values())
        found = [_interval(own.get(compared.measure), compared, pairs) for compared in COMPARED]
        rows.append([f"{label} − {baseline}", str(pairs), *found])
    return rows


def _interval(difference: Difference | None, column: Column, pairs: int) -> str:
    if difference is None:
        return "–"
    mean, half = difference.mean, difference.half_width
    mean, low, high = (
        f"{column.factor * value:+.{column.decimals}f}".replace("-", "−") for value in (mean, mean - half, mean + half)
    )
    return f"{mean} [{low}, {high}]" + ("" if difference.n == pairs else f" (n = {difference.n})")


def mixing(sets: Sequence[Group]) -> list[list[str]]:
    """Return how well the second half of each chain's traces has mixed: effective sample size, split R-hat."""
    table = []
    for group in sets:
        for run in group.runs if group.is_chain else ():
            row = [f"{group.label}, seed {run.seed}"]
            for name in ("loss", "share_active"):
                half = run.metrics[name][len(run.metrics[name]) // 2 :]
                enough = len(half) >= 8 and np.ptp(half) > 0
                row += [f"{ess(half):.1f} of {len(half)}" if enough else "–", _plain(rhat(half)) if enough else "–"]
            table.append(row)
    return table


def run_rows(sets: Sequence[Group]) -> list[list[str]]:
    """Return one row per run: label, seed, folder (its last three names), seconds, whether energy was measured."""
    table = []
    for group in sets:
        for run in group.runs:
            energy = run.summary.get("energy") or {}
            windows = {k: v for k, v in (energy.get("windows") or {}).items() if k != "epoch"}  # inside `train`
            whole = f"{sum(w['duration_s'] for w in windows.values()):,.1f}" if windows else "–"
            folder = "/".join(run.folder.resolve().parts[-3:])
            status = energy.get("status") or "not measured"
            table.append([group.label, str(run.seed), folder, f"{run.summary['seconds']:,.1f}", whole, status])
    return table


def _plain(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
