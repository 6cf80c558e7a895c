"""Accuracy at equal budgets, by method and density: python experiments/equal_budget.py outputs

One row per method and density of finished runs (`experiment=informed`): test accuracy, the share of weights that is
really active, forward-equivalents (a gradient counted as three) and seconds, mean ± standard deviation over seeds; and
the difference to each baseline at that density, paired by seed, with its 95 % t-interval.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

Key = tuple[float, str]


def table(folders: Sequence[Path], baselines: Sequence[str]) -> list[list[str]]:
    """Return the rows, as text.

    Raises:
        FileNotFoundError: if there is no finished run.
        ValueError: for a baseline that no run has, or two runs of one method, density and seed.
    """
    from experiments.analysis import find_runs

    runs: dict[Key, dict[int, dict[str, Any]]] = {}
    for run in find_runs(folders):
        own = runs.setdefault((float(run.config.get("density", 1.0)), run.name), {})
        seed = int(run.config["seed"])
        if seed in own:
            raise ValueError(f"{run.folder}: there is another run of {run.name} with this density and seed")
        own[seed] = run.summary
    for name in baselines:
        if not any(name == method for _, method in runs):
            raise ValueError(f"no run of the baseline {name!r} among {', '.join(sorted({m for _, m in runs}))}")
    rows = []
    for (density, name), own in sorted(runs.items(), key=lambda item: (-item[0][0], item[0][1])):
        row = [f"{100 * (1 - density):g}", name, str(len(own))]
        row += [spread([100 * s["test_accuracy"] for s in own.values()])]
        row += [f"{100 * max(s['share_active'] for s in own.values()):.2f}"]
        row += [spread([s["forwards"] / 1e6 for s in own.values()]), spread([s["seconds"] for s in own.values()], 0)]
        for baseline in baselines:
            other = runs.get((density, baseline), {})
            pairs = [100 * (own[s]["test_accuracy"] - other[s]["test_accuracy"]) for s in own if s in other]
            row.append("" if baseline == name else interval(pairs))
        rows.append(row)
    return rows


def spread(values: Sequence[float], decimals: int = 2) -> str:
    """Return mean ± standard deviation."""
    import numpy as np

    mean = f"{np.mean(values):.{decimals}f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.{decimals}f}"


def interval(differences: Sequence[float]) -> str:
    """Return the mean with its 95 % t-interval."""
    import numpy as np

    from experiments.analysis import t_interval

    if len(differences) < 2:
        return f"{differences[0]:+.2f}" if differences else ""
    mean, half = t_interval(np.array(differences)[:, None])
    return f"{mean[0]:+.2f} [{mean[0] - half[0]:+.2f}, {mean[0] + half[0]:+.2f}]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Accuracy at equal budgets, by method and density.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders, searched for finished runs")
    parser.add_argument("--baseline", default="sgd_gradual_long,rigl_long", help="NAME,… (default: %(default)s)")
    options = parser.parse_args(arguments)
    baselines = [name for name in options.baseline.split(",") if name]
    try:
        rows = table(options.runs, baselines)
    except (FileNotFoundError, ValueError) as error:
        print(f"equal_budget.py: {error}", file=sys.stderr)
        return 1
    head = ["zeros asked for, %", "method", "seeds", "test accuracy, %", "most active, %", "forwards, millions"]
    head += ["seconds", *(f"points above {name}" for name in baselines)]
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
