"""The report as one static HTML page: no script, nothing from the network, SVG inside."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from experiments.analysis import Difference, Group
from experiments.config import left
from experiments.figures import Picture
from mcmcopt.diagnostics import ess, rhat

COLUMNS = (
    ("test accuracy, %", "test_accuracy", 100, 2),
    ("weights active, %", "share_active", 100, 1),
    ("accuracy at 90 % pruned, %", "test_accuracy_at_90", 100, 2),
    ("points lost", "points_lost_at_90", 1, 2),
    ("points lost, 90 % of the remaining", "points_lost_at_90_remaining", 1, 2),
    ("area, all", "area_all", 1, 3),
    ("area, remaining", "area_remaining", 1, 3),
    ("loss evaluations", "evaluations", 1, 0),
    ("gradients", "gradients", 1, 0),
    ("samples evaluated, millions", "samples", 1e-6, 2),
    ("seconds", "seconds", 1, 1),
)
"""Heading, measure, factor and decimals of the table's columns."""

ENERGY = (
    "Joules are those of optimizer steps, of the whole machine where they are measured; an estimate, by CPU time, is "
    "always called one."
)

CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
.lead { color: #555; margin-top: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #e2e2e2; vertical-align: bottom; }
th { font-weight: 600; border-bottom: 2px solid #888; } th:first-child, td:first-child { text-align: left; }
td { white-space: nowrap; }
figure { margin: 1rem 0; } figure svg { width: 100%; height: auto; } figure.small svg { max-width: 42rem; }
figcaption { color: #444; font-size: .87rem; max-width: 54rem; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .8rem; }
"""


def number(mean: float, sd: float | None, factor: float, decimals: int) -> str:
    """Return a mean, with ± its standard deviation where there is one."""
    text = f"{factor * mean:,.{decimals}f}"
    return text if sd is None else f"{text} ± {factor * sd:,.{decimals}f}"


def cells(row: dict[str, Any]) -> list[str]:
    """Return one row of the table as text."""
    found = [row["label"], str(row["n_seeds"])]
    found += [number(row[f"{key}_mean"], row[f"{key}_sd"], factor, digits) for _, key, factor, digits in COLUMNS]
    return [*found, row["joules"]]


def headings() -> list[str]:
    """Return the table's headings."""
    return ["method", "seeds", *(heading for heading, *_ in COLUMNS), "joules"]


def page(
    sets: Sequence[Group],
    rows: Sequence[dict[str, Any]],
    differences: Sequence[Difference],
    figures: Sequence[Picture],
) -> str:
    """Return the page's HTML."""
    data = ", ".join(sorted({group.runs[0].data for group in sets}))
    runs = sum(len(group.runs) for group in sets)
    parts = [
        f"<h1>Resistance to pruning: {html.escape(data)}</h1>",
        f'<p class="lead">{runs} runs of {len(sets)} methods. Accuracies are '
        "on test data, except where it says validation.</p>",
        "<h2>Summary</h2>",
        _table(headings(), [cells(row) for row in rows], "summary"),
        "<p>Mean ± standard deviation over seeds. Pruning is by magnitude in each layer, without training afterwards. "
        "Area: mean test accuracy over 0 to 99 % pruned, as a share. A gradient step counts as one loss evaluation "
        "of one batch, a proposal of a chain as one of its batch: samples evaluated compare them. " + ENERGY + "</p>",
    ]
    if differences:
        table = [
            [
                d.label,
                d.basis,
                str(d.n),
                f"{d.mean:+.4f}",
                f"[{d.mean - d.half_width:+.4f}, {d.mean + d.half_width:+.4f}]",
            ]
            for d in differences
        ]
        parts += [
            "<h2>Area under the resistance curve, paired by seed</h2>",
            _table(["difference", "share of", "seeds", "mean", "95 % t-interval"], table, "differences"),
        ]
    for picture in figures:
        small = ' class="small"' if picture.figure.get_figwidth() < 7 else ""
        parts += [
            f"<h2>{html.escape(picture.title)}</h2>",
            f"<figure{small}>{picture.svg}<figcaption>{html.escape(picture.caption)}</figcaption></figure>",
        ]
    parts += _mixing(sets)
    parts += _settings(sets)
    head = f'<meta charset="utf-8"><title>Resistance to pruning: {html.escape(data)}</title><style>{CSS}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _mixing(sets: Sequence[Group]) -> list[str]:
    """Return how well the second half of each chain's traces has mixed."""
    table = []
    for group in sets:
        for run in group.runs if group.is_chain else ():
            cell = [f"{group.label}, seed {run.seed}"]
            for name in ("loss", "share_active"):
                half = run.metrics[name][len(run.metrics[name]) // 2 :]
                enough = len(half) >= 8
                cell += [f"{ess(half):.1f} of {len(half)}" if enough else "–", _plain(rhat(half)) if enough else "–"]
            table.append(cell)
    if not table:
        return []
    heads = ["chain", "loss: ESS", "loss: R-hat", "share active: ESS", "share active: R-hat"]
    return [
        "<h2>Mixing</h2>",
        _table(heads, table, "mixing"),
        "<p>Effective sample size and rank-normalised split R-hat of the second half of each trace, its rows as draws. "
        "R-hat compares the two halves of that half: well above 1 means that the chain was still on its way. Seeds "
        "are not compared with one another, because each has its own split of the data and so its own target. "
        "– : fewer than 8 rows, or a constant.</p>",
    ]


def _settings(sets: Sequence[Group]) -> list[str]:
    environments = {str(run.environment): run.environment for group in sets for run in group.runs}
    parts = ["<h2>Environment and configuration</h2>"]
    if len(environments) > 1:
        parts.append(f"<p>The runs were made in {len(environments)} environments.</p>")
    for environment in environments.values():
        parts.append(f"<pre>{html.escape(OmegaConf.to_yaml(environment))}</pre>")
    for group in sets:
        text = html.escape(OmegaConf.to_yaml(left(group.runs[0].config)))
        seeds = ", ".join(map(str, group.seeds))
        parts.append(
            f"<details><summary>{html.escape(group.label)}: seeds {seeds}; configuration of the first</summary>"
            f"<pre>{text}</pre></details>"
        )
    return parts


def _plain(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], name: str) -> str:
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table id="{name}"><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'
