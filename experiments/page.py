"""The report as one static HTML page: no script, nothing from the network, SVG inside."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from experiments.analysis import Group, Section
from experiments.config import left
from experiments.differences import Difference
from experiments.figures.style import Picture
from experiments.tables import (
    DIFFERENCE_HEADINGS,
    FINETUNED,
    PRUNED,
    STREAMED,
    TRAINING,
    Column,
    cells,
    difference_rows,
    headings,
    mixing,
    run_rows,
)

CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 72rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2, h3 { font-size: 1.1rem; margin-top: 2.2rem; }
h2.part { font-size: 1.4rem; margin-top: 3rem; padding-top: .6rem; border-top: 3px solid #888; }
.lead { color: #555; margin-top: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .5rem; text-align: right; border-bottom: 1px solid #e2e2e2; vertical-align: bottom; }
th { font-weight: 600; border-bottom: 2px solid #888; max-width: 9rem; }
th:first-child, td:first-child { text-align: left; }
td { white-space: nowrap; }
#runs td, #runs th { max-width: 24rem; text-align: left; } #runs td:last-child { white-space: normal; }
p { max-width: 56rem; }
figure { margin: 1rem 0; } figure svg { width: 100%; height: auto; } figure.small svg { max-width: 46rem; }
figcaption { color: #444; font-size: .87rem; max-width: 56rem; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .8rem; }
@media print { figure, table { break-inside: avoid; } }
"""

SUMMARY = (
    "Mean ± standard deviation over seeds. A gradient step counts as one loss evaluation of one batch, a proposal of a "
    "chain as one of its batch: samples evaluated compare them. Joules are those of optimizer steps, of the whole "
    "machine where they are measured; an estimate, by CPU time, is always called one."
)
PRUNING = (
    "Mean ± standard deviation over seeds. Pruning is by magnitude in each layer, without training afterwards. Area: "
    "mean test accuracy over 0 to 99 % pruned, as a share, the share left on a logarithmic axis as in the figures. "
    "Pruned for 1 point: the share up to which accuracy stays within one percentage point of the unpruned network's."
)
DIFFERENCES = (
    "Paired by seed: both runs of a pair have the same split, initial weights and batch order. Positive: better than "
    "the baseline. The intervals are each of 95 %, not corrected for their number."
)
STREAM = (
    "Mean ± standard deviation over seeds, of the whole stream. Loss and errors are those of each sample before it was "
    "learnt from; the fixed network has been trained on all of them."
)
MIXING = (
    "Effective sample size and rank-normalised split R-hat of the second half of each trace, its rows as draws. R-hat "
    "compares the two halves of that half: well above 1 means that the chain was still on its way. Seeds are not "
    "compared with one another, because each has its own split of the data and so its own target. –: fewer than 8 "
    "rows, or a constant."
)


@dataclass(frozen=True)
class Part:
    """What the page shows of one section."""

    section: Section
    rows: Sequence[dict[str, Any]]
    differences: Sequence[Difference]
    pictures: Sequence[Picture]


def page(parts: Sequence[Part], baselines: Sequence[str]) -> str:
    """Return the page's HTML; baselines are those that differences were asked for."""
    data = "; ".join(part.section.title for part in parts)
    sets = [group for part in parts for group in part.section.groups]
    runs = sum(len(group.runs) for group in sets)
    body = [
        f"<h1>Resistance to pruning: {html.escape(data)}</h1>",
        f'<p class="lead">{_several(runs, "run")} of {_several(len({g.name for g in sets}), "method")}. Accuracies are '
        "on test data, except where it says validation.</p>",
    ]
    for part in parts:
        if len(parts) > 1:
            body.append(f'<h2 class="part" id="{part.section.key}">{html.escape(part.section.title)}</h2>')
        body += _part(part, baselines, "h3" if len(parts) > 1 else "h2")
    if len(parts) > 1:
        body.append('<h2 class="part" id="made">How this was made</h2>')
    body += _made(parts)
    head = f'<meta charset="utf-8"><title>Resistance to pruning: {html.escape(data)}</title><style>{CSS}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"


