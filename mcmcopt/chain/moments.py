"""Running mean of squared gradients, v ← v + (t + 1)^(-0.6) (g² - v): a diagonal of the empirical Fisher information,
up to the batch's size, for preconditioners and for optimal brain damage.

Its gain decays, as that of every adaptation here; it changes while a chain adapts and is constant during a step, so
that what goes by it is the same forth and back.
"""

from __future__ import annotations

from torch import Tensor

DECAY = 0.6


class Moments:
    """The running mean of one layer.

    Args:
        mean: float64 tensor (entries,) on the CPU; shared, changed in place.
        seen: int64 tensor (), how many gradients entered; shared, changed in place.
    """

    def __init__(self, mean: Tensor, seen: Tensor) -> None:
        self.mean, self.seen = mean, seen

    def see(self, gradient: Tensor) -> None:
        """Let a gradient of the parameter's shape enter; one that is not finite does not."""
        squared = gradient.detach().reshape(-1).to("cpu", self.mean.dtype).square()
        if bool(squared.isfinite().all()):
            self.mean.lerp_(squared, (int(self.seen) + 1) ** -DECAY)
            self.seen += 1

    def snapshot(self) -> tuple[Tensor, Tensor]:
        """Return a copy of the state."""
        return self.mean.clone(), self.seen.clone()

    def restore(self, snapshot: tuple[Tensor, Tensor]) -> None:
        """Go back to a snapshot."""
        self.mean.copy_(snapshot[0])
        self.seen.copy_(snapshot[1])
