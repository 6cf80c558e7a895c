"""The loss of a proposal at the price of what it changes.

    ℓ(w') = loss(z + Δz),   Δz pushed from the changed weights through the operations that they reach

The activations of every operation are kept for the bound batch.  A proposal computes the changed channels of each
operation below the changed weights into memory of its own; `commit` moves them into the cache, `rollback` forgets them,
so that after it everything is bitwise as before.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from mcmcopt.loss.incremental.bound import Bound
from mcmcopt.loss.incremental.graph import Graph, UntraceableError, check_modes, modes, trace
from mcmcopt.loss.incremental.losses import LossFunction
from mcmcopt.loss.incremental.memory import Plan, plan
from mcmcopt.loss.incremental.recognise import choose
from mcmcopt.loss.incremental.rules import Rule
from mcmcopt.loss.objective import ClosureObjective


class IncrementalLoss:
    """Scores proposals on a model by recomputing only what they change; the chain and its decisions stay the same.

    Args:
        model: any module; one that torch.fx cannot trace is evaluated as a plain closure, with a warning.
        loss_fn: of (model(x), y), for example `nn.CrossEntropyLoss()`.
        memory_budget: bytes that cached activations may take; None: no limit.
        refresh_every: commits after which the next `evaluate` computes all activations afresh, which bounds rounding.
        layout: `"tiles"` (sample-minor, the CPU kernels), `"major"` (torch operations, as on CUDA), or `"auto"`.

    What breaks the guarantee: parameters written through `.data` and plain Python attributes that the forward reads,
    which leave no trace (all other writes by others are noticed at the next `evaluate`, that is at the start of the
    next step).  Where an activation is infinite or nan, a weight of exactly 0 contributes 0 here and nan in torch.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        *,
        memory_budget: int | None = None,
        refresh_every: int = 20_000,
        layout: str = "auto",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {model!r}")
        if not callable(loss_fn):
            raise TypeError(f"loss_fn must be callable with (outputs, y), got {loss_fn!r}")
        if isinstance(loss_fn, nn.Module) and next(loss_fn.parameters(), None) is not None:
            raise ValueError(f"loss_fn must have no parameters, got {loss_fn!r}: make them part of the model")
        if memory_budget is not None and memory_budget <= 0:
            raise ValueError(f"memory_budget must be a positive number of bytes or None, got {memory_budget!r}")
        if isinstance(refresh_every, bool) or not isinstance(refresh_every, int) or refresh_every < 1:
            raise ValueError(f"refresh_every must be an integer of at least 1, got {refresh_every!r}")
        if layout not in ("auto", "tiles", "major"):
            raise ValueError(f'layout must be "auto", "tiles" or "major", got {layout!r}')
        self.model, self.loss_fn = model, loss_fn
        self.memory_budget, self.refresh_every, self.layout = memory_budget, refresh_every, layout
        self._graph: Graph | None = None
        self._rules: list[Rule] = []
        self._untraceable = False
        self._traced_for: tuple[Any, ...] = ()
        self._on_cpu = True
        self._warned: set[str] = set()
        self._bound: Bound | None = None

    def bind(self, x: Tensor, y: Any) -> Bound | ClosureObjective:
        """Return the objective of one batch; the same tensors again return the same objective with its cache.

        One batch is held at a time: binding another one frees the cached activations of the last.

        Args:
            x: inputs (samples, …), as the model takes them; integers where the model normalises them itself.
            y: targets, as the loss takes them.

        Raises:
            ValueError: for an empty batch, or one whose activations exceed the memory budget.
            ClosureError: for a model in train mode that would make the loss random.
        """
        if not isinstance(x, Tensor) or x.dim() < 1 or len(x) == 0:
            raise ValueError(f"x must be a tensor with at least one sample, got {_describe(x)}")
        if isinstance(y, Tensor) and len(y) != len(x):
            raise ValueError(f"x and y must have as many samples, got {len(x)} and {len(y)}")
        bound = self._bound
        if bound is not None and bound.is_of(x, y) and bound.is_current():
            return bound
        self._bound = None
        graph = self._trace(x)
        if graph is None:
            return ClosureObjective(lambda: self.loss_fn(self.model(x), y), self.model.parameters(), None)
        self._bound = Bound(self, x, y)
        if bound is not None:
            bound.drop()
            self._bound.inherit(bound)
        return self._bound

    def memory(self, n: int) -> int:
        """Return the bytes that cached activations of n samples take; a batch must have been bound before."""
        if self._graph is None:
            raise RuntimeError("bind a batch first: the shapes of activations are not known before")
        return self._plan(n).bytes

    def forget(self) -> None:
        """Drop cached activations: the next evaluation computes all of them afresh, as a resumed run would."""
        if self._bound is not None:
            self._bound.drop()

    def _plan(self, n: int) -> Plan:
        assert self._graph is not None  # noqa: S101 -- the callers have traced
        tiled = self.layout == "tiles" or (self.layout == "auto" and _suits_tiles(self._graph))
        return plan(self._graph, self._rules, n, tiled and self._on_cpu)

    def _trace(self, x: Tensor) -> Graph | None:
        check_modes(self.model)
        if self._untraceable:
            return None
        if self._graph is None or self._graph.modes != modes(self.model) or _signature(x) != self._traced_for:
            try:
                with torch.no_grad():
                    self._graph = trace(self.model, x)
            except UntraceableError as error:
                self._untraceable = True
                warnings.warn(
                    f"{type(self.model).__name__} is evaluated whole for every proposal: {error}", stacklevel=3
                )
                return None
            self._traced_for, self._on_cpu = _signature(x), x.is_cpu
            nodes = self._graph.nodes
            self._rules = [choose(node, nodes, nodes[self._graph.output].dtype) for node in nodes]
            self._warn_of_dense_operations()
        return self._graph

    def _warn_of_dense_operations(self) -> None:
        assert self._graph is not None  # noqa: S101 -- called after tracing
        known = (nn.LayerNorm, nn.GroupNorm, nn.Softmax, nn.LogSoftmax)
        dense = [
            node.label
            for node, rule in zip(self._graph.nodes, self._rules, strict=True)
            if type(rule) is Rule and node.depends and node.shape is not None and not isinstance(node.module, known)
        ]
        new = [label for label in dict.fromkeys(dense) if label not in self._warned]
        if new:
            self._warned.update(new)
            warnings.warn(
                f"no incremental rule for {', '.join(new)}: computed whole from cached inputs wherever a change "
                "reaches it, which is right but slower",
                stacklevel=4,
            )


def _suits_tiles(graph: Graph) -> bool:
    """Whether the CPU kernels pay: not where most of a change's cost is dense convolutions, which torch does better."""
    convolutions = sum(isinstance(node.module, nn.Conv2d) for node in graph.nodes)
    return convolutions <= 2


def _signature(x: Tensor) -> tuple[Any, ...]:
    return (tuple(x.shape[1:]), x.dtype, x.device)


def _describe(x: Any) -> str:
    return f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else repr(x)
