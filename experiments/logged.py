"""What is told of a run outside of its folder: its settings without paths, rows and numbers made of its tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from experiments.config import left
from mcmcopt.sparsity import area

NOT_SENT = ("out", "data.root", "logger")
"""Keys of the configuration that say where, not what."""

SPARSITIES = (0.5, 0.9, 0.99)
"""Of which the summary has each curve's accuracy."""

LAYERS = ("layer", "move", "proposed", "accepted", "acceptance", "active", "size")


def sent(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resolved configuration without paths."""
    found = _without_paths(left(dict(config), NOT_SENT))
    assert isinstance(found, dict)  # noqa: S101 -- as the configuration is
    return found


def by_layer(rows: Iterable[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Return rows of layers.csv summed over the run, by layer and move; active and size are the last ones."""
    last: dict[str, Mapping[str, str]] = {}
    moves: dict[str, dict[str | None, list[int]]] = {}
    for row in rows:
        last[row["layer"]] = row
        if row["move"]:
            total = moves.setdefault(row["layer"], {}).setdefault(row["move"], [0, 0])
            total[0] += int(row["proposed"])
            total[1] += int(row["accepted"])
    return [
        {
            "layer": layer,
            "move": move,
            "proposed": proposed,
            "accepted": accepted,
            "acceptance": accepted / proposed if proposed else None,
            "active": value(row["active"]),
            "size": value(row["size"]),
        }
        for layer, row in last.items()
        for move, (proposed, accepted) in moves.get(layer, {None: [None, None]}).items()
    ]


def curves(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return numbers of each resistance curve by name: the area under it, its accuracy at some sparsities."""
    points: dict[str, dict[float, float]] = {}
    for row in rows:
        if row["test_accuracy"] is not None:
            name = "/".join(str(row[key]) for key in ("criterion", "scope", "basis") if row[key] is not None)
            points.setdefault(name, {})[row["requested"]] = row["test_accuracy"]
    out = {}
    for name, curve in points.items():
        below_1 = sorted(s for s in curve if s < 1)
        if len(below_1) > 1 and below_1[0] == 0:
            out[f"resistance/{name}/area"] = area(below_1, [curve[s] for s in below_1])
        out |= {f"resistance/{name}/accuracy_at_{s:g}": curve[s] for s in SPARSITIES if s in curve}
    return out


def numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the finite numbers of a nested mapping, each under its keys joined by slashes."""
    for key, item in values.items():
        if isinstance(item, Mapping):
            yield from numbers(item, f"{prefix}{key}/")
        elif isinstance(item, int | float) and value(item) is not None:
            yield f"{prefix}{key}", item


def known(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without its empty cells."""
    return {key: found for key, cell in row.items() if (found := value(cell)) is not None}


def value(cell: Any) -> Any:
    """Return a table's cell, also one read back: a number where it is one, None where it is empty or not finite."""
    if isinstance(cell, str):
        for kind in (int, float):
            with suppress(ValueError):
                return value(kind(cell))
        return cell or None
    return None if isinstance(cell, float) and cell - cell != 0 else cell


def _without_paths(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _without_paths(item) for key, item in node.items() if not _is_path(item)}
    if isinstance(node, list | tuple):
        return [_without_paths(item) for item in node if not _is_path(item)]
    return node


def _is_path(item: Any) -> bool:
    return isinstance(item, str) and item.startswith(("/", "~"))
