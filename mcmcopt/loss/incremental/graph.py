"""A model as a list of nodes in the order of their evaluation, each with the rule that updates it.

The model is traced once by torch.fx and run once on two samples, which shows each node's shape and which nodes carry
samples in their first dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import Parameter

from mcmcopt.loss.guards import ClosureError, random_states


class UntraceableError(Exception):
    """A model that the engine cannot follow, with the reason."""


@dataclass(eq=False)
class Node:
    """One operation.

    Attributes:
        index: its place in the list.
        fx: the traced node.
        inputs: indices of the nodes that it reads, in order of appearance.
        params: the parameters that it reads itself.
        call: runs it on the values of its inputs, by index.
        shape: its value's shape without the samples; None where the value does not carry samples.
        dtype: its value's dtype, where it is a tensor.
    """

    index: int
    fx: fx.Node
    inputs: tuple[int, ...]
    params: tuple[Tensor, ...]
    call: Callable[[Callable[[int], Any]], Any]
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None
    module: nn.Module | None = None
    depends: bool = False  # on any parameter
    readers: list[int] = field(default_factory=list)

    @property
    def label(self) -> str:
        """What warnings call it."""
        if self.module is not None:
            return f"{self.fx.target} ({type(self.module).__name__})"
        return getattr(self.fx.target, "__name__", str(self.fx.target))


@dataclass(eq=False)
class Graph:
    """The nodes of a model; `nodes[0]` is the batch, `nodes[output]` what the loss is computed from."""

    nodes: list[Node]
    output: int
    modes: tuple[object, ...]  # of the model at the time of tracing


def modes(model: nn.Module) -> tuple[object, ...]:
    """Return what tracing takes as given: train or eval by module, which the parameters are, the buffers' versions."""
    training = tuple((id(module), module.training) for module in model.modules())
    params = tuple(id(param) for param in model.parameters())
    return training, params, tuple((id(buffer), buffer._version) for buffer in model.buffers())


def check_modes(model: nn.Module) -> None:
    """Refuse modules whose train mode makes the loss random or moves buffers.

    Raises:
        ClosureError: naming them.
    """
    from torch.nn.modules.batchnorm import _NormBase
    from torch.nn.modules.dropout import _DropoutNd

    for name, module in model.named_modules():
        if not module.training:
            continue
        if isinstance(module, _DropoutNd) and module.p > 0:
            raise ClosureError(f"dropout is in train mode: {name} ({module}). Call model.eval() before the step")
        if isinstance(module, _NormBase) and module.running_mean is not None:
            raise ClosureError(
                f"{name} ({module}) is in train mode: it normalises by the batch and moves its running statistics, "
                "even for a rejected proposal. Call model.eval() before the step"
            )


def trace(model: nn.Module, x: Tensor) -> Graph:
    """Return a model's graph.

    Args:
        x: a batch, of which the first two samples are used.

    Raises:
        UntraceableError: with the reason.
    """
    if model._forward_hooks or model._forward_pre_hooks:
        raise UntraceableError("it has forward hooks")
    try:
        before = random_states()
        with torch.enable_grad():  # shows which constants are computed from parameters
            traced = fx.Tracer().trace(model)
    except Exception as error:  # fx raises many kinds, and the model's own code runs on proxies
        raise UntraceableError(f"torch.fx cannot trace it: {error}") from error
    if _moved(before):
        raise UntraceableError("its forward draws random numbers that tracing would make constants")
    nodes: list[Node] = []
    numbers: dict[fx.Node, int] = {}
    output = -1
    for item in traced.nodes:
        if item.op == "output":
            if not isinstance(item.args[0], fx.Node):
                raise UntraceableError("it returns more than one tensor")
            output = numbers[item.args[0]]
            continue
        numbers[item] = len(nodes)
        nodes.append(_node(len(nodes), item, numbers, model))
    _check_in_place(nodes)
    for node in nodes:
        node.depends = bool(node.params) or any(nodes[i].depends for i in node.inputs)
        for i in dict.fromkeys(node.inputs):
            nodes[i].readers.append(node.index)
    placeholders = [node for node in nodes if node.fx.op == "placeholder"]
    if len(placeholders) != 1 and any(not node.fx.args for node in placeholders[1:]):
        raise UntraceableError("its forward takes more than the batch")
    if nodes[0].fx.op != "placeholder":
        raise UntraceableError("its forward does not take the batch first")
    two, three = (_probe(nodes, x, samples) for samples in (2, 3))
    for node, value, other in zip(nodes, two, three, strict=True):
        if isinstance(value, Tensor):
            node.dtype = value.dtype
            if value.dim() >= 1 and value.shape[0] == 2 and other.shape == (3, *value.shape[1:]):
                node.shape = tuple(value.shape[1:])
    for node in nodes:
        if node.shape is not None and node.dtype in (torch.float16, torch.bfloat16):
            raise UntraceableError(
                f"it computes in {node.dtype}, in which cached activations would swallow small accepted changes"
            )
    if nodes[output].shape is None:
        raise UntraceableError("its output does not have one row per sample")
    return Graph(nodes, output, modes(model))


def _probe(nodes: Sequence[Node], x: Tensor, samples: int) -> list[Any]:
    """Return all nodes' values on some samples; what grows with their number carries samples."""
    batch = x[[i % len(x) for i in range(samples)]]
    try:
        return run(nodes, batch)
    except ClosureError:
        raise
    except Exception as error:  # whatever the model's operations raise
        raise UntraceableError(f"it fails on a batch of {samples} samples: {error}") from error


