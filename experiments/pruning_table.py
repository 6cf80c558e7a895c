"""Ways of pruning in one table: python experiments/pruning_table.py outputs/mnist

One block per share of zeros asked for, one row per method and length, best first: epochs, samples that went forward in
training (one with its gradient counts as three; scoring apart), weights that are left (exact), test accuracy at the end
and the best of the evaluations on the way (which test data chose, as the published tables have it), the difference to a
control of about as many forwards and weights, paired by seed, with its 95 % t-interval, seconds of training, those of
scoring and rewiring, joules and how they are known.  Mean ± standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

if TYPE_CHECKING:
    from experiments.analysis import Run

HEAD = (
    "zeros asked for, %",
    "method",
    "seeds",
    "epochs",
    "forwards, millions",
    "weights left",
    "accuracy, %",
    "best on the way, %",
)

ABOUT = 0.15
"""Budgets that differ by less are compared."""

Key = tuple[float, str, int]


def table(folders: Sequence[Path], control: str) -> list[list[str]]:
    """Return the rows, as text; a dense run has no density, whatever its configuration says.

    Raises:
        FileNotFoundError: if there is no finished run.
        ValueError: for two runs of one method, density, length and seed.
    """
    import numpy as np

    from experiments.analysis import Group, find_runs, joules
    from experiments.equal_budget import interval, spread

    runs: dict[Key, dict[int, Run]] = {}
    for run in find_runs(folders):
        own = runs.setdefault(_key(run), {})
        if run.seed in own:
            raise ValueError(f"{run.folder}: there is another run of {run.name} with this density, length and seed")
        own[run.seed] = run

    def accuracy(run: Run) -> float:
        return 100 * float(run.summary["test_accuracy"])

    def place(item: tuple[Key, dict[int, Run]]) -> tuple[float, int, float]:
        (density, _, epochs), own = item
        return (-density, epochs, -float(np.mean([accuracy(run) for run in own.values()])))

    rows = []
    for (density, name, epochs), own in sorted(runs.items(), key=place):
        kept = sorted({int(run.summary["weights_kept"]) for run in own.values()})
        row = [f"{100 * (1 - density):g}", name, str(len(own)), str(epochs)]
        row += [f"{_forwards(own) / 1e6:.2f}"]
        row += [" to ".join(f"{number:,}" for number in ([*kept[:1], *kept[-1:]] if len(kept) > 1 else kept))]
        row += [spread([accuracy(run) for run in own.values()])]
        row += [spread([100 * float(np.nanmax(run.metrics["test_accuracy"])) for run in own.values()])]
        same = [o for (d, n, _), o in runs.items() if (d, n) == (density, control)]
        other = min(same, key=lambda o: abs(_forwards(o) / _forwards(own) - 1), default={})
        if other and abs(_forwards(other) / _forwards(own) - 1) > ABOUT:
            other = {}
        if other and abs(_kept(other) / _kept(own) - 1) > ABOUT:  # of another number of weights: no control
            other = {}
        pairs = [accuracy(own[seed]) - accuracy(other[seed]) for seed in own if seed in other]
        row += ["" if name == control else interval(pairs)]
        row += [spread([run.summary["seconds"] for run in own.values()], 0)]
        took = [run.summary.get("pruning_seconds") for run in own.values()]
        row += ["" if None in took else spread([float(value) for value in took], 1)]
        rows.append([*row, joules(Group(name, tuple(own.values())))])
    return rows


def _forwards(runs: dict[int, Run]) -> float:
    return sum(float(run.summary["forwards"]) for run in runs.values()) / len(runs)


def _kept(runs: dict[int, Run]) -> float:
    return sum(int(run.summary["weights_kept"]) for run in runs.values()) / len(runs)


def _key(run: Run) -> Key:
    train = run.config.get("train", {})
    pruned = train.get("pruning") is not None or run.summary["weights_kept"] < run.summary["weights"]
    return float(run.config.get("density", 1.0)) if pruned else 1.0, run.name, int(run.summary["epochs"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Ways of pruning in one table.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders, searched for finished runs")
    parser.add_argument("--control", default="random", metavar="NAME", help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        rows = table(options.runs, options.control)
    except (FileNotFoundError, ValueError) as error:
        print(f"pruning_table.py: {error}", file=sys.stderr)
        return 1
    head = [*HEAD, f"points above {options.control}", "seconds", "of pruning", "joules"]
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
