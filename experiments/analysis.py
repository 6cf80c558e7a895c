"""Finished runs as groups that differ in the seed only, and the numbers that are reported of them.

What a run is (seed, name, group) comes from its configuration, so that choosing settings never opens test results.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from experiments.config import group_hash, long_hash
from experiments.record import read_csv, read_json

MEASURES = (
    "test_accuracy", "validation_accuracy", "share_active", "weights_kept", "test_accuracy_at_90", "points_lost_at_90",
    "test_accuracy_at_90_remaining", "points_lost_at_90_remaining", "area_all", "area_remaining", "evaluations",
    "gradients", "samples", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One run's folder, read when asked."""

    folder: Path

    @cached_property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = read_json(self.folder / "summary.json")
        areas = {f"area_{basis}": area(*self.curve("magnitude", basis)) for basis in ("all", "remaining")}
        return {**summary, **areas}

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def name(self) -> str:
        return str(self.config["name"])

    @property
    def data(self) -> str:
        return str(self.config["data"]["name"])

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

    def curve(self, criterion: str, basis: str) -> tuple[np.ndarray, np.ndarray]:
        """Return requested sparsity and test accuracy."""
        rows = [row for row in self.resistance if row["criterion"] == criterion and row["basis"] == basis]
        return np.array([float(r["requested"]) for r in rows]), np.array([float(r["test_accuracy"]) for r in rows])


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

    def values(self, measure: str) -> np.ndarray:
        """Return one number per seed."""
        return np.array([run.summary[measure] for run in self.runs], dtype=float)


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
    several_data = len({run.data for run in runs}) > 1
    heads = {key: f"{own[0].data} {own[0].name}" if several_data else own[0].name for key, own in by_group.items()}
    names = list(heads.values())
    labels = {key: head if names.count(head) == 1 else f"{head} {key[:6]}" for key, head in heads.items()}
    sets = [Group(labels[key], tuple(sorted(own, key=lambda run: run.seed))) for key, own in by_group.items()]
    return sorted(sets, key=lambda group: group.label)


def summary_rows(sets: Sequence[Group]) -> list[dict[str, Any]]:
    """Return the rows of summary.csv: means and standard deviations over seeds; no standard deviation of one seed."""
    rows = []
    for group in sets:
        first = group.runs[0]
        row = {"label": group.label, "data": first.data, "name": first.name, "group": first.group[:6]}
        row |= {"n_seeds": len(group.runs), "seeds": " ".join(map(str, group.seeds))}
        row["weights"] = first.summary["weights"]
        for measure in MEASURES:
            values = group.values(measure)
            row[f"{measure}_mean"] = float(values.mean())
            row[f"{measure}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else None
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


def area(sparsity: np.ndarray, accuracy: np.ndarray) -> float:
    """Return the mean accuracy over the range of sparsities, by the trapezoid rule."""
    return float(np.trapezoid(accuracy, sparsity) / (sparsity[-1] - sparsity[0]))


def t_interval(values: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over an axis, and the half-width of its 95 % interval by Student's t; nan for one value."""
    from scipy.stats import t

    n = values.shape[axis]
    mean = values.mean(axis)
    if n < 2:
        return mean, np.full_like(mean, math.nan)
    return mean, t.ppf(0.975, n - 1) * values.std(axis, ddof=1) / math.sqrt(n)


@dataclass(frozen=True)
class Difference:
    """The area of one group minus that of another, paired by seed."""

    label: str
    basis: str
    n: int
    mean: float
    half_width: float


def traces(group: Group, against: str, what: str, points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Return one column of metrics.csv against another for all runs of a group: x (rows,) and values (seeds, rows).

    Where runs have equally many rows x is its mean over them.  Where time decided about the rows they have not: values
    are then interpolated linearly at equal distances, over the range that all runs cover.
    """
    pairs = [(run.metrics[against], run.metrics[what]) for run in group.runs]
    if len({len(x) for x, _ in pairs}) == 1:
        return np.mean([x for x, _ in pairs], 0), np.array([y for _, y in pairs])
    grid = np.linspace(max(x[0] for x, _ in pairs), min(x[-1] for x, _ in pairs), points)
    return grid, np.array([np.interp(grid, x, y) for x, y in pairs])


def paired_differences(sets: Sequence[Group], baseline: str = "sgd") -> list[Difference]:
    """Return the paired area differences of every group against those named like the baseline, on the same data.

    Needs two shared seeds: these fix split, initial weights and batch order, which both runs then have in common.
    """
    found = []
    for other in sets:
        if other.runs[0].name != baseline:
            continue
        for group in sets:
            shared = sorted(set(group.seeds) & set(other.seeds))
            same_data = group.runs[0].config["data"] == other.runs[0].config["data"]
            if group is other or len(shared) < 2 or not same_data:
                continue
            for basis in ("all", "remaining"):
                one, two = (
                    np.array([dict(zip(g.seeds, g.values(f"area_{basis}"), strict=True))[seed] for seed in shared])
                    for g in (group, other)
                )
                mean, half = t_interval(one - two)
                found.append(Difference(f"{group.label} − {other.label}", basis, len(shared), float(mean), float(half)))
    return found


def columns(rows: Sequence[dict[str, str]]) -> dict[str, np.ndarray]:
    """Return a table's columns as floats, nan where a cell is empty."""
    return {key: np.array([float(row[key]) if row[key] else math.nan for row in rows]) for key in rows[0]}
