"""What a run says: progress while it works, a table when it is done."""

from __future__ import annotations

import sys
import time
from multiprocessing import parent_process
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


class Reporter:
    """Progress of one run: a bar on a terminal, elsewhere one plain line every few seconds.

    Args:
        label: of the run.
        total: number of steps.
        seconds: between two plain lines; the first comes after the first step.
    """

    def __init__(self, label: str, total: int, seconds: float) -> None:
        self.label, self.total, self.seconds = label, total, seconds
        self.console = Console()
        self._next = 0.0
        self._bar: Progress | None = None

    def __enter__(self) -> Reporter:
        if self.console.is_terminal and parent_process() is None:  # one bar per terminal: parallel runs print lines
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, state="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def due(self) -> bool:
        """Whether it is time to tell again."""
        return time.monotonic() >= self._next

    def update(self, step: int, state: str) -> None:
        """Tell that a step is done; `state` is what to show beside it."""
        if not self.due:
            return
        if self._bar is not None:
            self._next = time.monotonic() + 0.1  # as often as the bar is drawn: to set it takes as long as a small step
            self._bar.update(self._task, completed=step, state=state)
        else:
            self._next = time.monotonic() + self.seconds
            say(f"{self.label}: step {step}/{self.total}, {state}")


def say(line: str, error: bool = False) -> None:
    """Print one plain line at once."""
    print(line, file=sys.stderr if error else sys.stdout, flush=True)


def closing_table(summary: dict[str, Any]) -> Table:
    """Return the table that ends a run."""
    table = Table(title=f"{summary['data']} / {summary['name']} / seed {summary['seed']}", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    # a part without data has nan, or null where the summary was read back
    scores = {part: summary[f"{part}_accuracy"] for part in ("train", "validation", "test")}
    scores = {part: score for part, score in scores.items() if score is not None and score == score}
    accuracies = " / ".join(f"{100 * score:.2f}" for score in scores.values())
    table.add_row(f"accuracy, %: {' / '.join(scores)}", accuracies)
    table.add_row("weights kept", f"{summary['weights_kept']:,} of {summary['weights']:,}")
    for label, at in (
        ("test accuracy at 90 % pruned, %", "at_90"),
        ("the same, 90 % of the remaining weights", "at_90_remaining"),
    ):
        if f"test_accuracy_{at}" in summary:  # resistance.scopes=[] has no curves
            value = f"{100 * summary[f'test_accuracy_{at}']:.2f} ({-summary[f'points_lost_{at}']:+.2f} points)"
            table.add_row(label, value)
    for layer, moves in summary["acceptance"].items():
        table.add_row(f"acceptance, {layer}", ", ".join(f"{move} {100 * rate:.0f} %" for move, rate in moves.items()))
    table.add_row("loss evaluations (gradients)", f"{summary['evaluations']:,} ({summary['gradients']:,})")
    table.add_row("seconds of training", f"{summary['seconds']:.1f}")
    if summary.get("reference_seconds"):
        times = summary["reference_seconds"] / summary["seconds"]
        value = f"{summary['reference_seconds']:,.0f} ({times:,.0f} times as long)"
        table.add_row("the same proposals as whole forwards, seconds", value)
    for name, value in energy_rows(summary):
        table.add_row(name, value)
    return table


def energy_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what the closing table says of energy; a run of an older version has no more than its joules."""
    energy = summary.get("energy") or {"status": "not measured", "measured": None, "estimated": None}
    rows = []
    for name in ("measured", "estimated"):
        found = energy[name]
        if found is None:
            continue
        label = f"joules of training, {name}" if name == "estimated" else "joules of training"
        value = f"{found['joules']:,.4g}"
        if name == "measured" and energy["coverage"] < 0.999:
            value += f" ({100 * energy['coverage']:.0f} % of the time)"
        rows.append((label, value))
        for key in ("joules_per_epoch", "joules_per_accepted_proposal", "joules_per_correct_prediction"):
            if found[key] is not None:
                rows.append((f"  {key.replace('_', ' ').replace('joules ', '')}", f"{found[key]:.3g}"))
    precision = (energy.get("inference") or {}).get("precision")
    if precision is not None and precision >= 0.01:
        rows.append(("  inference, uncertain by, %", f"{100 * precision:.2g}"))
    if energy["measured"] is None:
        rows.insert(0, ("joules", energy["status"]))
    return rows
