"""The table of optimizers that follow gradients, for the contract that all of them keep.

Add a line to `GRADIENT_OPTIMIZERS`: a function of parameters (tensors, named ones or groups of either) that returns an
optimizer, whose every step moves every parameter that has a gradient.  It may put the parameters into its domain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mcmcopt import (
    ElasticNet,
    Gaussian,
    Hypentropy,
    KLMirrorDescent,
    MirrorDescent,
    NegativeEntropy,
    PNorm,
    SpikeSlab,
)
from tests.optim.problems import bits, make_closure, make_model


def tensors(params: Iterable[Any]) -> list[Tensor]:
    """Return the parameters of whatever an optimizer takes."""
    found = []
    for item in params:
        if isinstance(item, dict):
            found += tensors(item["params"])
        else:
            found.append(item if isinstance(item, Tensor) else item[1])
    return found


def positive(params: Iterable[Any], total: float | None = None) -> list[Any]:
    """Return the parameters after making them positive, in place; with `total`, each a point of a simplex."""
    kept = list(params)
    for param in tensors(kept):
        with torch.no_grad():
            param.abs_().add_(0.05)
            if total is not None and param.numel():
                param.mul_(total / param.double().sum().to(param.dtype))
    return kept


GRADIENT_OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "mirror-euclidean": lambda params: MirrorDescent(params, 0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "mirror-plain": lambda params: MirrorDescent(params, 0.1),
    "mirror-pnorm": lambda params: MirrorDescent(params, 0.1, PNorm(3), momentum=0.5),
    "mirror-entropy": lambda params: MirrorDescent(positive(params), 0.1, NegativeEntropy(), momentum=0.9),
    "mirror-simplex": lambda params: MirrorDescent(positive(params, 2.0), 0.2, NegativeEntropy(True, total=2.0)),
    "mirror-hypentropy": lambda params: MirrorDescent(params, 0.2, Hypentropy(0.1), momentum=0.9, dampening=0.5),
    "mirror-elastic": lambda params: MirrorDescent(
        params, 0.3, ElasticNet(0.05, delta=2.0, blocks="row"), momentum=0.9, weight_decay=0.01, density=0.5, seed=3
    ),
    "kl-mirror": lambda params: KLMirrorDescent(params, 100.0, 10.0),
    "kl-mirror-binary": lambda params: KLMirrorDescent(
        params, 100.0, 10.0, SpikeSlab(0.3, slab=Gaussian(0.5)), center="initial", gates="binary", samples=3
    ),
}
STILL = {"mirror-simplex": ("temperature",)}
"""Parameters that cannot move: the only number on a simplex of one entry."""


def make(
    name: str, dtype: torch.dtype = torch.float32, named: bool = False
) -> tuple[nn.Module, Optimizer, Callable[[], Tensor]]:
    """Return a model, an optimizer of the table and a closure that sets gradients."""
    model = make_model(dtype=dtype)
    optimizer = GRADIENT_OPTIMIZERS[name](model.named_parameters() if named else model.parameters())
    return model, optimizer, make_descent(model, optimizer)


def make_descent(model: nn.Module, optimizer: Optimizer) -> Callable[[], Tensor]:
    """Return a closure that evaluates the loss and its gradients anew."""
    inner = make_closure(model, backward=True)

    def closure() -> Tensor:
        optimizer.zero_grad()
        return inner()

    return closure


def steps(optimizer: Optimizer, closure: Callable[[], Tensor], n: int) -> None:
    """Make n steps."""
    for _ in range(n):
        optimizer.step(closure)


def record(value: Any) -> Any:
    """Return a state as what can be compared, tensors by their bits."""
    if isinstance(value, Tensor):
        return bits(value)
    if isinstance(value, dict):
        return {key: record(inner) for key, inner in value.items() if key != "param_names"}
    if isinstance(value, list | tuple):
        return [record(inner) for inner in value]
    return repr(value)


def snapshot(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Return all that the future of training depends on."""
    return {"model": record(dict(model.state_dict())), "optimizer": record(optimizer.state_dict())}
