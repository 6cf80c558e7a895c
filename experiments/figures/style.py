"""How figures look: readable in grey, because lines differ in dashes and markers, not in colour alone."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from experiments.analysis import Group, t_interval

COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9",  # Okabe and Ito (2008)
    "#882255", "#999933", "#777777",  # two of Tol (2021), and a grey
)  # fmt: skip
DASHES = (
    "-", "--", "-.", (0, (1, 1.2)), (0, (7, 2)), (0, (5, 1, 1, 1, 1, 1)), (0, (3, 3)), (0, (9, 2, 2, 2)), (0, (1, 3)),
    (0, (4, 1)),
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">")

LOOK = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "figure.constrained_layout.use": True,
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}
CROP = {"bbox_inches": "tight", "pad_inches": 0.04}


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
            self.figure.savefig(text, format="svg", **CROP, metadata={"Date": None, "Creator": None})
        body = text.getvalue()
        body = body[body.index("<svg") :]
        body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
        return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{self.name}-", body)

    @property
    def pdf(self) -> bytes:
        """Return the figure as a PDF, with text as text; equal inputs give equal bytes."""
        file = io.BytesIO()
        with mpl.rc_context(LOOK):
            nothing = {"CreationDate": None, "Creator": None, "Producer": None}
            self.figure.savefig(file, format="pdf", **CROP, metadata=nothing)
        return file.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """Draw in the page's style for the time of a block."""
    with mpl.rc_context(LOOK):
        yield


def look(i: int, points: int) -> dict[str, object]:
    """Return how the i-th line of a plot looks, which has so many points.

    Up to 10 lines differ in colour, dashes and marker each.  Markers stand at points some distance apart, and not
    at the same places in all lines.
    """
    n, turn = len(COLOURS), i // len(COLOURS)
    return {
        "color": COLOURS[i % n],
        "linestyle": DASHES[(i + turn) % n],
        "marker": MARKERS[(i + 2 * turn) % n],
        "markevery": 1 if points < 4 else (0.03 * (i % 5), 0.15),
        "markerfacecolor": "white" if i % 2 else COLOURS[i % n],  # every second one is hollow
    }


def colour(i: int) -> str:
    """Return the colour of the i-th line."""
    return COLOURS[i % len(COLOURS)]


def called(group: Group) -> str:
    """Return what a legend calls a group."""
    return f"{group.label} (n = {len(group.runs)})"


def mean_and_seeds(ax: Axes, i: int, x: np.ndarray, values: np.ndarray, label: str, gid: str) -> None:
    """Draw the seeds thin, the 95 % t-interval of their mean as a band, within [0, 1], and the mean.

    Args:
        ax: the panel.
        i: number of the line, which says how it looks.
        x: (points,).
        values: (seeds, points); of one seed there is neither a band nor a thin line.
        label: for the legend.
        gid: id of the mean's line in the SVG.
    """
    mean, half = t_interval(values)
    if len(values) > 1:
        band = np.clip(mean - half, 0, 1), np.clip(mean + half, 0, 1)
        ax.fill_between(x, *band, color=colour(i), alpha=0.09, lw=0, zorder=1, gid=f"{gid}-band")
        for one in values:
            ax.plot(x, one, color=colour(i), lw=0.6, alpha=0.45, zorder=2)
    ax.plot(x, mean, label=label, zorder=3, gid=gid, **look(i, len(x)))


def log_share_axis(ax: Axes, label: str) -> None:
    """Lay out an axis of log10(1/(share left)), labelled by the share that is zero."""
    shares = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
    ax.set_xticks([-np.log10(1 - s) for s in shares], [f"{100 * s:.0f}" for s in shares])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(label)


def percent(ax: Axes) -> None:
    """Let the y axis go from 0 to 100 %."""
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=None))
    ax.set_ylim(0, 1.03)


def legend(figure: Figure, *panels: Axes) -> None:
    """Put one legend for some panels above the figure, where it covers nothing."""
    found = {}
    for ax in panels:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if not found:
        return
    wide = 0.65 + 0.085 * max(map(len, found))  # inches of one entry: its line, and its letters at this size
    columns = max(1, min(len(found), int(figure.get_figwidth() / wide)))
    rows = -(-len(found) // columns)
    figure.set_figheight(figure.get_figheight() + 0.2 * rows)  # not out of the panels
    figure.legend(
        found.values(),
        found.keys(),
        loc="outside upper center",
        ncols=-(-len(found) // rows),  # rows of equal length
        handlelength=3.4,
        columnspacing=1.6,
    )
