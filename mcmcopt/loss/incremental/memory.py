"""Which activations are kept, in what form, and what that takes: known before anything is allocated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, fx

from mcmcopt.loss.incremental.affine import Conv
from mcmcopt.loss.incremental.graph import Graph, Node
from mcmcopt.loss.incremental.layout import features_of
from mcmcopt.loss.incremental.rules import Alias, Rule, name_of
from mcmcopt.loss.kernels.memory import TILE


class Plan(NamedTuple):
    """What is kept of each node.

    Attributes:
        tiled: whether in tiles of 64 samples.
        stored: whether a node's activation is kept.
        codes: nodes that are kept as the batch's integers times a scale plus a shift, both by channel.
        whole: whether the model must run on the whole batch at once, because an operation could mix samples.
        bytes: what the kept activations take.
    """

    tiled: bool
    stored: tuple[bool, ...]
    codes: dict[int, tuple[Tensor, Tensor]]
    whole: bool
    bytes: int


def plan(graph: Graph, rules: Sequence[Rule], n: int, tiled: bool) -> Plan:
    """Return what to keep of a batch of n samples.

    A node is kept if it depends on a parameter or a node that does reads it; what lies before the first parameter
    is needed no further.
    """
    nodes = graph.nodes
    tiled = tiled and nodes[0].fx.op == "placeholder"
    codes = {}
    stored, size = [], 0
    for node, rule in zip(nodes, rules, strict=True):
        keep = node.index != 0 and node.shape is not None and not isinstance(rule, Alias)
        keep = keep and (node.depends or any(nodes[i].depends for i in _readers(node, nodes, rules)))
        if keep and tiled and not node.depends and (found := _as_codes(node, nodes, rules)) is not None:
            codes[node.index] = found
            size += features_of(node.shape or ()) * -(-n // TILE) * TILE
            keep = False
        stored.append(keep)
        if keep and node.dtype is not None:
            size += features_of(node.shape or ()) * (-(-n // TILE) * TILE if tiled else n) * node.dtype.itemsize
    first = nodes[0]
    if any(nodes[i].depends for i in _readers(first, nodes, rules)) and first.dtype is not None:
        stored[0] = True
        if tiled:  # else the batch itself serves
            size += features_of(first.shape or ()) * -(-n // TILE) * TILE * first.dtype.itemsize
    whole = any(rule.dense and node.shape is not None and node.inputs for node, rule in zip(nodes, rules, strict=True))
    return Plan(tiled, tuple(stored), codes, whole, size)


def _readers(node: Node, nodes: Sequence[Node], rules: Sequence[Rule]) -> list[int]:
    """Return the nodes that read a node, through those that share its memory."""
    found = []
    for i in node.readers:
        found += _readers(nodes[i], nodes, rules) if isinstance(rules[i], Alias) else [i]
    return found


def _as_codes(node: Node, nodes: Sequence[Node], rules: Sequence[Rule]) -> tuple[Tensor, Tensor] | None:
    """Return scale and shift if a node is the integer batch put through fixed affine operations by channel.

    Its readers must be convolutions, whose kernel decodes.
    """
    batch = nodes[0]
    if batch.dtype is not torch.uint8 or batch.shape is None or len(batch.shape) != 3:
        return None
    if not all(isinstance(rules[i], Conv) for i in node.readers) or node.shape != batch.shape:
        return None
    chain, at = [], node
    while at.index != 0:
        affine = len(at.inputs) == 1 and (_is_affine(at) or _is_cast(at))
        if not affine:
            return None
        chain.append(at)
        at = nodes[at.inputs[0]]
    channels = batch.shape[0]
    codes = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).expand(256, channels, 1, 1)
    value = codes
    for step in reversed(chain):
        value = _apply(step, value)
    if value.shape != codes.shape:
        return None
    value = value.view(256, channels).double()
    scale, shift = (value[255] - value[0]) / 255, value[0]
    line = torch.arange(256).unsqueeze(1) * scale + shift
    if not torch.allclose(value, line, rtol=1e-6, atol=1e-6 * float(value.abs().max())):
        return None
    return scale.to(node.dtype), shift.to(node.dtype)


def _is_affine(node: Node) -> bool:
    if node.module is not None or node.dtype is None or not node.dtype.is_floating_point:  # integers wrap around
        return False
    if "rounding_mode" in node.fx.kwargs:
        return False
    name, first = name_of(node), node.fx.args[0]
    return name in ("add", "sub", "mul") or (
        name in ("div", "truediv") and isinstance(first, fx.Node) and first.op != "get_attr"
    )


def _is_cast(node: Node) -> bool:
    floating = node.dtype is not None and node.dtype.is_floating_point
    return node.module is None and floating and node.fx.target in ("float", "double", "to")


def _apply(node: Node, value: Tensor) -> Tensor:
    result: Tensor = node.call(lambda _: value)
    return result
