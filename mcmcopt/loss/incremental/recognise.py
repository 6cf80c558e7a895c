"""Which rule fits which operation: by the type of a module, or the name of a function or method.

A node that none of them fits is computed whole, from its cached inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from mcmcopt.loss.incremental import affine
from mcmcopt.loss.incremental.channelwise import Channelwise, is_channelwise
from mcmcopt.loss.incremental.graph import Node, plain
from mcmcopt.loss.incremental.layout import features_of
from mcmcopt.loss.incremental.rules import (
    Alias,
    Binary,
    ByChannel,
    Concatenate,
    Elementwise,
    Rule,
    is_activation,
    name_of,
    shape_of,
)


def choose(node: Node, nodes: Sequence[Node], dtype: torch.dtype | None) -> Rule:
    """Return the rule that fits a node.

    Args:
        node: the node.
        nodes: all nodes.
        dtype: of the layout; nodes of other dtypes are computed whole.
    """
    if node.dtype != dtype:
        return Rule(node, nodes)
    for test, rule in (
        (_is_alias, Alias),
        (affine.is_linear, affine.Linear),
        (affine.is_conv, affine.Conv),
        (affine.is_batch_norm, affine.BatchNorm),
        (_is_elementwise, Elementwise),
        (_is_by_channel, ByChannel),
        (is_channelwise, Channelwise),
        (_is_binary, Binary),
        (_is_concatenation, Concatenate),
    ):
        if test(node, nodes):
            return rule(node, nodes)
    return Rule(node, nodes)


ELEMENTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
    nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink,
    nn.Hardshrink, nn.Threshold,
)  # fmt: skip
ELEMENTWISE_NAMES = {
    "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "celu", "selu", "gelu", "silu", "mish",
    "sigmoid", "sigmoid_", "tanh", "tanh_", "softplus", "softsign", "hardtanh", "hardtanh_", "hardsigmoid",
    "hardswish", "logsigmoid", "tanhshrink", "softshrink", "hardshrink", "threshold", "threshold_", "abs", "neg",
    "exp", "log1p", "square", "sqrt", "rsqrt", "sin", "cos", "erf", "sign", "clamp", "clamp_min", "clamp_max", "pow",
    "float", "double",
}  # fmt: skip
ALIAS_MODULES = (nn.Identity, nn.Flatten, nn.Unflatten)
DROPOUT_MODULES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
ALIAS_NAMES = {"view", "reshape", "flatten", "squeeze", "unsqueeze", "contiguous", "unflatten", "view_as", "detach"}
DROPOUT_NAMES = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
POOL_MODULES = (
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.MaxPool1d, nn.AvgPool1d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d, nn.LPPool2d, nn.ZeroPad2d, nn.Upsample,
)  # fmt: skip
POOL_NAMES = {
    "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "max_pool1d", "avg_pool1d",
    "adaptive_avg_pool1d", "adaptive_max_pool1d", "boolean_dispatch",
}  # fmt: skip
REDUCTION_NAMES = {"mean", "sum", "amax", "amin"}
BINARY_NAMES = {
    "add", "sub", "mul", "div", "truediv", "true_divide", "subtract", "multiply", "divide", "maximum", "minimum",
    "iadd", "isub", "imul", "itruediv", "add_", "sub_", "mul_", "div_", "rsub",
}  # fmt: skip


def _single(node: Node, nodes: Sequence[Node]) -> bool:
    """Whether the only traced argument is the first one, a floating activation, and the value has the same dtype."""
    return (
        len(node.inputs) == 1
        and node.shape is not None
        and bool(node.fx.args)
        and isinstance(node.fx.args[0], fx.Node)
        and not _attributes(node)
        and nodes[node.inputs[0]].shape is not None
        and (not node.depends or (is_activation(nodes[node.inputs[0]]) and nodes[node.inputs[0]].dtype == node.dtype))
        and (node.module is None or plain(node.module))
    )


def _attributes(node: Node) -> list[fx.Node]:
    return [n for n in node.fx.all_input_nodes if n.op == "get_attr"]


def _is_alias(node: Node, nodes: Sequence[Node]) -> bool:
    if not node.inputs or node.shape is None:
        return False
    first = nodes[node.inputs[0]]
    if node.fx.args[:1] != (first.fx,) or not is_activation(first) or node.dtype != first.dtype or _attributes(node):
        return False
    if features_of(node.shape) != features_of(shape_of(first)) or (node.module is not None and not plain(node.module)):
        return False
    others = [nodes[i] for i in node.inputs[1:]]
    if any(is_activation(other) for other in others):  # x.view_as(y) would do, x * y would not
        return False
    if isinstance(node.module, DROPOUT_MODULES) or name_of(node) in DROPOUT_NAMES:
        return True  # in eval mode: in train mode it has been refused
    return isinstance(node.module, ALIAS_MODULES) or name_of(node) in ALIAS_NAMES


def _is_elementwise(node: Node, nodes: Sequence[Node]) -> bool:
    if not _single(node, nodes) or node.shape != nodes[node.inputs[0]].shape:
        return False
    if isinstance(node.module, nn.PReLU):
        return node.module.num_parameters == 1
    return type(node.module) in ELEMENTWISE_MODULES or (node.module is None and name_of(node) in ELEMENTWISE_NAMES)


def _is_by_channel(node: Node, nodes: Sequence[Node]) -> bool:
    if not _single(node, nodes):
        return False
    shape = shape_of(nodes[node.inputs[0]])
    if len(shape) < 2 or len(shape_of(node)) < 1 or shape_of(node)[0] != shape[0]:
        return False
    if getattr(node.module, "return_indices", False) or node.fx.kwargs.get("return_indices"):
        return False
    if name_of(node) in REDUCTION_NAMES:
        dims: Any = node.fx.args[1] if len(node.fx.args) > 1 else node.fx.kwargs.get("dim")
        dims = (dims,) if isinstance(dims, int) else dims
        if not isinstance(dims, tuple | list) or not all(isinstance(d, int) for d in dims):
            return False
        return all((d if d >= 0 else d + len(shape) + 1) >= 2 for d in dims)
    kind = name_of(node) or type(node.module).__name__
    if len(shape) != (2 if "1d" in kind else 3 if "2d" in kind else len(shape)):
        return False  # without channels, so that samples pass for them
    return type(node.module) in POOL_MODULES or (node.module is None and name_of(node) in POOL_NAMES)


def _is_binary(node: Node, nodes: Sequence[Node]) -> bool:
    if node.module is not None or name_of(node) not in BINARY_NAMES or node.shape is None:
        return False
    if len(node.fx.args) != 2 or any(key not in ("alpha",) for key in node.fx.kwargs):
        return False
    if not node.inputs or any(nodes[i].shape != node.shape for i in node.inputs):
        return False
    if node.depends and any(not is_activation(nodes[i]) or nodes[i].dtype != node.dtype for i in node.inputs):
        return False  # what comes before the parameters is computed once, by torch, in whatever dtype
    for argument in node.fx.args:
        if isinstance(argument, fx.Node) and argument.op == "get_attr":
            value = argument.meta.get("value")
            if not isinstance(value, Tensor) or value.dim() > len(node.shape) + 1:
                return False
            if value.dim() == len(node.shape) + 1 and value.shape[0] != 1:
                return False
        elif not isinstance(argument, fx.Node | int | float):
            return False
    return True


def _is_concatenation(node: Node, nodes: Sequence[Node]) -> bool:
    if node.module is not None or name_of(node) not in ("cat", "concat", "concatenate") or node.shape is None:
        return False
    parts = node.fx.args[0] if node.fx.args else None
    dim = node.fx.args[1] if len(node.fx.args) > 1 else node.fx.kwargs.get("dim", node.fx.kwargs.get("axis", 0))
    if not isinstance(parts, tuple | list) or not isinstance(dim, int) or _attributes(node):
        return False
    if (dim if dim >= 0 else dim + len(node.shape) + 1) != 1:
        return False
    return all(is_activation(nodes[i]) and nodes[i].dtype == node.dtype for i in node.inputs)
