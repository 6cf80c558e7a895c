"""Draw finished runs: python experiments/plot.py outputs writes outputs/page/index.html, its SVG files, summary.csv."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

if TYPE_CHECKING:
    from experiments.page import Part

BASELINE = "sgd"


def plot(
    folders: Sequence[Path],
    out: Path,
    only: Sequence[str] | None = None,
    baselines: Sequence[str] | None = None,
    pdf: bool = False,
) -> Path:
    """Write page, figures and tables of all finished runs in some folders and below; return the page's path.

    Args:
        folders: searched for finished runs.
        out: folder of what is written.
        only: names or labels of the methods to show, in this order; None: all.
        baselines: names or labels that differences are taken to; None: sgd, where there is one.
        pdf: write the figures as PDF too.

    Raises:
        FileNotFoundError: if there is no finished run.
        ValueError: for a name that no run has.
    """
    from experiments import analysis, page
    from experiments.differences import paired_differences
    from experiments.figures import pictures
    from experiments.record import replacing, write_csv, write_text

    sections = analysis.sections(analysis.find_runs(folders), only)
    if baselines is None:
        baselines = [BASELINE]
    else:
        analysis.check_names([group for section in sections for group in section.groups], baselines, "--baseline")
    parts = []
    for section in sections:
        rows, differences = analysis.summary_rows(section.groups), paired_differences(section.groups, baselines)
        parts.append(page.Part(section, rows, differences, pictures(section, baselines)))
    out.mkdir(parents=True, exist_ok=True)
    rows = [row for part in parts for row in part.rows]
    write_csv(out / "summary.csv", list(dict.fromkeys(key for row in rows for key in row)), rows)
    apart = [{"section": part.section.title, **asdict(d)} for part in parts for d in part.differences]
    write_csv(out / "differences.csv", ("section", "label", "baseline", "measure", "n", "mean", "half_width"), apart)
    for picture in (picture for part in parts for picture in part.pictures):
        write_text(out / f"{picture.name}.svg", picture.svg + "\n")
        if pdf:
            with replacing(out / f"{picture.name}.pdf") as temporary:
                temporary.write_bytes(picture.pdf)
    write_text(out / "index.html", page.page(parts, baselines))
    for part in parts:
        _print(part)
    print(f"written to {out / 'index.html'}")
    return out / "index.html"


def _print(part: Part) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from experiments import tables

    table = Table(title=f"{part.section.title}: mean ± standard deviation over seeds")
    table.add_column("")
    for row in part.rows:
        table.add_column(row["label"], justify="right")
    streamed = tables.STREAMED if "stream_loss_n" in part.rows[0] else ()
    columns = (*tables.TRAINING, *streamed, *tables.PRUNED, *tables.FINETUNED)
    cells = [tables.cells(row, columns, joules=True)[1:] for row in part.rows]
    for heading, *values in zip(tables.headings(columns, joules=True)[1:], *cells, strict=True):
        table.add_row(heading, *values)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    if part.differences:
        table = Table(*tables.DIFFERENCE_HEADINGS, title=f"{part.section.title}: differences, paired by seed")
        for cells in tables.difference_rows(part.differences):
            table.add_row(*map(escape, cells))
        console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Draw finished runs on one static HTML page.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders, searched for finished runs")
    parser.add_argument("--out", type=Path, default=Path("outputs/page"), help="where to write (default: %(default)s)")
    parser.add_argument("--only", type=_names, help="methods to show, in this order: NAME,NAME,…  (default: all)")
    parser.add_argument("--baseline", type=_names, help=f"what differences are taken to: NAME,… (default: {BASELINE})")
    parser.add_argument("--pdf", action="store_true", help="write the figures as PDF too")
    options = parser.parse_args(arguments)
    try:
        plot(options.runs, options.out, options.only, options.baseline, options.pdf)
    except (FileNotFoundError, ValueError) as error:
        print(f"plot.py: {error}", file=sys.stderr)
        return 1
    return 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    sys.exit(main())
