"""Potentials of mirror descent: a convex Φ, given by its mirror map z = ∇Φ(w) and the inverse w = ∇Φ*(z).

    Euclidean         Φ = ½‖w‖₂²                          z = w
    PNorm             Φ = ½‖w‖_p²                         zᵢ = sgn(wᵢ)|wᵢ|^(p−1) / ‖w‖_p^(p−2)
    NegativeEntropy   Φ = Σ w log w − w                   z = log w,   w > 0
    Hypentropy        Φ = Σ w asinh(w/β) − √(w² + β²)     z = asinh(w/β)
    ElasticNet        Φ = J(w) + ‖w‖₂²/(2δ)               z ∈ ∂J(w) + w/δ,   J = μ Σ_b √m_b ‖w_b‖₂

Both maps are pure functions of one parameter tensor that keep its shape.  Except for `Euclidean`, which keeps the
dtype, they work in float32 at least, so that the way there and back does not wear out narrow weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from mcmcopt.chain.blocks import BlockSpec, Tiling, check_spec
from mcmcopt.chain.checks import non_negative, positive


class Potential(ABC):
    """A convex function of a parameter, by its mirror map and the inverse of that."""

    differentiable = True
    """Whether w determines z; if not, z is remembered from step to step."""

    @abstractmethod
    def mirror(self, w: Tensor) -> Tensor:
        """Return z = ∇Φ(w); where Φ has a kink, its subgradient of least size."""

    @abstractmethod
    def inverse(self, z: Tensor) -> Tensor:
        """Return w = ∇Φ*(z), the point whose (sub)gradient is z."""

    def check(self, w: Tensor, name: str) -> None:  # noqa: B027 -- most potentials take any number
        """Raise ValueError, with the parameter's name, if w lies outside of the domain of Φ."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


class Euclidean(Potential):
    """Φ = ½‖w‖₂²: gradient descent."""

    def mirror(self, w: Tensor) -> Tensor:
        """Return w itself."""
        return w

    def inverse(self, z: Tensor) -> Tensor:
        """Return z itself."""
        return z


class PNorm(Potential):
    """Φ = ½‖w‖_p² over a whole parameter, the inverse map being the same with q = p/(p−1) (Gentile 2003).

    Towards p = 1 it prefers few large weights, towards ∞ many of one size.  Computed in float64: powers of p−1 and q−1
    span more than float32 holds.  A weight under about 10^(−300/(p−1)) of the parameter's largest counts as 0.

    Args:
        p: above 1 and finite.
    """

    def __init__(self, p: float) -> None:
        self.p = positive("p", p)
        if self.p <= 1:
            raise ValueError(f"p must be above 1, got {p!r}: ½‖w‖_p² is not strictly convex otherwise")

    def mirror(self, w: Tensor) -> Tensor:
        """Return ∇½‖w‖_p², float64."""
        return _half_square_gradient(w, self.p)

    def inverse(self, z: Tensor) -> Tensor:
        """Return ∇½‖z‖_q², float64."""
        return _half_square_gradient(z, self.p / (self.p - 1))


class NegativeEntropy(Potential):
    """Φ = Σ w log w − w: exponentiated gradient on positive weights (Kivinen and Warmuth 1997).

    w⁺ = w e^(−ηg), on the simplex normalised to `total` (Hedge).  A weight that has underflowed to 0 stays there.

    Args:
        simplex: False for all positive weights; True where a parameter's entries sum to `total`; `"last"` where those
            along its last dimension do.
        total: of a simplex; positive.
    """

    def __init__(self, simplex: bool | Literal["last"] = False, total: float = 1.0) -> None:
        if not (isinstance(simplex, bool) or simplex == "last"):
            raise ValueError(f'simplex must be False, True or "last", got {simplex!r}')
        self.simplex: bool | Literal["last"] = simplex
        self.total = positive("total", total)
        if simplex is False and self.total != 1.0:
            raise ValueError(f"total={total!r} is for a simplex: leave it at 1, or set simplex=True")

    def mirror(self, w: Tensor) -> Tensor:
        """Return log w."""
        return _wide(w).log()

    def inverse(self, z: Tensor) -> Tensor:
        """Return e^z; on a simplex `total` times the softmax of z."""
        if self.simplex == "last":
            return z.softmax(-1) * self.total
        return z.flatten().softmax(0).view(z.shape) * self.total if self.simplex else z.exp()

    def check(self, w: Tensor, name: str) -> None:
        """Raise ValueError unless all weights are positive, and on a simplex sum to `total`."""
        if not bool((w > 0).all()):
            raise ValueError(
                f"{self} needs parameters above 0, {name} has {float(w.min())}: multiplicative steps keep signs and "
                "never leave 0. Initialise it above 0, or take Hypentropy, which is for both signs"
            )
        if self.simplex is False or not w.numel():
            return
        sums = w.double().sum(-1) if self.simplex == "last" else w.double().sum()
        worst = float(sums.flatten()[(sums - self.total).abs().argmax()])
        if abs(worst - self.total) > max(1e-5, 8 * torch.finfo(w.dtype).eps) * self.total:
            where = "along the last dimension" if self.simplex == "last" else "over the parameter"
            raise ValueError(f"{self} needs parameters that sum to {self.total} {where}, {name} has a sum of {worst}")


