"""Figures of training: accuracy against what it costs, and traces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.analysis import Group, traces
from experiments.figures.style import Picture, called, colour, legend, look, mean_and_seeds, percent

AXES = {
    "evaluations": "loss evaluations",
    "samples": "samples evaluated",
    "seconds": "training time, s",
    "joules": "energy of training, J",
    "joules_estimated": "energy of training, J (estimated)",
}


def cost(sets: Sequence[Group]) -> Picture:
    """Return test accuracy against joules where all runs have them, else against loss evaluations and seconds."""
    against = costs(sets)
    figure = Figure(figsize=(9, 3.9))
    axes = figure.subplots(1, len(against), sharey=True)
    for ax, column in zip(axes, against, strict=True):
        for i, group in enumerate(sets):
            x, y = (array[..., 1:] for array in traces(group, column, "test_accuracy"))
            mean_and_seeds(ax, i, x, y, called(group), f"cost-{column}-{i}")
        ax.set_xscale("log")
        ax.set_xlabel(AXES[column])
        percent(ax)
        ax.tick_params(labelleft=True)
    axes[0].set_ylabel("test accuracy, %")
    legend(figure, axes[0])
    caption = (
        "Test accuracy while training against what was spent, from the first row after the start; lines, bands and "
        "thin lines as above. A gradient step is one loss evaluation of its batch and costs a backward pass on top; a "
        "chain's evaluation is of its whole batch: samples evaluated compare them. Time and energy are those of this "
        "machine, of optimizer steps alone. "
    )
    if "joules" in against:
        caption += "Energy is measured."
    else:
        runs = [run for group in sets for run in group.runs]
        measured = sum(run.summary.get("joules") is not None for run in runs)
        caption += f"Energy was measured in {measured} of {len(runs)} runs" + (
            "; here it is an estimate from CPU time, not a measurement." if "joules_estimated" in against else "."
        )
    return Picture("cost", "Accuracy against what it costs", caption, figure)


def costs(sets: Sequence[Group]) -> tuple[str, ...]:
    """Return the columns of metrics.csv that accuracy is drawn against."""
    runs = [run for group in sets for run in group.runs]

    def known(column: str) -> bool:
        rows = [run.metrics.get(column) for run in runs]
        return all(row is not None and np.isfinite(row[1:]).all() for row in rows)

    if known("joules"):
        return ("joules", "samples", "seconds")
    one_assumption = len({(run.summary.get("energy") or {}).get("assumption") for run in runs}) == 1
    if known("joules_estimated") and one_assumption:
        return ("evaluations", "samples", "joules_estimated")
    return ("evaluations", "samples", "seconds")


def trace(sets: Sequence[Group]) -> Picture:
    """Return training loss, share of active weights and validation accuracy against samples evaluated."""
    figure = Figure(figsize=(9, 3.7))
    axes = figure.subplots(1, 3)
    validated = all(np.isfinite(run.metrics["validation_accuracy"]).all() for group in sets for run in group.runs)
    part = "validation" if validated else "test"
    panels = {"loss": "training loss, nats", "share_active": "weights active, %", f"{part}_accuracy": ""}
    panels[f"{part}_accuracy"] = f"{part} accuracy, %"
    for ax, (column, label) in zip(axes, panels.items(), strict=True):
        for i, group in enumerate(sets):
            x, y = (array[..., 1:] for array in traces(group, "samples", column))
            for one in y if len(y) > 1 else ():
                ax.plot(x, one, color=colour(i), lw=0.6, alpha=0.45, zorder=2)
            ax.plot(x, y.mean(0), label=called(group), zorder=3, **look(i, len(x)))
        ax.set_xscale("log")
        ax.set_xlabel(AXES["samples"])
        ax.set_ylabel(label)
    axes[0].set_yscale("log")
    percent(axes[1])
    percent(axes[2])
    legend(figure, axes[0])
    caption = (
        "Training, from the first row after the start. Thick lines: mean over n seeds; thin lines: the seeds. Samples "
        "evaluated are those that went forward through the network, over all loss evaluations."
    )
    return Picture("traces", "Traces of training", caption, figure)
