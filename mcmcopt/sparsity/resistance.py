"""The resistance curve: what a network is worth after a share of its weights has been set to zero.

Two bases, because a network with 10 % of its weights active loses nothing at 90 % by construction: the share of all
weights (the published protocol), and the share of the weights that are not zero now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch
from torch import nn

from mcmcopt.sparsity.criteria import Batch, Criterion, LossFn, Magnitude
from mcmcopt.sparsity.masks import Scope, apply_masks, check_sparsity, count, keep_masks, nonzero, weights

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Resistance(Generic[Outcome]):
    """One point of a resistance curve."""

    criterion: str
    scope: Scope
    basis: Literal["all", "remaining"]
    """Of which weights `requested` is a share: all, or those that were not zero before."""
    requested: float
    """The share to be pruned: of the basis, or of its structures in each layer (scopes of structures)."""
    reached: float
    """The share of the basis, always in weights, that is zero after pruning; above `requested` where more weights were
    zero already."""
    weights_kept: int
    """Number of weights that are not zero after pruning."""
    outcome: Outcome
    """What `evaluate` returned for the pruned model."""


def resistance_curve(
    model: nn.Module,
    evaluate: Callable[[nn.Module], Outcome],
    criterion: Criterion | None = None,
    scope: Scope = "layer",
    sparsities: Sequence[float] = (0.5, 0.9),
    remaining: bool = False,
    block: tuple[int, int] = (4, 4),
    loss_fn: LossFn | None = None,
    batches: Sequence[Batch] = (),
) -> list[Resistance[Outcome]]:
    """Prune a model to each sparsity, from its present weights each time, and evaluate it.

    Args:
        model: weights of its linear and convolutional layers are pruned; biases and normalisation never.
        evaluate: called with the pruned model; its value is the point's `outcome`.
        criterion: scores the unpruned weights; default `Magnitude()`.
        scope: what is pruned and over what the share holds, see `keep_masks`.
        sparsities: shares from 0 to 1.
        remaining: the shares are of the weights that are not zero now, instead of all; of the structures that have
            such a weight.
        block: rows and columns of a tile; at a matrix's edges tiles may be smaller.
        loss_fn, batches: for criteria that need them.

    Whatever happens in here, parameters, buffers, gradients and training modes are bitwise as before when it returns or
    raises, so that `evaluate` may train the pruned model on.

    Raises:
        ValueError: for a share outside [0, 1], an unknown scope, a tile that is none, scores that are nan, or a model
            without linear or convolutional layers.
    """
    criterion = Magnitude() if criterion is None else criterion
    shares = [check_sparsity(sparsity) for sparsity in sparsities]
    own = weights(model)
    if not own:
        raise ValueError(f"model {type(model).__name__} has no linear or convolutional layer, so no weights to prune")
    scores = criterion(model, loss_fn, batches)
    among = {name: weight.detach() != 0 for name, weight in own.items()} if remaining else None
    basis = nonzero(model) if remaining else count(model)
    curve = []
    for share in shares:
        keep = keep_masks(scores, share, scope, among, block)
        with restored(model):
            apply_masks(model, keep)
            kept = nonzero(model)
            outcome = evaluate(model)
        reached = 1 - kept / basis if basis else 1.0
        name: Literal["all", "remaining"] = "remaining" if remaining else "all"
        curve.append(Resistance(criterion.name, scope, name, share, reached, kept, outcome))
    return curve


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Put parameters, buffers and training modes back bitwise at the end of a block, whatever happens in it.

    Gradients are taken away for the block, so that it cannot write to them, and put back.
    """
    saved = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
    grads = [(param, param.grad) for param in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        for param, _ in grads:
            param.grad = None
        yield
    finally:
        with torch.no_grad():
            for tensor, value in saved:
                tensor.copy_(value)
        for param, grad in grads:
            param.grad = grad
        for module, mode in modes:
            module.training = mode
