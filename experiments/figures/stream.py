"""The figure of online learning: regret to one network fixed in hindsight, and the difference to a baseline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.analysis import Group, is_called, t_interval
from experiments.figures.style import Picture, called, colour, legend, look

CHANGES = {"rotate": "images turn by 90 degrees", "labels": "every class takes the next one's label"}


def regret(sets: Sequence[Group], baselines: Sequence[str]) -> Picture | None:
    """Return cumulative regret against samples seen, and the difference to a baseline; None where nothing streams.

    Args:
        sets: groups, of which those with a stream are drawn.
        baselines: names or labels; the difference is taken to the first group that has one.
    """
    streams = [(i, group) for i, group in enumerate(sets) if all(run.stream for run in group.runs)]
    if not streams:
        return None
    figure = Figure(figsize=(9, 4.2))
    axes = figure.subplots(1, 2)
    for i, group in streams:
        values = np.array([cumulative(run.stream) for run in group.runs])
        _mean_and_seeds(axes[0], i, _seen(group), values, called(group), f"regret-{i}")
    found = ((i, group) for name in baselines for i, group in streams if is_called(group, name))
    baseline, other = next(found, (None, None))
    ends = []
    for i, group in streams if other is not None else ():
        if i != baseline and (apart := differences(group, other)) is not None:
            _mean_and_seeds(axes[1], i, _seen(group), apart, called(group), f"regret-difference-{i}")
            ends.append(f"{group.label} {_interval(apart[:, -1])}")
    axes[0].set_ylabel("cumulative regret, nats")
    axes[1].set_ylabel("difference, nats")
    axes[0].set_title("to one network fixed in hindsight")
    axes[1].set_title("no baseline to pair with" if other is None else f"minus that of {other.label}, paired by seed")
    middles = sorted({_seen(group)[-1] // 2 for _, group in streams})
    for panel, ax in enumerate(axes):
        ax.axhline(0, color="#555555", lw=0.8, zorder=1)
        for number, middle in enumerate(middles):
            ax.axvline(middle, color="#555555", lw=1.2, ls=":", zorder=1, gid=f"change-{panel}-{number}")
        ax.set_xlabel("samples seen")
    legend(figure, *axes)
    changes = sorted({str(run.config["train"]["stream"]["change"]) for _, group in streams for run in group.runs})
    caption = (
        "Data arrive once. Each sample is predicted before anything is learnt from it; regret is the sum of these "
        "losses minus those of one network trained on the whole stream, on the samples that it is scored on. Thick "
        "lines: mean over n seeds; bands: 95 % t-interval of the mean; thin lines: the seeds. At the dotted line, the "
        f"middle of the stream, {' or '.join(CHANGES.get(change, 'nothing changes') for change in changes)}. Right: "
        "below 0 a method has lost less so far than the baseline, which saw the same samples in the same order."
        + (f" At the end, with 95 % t-interval: {'; '.join(ends)}." if ends else "")
    )
    return Picture("regret", "Regret of online learning", caption, figure)


def cumulative(stream: dict[str, np.ndarray]) -> np.ndarray:
    """Return the regret up to each chunk's end (chunks + 1,), 0 before the first, from the columns of stream.csv."""
    return np.concatenate(([0.0], np.cumsum(stream["loss"] - stream["hindsight_loss"])))


def differences(group: Group, other: Group) -> np.ndarray | None:
    """Return a group's regret minus another's for the seeds of both (seeds, chunks + 1); None without a pair.

    The fixed network is that of the seed, the same for both.
    """
    if _arrival(group) != _arrival(other):
        return None
    one, two = ({run.seed: cumulative(run.stream) for run in g.runs} for g in (group, other))
    shared = sorted(one.keys() & two.keys())
    return np.array([one[seed] - two[seed] for seed in shared]) if shared else None


def _arrival(group: Group) -> tuple[object, ...]:
    """Return what two runs of a seed must share to have seen the same samples in the same order."""
    run = group.runs[0]
    stream = run.config["train"]["stream"]
    return run.task, stream["chunk"], stream["change"], stream["hindsight_epochs"]


def _interval(values: np.ndarray) -> str:
    mean, half = t_interval(values)
    band = f" [{mean - half:+.1f}, {mean + half:+.1f}]" if len(values) > 1 else ""
    return f"{mean:+.1f}{band} (n = {len(values)})".replace("-", "−")


def _seen(group: Group) -> np.ndarray:
    return np.concatenate(([0.0], group.runs[0].stream["seen"]))


def _mean_and_seeds(ax: Axes, i: int, x: np.ndarray, values: np.ndarray, label: str, gid: str) -> None:
    """Draw seeds, band and mean as `style.mean_and_seeds` does, of values that know no limits."""
    mean, half = t_interval(values)
    if len(values) > 1:
        ax.fill_between(x, mean - half, mean + half, color=colour(i), alpha=0.09, lw=0, zorder=1)
        for one in values:
            ax.plot(x, one, color=colour(i), lw=0.6, alpha=0.45, zorder=2)
    ax.plot(x, mean, label=label, zorder=3, gid=gid, **look(i, len(x)))
