"""The first evaluation of a batch: the model runs on parts of it, and what is to be kept goes into the caches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mcmcopt.loss.incremental.graph import Node, run
from mcmcopt.loss.incremental.layout import Codes, Major, features_of
from mcmcopt.loss.incremental.memory import Plan

CHUNK = 512
"""Samples that run at a time: intermediate results stay in the processor's caches."""


def fill(nodes: Sequence[Node], plan: Plan, backend: Major, x: Tensor, memory: Sequence[Any]) -> list[Any]:
    """Return each node's value to keep: an activation in the backend's layout, codes, another value, or None.

    Args:
        nodes: the model's.
        plan: what to keep.
        backend: the layout.
        x: the batch.
        memory: values of an earlier call for as many samples, written over.
    """
    n = len(x)
    values: list[Any] = [None] * len(nodes)
    for node in nodes:
        if node.index > 0 and plan.stored[node.index] and node.dtype is not None and node.shape is not None:
            shape, old = backend.shape(features_of(node.shape)), memory[node.index] if memory else None
            fits = isinstance(old, Tensor) and old.shape == shape and old.dtype is node.dtype
            values[node.index] = old if fits else backend.allocate(features_of(node.shape), node.dtype)
    if plan.stored[0]:
        values[0] = backend.store(x)
    for index, (scale, shift) in plan.codes.items():
        values[index] = Codes(backend.store_codes(x), scale, shift)
    step = n if plan.whole or not x.is_cpu else CHUNK
    for first in range(0, n, step):
        outputs = run(nodes, x[first : first + step])
        for node, value in zip(nodes, outputs, strict=True):
            if node.index == 0:
                continue
            if plan.stored[node.index]:
                if len(value) != min(step, n - first):
                    raise ValueError(f"{node.label} returned {len(value)} rows for {min(step, n - first)} samples")
                backend.write(values[node.index], value, first)
            elif not isinstance(value, Tensor) or node.shape is None:
                values[node.index] = value
    return values
