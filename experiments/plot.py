"""Draw finished runs: python experiments/plot.py outputs writes outputs/page/index.html, its SVG files, summary.csv."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only


def plot(folders: Sequence[Path], out: Path) -> Path:
    """Write page, figures and summary of all finished runs in some folders and below; return the page's path.

    Raises:
        FileNotFoundError: if there is no finished run.
    """
    from rich.console import Console
    from rich.table import Table

    from experiments import analysis, page
    from experiments.figures import pictures
    from experiments.record import write_csv, write_text

    sets = analysis.groups(analysis.find_runs(folders))
    rows, differences, figures = analysis.summary_rows(sets), analysis.paired_differences(sets), pictures(sets)
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "summary.csv", list(rows[0]), rows)
    for picture in figures:
        write_text(out / f"{picture.name}.svg", picture.svg + "\n")
    write_text(out / "index.html", page.page(sets, rows, differences, figures))

    table = Table(title="mean ± standard deviation over seeds", show_header=True)
    table.add_column("")
    for row in rows:
        table.add_column(row["label"], justify="right")
    for heading, *values in zip(page.headings()[1:], *(page.cells(row)[1:] for row in rows), strict=True):
        table.add_row(heading, *values)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for d in differences:
        interval = f"[{d.mean - d.half_width:+.4f}, {d.mean + d.half_width:+.4f}]"
        print(f"area, share of {d.basis}: {d.label} = {d.mean:+.4f}, 95 % interval {interval}, {d.n} seeds")
    print(f"written to {out / 'index.html'}")
    return out / "index.html"


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Draw finished runs on one static HTML page.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders, searched for finished runs")
    parser.add_argument("--out", type=Path, default=Path("outputs/page"), help="where to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        plot(options.runs, options.out)
    except FileNotFoundError as error:
        print(f"plot.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
