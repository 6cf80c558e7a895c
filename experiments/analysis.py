"""Finished runs as groups that differ in the seed only, and the numbers that are reported of them.

What a run is (seed, name, group) comes from its configuration, so that choosing settings never opens test results.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from experiments.config import group_hash, left, long_hash
from experiments.record import read_csv, read_json

MEASURES = (
    "test_accuracy", "validation_accuracy", "share_active", "weights_kept", "test_accuracy_at_90",
    "test_accuracy_at_95", "test_accuracy_at_98", "test_accuracy_at_50_remaining", "test_accuracy_at_90_remaining",
    "points_lost_at_90", "points_lost_at_50_remaining", "points_lost_at_90_remaining", "test_accuracy_finetuned_at_90",
    "test_accuracy_finetuned_at_95", "test_accuracy_finetuned_at_98", "area_all", "area_remaining",
    "sparsity_at_minus_1_all", "sparsity_at_minus_1_remaining", "evaluations", "gradients", "samples", "forwards",
    "proposals", "seconds",
)  # fmt: skip
"""Numbers of summary.json that summary.csv has mean, standard deviation and number of."""

STREAMED = (
    "stream_loss", "stream_loss_before", "stream_loss_after", "stream_errors_before", "stream_errors_after",
    "stream_hindsight_loss", "stream_hindsight_errors", "stream_regret",
)  # fmt: skip
"""The same of runs on a stream."""


@dataclass(frozen=True)
class Run:
    """One run's folder, read when asked."""

    folder: Path

    @cached_property
    def summary(self) -> dict[str, Any]:
        return dict(read_json(self.folder / "summary.json"))

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def name(self) -> str:
        return str(self.config["name"])

    @property
    def data(self) -> str:
        return str(self.config["data"]["name"])

    @property
    def model(self) -> str:
        return str(self.config["model"]["_target_"]).rpartition(".")[2]

    @property
    def task(self) -> dict[str, Any]:
        """What runs must share to be compared seed by seed: data and model."""
        config = left(self.config)
        return {"data": config["data"], "model": config["model"]}

    @cached_property
    def group(self) -> str:
        return group_hash(self.config)

    @cached_property
    def config(self) -> dict[str, Any]:
        return dict(OmegaConf.to_container(OmegaConf.load(self.folder / ".hydra" / "config.yaml")))

    @cached_property
    def environment(self) -> dict[str, Any]:
        return dict(read_json(self.folder / "env.json"))

    @cached_property
    def metrics(self) -> dict[str, np.ndarray]:
        return columns(read_csv(self.folder / "metrics.csv"))

    @cached_property
    def layers(self) -> list[dict[str, str]]:
        return read_csv(self.folder / "layers.csv")

    @cached_property
    def resistance(self) -> list[dict[str, str]]:
        return read_csv(self.folder / "resistance.csv")

    @cached_property
    def stream(self) -> dict[str, np.ndarray]:
        """The columns of stream.csv; empty for a run on data that do not stream."""
        path = self.folder / "stream.csv"
        return columns(read_csv(path)) if path.exists() else {}

    @property
    def prunings(self) -> list[tuple[str, str]]:
        """Criterion and scope of each curve, as they come in the table."""
        return list(dict.fromkeys((row["criterion"], row["scope"]) for row in self.resistance))

    def curve(
        self, criterion: str, scope: str, basis: str, what: str = "test_accuracy"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return requested sparsity and a column of resistance.csv, where it has a value."""
        kind = (criterion, scope, basis)
        rows = [row for row in self.resistance if (row["criterion"], row["scope"], row["basis"]) == kind]
        rows = [row for row in rows if row[what]]
        return np.array([float(row["requested"]) for row in rows]), np.array([float(row[what]) for row in rows])


@dataclass(frozen=True)
class Group:
    """Runs of one configuration, one per seed."""

    label: str
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    @property
    def is_chain(self) -> bool:
        return any(run.summary["acceptance"] for run in self.runs)

    @property
    def name(self) -> str:
        return self.runs[0].name

    def values(self, measure: str) -> np.ndarray:
        """Return one number per seed, nan where a run has none."""
        return np.array([run.summary.get(measure) for run in self.runs], dtype=float)

    def curves(
        self, criterion: str, scope: str, basis: str, what: str = "test_accuracy"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return requested sparsity (points,) and a column of resistance.csv (seeds, points); no seeds, no points."""
        found = [run.curve(criterion, scope, basis, what) for run in self.runs]
        found = [curve for curve in found if len(curve[0])]
        if not found:
            return np.empty(0), np.empty((0, 0))
        return found[0][0], np.array([values for _, values in found])


@dataclass(frozen=True)
class Section:
    """What belongs into the same figures: runs of one data set and one kind of model."""

    title: str
    key: str
    """What its files and anchors start with; empty where there is one section."""
    groups: tuple[Group, ...]


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """Return the finished runs in some folders and below; a run found twice counts once.

    Raises:
        FileNotFoundError: naming what was looked for, if there is none.
    """
    folders = list(folders)
    found: dict[Path, Run] = {}
    others: list[str] = []
    for folder in folders:
        for path in sorted(folder.rglob("status.json")):
            status = read_json(path)["status"]
            if status == "ok":
                found.setdefault(path.parent.resolve(), Run(path.parent))
            else:
                others.append(f"{path.parent} ({status})")
    if not found:
        missing = [str(folder) for folder in folders if not folder.exists()]
        raise FileNotFoundError(
            f"no finished run in {', '.join(map(str, folders))} or below: looked for status.json files that say ok"
            + (f"; no such folder: {', '.join(missing)}" if missing else "")
            + (f"; not finished: {', '.join(others)}" if others else "")
        )
    by_hash = {long_hash(run.config): run for run in found.values()}
    return list(by_hash.values())


def groups(runs: Sequence[Run]) -> list[Group]:
    """Return the runs grouped by configuration, the seed aside, sorted by label; labels are as short as they can be."""
    by_group: dict[str, list[Run]] = {}
    for run in runs:
        by_group.setdefault(run.group, []).append(run)
    names = [own[0].name for own in by_group.values()]
    labels = {key: own[0].name for key, own in by_group.items()}
    labels = {key: name if names.count(name) == 1 else f"{name} {key[:6]}" for key, name in labels.items()}
    sets = [Group(labels[key], tuple(sorted(own, key=lambda run: run.seed))) for key, own in by_group.items()]
    return sorted(sets, key=lambda group: group.label)


def sections(runs: Sequence[Run], only: Sequence[str] | None = None) -> list[Section]:
    """Return the runs by data set and model, and in each by configuration.

    Args:
        runs: finished ones.
        only: names or labels of the groups to keep, in the order to keep them in; None: all, by label.

    Raises:
        ValueError: naming what `only` has and the runs have not.
    """
    by_task: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        by_task.setdefault((run.data, run.model), []).append(run)
    datas = [data for data, _ in by_task]
    found = []
    for (data, model), own in sorted(by_task.items()):
        title = data if datas.count(data) == 1 else f"{data}, {model}"
        found.append(Section(title, re.sub(r"\W+", "-", title) if len(by_task) > 1 else "", tuple(groups(own))))
    if only is None:
        return found
    check_names([group for section in found for group in section.groups], only, "--only")
    chosen = [
        replace(section, groups=tuple(g for name in dict.fromkeys(only) for g in section.groups if is_called(g, name)))
        for section in found
    ]
    return [section for section in chosen if section.groups]


def is_called(group: Group, name: str) -> bool:
    """Return whether a group has that name or label."""
    return name in (group.name, group.label)


def check_names(sets: Sequence[Group], names: Sequence[str], argument: str) -> None:
    """Refuse names that no group has.

    Raises:
        ValueError: naming the argument, what it has and what the groups are called.
    """
    known = sorted({called for group in sets for called in (group.name, group.label)})
    if unknown := [name for name in names if not any(is_called(group, name) for group in sets)]:
        raise ValueError(f"{argument}: no runs are called {unknown[0]!r}; there are {', '.join(known)}")


def summary_rows(sets: Sequence[Group]) -> list[dict[str, Any]]:
    """Return the rows of summary.csv: of each measure mean, standard deviation and number of seeds that have it.

    A mean of no seed and a standard deviation of one are None, never 0.
    """
    rows = []
    streamed = any("stream_loss" in run.summary for group in sets for run in group.runs)
    for group in sets:
        first = group.runs[0]
        row = {"label": group.label, "data": first.data, "model": first.model, "name": first.name}
        row |= {"group": first.group[:6], "n_seeds": len(group.runs), "seeds": " ".join(map(str, group.seeds))}
        row["weights"] = first.summary["weights"]
        for measure in (*MEASURES, *(STREAMED if streamed else ())):
            values = group.values(measure)
            values = values[np.isfinite(values)]
            row[f"{measure}_mean"] = float(values.mean()) if len(values) else None
            row[f"{measure}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else None
            row[f"{measure}_n"] = len(values)
        rows.append({**row, "joules": joules(group)})
    return rows


def joules(group: Group) -> str:
    """Return the joules of training as a table has them: mean and standard deviation, or that they are estimated."""
    for key, label in (("joules", ""), ("joules_estimated", " (estimated)")):
        found = [run.summary.get(key) for run in group.runs]
        if None in found:
            continue
        if label and len({run.summary["energy"]["assumption"] for run in group.runs}) > 1:
            return "not comparable: the seeds' estimates assume different watts"
        values = np.array(found, dtype=float)
        spread = f" ± {values.std(ddof=1):,.4g}" if len(values) > 1 else ""
        return f"{values.mean():,.4g}{spread}{label}"
    return "not measured"


def t_interval(values: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over an axis, and the half-width of its 95 % interval by Student's t; nan for one value."""
    from scipy.stats import t

    n = values.shape[axis]
    mean = values.mean(axis)
    if n < 2:
        return mean, np.full_like(mean, math.nan)
    return mean, t.ppf(0.975, n - 1) * values.std(axis, ddof=1) / math.sqrt(n)


def traces(group: Group, against: str, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Return one column of metrics.csv against another for all runs of a group: x (rows,) and values (seeds, rows)."""
    return aligned([(run.metrics[against], run.metrics[what]) for run in group.runs])


def aligned(pairs: Sequence[tuple[np.ndarray, np.ndarray]], points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Return lines x, y as one x (points,) and all y (lines, points).

    Where the lines have equally many points x is its mean over them.  Where time decided about the points they have
    not: y is then interpolated linearly at equal distances, over the range that all lines cover.
    """
    if len({len(x) for x, _ in pairs}) == 1:
        return np.mean([x for x, _ in pairs], 0), np.array([y for _, y in pairs])
    grid = np.linspace(max(x[0] for x, _ in pairs), min(x[-1] for x, _ in pairs), points)
    return grid, np.array([np.interp(grid, x, y) for x, y in pairs])


def columns(rows: Sequence[dict[str, str]]) -> dict[str, np.ndarray]:
    """Return a table's columns as floats, nan where a cell is empty."""
    return {key: np.array([float(row[key]) if row[key] else math.nan for row in rows]) for key in rows[0]}
