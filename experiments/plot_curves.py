"""Draw test accuracy while training: python experiments/plot_curves.py outputs writes curves.svg and curves.csv."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

if TYPE_CHECKING:
    from experiments.analysis import Group
    from experiments.figures.style import Picture

MILESTONES = (0.3, 0.4, 0.5, 0.6)
"""Test accuracies; the table says after how many seconds and proposals a run first had them."""


def plot_curves(folders: Sequence[Path], out: Path) -> None:
    """Write figure and table of all finished runs in some folders and below.

    Raises:
        FileNotFoundError: if there is no finished run.
    """
    from experiments import analysis
    from experiments.record import write_csv, write_text

    sets = analysis.groups(analysis.find_runs(folders))
    out.mkdir(parents=True, exist_ok=True)
    rows = table(sets)
    write_csv(out / "curves.csv", list(rows[0]), rows)
    write_text(out / "curves.svg", curves(sets).svg + "\n")


def curves(sets: Sequence[Group]) -> Picture:
    """Return test accuracy against training seconds and against proposals.

    Methods without proposals have their last accuracy as a level in the second panel.
    """
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    from experiments.analysis import traces
    from experiments.figures.style import Picture, called, colour, legend, look, style

    with style():
        figure = Figure(figsize=(9, 3.8))
        axes = figure.subplots(1, 2, sharey=True)
        for ax, against in zip(axes, ("seconds", "proposals"), strict=True):
            for i, group in enumerate(sets):
                if against == "proposals" and not group.is_chain:
                    level = float(np.mean([run.metrics["test_accuracy"][-1] for run in group.runs]))
                    ax.axhline(level, color=colour(i), linestyle=look(i, 1)["linestyle"], lw=1.2)
                    continue
                x, y = traces(group, against, "test_accuracy")
                ax.plot(x, y.mean(0), label=called(group), **look(i, len(x)))
                ax.fill_between(x, y.min(0), y.max(0), color=colour(i), alpha=0.15, lw=0)
            ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=None))
            ax.set_xlabel("training time, s" if against == "seconds" else "proposals")
        axes[0].set_ylabel("test accuracy, %")
        legend(figure, axes[0])
    caption = (
        "Test accuracy while training. Lines: mean over n seeds; bands: lowest to highest seed. Seconds are those of "
        "optimizer steps alone. Right: methods without proposals as the level that they end at."
    )
    return Picture("curves", "Test accuracy while training", caption, figure)


def table(sets: Sequence[Group]) -> list[dict[str, Any]]:
    """Return one row per group: what its runs end with, and when they first had each milestone (if all have)."""
    import numpy as np

    rows = []
    for group in sets:
        last = [{key: run.metrics[key][-1] for key in run.metrics} for run in group.runs]
        accuracy = np.array([row["test_accuracy"] for row in last])
        row: dict[str, Any] = {"label": group.label, "n_seeds": len(last)}
        row |= {"test_accuracy_mean": float(accuracy.mean())}
        row |= {"test_accuracy_sd": float(accuracy.std(ddof=1)) if len(accuracy) > 1 else None}
        row |= {"test_accuracy_min": float(accuracy.min()), "test_accuracy_max": float(accuracy.max())}
        for key in ("test_loss", "loss", "proposals", "accepted", "evaluations", "seconds"):
            row[f"{key}_mean"] = float(np.mean([one[key] for one in last]))
        for milestone in MILESTONES:
            for key in ("seconds", "proposals"):
                first = [_first(run.metrics[key], run.metrics["test_accuracy"], milestone) for run in group.runs]
                row[f"{key}_to_{round(100 * milestone)}"] = float(np.mean(first))
        rows.append(row)
    return rows


def _first(x: Any, accuracy: Any, milestone: float) -> float:
    reached = (accuracy >= milestone).nonzero()[0]
    return float(x[reached[0]]) if len(reached) else float("nan")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Draw test accuracy against seconds and proposals of finished runs.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders, searched for finished runs")
    parser.add_argument("--out", type=Path, default=Path("outputs/page"), help="where to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        plot_curves(options.runs, options.out)
    except FileNotFoundError as error:
        print(f"plot_curves.py: {error}", file=sys.stderr)
        return 1
    print(f"written to {options.out / 'curves.svg'} and {options.out / 'curves.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
