"""What a whole training would take, from a run that made a part of it: extrapolate.py RUN --epochs 164.

    whole = steps of the whole · (last row − first row) / (steps between them)

Rows are those of metrics.csv.  Where there are three, what comes before the second does not count: the first steps
compile, fill caches and wake a board up.  Optimizer steps alone are in it, no evaluation, pruning or inference.  Joules
keep their provenance, measured and estimated apart, and what is multiplied is called an extrapolation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

from experiments import record
from mcmcopt.energy import Report, carbon
from mcmcopt.energy.outputs.text import number, seconds

PUBLISHED = {"experiments.models.alexnet_cifar": 672_000.0}
"""Joules of a whole training on CIFAR-10, by model; epochs and machine are not stated there."""

G_PER_KWH, SOURCE = 59.0, "French grid, about, as with the published 672 kJ"


@dataclass(frozen=True)
class Rate:
    """What a step takes of one thing: on average, and the least and most of the stretches between rows."""

    mean: float
    least: float
    most: float


def counting(rows: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Return the rows of metrics.csv that count: all but the first, where two are left then.

    Raises:
        ValueError: for fewer than two.
    """
    if len(rows) < 2:
        raise ValueError(f"metrics.csv must have at least two rows, it has {len(rows)}")
    return list(rows[1:] if len(rows) > 2 else rows)


def rate(rows: Sequence[Mapping[str, str]], column: str) -> Rate | None:
    """Return what a step takes, by a column that adds up over rows; None where one of them has no value."""
    if any(not row[column] for row in rows):
        return None
    points = [(int(row["step"]), float(row[column])) for row in rows]
    each = [(after - before) / (b - a) for (a, before), (b, after) in pairwise(points)]
    (a, before), (b, after) = points[0], points[-1]
    return Rate((after - before) / (b - a), min(each), max(each))


def whole(summary: Mapping[str, Any], steps: int | None, epochs: int | None) -> tuple[int, str]:
    """Return the steps of the whole training, and how they are said; epochs are as long as the run's own.

    Raises:
        ValueError: for a length below 1, or epochs of a run that does not say how long they are.
    """
    name, length = ("steps", steps) if epochs is None else ("epochs", epochs)
    if length is None or length < 1:
        raise ValueError(f"--{name} must be at least 1, got {length}")
    if epochs is None:
        return length, f"{length:,} steps"
    each = summary.get("steps_per_epoch")
    if each is None:
        raise ValueError("the run does not say how many steps an epoch has: give --steps")
    return length * each, f"{length * each:,} steps ({length:,} epochs of {each:,})"


def lines(
    run: Path, steps: int | None = None, epochs: int | None = None, g_per_kwh: float = G_PER_KWH, source: str = SOURCE
) -> list[str]:
    """Return what is to be said of a finished run.

    Args:
        run: its folder.
        steps, epochs: of the whole training: one of them.
        g_per_kwh: grams of CO2 equivalent per kWh of electricity.
        source: of that number.

    Raises:
        FileNotFoundError: if there is no finished run.
        ValueError: if nothing follows from it, or a number is out of its range.
    """
    summary = record.read_json(run / "summary.json")
    if summary is None:
        raise FileNotFoundError(f"{run} has no summary.json: it is no run's folder, or the run is not finished")
    length, said = whole(summary, steps, epochs)
    rows = counting(record.read_csv(run / "metrics.csv"))
    time, measured, estimated = (rate(rows, column) for column in ("seconds", "joules", "joules_estimated"))
    if time is None:
        raise ValueError(f"{run / 'metrics.csv'} has a row without seconds")
    status, assumption = _provenance(summary["energy"], measured is not None, estimated is not None)
    total = Report(
        name="extrapolation",
        duration_s=length * time.mean,
        channels={},
        cpu_j=None,
        dram_j=None,
        gpu_j=None,
        total_measured_j=measured and length * measured.mean,
        total_estimated_j=estimated and length * estimated.mean,
        coverage=0.0,
    )

    def gas(of: Any) -> str:
        found = carbon(total, g_per_kwh, source=source, of=of)
        return f"not {of}" if found.energy_j is None else _energy(found.energy_j, found.grams)

    made = int(rows[-1]["step"]) - int(rows[0]["step"])
    out = [
        f"{summary['data']} / {summary['name']} / seed {summary['seed']}",
        f"steps made           {summary['steps']:,}, of which the last {made:,} count",
        f"a step, time         {_spread(time, 's')}",
        f"a step, measured     {status if measured is None else _spread(measured, 'J') + f', {status}'}",
        f"a step, estimated    {assumption if estimated is None else _spread(estimated, 'J') + f', {assumption}'}",
        f"EXTRAPOLATION to {said}: training alone, on the run's machine, at {number(g_per_kwh)} gCO2eq/kWh ({source})",
        f"  time               {seconds(total.duration_s)}",
        f"  energy, measured   {gas('measured')}",
        f"  energy, estimated  {gas('estimated')}",
    ]
    published = PUBLISHED.get(_model(run))
    if published is not None:
        grams = carbon(Report("", 0, {}, None, None, None, published, None, 0), g_per_kwh, source=source).grams
        out.append(f"published            {_energy(published, grams)}, epochs and machine not stated")
    return out


def _provenance(energy: Mapping[str, Any], measured: bool, estimated: bool) -> tuple[str, str]:
    """Return how measured and estimated joules are known, or why they are not."""
    status, assumption = energy["status"], energy["assumption"]
    if not measured and not status.startswith("not measured"):
        status = "not measured: not in all rows"
    if not estimated:
        channel = energy.get("this_process", {}).get("channels", {}).get("cpu_estimate", {})
        why = channel.get("reason") or "energy=estimated does"
        assumption = f"not estimated: {why}" if assumption is None else "not estimated: not in all rows"
    return status, assumption


def _energy(energy_j: float, grams: float | None) -> str:
    return f"{number(energy_j)} J = {number(energy_j / 3.6e6)} kWh" + (f" = {number(grams)} gCO2eq" if grams else "")


def _spread(rate: Rate, unit: str) -> str:
    between = f" ({number(rate.least)} to {number(rate.most)} between rows)" if rate.least < rate.most else ""
    return f"{number(rate.mean)} {unit}{between}"


def _model(run: Path) -> str | None:
    from omegaconf import OmegaConf

    path = run / ".hydra" / "config.yaml"
    return OmegaConf.select(OmegaConf.load(path), "model._target_") if path.exists() else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Extrapolate a finished run's time and joules to a whole training.")
    parser.add_argument("run", type=Path, help="folder of a finished run")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--epochs", type=int, help="of the whole training, as long as the run's own")
    length.add_argument("--steps", type=int, help="of the whole training, where the run had fewer samples")
    parser.add_argument("--g-per-kwh", type=float, default=G_PER_KWH, help="grams of CO2 equivalent (%(default)s)")
    parser.add_argument("--source", default=SOURCE, help="of that number (%(default)s)")
    options = parser.parse_args(arguments)
    if options.g_per_kwh != G_PER_KWH and options.source == SOURCE:
        parser.error("--g-per-kwh needs its --source")
    try:
        print(*lines(options.run, options.steps, options.epochs, options.g_per_kwh, options.source), sep="\n")
    except (FileNotFoundError, ValueError) as error:
        print(f"extrapolate.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
