"""The figures of the page, as SVG.  They read in grey: lines differ in dashes and markers, not in colour alone."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from experiments.analysis import Group, t_interval, traces

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")  # Okabe and Ito (2008)
DASHES = ("-", "--", "-.", ":", (0, (7, 2)), (0, (5, 1, 1, 1, 1, 1)), (0, (3, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

LOOK = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "figure.constrained_layout.use": True,
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class Picture:
    """A figure with what to say about it."""

    name: str
    title: str
    caption: str
    figure: Figure

    @cached_property
    def svg(self) -> str:
        """Return the figure as an SVG element; equal inputs give equal text, and ids are its own on a page."""
        text = io.StringIO()
        with mpl.rc_context({**LOOK, "svg.hashsalt": self.name}):
            self.figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        body = text.getvalue()
        body = body[body.index("<svg") :]
        return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{self.name}-", body)


@contextmanager
def style() -> Iterator[None]:
    """Draw in the page's style for the time of a block."""
    with mpl.rc_context(LOOK):
        yield


def look(i: int, every: int = 1) -> dict[str, object]:
    """Return how the i-th line of a plot looks; `every` thins its markers."""
    n = len(COLOURS)
    return {
        "color": COLOURS[i % n],
        "linestyle": DASHES[i % n],
        "marker": MARKERS[i % n],
        "markevery": (i % every, every),
    }


def pictures(sets: Sequence[Group]) -> list[Picture]:
    """Return all figures for some groups."""
    with style():
        found = [_resistance(sets), _density(sets), _traces(sets)]
        found += [_chain(i, group) for i, group in enumerate(g for g in sets if g.is_chain)]
    return found


def _share_axis(ax: Axes, label: str) -> None:
    """Lay out an axis of log10(1/(share left)), labelled by the share that is zero."""
    shares = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
    ax.set_xticks([-np.log10(1 - s) for s in shares], [f"{100 * s:.0f}" for s in shares])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(label)


def _percent(ax: Axes) -> None:
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=None))
    ax.set_ylim(0, 1.02)


def _resistance(sets: Sequence[Group]) -> Picture:
    figure = Figure(figsize=(9, 6.6))
    axes = figure.subplots(2, 2, sharey=True)
    panels = [(c, b) for c in ("magnitude", "random") for b in ("all", "remaining")]
    for ax, (criterion, basis) in zip(axes.flat, panels, strict=True):
        for i, group in enumerate(sets):
            curves = [run.curve(criterion, basis) for run in group.runs]
            x = -np.log10(1 - curves[0][0])
            mean, half = t_interval(np.array([accuracy for _, accuracy in curves]))
            ax.plot(x, mean, label=f"{group.label} (n = {len(group.runs)})", **look(i, 2))
            ax.fill_between(
                x, np.clip(mean - half, 0, 1), np.clip(mean + half, 0, 1), color=COLOURS[i % 7], alpha=0.15, lw=0
            )
        what = "magnitude" if criterion == "magnitude" else "random (control)"
        ax.set_title(f"{what}, share of {'all weights' if basis == 'all' else 'the remaining weights'}")
        _share_axis(ax, "share pruned in each layer, %")
        _percent(ax)
    for ax in axes[:, 0]:
        ax.set_ylabel("test accuracy, %")
    legend(figure, axes[0, 0])
    caption = (
        "Test accuracy after setting a share of each layer's weights to zero, without training afterwards. Lines: mean "
        "over n seeds; bands: 95 % t-interval of the mean, clipped to [0, 100], absent for one seed. Left: the share "
        "is one of all weights, so zeros that training left count as pruned, and a network of 10 % density loses "
        "nothing at 90 %. Right: of the weights that training left non-zero. Below: the same with random weights. "
        "The axis is logarithmic in the share that is left."
    )
    return Picture("resistance", "Resistance to pruning", caption, figure)


