"""The figures of the page, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from experiments.analysis import Section
from experiments.figures.layers import acceptance, sparsity
from experiments.figures.resistance import controls, density, finetuned, resistance
from experiments.figures.stream import regret
from experiments.figures.style import Picture, style
from experiments.figures.training import cost, trace


def pictures(section: Section, baselines: Sequence[str] = ("sgd",)) -> list[Picture]:
    """Return all figures for a section, their names beginning with its key; differences are taken to baselines."""
    sets = section.groups
    with style():
        found = [regret(sets, baselines), resistance(sets), controls(sets), finetuned(sets), density(sets), cost(sets)]
        found += [trace(sets), sparsity(sets)]
        found += [acceptance(i, group) for i, group in enumerate((g for g in sets if g.is_chain), start=1)]
    prefix = f"{section.key}-" if section.key else ""
    return [replace(picture, name=f"{prefix}{picture.name}") for picture in found if picture is not None]
