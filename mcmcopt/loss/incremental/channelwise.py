"""y + p, y - p and y · p by channel, p one number per channel: a parameter, or its view (channels, 1, …, 1).

A change of y passes channel by channel, and so does one of p, which is what scales and biases outside of a linear map
need: `mcmcopt.binary` has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from mcmcopt.loss.incremental.graph import Node
from mcmcopt.loss.incremental.layout import Full, Patch, Rows, features_of
from mcmcopt.loss.incremental.rules import Rule, State, by_channels, is_activation, name_of, shape_of
from mcmcopt.loss.kernels.reference import distinct, expand
from mcmcopt.loss.objective import Change

NAMES = {"add", "sub", "mul"}


class Channelwise(Rule):
    """One operand with channels, and one number for each of them."""

    dense = False

    def __init__(self, node: Node, nodes: Sequence[Node]) -> None:
        super().__init__(node, nodes)
        vector = _vector(node, nodes)
        assert vector is not None  # noqa: S101 -- chosen for it
        self._vector = vector

    def patch(self, state: State, patches: Sequence[Patch], edits: Change) -> Patch:
        """Apply the operation to the channels that changed."""
        values, ids, (source, patch) = self._vector.detach(), None, (self.node.inputs[0], patches[0])
        view = patches[1] if len(patches) > 1 else None
        if self._vector in edits:
            ids, new = edits[self._vector]
            values, ids = values.index_copy(0, ids, new), ids.sort().values
        elif view is not None:
            new = view.data.reshape(-1)
            ids = (new != values).nonzero().squeeze(1)
            values = new
        size = features_of(shape_of(self.node)[1:])
        if not isinstance(patch, Full):
            patch = self._rows(state, source, patch, ids, size)
            values = values[patch.ids]
        column = state.backend.column(values.repeat_interleave(size))
        target: Any = self.node.fx.target
        data = getattr(patch.data, target)(column) if isinstance(target, str) else target(patch.data, column)
        return patch._replace(data=data)

    @staticmethod
    def _rows(state: State, source: int, patch: Patch, ids: Tensor | None, size: int) -> Rows:
        """Return the operand's channels that changed, or whose number did."""
        if isinstance(patch, Rows):
            rows = by_channels(state, source, patch, size)
            if ids is None:
                return rows
            both = distinct(torch.cat((rows.ids, ids)))
            data = state.cached(source).index_select(1, expand(both, size))
            data.index_copy_(1, expand(torch.searchsorted(both, rows.ids), size), rows.data)
            return Rows(both, size, data)
        assert ids is not None  # noqa: S101 -- the engine calls with a change
        return Rows(ids, size, state.cached(source).index_select(1, expand(ids, size)))


def is_channelwise(node: Node, nodes: Sequence[Node]) -> bool:
    """Whether a node is a sum, difference or product of an activation and one number per channel."""
    if node.module is not None or node.shape is None or name_of(node) not in NAMES or node.fx.kwargs:
        return False
    if len(node.fx.args) != 2 or not node.inputs or not node.depends:
        return False
    first = nodes[node.inputs[0]]
    if node.fx.args[0] is not first.fx or not is_activation(first):
        return False
    if first.shape != node.shape or first.dtype != node.dtype:
        return False
    return _vector(node, nodes) is not None


def _vector(node: Node, nodes: Sequence[Node]) -> Tensor | None:
    """Return the tensor (channels,) that the second operand is, or is a view of; None where it is neither."""
    second, shape = node.fx.args[1], shape_of(node)
    if not isinstance(second, fx.Node) or not shape:
        return None
    sizes: tuple[Any, ...] = ()
    if second.op == "call_method" and second.target in ("view", "reshape") and isinstance(second.args[0], fx.Node):
        sizes, second = tuple(second.args[1:]), second.args[0]
        if len(node.inputs) != 2 or second.op != "get_attr":
            return None
    elif len(node.inputs) != 1 or second.op != "get_attr":
        return None
    value = second.meta.get("value")
    if not isinstance(value, Tensor) or value.shape != (shape[0],) or value.dtype != node.dtype:
        return None
    fits = sizes[:1] in ((-1,), (shape[0],)) and sizes[1:] == (1,) * (len(shape) - 1)
    return value if fits or (not sizes and len(shape) == 1) else None
