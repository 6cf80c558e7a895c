"""How a proposal is scored: ℓ(w) now, ℓ(w') of a change, and what becomes of it.

Only the optimizer writes parameters.  An objective evaluates; whatever it touches in order to do so it has put back
when it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

Change: TypeAlias = Mapping[Tensor, tuple[Tensor, Tensor]]
"""A proposal, as an objective sees it: parameter → (flat indices, new values), both on the parameter's device.

Indices are int64, all different, in the parameter's logical order; values have the parameter's dtype.
"""

Closure: TypeAlias = Callable[[], Tensor | float]


@runtime_checkable
class Objective(Protocol):
    """The loss of one batch as a function of the parameters.

    A loss is a scalar, or one loss per sample in a tensor of any shape, which means their mean.

    An objective may have an attribute `lower_bound: float`, a value that no loss it returns lies below (0 for a
    cross-entropy); without it nothing is assumed.  The optimizer reads it once per step and rejects without a call of
    `propose` what not even that loss could make acceptable.
    """

    def evaluate(self) -> Tensor:
        """Return the loss at the present parameters, computed afresh."""

    def propose(self, change: Change) -> Tensor:
        """Return the loss that the change would give; the parameters are as before when this returns."""

    def commit(self, number: int = 0) -> None:
        """Take note that the optimizer has written the change proposed last; of several, the one of that number."""

    def rollback(self) -> None:
        """Forget the change or the changes proposed last."""


@runtime_checkable
class SpeculativeObjective(Objective, Protocol):
    """An objective that scores several proposals at less than the cost of one after the other."""

    def propose_many(self, changes: Sequence[Change]) -> list[Tensor]:
        """Return the losses that the changes would give, each of them alone; the parameters are as before after it.

        `commit(number)` then keeps number `number` of them and forgets the rest, `rollback()` forgets all.
        """


@runtime_checkable
class GradientObjective(Objective, Protocol):
    """An objective that knows the gradient of its mean loss as well; informed moves need one."""

    def propose_with_gradient(self, change: Change, params: Sequence[Tensor]) -> tuple[Tensor, dict[Tensor, Tensor]]:
        """Return the loss that a change would give, and the gradient of its mean there with respect to `params`.

        An empty change asks for both at the present parameters and proposes nothing; otherwise `commit` or `rollback`
        follows as after `propose`.
        """


def write(change: Change) -> None:
    """Write the new values of a change into its parameters, seen by autograd's version counters."""
    for param, (indices, values) in change.items():
        target = param.detach()
        if target.is_contiguous():  # put_ would do for both, but torch.use_deterministic_algorithms refuses it
            target.view(-1).index_copy_(0, indices, values)
        else:
            target[torch.unravel_index(indices, target.shape)] = values


@contextmanager
def lent(change: Change) -> Iterator[None]:
    """Write a change for the duration of a block, then put a saved copy of the old values back, whatever happens."""
    saved = {param: (indices, param.detach().take(indices)) for param, (indices, _) in change.items()}
    try:
        write(change)
        yield
    finally:
        write(saved)


class ClosureObjective:
    """A plain closure as an objective: every proposal is written, the closure called, the old values put back.

    Args:
        closure: returns the loss at the present parameters.
        params: the parameters whose `.grad` a closure with `backward()` inside changes; it is put back.
        grad: whether the closure calls `backward()`; None finds out during the first evaluation.
    """

    def __init__(self, closure: Closure, params: Iterable[Tensor], grad: bool | None) -> None:
        self._closure, self._params = closure, list(params)
        self.grad = grad

    def __call__(self) -> Tensor:
        """Return the closure's loss."""
        return self.evaluate()

    def evaluate(self) -> Tensor:
        """Return the closure's loss."""
        if self.grad is None:
            return self._find_out()
        if not self.grad:
            with torch.no_grad():
                return as_loss(self._closure())
        gradients = [param.grad for param in self._params]
        try:
            for param in self._params:
                param.grad = None  # the closure accumulates into new tensors, never into those it found
            with torch.enable_grad():
                return as_loss(self._closure())
        finally:
            for param, gradient in zip(self._params, gradients, strict=True):
                param.grad = gradient

    def propose(self, change: Change) -> Tensor:
        """Return the closure's loss with the change written for the time of the call."""
        with lent(change):
            return self.evaluate()

    def propose_with_gradient(self, change: Change, params: Sequence[Tensor]) -> tuple[Tensor, dict[Tensor, Tensor]]:
        """Return the closure's loss and the gradient of its mean, with the change written for the time of the call.

        Raises:
            TypeError: if the closure's loss does not depend on the parameters by way of autograd.
        """
        with lent(change):
            if self.grad is None:
                self._find_out()
            if not self.grad:
                with torch.enable_grad():
                    loss = self._closure()
                    gradients = gradients_of(loss, params)
                return as_loss(loss), gradients
            kept = [param.grad for param in (*self._params, *params)]
            try:
                for param in (*self._params, *params):
                    param.grad = None
                with torch.enable_grad():
                    loss = as_loss(self._closure())
                return loss, {p: torch.zeros_like(p) if p.grad is None else p.grad for p in params}
            finally:
                for param, gradient in zip((*self._params, *params), kept, strict=True):
                    param.grad = gradient

    def commit(self, number: int = 0) -> None:
        """Do nothing: the closure reads the parameters anew each time."""

    def rollback(self) -> None:
        """Do nothing: the old values are back already."""

    def _find_out(self) -> Tensor:
        backward = False

        def mark(_: Tensor) -> None:
            nonlocal backward
            backward = True

        self.grad = True
        hooks = [param.register_hook(mark) for param in self._params if param.requires_grad]  # type: ignore[no-untyped-call]
        try:
            loss = self.evaluate()
        except BaseException:
            self.grad = None
            raise
        finally:
            for hook in hooks:
                hook.remove()
        self.grad = backward
        return loss


def gradients_of(loss: Tensor | float, params: Sequence[Tensor]) -> dict[Tensor, Tensor]:
    """Return the gradient of a loss's mean by parameter, zeros for those that it does not depend on.

    Raises:
        TypeError: if the loss is no tensor that autograd knows.
    """
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise TypeError(
            "informed moves need the gradient: the closure must return a loss that depends on the parameters by way of "
            "autograd, without detach(), item() or no_grad() inside; or call backward() itself"
        )
    found = torch.autograd.grad(loss.mean(), params, allow_unused=True)
    return {p: torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)}


def as_loss(value: Tensor | float | None) -> Tensor:
    """Return a closure's value as a detached floating tensor of its own memory, which the closure cannot overwrite.

    Raises:
        TypeError: if it is neither a floating tensor nor a number.
    """
    if isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0:
        return value.detach().clone()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return torch.tensor(float(value), dtype=torch.float64)
    what = f"a tensor of {value.dtype} and shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    raise TypeError(f"the closure must return its loss, a floating scalar or one loss per sample; it returned {what}")