class Hypentropy(Potential):
    """Φ = Σ w asinh(w/β) − √(w² + β²): exponentiated gradient for both signs (Ghai, Hazan and Singer 2020).

    w⁺ = β sinh(asinh(w/β) − ηg) is the unnormalised ± form w = u − v, u⁺ = u e^(−ηg), v⁺ = v e^(ηg), where u·v stays
    constant and β = 2√(uv).  Weights far above β move in proportion to themselves, those far below by βηg: small β
    keeps small weights small; large β is gradient descent of rate βη.

    Args:
        beta: positive, in units of the weights.
    """

    def __init__(self, beta: float) -> None:
        self.beta = positive("beta", beta)

    def mirror(self, w: Tensor) -> Tensor:
        """Return asinh(w/β)."""
        return (_wide(w) / self.beta).asinh()

    def inverse(self, z: Tensor) -> Tensor:
        """Return β sinh(z)."""
        return z.sinh() * self.beta


class ElasticNet(Potential):
    """Φ = μ‖w‖₁ + ‖w‖₂²/(2δ): linearised Bregman iterations, exact zeros until |z| exceeds μ.

    w = prox_{δJ}(δz): entry by entry δ sgn(z)(|z| − μ)₊ (Yin, Osher, Goldfarb and Darbon 2008; for networks Bungert,
    Roith, Tenbrinck and Burger 2022).  Blocks have J = μ Σ_b √m_b ‖w_b‖₂, m_b the entries of block b: it is zero until
    the root-mean-square of its z exceeds μ, so that μ means the same for blocks of any size.

    Args:
        mu: the threshold μ ≥ 0 on z, which is a sum of learning rates times gradients.
        delta: weights per unit of z beyond the threshold; positive.
        blocks: `"scalar"`, `"row"`, `"filter"` or a tile `(r, c)`: what is zero together.
        min_dim: parameters of fewer dimensions (biases, norms) have μ = 0; 0 makes all sparse.
    """

    differentiable = False

    def __init__(self, mu: float, delta: float = 1.0, blocks: BlockSpec = "scalar", min_dim: int = 2) -> None:
        self.mu = non_negative("mu", mu)
        self.delta = positive("delta", delta)
        self.blocks: BlockSpec = tuple(blocks) if isinstance(blocks, list) else blocks
        check_spec(self.blocks)
        if isinstance(min_dim, bool) or not isinstance(min_dim, int) or min_dim < 0:
            raise ValueError(f"min_dim must be an integer of at least 0, got {min_dim!r}")
        self.min_dim = min_dim

    def is_sparse(self, w: Tensor) -> bool:
        """Return whether μ applies to a parameter."""
        return w.dim() >= self.min_dim and self.mu > 0

    def mirror(self, w: Tensor) -> Tensor:
        """Return w/δ + μ w/rms(w_b) on blocks that are not zero, and 0 on those that are."""
        w = _wide(w)
        if not self.is_sparse(w):
            return w / self.delta
        size = _block_rms(w, self.blocks)
        return w / self.delta + torch.where(size > 0, w / size, 0.0) * self.mu

    def inverse(self, z: Tensor) -> Tensor:
        """Return δz(1 − μ/rms(z_b))₊."""
        if not self.is_sparse(z):
            return z * self.delta
        share = (1 - self.mu / _block_rms(z, self.blocks)).clamp_min(0)  # of a zero block -inf, of nan nan
        return z * (share * self.delta)


def _wide(w: Tensor) -> Tensor:
    return w.to(torch.promote_types(w.dtype, torch.float32))


def _half_square_gradient(w: Tensor, p: float) -> Tensor:
    """Return ∇½‖w‖_p² in float64; scaled by the largest entry, so that no power overflows."""
    w = w.double()
    if not w.numel():
        return w
    top = w.abs().amax()
    u = w.abs() / top.clamp_min(torch.finfo(w.dtype).tiny)
    norm: Tensor = torch.linalg.vector_norm(u, p).clamp_min(1)  # at least 1, unless all is 0
    return w.sign() * u.pow(p - 1) * (top * norm.pow(2 - p))


def _block_rms(w: Tensor, blocks: BlockSpec) -> Tensor:
    """Return for each entry the root-mean-square of its block, in w's shape."""
    tiling = Tiling(w.shape, blocks)
    if tiling.scalar or not w.numel():
        return w.abs()
    r, c, down, across = tiling.r, tiling.c, tiling.count // tiling.across, tiling.across
    ragged = (0, across * c - tiling.columns, 0, down * r - tiling.rows)
    squares = pad(w.reshape(tiling.rows, -1).square(), ragged).view(down, r, across, c).sum((1, 3))
    heights, widths = torch.full((down, 1), float(r)), torch.full((across,), float(c))
    heights[-1], widths[-1] = r - ragged[3], c - ragged[1]
    rms = (squares / (heights * widths).to(w.device)).sqrt()
    full = rms.repeat_interleave(r, 0)[: tiling.rows].repeat_interleave(c, 1)[:, : tiling.columns]
    return full.reshape(w.shape)
