"""Guards over a closure: the loss must be a function of the parameters, and evaluating it must change nothing.

Dropout in train mode makes ℓ random, so that a lucky draw is accepted as if it were a better network; batch
normalisation in train mode moves its running statistics even for a rejected proposal.  Both are seen while the
closure runs, through the modules that it calls and the global random state that it consumes.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import register_module_forward_pre_hook


class ClosureError(RuntimeError):
    """A closure that an accept/reject chain cannot use as it is; the message says what would be right."""


class _Watch:
    """Records the modules called inside a `with` block, their buffers, and whether global random numbers were drawn."""

    def __init__(self) -> None:
        self.root: nn.Module | None = None
        self.dropouts: list[nn.Module] = []
        self.buffers: list[tuple[nn.Module, str, Tensor, Tensor]] = []
        self._seen: set[int] = set()

    def __enter__(self) -> _Watch:
        self._random = random_states()
        self._handle = register_module_forward_pre_hook(self._before_forward)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._handle.remove()
        self.consumed_random = any(not torch.equal(a, b) for a, b in zip(self._random, random_states(), strict=True))
        if error is not None:
            self.restore_buffers()

    def _before_forward(self, module: nn.Module, args: object) -> None:
        if id(module) in self._seen:
            return
        self._seen.add(id(module))
        self.root = module if self.root is None else self.root
        if isinstance(module, _DropoutNd) and module.training and module.p > 0:
            self.dropouts.append(module)
        for name, buffer in module.named_buffers(recurse=False):
            self.buffers.append((module, name, buffer, buffer.clone()))

    def restore_buffers(self) -> list[str]:
        """Put changed buffers back and return their names."""
        changed = []
        for module, name, buffer, before in self.buffers:
            if getattr(module, name) is not buffer or not _same(buffer, before):
                with torch.no_grad():
                    buffer.copy_(before)
                setattr(module, name, buffer)
                changed.append(f"{self.name(module)}.{name}")
        return changed

    def name(self, module: nn.Module) -> str:
        """Return a module's name below the outermost module that was called."""
        if self.root is not None:
            for name, candidate in self.root.named_modules():
                if candidate is module:
                    return name or type(module).__name__
        return type(module).__name__


def guarded(evaluate: Callable[[], Tensor], *, twice: bool = False) -> Tensor:
    """Return `evaluate()`, having made sure that it is deterministic and changes no buffer.

    Where modules in the closure change their buffers these are put back first.  Where the global random state moves
    (dropout, random augmentation, a batch drawn inside), the loss is evaluated once more; common random numbers,
    that is a seed set inside the closure, pass.

    Args:
        evaluate: returns the loss at the present parameters.
        twice: evaluate once more in any case, which shows randomness from other sources too (numpy, a data loader).

    Raises:
        ClosureError: naming the module and what to do.
    """
    with _Watch() as watch:
        loss = evaluate()
    if changed := watch.restore_buffers():
        raise ClosureError(
            f"the closure changes the buffers {', '.join(changed)}: in train mode even a rejected proposal would move "
            "them. Call model.eval() (or .eval() on these modules) before the step"
        )
    if (twice or watch.consumed_random) and not _close(loss, evaluate()):
        names = ", ".join(f"{watch.name(m)} ({m})" for m in watch.dropouts)
        source = (
            f"dropout is in train mode: {names}" if names else "it draws random numbers or another batch while it runs"
        )
        raise ClosureError(
            f"the closure returns a different loss at the same parameters; {source}. Call model.eval(), draw the "
            "batch before the step, or use common random numbers (torch.manual_seed inside the closure)"
        )
    return loss


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether two evaluations differ by no more than kernels that add in a different order each time."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-6, equal_nan=True)


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or (a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all()))


def random_states() -> list[Tensor]:
    """Return the states of torch's global generators."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states += torch.cuda.get_rng_state_all()
    return states
