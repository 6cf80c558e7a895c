"""Figures of layers: how sparse each becomes, and which proposals a chain accepts in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.analysis import Group, Run, aligned
from experiments.figures.style import Picture, called, legend, look, mean_and_seeds, percent


def sparsity(sets: Sequence[Group]) -> Picture | None:
    """Return the share of active weights in each layer while training; None where no run says it."""
    layers = weight_layers(sets)
    if not layers:
        return None
    figure, axes = _grid(len(layers), sharey=True)
    for number, (ax, layer) in enumerate(zip(axes, layers, strict=True)):
        for i, group in enumerate(sets):
            lines = [line for run in group.runs if len((line := active(run, layer))[0])]
            if lines:
                x, y = aligned(lines)
                mean_and_seeds(ax, i, x, y, called(group), f"active-{number}-{i}")
        ax.set_title(layer)
        ax.set_xlabel("part of training done, %")
        ax.set_xlim(0, 102)
        percent(ax)
    legend(figure, *axes)
    caption = (
        "Weights that are not zero, as a share of each layer's, against the share of a run's optimizer steps that are "
        "made. Lines, bands and thin lines as above. Biases are not counted."
    )
    for ax in _first_of_rows(axes):
        ax.set_ylabel("weights active, %")
    return Picture("layers", "Sparsity by layer", caption, figure)


def weight_layers(sets: Sequence[Group]) -> list[str]:
    """Return the layers of all runs that can be sparse, in the network's order: a chain lists its biases too."""
    by_group = [(group.is_chain, dict.fromkeys(row["layer"] for row in group.runs[0].layers)) for group in sets]
    found = dict.fromkeys(layer for _, layers in by_group for layer in layers)
    weights = {layer for chain, layers in by_group if not chain for layer in layers}
    return [layer for layer in found if layer in weights or (not weights and not layer.endswith("bias"))]


def active(run: Run, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Return per cent of training done and share of a layer's active weights."""
    rows = {int(row["step"]): float(row["active"]) / float(row["size"]) for row in run.layers if row["layer"] == layer}
    steps = np.array(sorted(rows))
    return 100 * steps / run.summary["steps"], np.array([rows[step] for step in steps.tolist()])


def acceptance(number: int, group: Group) -> Picture:
    """Return the acceptance rate of a chain's moves in each layer, between two rows of layers.csv."""
    layers = list(dict.fromkeys(row["layer"] for row in group.runs[0].layers))
    moves = sorted({row["move"] for run in group.runs for row in run.layers if row["move"]})
    figure, axes = _grid(len(layers), sharey=True)
    for ax, layer in zip(axes, layers, strict=True):
        for i, move in enumerate(moves):
            x, y = accepted(group, layer, move)
            if len(x):
                ax.plot(x, y, label=move, gid=f"accepted-{layer}-{move}", **look(i, len(x)))
        ax.set_title(layer)
        ax.set_xlabel("optimizer step")
        percent(ax)
    for ax in _first_of_rows(axes):
        ax.set_ylabel("proposals accepted, %")
    legend(figure, *axes)
    caption = (
        f"{group.label}: share of proposals accepted, by layer and move, between two rows of layers.csv, of all "
        f"n = {len(group.runs)} seeds together."
    )
    return Picture(f"acceptance-{number}", f"Acceptance by layer and move: {group.label}", caption, figure)


def accepted(group: Group, layer: str, move: str, bins: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and the share accepted of what all runs proposed by then, since the step before.

    More steps than `bins` are put together, as where time decided about the rows and runs have them at steps of their
    own.
    """
    rows = [row for run in group.runs for row in run.layers if (row["layer"], row["move"]) == (layer, move)]
    step, n, k = (np.array([float(row[key]) for row in rows]) for key in ("step", "proposed", "accepted"))
    at = np.unique(step)
    if len(at) > bins:
        at = np.linspace(at[0], at[-1], bins)
    place = np.searchsorted(at, step)
    proposed, taken = (np.bincount(place, values, len(at)) for values in (n, k))
    return at[proposed > 0], taken[proposed > 0] / proposed[proposed > 0]


def _grid(panels: int, sharey: bool) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels, at most four side by side."""
    across = next((n for n in (1, 2, 3, 4) if panels <= n), 4 if panels % 3 or panels > 6 else 3)
    down = -(-panels // across)
    figure = Figure(figsize=(9, (3.4 if across < 3 else 2.6) * down + 0.7))
    axes = figure.subplots(down, across, squeeze=False, sharey=sharey).ravel().tolist()
    for ax in axes[panels:]:
        ax.set_visible(False)
    return figure, axes[:panels]


def _first_of_rows(axes: Sequence[Axes]) -> list[Axes]:
    return [ax for ax in axes if ax.get_subplotspec().is_first_col()]
