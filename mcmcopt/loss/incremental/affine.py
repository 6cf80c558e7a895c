"""Rules for linear maps: y = W x + b on features, convolution on channels, and normalisation with fixed statistics.

own weights changed     the changed output rows: Δy_o = Σ_j ΔW_oj x_j, or W'_o x afresh where most of a row changed
few inputs changed      Δy = W[:, J] Δx_J, all outputs
else                    the whole map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from mcmcopt.loss.incremental.graph import Node, plain
from mcmcopt.loss.incremental.layout import Full, Patch, Rows, features_of
from mcmcopt.loss.incremental.rules import Rule, State, by_channels, is_activation, name_of, shape_of, whole
from mcmcopt.loss.kernels.reference import Geometry, distinct, expand
from mcmcopt.loss.objective import Change

FEW = 0.5
"""Share of changed inputs up to which a difference is added instead of computing the whole map."""


class RowEdits(NamedTuple):
    """Changed entries of a weight (and bias), as the part of the map that they make.

    Attributes:
        outputs: int64 (o,), the changed rows.
        inputs: int64 (j,), the columns that matter.
        weight: (o, j), new weights if `fresh`, else differences.
        bias: (o,), the same.
        fresh: whether most of each row changed.
    """

    outputs: Tensor
    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    fresh: bool


def row_edits(weight: Tensor, bias: Tensor | None, edits: Change) -> RowEdits:
    """Return what changes of a weight (rows, columns) and its bias do.

    Args:
        weight: present values.
        bias: present values.
        edits: proposed values of either or both.
    """
    columns = weight.numel() // weight.shape[0]
    at, new = edits.get(weight, (None, None))
    bias_at, bias_new = edits.get(bias, (None, None)) if bias is not None else (None, None)
    if bias_at is not None and bias_new is not None:
        bias_at, order = bias_at.sort()
        bias_new = bias_new[order]
    if at is None or new is None:
        assert bias is not None  # noqa: S101 -- something changed
        assert bias_at is not None  # noqa: S101
        assert bias_new is not None  # noqa: S101
        empty = torch.empty(0, dtype=torch.int64, device=weight.device)
        nothing = weight.detach().new_empty(len(bias_at), 0)
        return RowEdits(bias_at, empty, nothing, bias_new - bias.detach()[bias_at], False)
    if at.shape[0] == 1 and bias_at is None:  # the commonest cases are spared the sorting
        difference = new - weight.detach().take(at)
        if columns > 2:
            return RowEdits(at // columns, at % columns, difference.unsqueeze(0), None, False)
    flat = weight.detach().reshape(weight.shape[0], columns)
    if at.shape[0] == columns and bias_at is None and columns > 1:
        first, last = int(at[0]), int(at[-1])
        if first % columns == 0 and last - first == columns - 1 and bool((at.diff() == 1).all()):
            outputs = at[:1] // columns
            old_bias = None if bias is None else bias.detach()[outputs]
            return RowEdits(outputs, at - first, new.unsqueeze(0), old_bias, True)
    rows, cols = at // columns, at % columns
    outputs = distinct(rows if bias_at is None else torch.cat((rows, bias_at)))
    fresh = 2 * at.shape[0] > outputs.shape[0] * columns
    bias_part = None if bias is None else bias.detach()[outputs]
    if bias_part is not None and bias_at is not None and bias_new is not None:
        bias_part[torch.searchsorted(outputs, bias_at)] = bias_new
    if fresh:
        part = flat[outputs]
        part[torch.searchsorted(outputs, rows), cols] = new
        return RowEdits(outputs, torch.arange(columns, device=weight.device), part, bias_part, True)
    if bias_part is not None and bias is not None:
        bias_part = None if bias_at is None else bias_part - bias.detach()[outputs]
    inputs = distinct(cols)
    part = flat.new_zeros(outputs.shape[0], inputs.shape[0])
    part[torch.searchsorted(outputs, rows), torch.searchsorted(inputs, cols)] = new - flat[rows, cols]
    return RowEdits(outputs, inputs, part, bias_part, False)


class Linear(Rule):
    """y = W x + b on (samples, features)."""

    dense = False

    def __init__(self, node: Node, nodes: Sequence[Node]) -> None:
        super().__init__(node, nodes)
        self.weight, self.bias = _linear_parameters(node)

    def patch(self, state: State, patches: Sequence[Patch], edits: Change) -> Patch:
        """Return the changed outputs."""
        (patch,), backend, source = patches, state.backend, self.node.inputs[0]
        if edits and patch is not None:
            return super().patch(state, patches, edits)
        if patch is None:
            part = row_edits(self.weight, self.bias, edits)
            base, rows = (None, None) if part.fresh else (state.cached(self.node.index), part.outputs)
            data = backend.linear_rows(
                state.cached(source), part.inputs, part.weight, base=base, base_rows=rows, bias=part.bias
            )
            return Rows(part.outputs, 1, data) if len(part.outputs) < len(self.weight) else Full(data)
        weight = self.weight.detach()
        if isinstance(patch, Rows) and len(patch.ids) * patch.size <= FEW * weight.shape[1]:
            features = patch.features
            data = backend.linear_rows(
                patch.data,
                features,
                weight.index_select(1, features),
                old=state.cached(source),
                base=state.cached(self.node.index),
            )
            return Full(data)
        data = whole(state, source, patch)
        bias = None if self.bias is None else self.bias.detach()
        return Full(backend.linear_all(data, weight, bias))


class Conv(Rule):
    """Two-dimensional convolution, with stride, zero padding, dilation and groups."""

    dense = False

    def __init__(self, node: Node, nodes: Sequence[Node]) -> None:
        super().__init__(node, nodes)
        self.weight, self.bias, self.geometry, self.groups = _conv_parameters(node, nodes)

    def patch(self, state: State, patches: Sequence[Patch], edits: Change) -> Patch:
        """Return the changed output channels."""
        (patch,), source = patches, self.node.inputs[0]
        if edits and patch is not None:
            return super().patch(state, patches, edits)
        if patch is None:
            return self._own(state, source, edits)
        size = features_of(shape_of(state.nodes[source])[1:])
        if isinstance(patch, Rows):
            rows = by_channels(state, source, patch, size)
            if len(rows.ids) <= FEW * self.weight.shape[1] * self.groups:
                return self._from_few(state, source, rows)
        return super().patch(state, patches, edits)

    def _own(self, state: State, source: int, edits: Change) -> Patch:
        part = row_edits(self.weight, self.bias, edits)
        outputs, (kh, kw) = part.outputs, self.geometry.kernel
        o, inside, per_group = len(outputs), self.weight.shape[1], len(self.weight) // self.groups
        taps = kh * kw
        # columns of the weight seen as a matrix → channels within a group, and channels of the input
        local = distinct(part.inputs // taps)
        group = outputs // per_group
        first = int(group[0]) if o else 0
        if self.groups > 1 and bool((group != first).any()):
            channels = (distinct(group).unsqueeze(1) * inside + local).reshape(-1)
        else:
            channels = local + first * inside
        weight = part.weight.new_zeros(o, len(channels), taps)
        column = torch.searchsorted(channels, (group * inside).unsqueeze(1) + part.inputs // taps)
        weight[torch.arange(o, device=weight.device).unsqueeze(1), column, part.inputs % taps] = part.weight
        base, rows = (None, None) if part.fresh else (state.cached(self.node.index), outputs)
        codes = state.codes(source)
        data = state.backend.conv_rows(
            state.cached(source) if codes is None else codes.data,
            channels,
            weight.view(o, len(channels), kh, kw),
            self.geometry,
            base=base,
            base_rows=rows,
            bias=part.bias,
            scale=None if codes is None else codes.scale[channels],
            shift=None if codes is None else codes.shift[channels],
        )
        return Rows(outputs, features_of(self.geometry.out), data) if o < len(self.weight) else Full(data)

    def _from_few(self, state: State, source: int, rows: Rows) -> Patch:
        inside, per_group = self.weight.shape[1], len(self.weight) // self.groups
        weight, (kh, kw) = self.weight.detach(), self.geometry.kernel
        if self.groups == 1:
            part, outputs = weight.index_select(1, rows.ids), None
        else:
            group = rows.ids // inside
            outputs = expand(distinct(group), per_group)
            part = weight.new_zeros(len(outputs), len(rows.ids), kh, kw)
            mine = (outputs // per_group).unsqueeze(1) == group
            o, c = mine.nonzero(as_tuple=True)
            part[o, c] = weight[outputs[o], (rows.ids % inside)[c]]
        data = state.backend.conv_rows(
            rows.data,
            rows.ids,
            part,
            self.geometry,
            old=state.cached(source),
            base=state.cached(self.node.index),
            base_rows=outputs,
        )
        if outputs is None or len(outputs) == len(weight):
            return Full(data)
        return Rows(outputs, features_of(self.geometry.out), data)


class BatchNorm(Rule):
    """(x - mean)/√(var + ε)·w + b by channel, with the running statistics."""

    dense = False

    def __init__(self, node: Node, nodes: Sequence[Node]) -> None:
        super().__init__(node, nodes)
        module = node.module
        assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)  # noqa: S101 -- chosen for it
        self.module = module

    def patch(self, state: State, patches: Sequence[Patch], edits: Change) -> Patch:
        """Normalise the channels that changed."""
        (patch,), source = patches, self.node.inputs[0]
        size = features_of(shape_of(self.node)[1:])
        if edits:
            ids = distinct(torch.cat([at for at, _ in edits.values()]))
            if patch is not None:
                return super().patch(state, patches, edits)
            patch = Rows(ids, size, state.cached(source).index_select(1, expand(ids, size)))
        elif isinstance(patch, Rows):
            patch = by_channels(state, source, patch, size)
        scale, shift = self._affine(edits)
        if isinstance(patch, Rows):
            scale, shift = scale[patch.ids], shift[patch.ids]
        assert patch is not None  # noqa: S101 -- the engine calls with a change
        column = state.backend.column
        scale, shift = column(scale.repeat_interleave(size)), column(shift.repeat_interleave(size))
        return patch._replace(data=torch.addcmul(shift, patch.data, scale))

    def _affine(self, edits: Change) -> tuple[Tensor, Tensor]:
        module, values = self.module, []
        for param in (module.weight, module.bias):
            value = None if param is None else param.detach()
            if value is not None and param in edits:
                value = value.index_copy(0, *edits[param])
            values.append(value)
        assert module.running_mean is not None  # noqa: S101 -- chosen for it
        assert module.running_var is not None  # noqa: S101
        scale = (module.running_var + module.eps).rsqrt()
        scale = scale if values[0] is None else scale * values[0]
        shift = -module.running_mean * scale
        return scale, shift if values[1] is None else shift + values[1]


def is_linear(node: Node, nodes: Sequence[Node]) -> bool:
    """Whether a node is a linear map of (samples, features)."""
    if node.shape is None or len(node.shape) != 1 or not node.inputs:
        return False
    first = nodes[node.inputs[0]]
    if len(node.inputs) != 1 or not is_activation(first) or len(shape_of(first)) != 1 or first.dtype != node.dtype:
        return False
    if type(node.module) is nn.Linear:
        return plain(node.module) and isinstance(node.module.weight, nn.Parameter)
    if node.module is not None or node.fx.target is not functional.linear:
        return False
    return _functional_parameters(node, 3)


def is_conv(node: Node, nodes: Sequence[Node]) -> bool:
    """Whether a node is a two-dimensional convolution with zero padding."""
    if node.shape is None or len(node.shape) != 3 or len(node.inputs) != 1:
        return False
    first = nodes[node.inputs[0]]
    if not is_activation(first) or len(shape_of(first)) != 3 or first.dtype != node.dtype:
        return False
    module = node.module
    if type(module) is nn.Conv2d:
        fits = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return fits and plain(module) and isinstance(module.weight, nn.Parameter)
    if module is not None or name_of(node) != "conv2d":
        return False
    if not _functional_parameters(node, 7):
        return False
    options = (*node.fx.args[3:], *(v for k, v in node.fx.kwargs.items() if k not in ("input", "weight", "bias")))
    return all(isinstance(option, int | tuple | list) for option in options)


def is_batch_norm(node: Node, nodes: Sequence[Node]) -> bool:
    """Whether a node is batch normalisation with running statistics."""
    module = node.module
    if not isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) or not plain(module):
        return False
    first = nodes[node.inputs[0]]
    return (
        not module.training and module.running_mean is not None and is_activation(first) and first.dtype == node.dtype
    )


def _functional_parameters(node: Node, most: int) -> bool:
    """Whether a functional form reads its weight and bias straight from parameters."""
    given = dict(zip(("input", "weight", "bias"), node.fx.args, strict=False))
    given.update({k: v for k, v in node.fx.kwargs.items() if k in ("input", "weight", "bias")})
    if len(node.fx.args) > most or "weight" not in given:
        return False
    for key in ("weight", "bias"):
        argument = given.get(key)
        if argument is None and key == "bias":
            continue
        if not isinstance(argument, fx.Node) or argument.op != "get_attr":
            return False
        if not isinstance(argument.meta["value"], nn.Parameter):
            return False
    return True


def _linear_parameters(node: Node) -> tuple[Tensor, Tensor | None]:
    if isinstance(node.module, nn.Linear):
        return node.module.weight, node.module.bias
    given = dict(zip(("input", "weight", "bias"), node.fx.args, strict=False)) | dict(node.fx.kwargs)
    bias = given.get("bias")
    return given["weight"].meta["value"], bias.meta["value"] if isinstance(bias, fx.Node) else None  # type: ignore[union-attr]


def _conv_parameters(node: Node, nodes: Sequence[Node]) -> tuple[Tensor, Tensor | None, Geometry, int]:
    module = node.module
    if isinstance(module, nn.Conv2d):
        options = {name: getattr(module, name) for name in ("stride", "padding", "dilation", "groups")}
        weight, bias = module.weight, module.bias
    else:
        weight, bias = _linear_parameters(node)
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        options |= {k: v for k, v in zip(names, node.fx.args, strict=False) if k in options} | {
            k: v for k, v in node.fx.kwargs.items() if k in options
        }
    shape, out = shape_of(nodes[node.inputs[0]]), shape_of(node)
    geometry = Geometry(
        (shape[1], shape[2]),
        (out[1], out[2]),
        (weight.shape[2], weight.shape[3]),
        *(_pair(options[name]) for name in ("stride", "padding", "dilation")),
    )
    return weight, bias, geometry, int(options["groups"])


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])
