"""Figures of pruning: accuracy against the share pruned, against the weights left, and after a short fine-tune."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments.analysis import Group, t_interval
from experiments.figures.style import (
    Picture,
    called,
    colour,
    legend,
    log_share_axis,
    look,
    mean_and_seeds,
    percent,
)

BASES = (("all", "all weights"), ("remaining", "remaining weights"))
PUBLISHED = ("magnitude", "layer")
KINDS = {
    PUBLISHED: ("magnitude by layer", "share pruned in each layer, %"),
    ("random", "layer"): ("random by layer (control)", "share pruned in each layer, %"),
    ("magnitude", "global"): ("global magnitude", "share pruned over all layers, %"),
    ("magnitude", "block"): ("magnitude of tiles", "share of tiles pruned in each layer, %"),
    ("magnitude", "filter"): ("magnitude of filters", "share of filters pruned in each layer, %"),
    ("magnitude", "unit"): ("magnitude of units", "share of units pruned in each layer, %"),
    ("magnitude", "global-block"): ("global magnitude of tiles", "share of tiles pruned over all layers, %"),
    ("magnitude", "global-filter"): ("global magnitude of filters", "share of filters pruned over all layers, %"),
    ("magnitude", "global-unit"): ("global magnitude of units", "share of units pruned over all layers, %"),
}
"""Criterion and scope of a curve, what a panel calls it, and what its axis says."""


def resistance(sets: Sequence[Group]) -> Picture:
    """Return the published protocol: magnitude by layer, on both bases."""
    figure = Figure(figsize=(9, 4.6))
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (basis, of) in zip(axes, BASES, strict=True):
        _curves(ax, sets, PUBLISHED, basis)
        ax.set_title(f"{KINDS[PUBLISHED][0]}: {of}")
    axes[0].set_ylabel("test accuracy, %")
    legend(figure, *axes)
    caption = (
        "Test accuracy after setting the smallest weights of each layer to zero, without training afterwards. Thick "
        "lines: mean over n seeds; bands: 95 % t-interval of the mean, within 0 to 100 %; thin lines: the seeds; of "
        "one seed there is only its line. Left: the share is one of all weights, so zeros that training left count as "
        "pruned, and a network of 10 % density loses nothing at 90 %. Right: of the weights that training left "
        "non-zero. The axis is logarithmic in the share that is left."
    )
    return Picture("resistance", "Resistance to pruning by magnitude", caption, figure)


def controls(sets: Sequence[Group]) -> Picture | None:
    """Return all other ways to prune that any run has, on both bases; None if there is none."""
    found = {pruning for group in sets for run in group.runs for pruning in run.prunings}
    kinds = [kind for kind in KINDS if kind in found and kind != PUBLISHED]
    if not kinds:
        return None
    figure = Figure(figsize=(9, 3.3 * len(kinds) + 0.8))
    axes = figure.subplots(len(kinds), 2, sharey=True, squeeze=False)
    for row, kind in zip(axes, kinds, strict=True):
        for ax, (basis, of) in zip(row, BASES, strict=True):
            _curves(ax, sets, kind, basis)
            ax.set_title(f"{KINDS[kind][0]}: {of}")
        row[0].set_ylabel("test accuracy, %")
    legend(figure, *axes.flat)
    caption = (
        "As before, for other choices of the weights to prune. Random weights are the control: what a curve by "
        "magnitude has over it is what magnitudes know. "
        + (
            "Over all layers together, one layer may lose everything while another keeps all. "
            if ("magnitude", "global") in kinds
            else ""
        )
        + ("Tiles and filters are pruned whole, lowest mean magnitude first." if _structured(kinds) else "")
    )
    return Picture("controls", "The same with other weights pruned", caption.strip(), figure)


def _structured(kinds: Sequence[tuple[str, str]]) -> bool:
    return any(scope not in ("layer", "global") for _, scope in kinds)


def _curves(ax: Axes, sets: Sequence[Group], kind: tuple[str, str], basis: str) -> None:
    for i, group in enumerate(sets):
        shares, accuracy = group.curves(*kind, basis)
        if len(shares):
            gid = "-".join((*kind, basis, str(i)))
            mean_and_seeds(ax, i, -np.log10(1 - shares), accuracy, called(group), gid)
    log_share_axis(ax, KINDS[kind][1])
    percent(ax)
    ax.tick_params(labelleft=True)


def finetuned(sets: Sequence[Group]) -> Picture | None:
    """Return accuracy before and after the fine-tune that follows pruning; None if no run has one."""
    after = {i: group.curves(*PUBLISHED, "all", "test_accuracy_finetuned") for i, group in enumerate(sets)}
    after = {i: curve for i, curve in after.items() if len(curve[0])}
    shares = sorted({share for x, _ in after.values() for share in x.tolist()})
    if not shares:
        return None
    figure = Figure(figsize=(9, 4.0))
    ax = figure.subplots()
    step = min(0.13, 0.8 / len(after))
    for place, (i, (x, y)) in enumerate(after.items()):
        all_shares, unpruned = sets[i].curves(*PUBLISHED, "all")
        at = np.array([shares.index(share) for share in x.tolist()]) + (place - (len(after) - 1) / 2) * step
        before = unpruned[:, [all_shares.tolist().index(share) for share in x.tolist()]]
        dot = {"color": colour(i), "marker": look(i, 1)["marker"], "linestyle": "none"}
        ax.vlines(at, before.mean(0), y.mean(0), color=colour(i), lw=0.8, ls=":", zorder=1)
        ax.plot(at, before.mean(0), markerfacecolor="white", zorder=2, **dot)
        mean, half = t_interval(y)
        if len(y) > 1:
            ends = np.clip([mean - half, mean + half], 0, 1)
            ax.vlines(at, *ends, color=colour(i), lw=1.4, zorder=2)
        ax.plot(at, mean, label=called(sets[i]), zorder=3, gid=f"finetuned-{i}", **dot)
    for between in range(len(shares) - 1):
        ax.axvline(between + 0.5, color="#bbbbbb", lw=0.8)
    ax.set_xticks(range(len(shares)), [f"{100 * share:g}" for share in shares])
    ax.set_xlim(-0.5, len(shares) - 0.5)
    ax.grid(visible=False, axis="x")
    ax.set_xlabel("share of all weights pruned in each layer by magnitude, %")
    ax.set_ylabel("test accuracy, %")
    percent(ax)
    legend(figure, ax)
    epochs = sorted({int(run.config["resistance"]["finetune_epochs"]) for g in sets for run in g.runs})
    caption = (
        f"Filled: after pruning and {' or '.join(map(str, epochs))} epoch{'' if epochs == [1] else 's'} of SGD with "
        "momentum, pruned weights held at zero, the same for all methods; mean over n seeds with its 95 % t-interval. "
        "Hollow: after pruning alone."
    )
    return Picture("finetuned", "After a short fine-tune", caption, figure)


def density(sets: Sequence[Group]) -> Picture:
    """Return accuracy against the number of weights left."""
    figure = Figure(figsize=(6.6, 4.6))
    ax = figure.subplots()
    for i, group in enumerate(sets):
        _, kept = group.curves(*PUBLISHED, "remaining", "weights_kept")
        _, accuracy = group.curves(*PUBLISHED, "remaining")
        share = kept / group.runs[0].summary["weights"]
        share = np.where(share > 0, share, np.nan)  # no weight left has no place on a logarithmic axis
        for x, y in zip(share, accuracy, strict=True):
            ax.plot(x, y, color=colour(i), lw=0.6, alpha=0.45, zorder=2)
        # Seeds differ in density, so the mean is taken at equal pruned shares, over both coordinates.
        ax.plot(
            share.mean(0),
            accuracy.mean(0),
            label=called(group),
            zorder=3,
            gid=f"density-{i}",
            **look(i, share.shape[1]),
        )
    ax.set_xscale("log")
    ax.invert_xaxis()
    ticks = [t for t in (1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 1e-4) if t >= ax.get_xlim()[1]]
    ax.set_xticks(ticks, [f"{100 * t:g}" for t in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("weights left non-zero, % of all")
    ax.set_ylabel("test accuracy, %")
    percent(ax)
    legend(figure, ax)
    caption = (
        "Pruning by magnitude in each layer against what is left: networks at one place of the axis have equally many "
        "weights. Each line starts at the density that training gave; thin lines are seeds, thick lines their mean at "
        "equal shares pruned."
    )
    return Picture("density", "Accuracy at equal density", caption, figure)
