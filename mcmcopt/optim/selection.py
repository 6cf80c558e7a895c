"""Which layer a proposal is for: probabilities that do not depend on the state, so that they cancel in every ratio.

A module is drawn by its group's weight, then one of its parameters in proportion to blocks.  Parameters belong
to one module if their names share all but the last part; without names a tensor of fewer than two dimensions
belongs to the weight before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Candidate(NamedTuple):
    """What is needed of a layer to give it its share."""

    group: int
    name: str | None
    dims: int
    blocks: int
    weight: float


def modules(candidates: Sequence[Candidate]) -> list[int]:
    """Return for each candidate the number of its module."""
    numbers: list[int] = []
    known: dict[tuple[int, str], int] = {}
    group, count = -1, 0
    for candidate in candidates:
        if candidate.name is not None:
            key = (candidate.group, candidate.name.rpartition(".")[0])
            if key not in known:
                known[key], count = count, count + 1
            numbers.append(known[key])
        else:
            if candidate.dims >= 2 or candidate.group != group:
                count += 1
            numbers.append(count - 1)
        group = candidate.group
    return numbers


def probabilities(candidates: Sequence[Candidate], numbers: Sequence[int]) -> list[float]:
    """Return each candidate's probability of being drawn; they sum to 1.

    Args:
        candidates: the layers that can be drawn.
        numbers: their modules.
    """
    blocks: dict[int, int] = {}
    weight: dict[int, float] = {}
    for candidate, number in zip(candidates, numbers, strict=True):
        blocks[number] = blocks.get(number, 0) + candidate.blocks
        weight[number] = candidate.weight
    total = sum(weight.values())
    return [
        weight[number] / total * candidate.blocks / blocks[number]
        for candidate, number in zip(candidates, numbers, strict=True)
    ]
