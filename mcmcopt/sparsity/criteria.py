"""Pruning criteria: a score for each weight; the lowest scores are pruned first.

Magnitude()     |w|                                  Janowsky (1989), Han et al. (2015)
Random(seed)    independent uniforms, the control that any criterion has to beat

Those that look at the loss are in `saliency`, `curvature` and `posterior`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from mcmcopt.sparsity.masks import Scope, check_scope, weights
from mcmcopt.sparsity.structures import check_block, numbers, tiling, touched

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Inputs and targets."""

LossFn: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Mean loss of a batch from the network's outputs and the targets, such as `torch.nn.functional.cross_entropy`."""


class Criterion(Protocol):
    """What a pruning criterion provides."""

    @property
    def name(self) -> str:
        """The name under which records list it."""

    def __call__(
        self,
        model: nn.Module,
        loss_fn: LossFn | None = None,
        batches: Sequence[Batch] = (),
        keep: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return one score per weight, by the names of `mcmcopt.sparsity.weights` and in their shapes.

        Args:
            model: the network, which is as before when this returns; it is evaluated in the mode that it is in.
            loss_fn: mean loss of a batch; criteria that need none take none.
            batches: what the loss is averaged over, by samples.
            keep: boolean masks c, by weight; scores are those of the network with weights c ⊙ w.  None: all are on.
        """


class Magnitude:
    """The absolute value of each weight."""

    name = "magnitude"

    def __call__(
        self,
        model: nn.Module,
        loss_fn: LossFn | None = None,
        batches: Sequence[Batch] = (),
        keep: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return |w| in each weight's shape and dtype; only the model is looked at."""
        return {name: weight.detach().abs() for name, weight in weights(model).items()}

    def __repr__(self) -> str:
        return "Magnitude()"


class Random:
    """Independent uniform scores from a generator of their own; the same seed and shapes give the same scores.

    Args:
        seed: of the generator.
        structure: `"weight"`, or what a scope prunes whole: a `"block"`, `"filter"` or `"unit"` has one uniform for all
            its weights.  Means of one per weight would not do: large structures would all lie near one half.
        block: rows and columns of a tile.

    Raises:
        ValueError: for an argument out of range.
    """

    name = "random"

    def __init__(self, seed: int = 0, structure: str = "weight", block: tuple[int, int] = (4, 4)) -> None:
        self.seed = check_seed(seed)
        if structure not in ("weight", "block", "filter", "unit"):
            raise ValueError(f'structure must be "weight", "block", "filter" or "unit", got {structure!r}')
        self.structure, self.block = structure, check_block(block)

    def __call__(
        self,
        model: nn.Module,
        loss_fn: LossFn | None = None,
        batches: Sequence[Batch] = (),
        keep: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return float64 uniforms in each weight's shape, on its device, whatever the weights' values."""
        generator = torch.Generator().manual_seed(self.seed)
        out = {}
        for name, weight in weights(model).items():
            if self.structure == "weight":
                score = torch.rand(weight.shape, generator=generator, dtype=torch.float64)
            else:
                tiles = tiling(weight.shape, self.structure, self.block)
                drawn = torch.rand(tiles.count, generator=generator, dtype=torch.float64)
                score = drawn[numbers(tiles)]
            out[name] = score.to(weight.device)
        return out

    def __repr__(self) -> str:
        return f"Random(seed={self.seed}{'' if self.structure == 'weight' else f', structure={self.structure!r}'})"


def shuffled(
    keep: Mapping[str, Tensor], seed: int = 0, scope: Scope = "layer", block: tuple[int, int] = (4, 4)
) -> dict[str, Tensor]:
    """Return the masks with the entries of each layer put in a uniformly random order: the layers' densities stay.

    The control for any criterion (Su et al. 2020, Frankle et al. 2021): what of its merit is the choice of weights, and
    what the number that it leaves in each layer.  As a uniformly shuffled mask is a uniform draw among those with as
    many entries on, "random at the same densities of layers" is the same control.

    Args:
        keep: boolean masks by name, left as they are.
        seed: of the orders, each layer's its own.
        scope: by which the masks were made: with one of structures, whole structures change places.
        block: rows and columns of a tile.

    Raises:
        ValueError: for a negative seed, an unknown scope, or masks that cut through structures of the scope.
    """
    generator = torch.Generator().manual_seed(check_seed(seed))
    structure = check_scope(scope).removeprefix("global-")
    out = {}
    for name, mask in keep.items():
        if structure in ("layer", "global"):
            order = torch.randperm(mask.numel(), generator=generator).to(mask.device)
            out[name] = mask.flatten()[order].view(mask.shape)
            continue
        tiles = tiling(mask.shape, structure, check_block(block))
        on = touched(mask, tiles)
        if not torch.equal(on[numbers(tiles)], mask.cpu()):
            raise ValueError(f"the mask of {name} cuts through structures of scope {scope!r}: shuffle its weights")
        out[name] = on[torch.randperm(tiles.count, generator=generator)][numbers(tiles)].to(mask.device)
    return out


def check_seed(seed: int) -> int:
    """Return a seed, or raise ValueError unless it is an integer of at least 0."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, got {seed!r}")
    return seed