@torch.no_grad()
def run(nodes: Sequence[Node], x: Tensor) -> list[Any]:
    """Return all nodes' values on a batch.

    Raises:
        ClosureError: if a node draws random numbers.
    """
    values: list[Any] = []
    before = random_states()
    for node in nodes:
        values.append(x if node.index == 0 else node.call(values.__getitem__))
    if _moved(before):
        for node in nodes[1:]:
            before = random_states()
            node.call(values.__getitem__)
            if _moved(before):
                raise ClosureError(
                    f"{node.label} draws random numbers, so the loss is not a function of the parameters. "
                    "Use F.dropout(x, training=self.training) and model.eval()"
                )
    return values


def _moved(before: Sequence[Tensor]) -> bool:
    """Return whether torch's generators have moved, and put the CPU's back."""
    moved = any(not torch.equal(a, b) for a, b in zip(before, random_states(), strict=False))
    torch.set_rng_state(before[0])
    return moved


_IN_PLACE_FUNCTIONS = {"iadd", "isub", "imul", "itruediv", "ipow", "setitem"}


def _node(index: int, item: fx.Node, numbers: dict[fx.Node, int], model: nn.Module) -> Node:
    found: list[fx.Node] = []

    def note(n: fx.Node) -> fx.Node:
        found.append(n)
        return n

    fx.node.map_arg((item.args, item.kwargs), note)
    attributes = [n for n in found if n.op == "get_attr"]
    for n in attributes:
        n.meta["value"] = value = _attribute(model, str(n.target))
        if isinstance(value, Tensor) and value.requires_grad and not isinstance(value, Parameter):
            raise UntraceableError(f"{n.target} is computed from parameters outside of a module's forward")
    params = [n.meta["value"] for n in attributes]
    module = None
    if item.op == "call_module":
        module = model.get_submodule(str(item.target))
        params += list(module.parameters())
    unique = tuple({id(p): p for p in params if isinstance(p, Parameter)}.values())
    inputs = tuple(numbers[n] for n in found if n.op != "get_attr")
    call = _call(item, numbers, model, module)
    return Node(index, item, inputs, unique, call, module=module)


def _call(
    item: fx.Node, numbers: dict[fx.Node, int], model: nn.Module, module: nn.Module | None
) -> Callable[[Callable[[int], Any]], Any]:
    clone = in_place(item, module)

    def call(value: Callable[[int], Any]) -> Any:
        def load(n: fx.Node) -> Any:
            return _attribute(model, str(n.target)) if n.op == "get_attr" else value(numbers[n])

        if item.op == "get_attr":
            return _attribute(model, str(item.target))
        if item.op == "placeholder":
            return item.args[0]  # a default argument
        args = list(fx.node.map_arg(item.args, load))
        kwargs = fx.node.map_arg(item.kwargs, load)
        if clone and args and isinstance(args[0], Tensor):
            args[0] = args[0].clone()
        if module is not None:
            return module(*args, **kwargs)
        if item.op == "call_function":
            return item.target(*args, **kwargs)  # type: ignore[operator]
        return getattr(args[0], str(item.target))(*args[1:], **kwargs)

    return call


def in_place(item: fx.Node, module: nn.Module | None) -> bool:
    """Return whether a traced node writes into its first argument."""
    if module is not None:
        return bool(getattr(module, "inplace", False))
    if item.kwargs.get("inplace") is True:
        return True
    name = item.target if isinstance(item.target, str) else getattr(item.target, "__name__", "")
    if item.op == "call_function" and name in _IN_PLACE_FUNCTIONS:
        return True
    if (name.endswith("_") and not name.endswith("__")) or item.kwargs.get("out") is not None:
        return True
    return name in ("relu", "dropout", "leaky_relu", "elu", "hardtanh") and any(a is True for a in item.args[1:])


def _check_in_place(nodes: Sequence[Node]) -> None:
    """Refuse in-place operations whose effect another node could see: the engine runs them on copies."""
    readers: dict[int, list[int]] = {}
    for node in nodes:
        for i in node.inputs:
            readers.setdefault(i, []).append(node.index)
    for node in nodes:
        if not in_place(node.fx, node.module):
            continue
        i = node.inputs[0] if node.inputs else -1
        if i < 0 or (node.fx.op == "call_function" and getattr(node.fx.target, "__name__", "") == "setitem"):
            raise UntraceableError(f"{node.label} writes into a tensor in place")
        while i >= 0:  # up through views, which share memory
            others = [r for r in readers[i] if r > node.index]
            if others:
                raise UntraceableError(
                    f"{node.label} changes the value of {nodes[i].label} in place, and {nodes[others[0]].label} "
                    "reads it afterwards"
                )
            i = nodes[i].inputs[0] if nodes[i].inputs and _may_share(nodes[i].module) else -1


def _may_share(module: nn.Module | None) -> bool:
    """Return whether a module's output may be its input's memory."""
    from torch.nn.modules.dropout import _DropoutNd

    return module is None or isinstance(module, nn.Identity | nn.Flatten | nn.Unflatten | _DropoutNd)


def _attribute(model: nn.Module, path: str) -> Any:
    found: Any = model
    for name in path.split("."):
        found = getattr(found, name)
    return found


def plain(module: nn.Module) -> bool:
    """Return whether calling a module does what its class says: no hooks, parametrisations or changed forward."""
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    return not any(hooks) and "forward" not in vars(module) and not hasattr(module, "parametrizations")
