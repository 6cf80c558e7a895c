"""What latent real weights w become in the forward, and what gradient they get.

BinaryConnect   sign(w)                           identity; w is clipped to [-1, 1] after each step
XNOR            sign(w)                           identity where |w| ≤ 1
DoReFa, 1 bit   sign(w) · mean|w|                 identity
DoReFa, k bits  2 round(n r) / n - 1, n = 2^k - 1, r = tanh(w) / (2 max|tanh(w)|) + 1/2
                                                  identity for the rounding, the true one for all else

sign(0) = 0, so that a weight pruned to 0 stays pruned; in training none is exactly 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from mcmcopt.binary.straight_through import straight_through


class Quantizer(Protocol):
    """From latent weights to those of the forward; `clip` bounds the latent ones after a step, None does not."""

    @property
    def clip(self) -> float | None:
        """The largest magnitude of a latent weight, or None."""

    def start(self, w: Tensor) -> Tensor:
        """Return the latent weights that training starts from, given real ones."""

    def __call__(self, w: Tensor) -> Tensor:
        """Return the weights of the forward."""


@dataclass(frozen=True)
class BinaryConnect:
    """The sign of latent weights that start uniform in [-1, 1] and are clipped to it (Courbariaux et al. 2015).

    `clip_latents` does the clipping, after each step of the optimizer.
    """

    clip: ClassVar[float | None] = 1.0

    def start(self, w: Tensor) -> Tensor:
        """Return w at the root-mean-square of the uniform law on [-1, 1], clipped."""
        rms = w.square().mean().sqrt()
        return (w / (math.sqrt(3) * rms).clamp_min(torch.finfo(w.dtype).tiny)).clamp(-1, 1)

    def __call__(self, w: Tensor) -> Tensor:
        """Return sign(w)."""
        return straight_through(w, w.sign())


@dataclass(frozen=True)
class XNOR:
    """The sign of latent weights, no gradient beyond ±1 (Rastegari et al. 2016).

    With a learnt scale per output channel (the layers' default) it is the first form of XNOR-Net++ (Bulat and
    Tzimiropoulos 2019, equation 5), for weights alone: activations stay real, and its scales by position are not here.
    """

    clip: ClassVar[float | None] = None

    def start(self, w: Tensor) -> Tensor:
        """Return w."""
        return w

    def __call__(self, w: Tensor) -> Tensor:
        """Return sign(w)."""
        return straight_through(w, w.sign(), bound=1.0)


@dataclass(frozen=True)
class DoReFa:
    """Weights of k bits (Zhou et al. 2016, equations 7 to 9); activations and gradients stay real.

    Args:
        bits: from 1, whose two values are ± the mean magnitude of the layer, to 16.  More bits give 2^k levels evenly
            spaced in [-1, 1], none of them 0, so that a weight pruned to 0 does not stay pruned.

    Raises:
        ValueError: for another number of bits.
    """

    bits: int = 1
    clip: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 1 <= self.bits <= 16:
            raise ValueError(f"bits must be an integer from 1 to 16, got {self.bits!r}")

    def start(self, w: Tensor) -> Tensor:
        """Return w."""
        return w

    def __call__(self, w: Tensor) -> Tensor:
        """Return the k-bit weights."""
        if self.bits == 1:
            return straight_through(w, w.sign() * w.abs().mean())
        levels = 2**self.bits - 1
        t = w.tanh()
        r = t / (2 * t.abs().amax().clamp_min(torch.finfo(w.dtype).tiny)) + 0.5
        return 2 * straight_through(r, (r * levels).round() / levels) - 1
