"""Rank settings by validation accuracy: python experiments/choose.py outputs.  Test data is not read.

With --at 0.9 what counts is validation accuracy after magnitude pruning of 90 % of each layer's weights, with
--remaining of those of them that training left non-zero.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only


def ranking(
    folders: Sequence[Path], at: float = 0.0, max_active: float = 1.0, remaining: bool = False
) -> list[dict[str, Any]]:
    """Return the groups of runs that differ in the seed only, best mean validation accuracy first.

    Each has `differs`, the settings in which its configuration differs from that of others of its name.

    Args:
        folders: searched for finished runs.
        at: share of each layer's weights that is pruned by magnitude before validation.
        max_active: leave out groups with a larger mean share of active weights.
        remaining: `at` is a share of the weights that training left non-zero, instead of all.

    Raises:
        FileNotFoundError: if there is no finished run.
        ValueError: if no run has a curve through `at`, or one has no validation data.
    """
    import numpy as np

    from experiments.analysis import find_runs, groups

    rows = []
    for group in groups(find_runs(folders)):
        accuracy = np.array([_validation_accuracy(run, at, remaining) for run in group.runs])
        active = float(np.mean([run.metrics["share_active"][-1] for run in group.runs]))
        rows.append(
            {
                "name": group.runs[0].name,
                "group": group.runs[0].group[:6],
                "n_seeds": len(accuracy),
                "validation_accuracy": float(accuracy.mean()),
                "sd": float(accuracy.std(ddof=1)) if len(accuracy) > 1 else None,
                "validation_loss": float(np.mean([run.metrics["validation_loss"][-1] for run in group.runs])),
                "share_active": active,
                "settings": _flat(group.runs[0].config),
            }
        )
    for row in rows:
        others = [other["settings"] for other in rows if other["name"] == row["name"]]
        row["differs"] = {k: v for k, v in row["settings"].items() if any(o.get(k, v) != v for o in others)}
    kept = [row for row in rows if row["share_active"] <= max_active]
    return sorted(kept, key=lambda row: (-row["validation_accuracy"], row["validation_loss"]))


def _validation_accuracy(run: Any, at: float, remaining: bool) -> float:
    if run.metrics["validation_accuracy"][-1] != run.metrics["validation_accuracy"][-1]:
        raise ValueError(f"{run.folder} was made without validation data: set data.n_validation to choose settings")
    if at == 0:
        return float(run.metrics["validation_accuracy"][-1])
    basis = "remaining" if remaining else "all"
    for share, accuracy in zip(*run.curve("magnitude", "layer", basis, "validation_accuracy"), strict=True):
        if share == at:
            return float(accuracy)
    raise ValueError(f"--at {at}: {run.folder} has no pruning to that share in its resistance.csv")


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return a configuration as dotted keys, without what differs between seeds or has no effect."""
    from experiments.config import SEEDS, WITHOUT_EFFECT

    if not isinstance(node, dict):
        return {prefix: node}
    found: dict[str, Any] = {}
    for key, value in node.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if path not in (*WITHOUT_EFFECT, *SEEDS):
            found |= _flat(value, path)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Rank settings by mean validation accuracy over seeds.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders, searched for finished runs")
    parser.add_argument("--at", type=float, default=0.0, help="share of each layer pruned first (default: %(default)s)")
    parser.add_argument("--remaining", action="store_true", help="--at is a share of the weights that are not zero")
    parser.add_argument("--max-active", type=float, default=1.0, help="leave out denser ones (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        rows = ranking(options.runs, options.at, options.max_active, options.remaining)
    except (FileNotFoundError, ValueError) as error:
        print(f"choose.py: {error}", file=sys.stderr)
        return 1
    from rich.console import Console
    from rich.table import Table

    of = "each layer's remaining weights" if options.remaining else "each layer"
    pruned = f" with {options.at:.0%} of {of} pruned" if options.at else ""
    table = Table(title=f"validation accuracy{pruned}, best first")
    for heading in ("method", "group", "seeds", "accuracy, %", "loss", "active, %", "settings that differ"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        sd = "" if row["sd"] is None else f" ± {100 * row['sd']:.2f}"
        differs = ", ".join(f"{key}={value}" for key, value in row["differs"].items())
        accuracy = f"{100 * row['validation_accuracy']:.2f}{sd}"
        loss, active = f"{row['validation_loss']:.4f}", f"{100 * row['share_active']:.1f}"
        table.add_row(row["name"], row["group"], str(row["n_seeds"]), accuracy, loss, active, differs)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