def _density(sets: Sequence[Group]) -> Picture:
    figure = Figure(figsize=(6.2, 3.9))
    ax = figure.subplots()
    for i, group in enumerate(sets):
        xs, ys = [], []
        for run in group.runs:
            rows = [r for r in run.resistance if r["criterion"] == "magnitude" and r["basis"] == "remaining"]
            xs.append([int(r["weights_kept"]) / run.summary["weights"] for r in rows])
            ys.append([float(r["test_accuracy"]) for r in rows])
            ax.plot(xs[-1], ys[-1], color=COLOURS[i % 7], lw=0.5, alpha=0.35)
        # Seeds differ in density, so the mean is taken at equal pruned shares, over both coordinates.
        ax.plot(np.mean(xs, 0), np.mean(ys, 0), label=f"{group.label} (n = {len(group.runs)})", **look(i, 2))
    ax.set_xscale("log")
    ax.invert_xaxis()
    ticks = [t for t in (1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001) if t >= ax.get_xlim()[1]]
    ax.set_xticks(ticks, [f"{100 * t:g}" for t in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("weights left non-zero, % of all")
    ax.set_ylabel("test accuracy, %")
    _percent(ax)
    legend(figure, ax)
    caption = (
        "The same pruning against what is left: networks at one place of the axis have equally many weights. Each "
        "line starts at the density that training gave; thin lines are seeds, thick lines their mean at equal shares "
        "pruned."
    )
    return Picture("density", "Accuracy at equal density", caption, figure)


AGAINST = {
    "samples": "samples evaluated",
    "seconds": "seconds of training",
    "joules": "joules of training",
    "joules_estimated": "joules of training (estimated)",
}


def _traces(sets: Sequence[Group]) -> Picture:
    figure = Figure(figsize=(9, 3.4))
    axes = figure.subplots(1, 3)
    validated = all(np.isfinite(run.metrics["validation_accuracy"]).all() for group in sets for run in group.runs)
    part = "validation" if validated else "test"
    cost = _cost(sets)
    panels = (("samples", "loss"), ("samples", "share_active"), (cost, f"{part}_accuracy"))
    for ax, (against, what) in zip(axes, panels, strict=True):
        for i, group in enumerate(sets):
            x, y = (array[..., 1:] for array in traces(group, against, what))
            ax.plot(x, y.mean(0), label=f"{group.label} (n = {len(group.runs)})", **look(i, max(1, len(x) // 6)))
            ax.fill_between(x, y.min(0), y.max(0), color=COLOURS[i % 7], alpha=0.15, lw=0)
        ax.set_xscale("log")
        ax.set_xlabel(AGAINST[against])
    axes[0].set_yscale("log")
    axes[0].set_title("training loss, nats")
    axes[1].set_title("weights active, %")
    axes[2].set_title(f"{part} accuracy, %")
    _percent(axes[1])
    _percent(axes[2])
    legend(figure, axes[0])
    caption = (
        "Training, from the first row after the start. Samples evaluated are those that went forward through the "
        "network, over all loss evaluations; gradients cost a backward pass on top. Lines: mean over seeds; bands: "
        "lowest to highest seed. Seconds and joules are those of this machine, of optimizer steps alone."
    )
    return Picture("traces", "Training", caption, figure)


def _cost(sets: Sequence[Group]) -> str:
    """Return what accuracy is drawn against: joules if all runs have them, measured or all estimated, else seconds."""
    for column in ("joules", "joules_estimated"):
        rows = [run.metrics.get(column) for group in sets for run in group.runs]
        if all(row is not None and np.isfinite(row[1:]).all() for row in rows):
            return column
    return "seconds"


def _chain(number: int, group: Group) -> Picture:
    layers = list(dict.fromkeys(row["layer"] for row in group.runs[0].layers))
    moves = sorted({row["move"] for run in group.runs for row in run.layers if row["move"]})
    across = min(len(layers) + 1, 3)
    down = -(-(len(layers) + 1) // across)
    figure = Figure(figsize=(9, 2.5 * down + 0.5))
    axes = figure.subplots(down, across, squeeze=False, sharex=True).ravel().tolist()
    for ax, layer in zip(axes, layers, strict=False):
        for i, move in enumerate(moves):
            x, y = _series(group, "acceptance", layer, move)
            if len(x):
                ax.plot(x, y, label=move, **look(i, max(1, len(x) // 6)))
        ax.set_title(layer)
        _percent(ax)
    last = axes[len(layers)]
    for i, layer in enumerate(layer for layer in layers if not layer.endswith("bias")):
        x, y = _series(group, "active", layer, None)
        last.plot(x, y, label=layer, **look(i, max(1, len(x) // 6)))
    last.set_title("weights active, % of layer")
    _percent(last)
    last.legend(fontsize=8, loc="best", handlelength=3.2)
    for ax in axes[len(layers) + 1 :]:
        ax.set_visible(False)
    for ax in axes[: len(layers) + 1]:
        ax.set_xlabel("step")
        ax.tick_params(labelbottom=True)
    for ax in axes[::across]:
        ax.set_ylabel("accepted, %")
    fullest = max(axes[: len(layers)], key=lambda ax: len(ax.lines))
    legend(figure, fullest)
    caption = (
        f"{group.label}: share of proposals accepted, by layer and move, between two rows of layers.csv; mean over "
        f"n = {len(group.runs)} seeds. Last panel: share of each layer's weights that is active; biases always are."
    )
    return Picture(f"acceptance-{number + 1}", f"Acceptance and sparsity by layer: {group.label}", caption, figure)


def _series(group: Group, column: str, layer: str, move: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and a column's mean over the runs, a layer's share of active entries where `move` is None."""
    values: dict[int, list[float]] = {}
    for run in group.runs:
        seen: set[int] = set()
        for row in run.layers:
            step = int(row["step"])
            if row["layer"] != layer or (move is not None and row["move"] != move) or step in seen:
                continue
            seen.add(step)
            value = float(row["active"]) / float(row["size"]) if move is None else float(row[column])
            values.setdefault(step, []).append(value)
    steps = sorted(values)
    return np.array(steps), np.array([np.mean(values[step]) for step in steps])


def legend(figure: Figure, ax: Axes) -> None:
    """Put the legend of one panel above the figure."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=max(1, min(len(labels), int(figure.get_figwidth() / 1.7))),
        handlelength=3.2,
    )
