"""How a change of some channels passes through an operation: one class for each kind of operation.

    elementwise, by channel   f on the changed channels alone
    two operands              the union of their changed channels
    concatenation             channels renumbered
    reshaping                 nothing to do: features keep their order
    anything else             the operation itself, on all of its inputs: always right

A rule gets the patches of its node's inputs and returns the patch of its value.  Linear maps are in `affine`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from mcmcopt.loss.incremental.graph import Node, in_place
from mcmcopt.loss.incremental.layout import Codes, Full, Major, Patch, Rows, features_of
from mcmcopt.loss.kernels.reference import distinct, expand
from mcmcopt.loss.objective import Change


class State(Protocol):
    """What a rule sees of the engine."""

    backend: Major
    nodes: list[Node]

    def codes(self, index: int) -> Codes | None:
        """Return a node's activation as integer codes, if it is kept so."""

    def cached(self, index: int) -> Tensor:
        """Return a node's cached activation in the backend's layout."""

    def value(self, index: int) -> Any:
        """Return a node's present value, patched, as torch would compute it."""

    def lent(self, edits: Change) -> AbstractContextManager[None]:
        """Write edits for the duration of a block."""


class Rule:
    """The update of one node; this one computes all of it anew.

    Args:
        node: the node.
        nodes: all nodes.
    """

    dense = True  # it may mix samples, so it cannot be run on parts of a batch

    def __init__(self, node: Node, nodes: Sequence[Node]) -> None:
        self.node = node

    def patch(self, state: State, patches: Sequence[Patch], edits: Change) -> Patch:
        """Return what becomes of the node's value.

        Args:
            state: cached values.
            patches: of the node's inputs.
            edits: proposed values of those parameters that the node reads itself.
        """
        with state.lent(edits):
            value = _own(self.node.call(state.value), edits)
        if self.node.shape is None:
            return Full(value)
        if any(value.untyped_storage().data_ptr() == _storage(state.value(i)) for i in self.node.inputs):
            value = value.clone()
        return Full(state.backend.store(value))


class Alias(Rule):
    """Reshaping within a sample, and what does nothing in eval mode: the value shares its input's memory."""

    dense = False

    def patch(self, state: State, patches: Sequence[Patch], edits: Change) -> Patch:
        """Pass the input's patch on."""
        return patches[0]


class Elementwise(Rule):
    """f(x) entry by entry, so that the layout does not matter."""

    dense = False

    def __init__(self, node: Node, nodes: Sequence[Node]) -> None:
        super().__init__(node, nodes)
        self._relu = _is_relu(node)

    def patch(self, state: State, patches: Sequence[Patch], edits: Change) -> Patch:
        """Apply f to what changed."""
        (patch,) = patches
        if edits or patch is None:
            return super().patch(state, patches, edits)
        data = state.backend.relu(patch.data) if self._relu else self.node.call(lambda _: patch.data)
        return patch._replace(data=data)


class ByChannel(Rule):
    """Pooling and reductions over space: each channel by itself."""

    dense = False

    def patch(self, state: State, patches: Sequence[Patch], edits: Change) -> Patch:
        """Apply the operation to the channels that changed."""
        (patch,) = patches
        assert patch is not None  # noqa: S101 -- the engine calls with a change
        assert self.node.shape is not None  # noqa: S101
        shape = shape_of(state.nodes[self.node.inputs[0]])
        size = features_of(shape[1:])
        if isinstance(patch, Rows):
            patch = by_channels(state, self.node.inputs[0], patch, size)
            channels = len(patch.ids)
        else:
            channels = shape[0]
        data = self._apply(state.backend, patch.data, channels, shape)
        return Full(data) if isinstance(patch, Full) else Rows(patch.ids, features_of(self.node.shape[1:]), data)

    def _apply(self, backend: Major, data: Tensor, channels: int, shape: tuple[int, ...]) -> Tensor:
        if backend.tiled and (window := _plain_max_pool(self.node)) is not None:
            return _max_over_windows(data, channels, shape, window)
        x = backend.major(data, (channels, *shape[1:]))
        return backend.store(self.node.call(lambda _: x))


class Binary(Rule):
    """Two operands of one shape, or one and a constant that broadcasts over the samples."""

    dense = False

    def patch(self, state: State, patches: Sequence[Patch], edits: Change) -> Patch:
        """Apply the operation to the union of the changed channels."""
        node, backend = self.node, state.backend
        if edits:
            return super().patch(state, patches, edits)
        parts: list[Patch] = list(patches)
        ids, features, size = None, None, 1  # None: all channels
        if all(isinstance(patch, Rows | None) for patch in patches):
            size = min(patch.size for patch in patches if isinstance(patch, Rows))
            parts = [
                by_channels(state, i, patch, size) if isinstance(patch, Rows) else None
                for i, patch in zip(node.inputs, patches, strict=True)
            ]
            ids = distinct(torch.cat([part.ids for part in parts if isinstance(part, Rows)]))
            features = expand(ids, size)

        def operand(index: int) -> Tensor:
            part = parts[node.inputs.index(index)]
            if features is None or ids is None or isinstance(part, Full):
                return whole(state, index, part)
            if part is not None and len(part.ids) == len(ids):
                return part.data
            data = state.cached(index).index_select(1, features)
            if part is not None:
                data.index_copy_(1, expand(torch.searchsorted(ids, part.ids), size), part.data)
            return data

        def constant(value: Tensor) -> Tensor:
            flat = value.expand(1, *shape_of(node)).reshape(-1) if value.dim() else value
            if value.dim() == 0:
                return value
            return backend.column(flat if features is None else flat.index_select(0, features))

        data = _call_with(node, operand, constant)
        return Full(data) if ids is None else Rows(ids, size, data)