def _part(part: Part, baselines: Sequence[str], h: str) -> list[str]:
    prefix = f"{part.section.key}-" if part.section.key else ""

    def measures(columns: Sequence[Column], name: str, joules: bool = False) -> str:
        return _table(headings(columns, joules), [cells(row, columns, joules) for row in part.rows], prefix + name)

    body = [
        f"<{h}>Summary</{h}>",
        measures(TRAINING, "summary", joules=True),
        f"<p>{SUMMARY}</p>",
        f"<{h}>Pruning</{h}>",
        measures(PRUNED, "pruning"),
        f"<p>{PRUNING}</p>",
        f"<{h}>Differences to {html.escape(', '.join(baselines))}</{h}>",
    ]
    if part.differences:
        table = difference_rows(part.differences)
        body += [_table(DIFFERENCE_HEADINGS, table, f"{prefix}differences"), f"<p>{DIFFERENCES}</p>"]
    else:
        body.append("<p>None: it takes two seeds that a baseline and another method share.</p>")
    for picture in part.pictures:
        small = ' class="small"' if picture.figure.get_figwidth() < 7 else ""
        body += [
            f"<{h}>{html.escape(picture.title)}</{h}>",
            f'<figure id="{picture.name}"{small}>{_inline(picture)}'
            f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>",
        ]
        has_values = any(row[f"{column.measure}_n"] for row in part.rows for column in FINETUNED)
        if picture.name == f"{prefix}regret":
            body += [measures(STREAMED, "stream"), f"<p>{STREAM}</p>"]
        if picture.name == f"{prefix}finetuned" and has_values:
            body += [measures(FINETUNED, "after-finetuning"), "<p>Mean ± standard deviation over seeds.</p>"]
    if table := mixing(part.section.groups):
        heads = ["chain", "loss: ESS", "loss: R-hat", "share active: ESS", "share active: R-hat"]
        body += [f"<{h}>Mixing</{h}>", _table(heads, table, f"{prefix}mixing"), f"<p>{MIXING}</p>"]
    return body


def _made(parts: Sequence[Part]) -> list[str]:
    """Return runs, environments and configurations."""
    sets = [(part.section, group) for part in parts for group in part.section.groups]
    h = "h3" if len(parts) > 1 else "h2"
    heads = ["method", "seed", "folder", "training, s", "in all, s", "energy"]
    body = [
        f"<{h}>Runs</{h}>",
        _table(heads, run_rows([group for _, group in sets]), "runs"),
        "<p>In all: data, training, evaluation, pruning and inference, where a meter ran.</p>",
        f"<{h}>Environment and configuration</{h}>",
    ]
    environments = {str(run.environment): run.environment for _, group in sets for run in group.runs}
    if len(environments) > 1:
        body.append(f"<p>The runs were made in {len(environments)} environments.</p>")
    body += [f"<pre>{html.escape(OmegaConf.to_yaml(environment))}</pre>" for environment in environments.values()]
    body += [_configuration(group, section.title if len(parts) > 1 else "") for section, group in sets]
    return body


def _configuration(group: Group, title: str) -> str:
    label = f"{title}: {group.label}" if title else group.label
    seeds = ", ".join(map(str, group.seeds))
    return (
        f"<details><summary>{html.escape(label)}: seeds {seeds}; configuration of the first</summary>"
        f"<pre>{html.escape(OmegaConf.to_yaml(left(group.runs[0].config)))}</pre></details>"
    )


def _inline(picture: Picture) -> str:
    """Return a figure's SVG for HTML, which needs no namespaces, with its title for readers that do not see it."""
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", picture.svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(picture.title)}"', 1)


def _several(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], name: str) -> str:
    # a unit does not stand alone on a line
    heads = [re.sub(r" (%|[sJ]$)", "\N{NO-BREAK SPACE}\\1", text) for text in heads]
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table id="{name}"><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'
