"""RigL: sparse from start to end, rewired by magnitudes and gradients (Evci et al. 2020, algorithm 1).

Every ΔT steps until T_end, in each layer with k active weights, ⌊f_t k⌋ of the smallest magnitude are dropped and as
many grown where the gradient of the dense layer is largest, starting from zero:

    f_t = α/2 (1 + cos(π t / T_end))

Layer densities: `"uniform"`, or Erdős-Rényi-Kernel, 1 - s_l ∝ (Σ dims)/(Π dims), scaled so that the whole has the
density asked for, and never above 1 in a layer (section 3, "Sparsity distribution").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mcmcopt.sparsity.criteria import Random
from mcmcopt.sparsity.masked import Pruner
from mcmcopt.sparsity.masks import keep_masks
from mcmcopt.sparsity.schedules import check_density, check_number, check_share

Distribution = Literal["uniform", "erk"]


class RigL(Pruner):
    """Drops weights of small magnitude and grows ones of large gradient, at a constant number in each layer.

    Args:
        density: the share of weights that are active, in (0, 1].
        distribution: of that density over layers: the same in all (`"uniform"`) or `"erk"`.  The authors leave the
            first layer dense under the former; here all layers have the density, so that it is the whole's.
        every: ΔT, the steps between two rewirings.
        drop: α, the share of a layer's active weights rewired at first.
        end: T_end as a share of training.
        seed: of the first masks, which are drawn uniformly.

    A weight that is dropped and among the best to grow stays with its value; one that is new starts at zero, its
    momentum as well.  As the gradient serves the one that the step just made used: the authors skip that step.

    Raises:
        ValueError: for a share out of range.
    """

    def __init__(
        self,
        density: float,
        distribution: Distribution = "uniform",
        every: int = 100,
        drop: float = 0.3,
        end: float = 0.75,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if distribution not in ("uniform", "erk"):
            raise ValueError(f'distribution must be "uniform" or "erk", got {distribution!r}')
        self.density, self.distribution, self.every = check_density(density), distribution, check_number("every", every)
        self.drop, self.end = check_share("drop", drop), check_share("end", end)
        self.seed = seed
        self._random = Random(seed)
        self._dense: dict[str, Tensor] = {}

    def mask_gradients(self) -> None:
        """Set the gradients of the weights that are off to zero, and keep the dense ones for the step that follows."""
        self._dense = {n: w.grad.detach().clone() for n, w in self._weights.items() if w.grad is not None}
        super().mask_gradients()

    def _begun(self) -> None:
        own = self._weights
        shapes = {name: weight.shape for name, weight in own.items()}
        densities = layer_densities(shapes, self.density, self.distribution)
        scores = self._random(self._bound_model)
        self.masks = {n: keep_masks({n: scores[n]}, 1 - densities[n])[n] for n in own}
        self.after_step(0)

    def _update(self, t: int) -> None:
        last = self.end * self.steps
        if t == 0 or t >= last or t % self.every:
            return
        share = self.drop / 2 * (1 + math.cos(math.pi * t / last))
        for name, weight in self._weights.items():
            if name in self._dense:
                self._rewire(name, weight.detach(), self._dense[name], share)

    def _rewire(self, name: str, weight: Tensor, gradient: Tensor, share: float) -> None:
        mask = self.masks[name]
        active = int(mask.count_nonzero())
        number = min(math.floor(share * active), mask.numel() - active)
        if number < 1:
            return
        kept = _top(weight.abs().masked_fill(~mask, -1.0), active - number)
        grown = _top(gradient.abs().masked_fill(kept, -1.0), number)
        new = grown & ~mask
        self.masks[name] = kept | grown
        weight.masked_fill_(new, 0.0)
        self._forget(name, new)


def layer_densities(
    shapes: Mapping[str, tuple[int, ...]], density: float, distribution: Distribution = "uniform"
) -> dict[str, float]:
    """Return the density of each layer, by name, such that all together have `density`.

    Under `"erk"` (Evci et al. 2020; Mocanu et al. 2018 for linear layers) layers that would exceed 1 are dense, and the
    others share the rest.
    """
    if distribution == "uniform":
        return dict.fromkeys(shapes, density)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        rest = density * sum(sizes.values()) - sum(sizes[name] for name in dense)
        scale = rest / sum(raw[name] * sizes[name] for name in shapes if name not in dense)
        over = {name for name in shapes if name not in dense and scale * raw[name] > 1}
        if not over:
            return {name: 1.0 if name in dense else scale * raw[name] for name in shapes}
        dense |= over
        if len(dense) == len(shapes):
            return dict.fromkeys(shapes, 1.0)


def _top(scores: Tensor, number: int) -> Tensor:
    """Return the mask of the `number` highest scores; among equal ones the lower flat index goes first."""
    order = scores.flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[order[:number]] = True
    return mask.view(scores.shape)