class Concatenate(Rule):
    """Concatenation along the channels."""

    dense = False

    def __init__(self, node: Node, nodes: Sequence[Node]) -> None:
        super().__init__(node, nodes)
        parts: Any = node.fx.args[0]
        self._inputs = [_number(n, nodes) for n in parts]

    def patch(self, state: State, patches: Sequence[Patch], edits: Change) -> Patch:
        """Renumber the changed channels."""
        by_input = dict(zip(self.node.inputs, patches, strict=True))
        if any(isinstance(patch, Full) for patch in patches):
            return Full(torch.cat([whole(state, i, by_input[i]) for i in self._inputs], 1))
        size = features_of(shape_of(self.node)[1:])
        offset, ids, data = 0, [], []
        for i in self._inputs:
            patch = by_input[i]
            if isinstance(patch, Rows):
                part = by_channels(state, i, patch, size)
                ids.append(part.ids + offset)
                data.append(part.data)
            offset += shape_of(state.nodes[i])[0]
        return Rows(torch.cat(ids), size, torch.cat(data, 1))


def by_channels(state: State, index: int, rows: Rows, size: int) -> Rows:
    """Return rows with another number of features per channel; what is unchanged in a channel comes from the cache."""
    if rows.size == size:
        return rows
    features = rows.features
    if rows.size % size == 0:
        return Rows(features[::size] // size, size, rows.data)
    ids = distinct(features // size)
    wanted = expand(ids, size)
    data = state.cached(index).index_select(1, wanted)
    data.index_copy_(1, torch.searchsorted(wanted, features), rows.data)
    return Rows(ids, size, data)


def name_of(node: Node) -> str:
    """Return a function's or method's name; "" for a module."""
    target = node.fx.target
    if node.module is not None:
        return ""
    return target if isinstance(target, str) else getattr(target, "__name__", "")


def _own(value: Any, edits: Change) -> Any:
    """Return a value, views of edited parameters replaced by copies."""
    if isinstance(value, tuple | list):
        return tuple(_own(part, edits) for part in value)
    return value.clone() if _storage(value) in map(_storage, edits) else value


def _storage(value: Any) -> int:
    return value.untyped_storage().data_ptr() if isinstance(value, Tensor) else -1


def shape_of(node: Node) -> tuple[int, ...]:
    """Return the shape of a node that carries samples, without them."""
    assert node.shape is not None  # noqa: S101 -- rules other than the dense one are chosen for nodes with samples
    return node.shape


def whole(state: State, index: int, patch: Patch) -> Tensor:
    """Return a node's patched activation in the backend's layout."""
    if patch is None:
        return state.cached(index)
    if isinstance(patch, Full):
        assert isinstance(patch.data, Tensor)  # noqa: S101 -- as above
        return patch.data
    return state.backend.merged(state.cached(index), patch)


def is_activation(node: Node) -> bool:
    """Return whether a node carries samples of floating values."""
    return node.shape is not None and node.dtype is not None and node.dtype.is_floating_point


def _is_relu(node: Node) -> bool:
    return type(node.module) is nn.ReLU or name_of(node) in ("relu", "relu_")


def _number(n: fx.Node, nodes: Sequence[Node]) -> int:
    return next(node.index for node in nodes if node.fx is n)


def _call_with(node: Node, operand: Callable[[int], Tensor], constant: Callable[[Tensor], Tensor]) -> Tensor:
    """Run a two-operand node on other operands."""
    positions = iter(node.inputs)

    def load(argument: Any) -> Any:
        if not isinstance(argument, fx.Node):
            return argument
        return constant(argument.meta["value"]) if argument.op == "get_attr" else operand(next(positions))

    args = [load(argument) for argument in node.fx.args]
    if in_place(node.fx, node.module):
        args[0] = args[0].clone()
    target: Any = node.fx.target
    if isinstance(target, str):
        return getattr(args[0], target)(*args[1:], **node.fx.kwargs)  # type: ignore[no-any-return]
    return target(*args, **node.fx.kwargs)  # type: ignore[no-any-return]


def _plain_max_pool(node: Node) -> int | None:
    """Return k for max pooling over adjoining k x k windows."""
    pool = node.module
    if type(pool) is nn.MaxPool2d:
        options: Mapping[str, Any] = vars(pool)
    elif name_of(node) in ("max_pool2d", "boolean_dispatch") and len(node.fx.args) == 2:
        options = {"kernel_size": node.fx.args[1], **node.fx.kwargs}
    else:
        return None
    k = options["kernel_size"]
    k = k[0] if isinstance(k, tuple | list) and len(set(k)) == 1 else k
    same = options.get("stride") in (None, k, (k, k), [k, k])
    rest = options.get("padding", 0) == 0 and options.get("dilation", 1) == 1 and not options.get("ceil_mode", False)
    return k if isinstance(k, int) and same and rest else None


def _max_over_windows(data: Tensor, channels: int, shape: tuple[int, ...], k: int) -> Tensor:
    h, w = shape[1] // k, shape[2] // k
    x = data.view(-1, channels, shape[1], shape[2], data.shape[-1])[:, :, : h * k, : w * k]
    slices = [x[:, :, i::k, j::k] for i in range(k) for j in range(k)]
    best = slices[0]
    for part in slices[1:]:
        best = torch.maximum(best, part)
    return best.reshape(-1, channels * h * w, data.shape[-1])
