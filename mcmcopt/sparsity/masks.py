"""Masks with exact counts: which weights of the linear and convolutional layers stay.

Pruning a share s of n weights removes round(s·n) of them (halves to the even number), those of the lowest scores.
Among equal scores the lower flat index goes first; with scope "global" the layers count in the model's order.  Of n
structures (scopes "block" and "filter") round(s·n) go, those of the lowest mean scores, lower numbers first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from mcmcopt.sparsity.structures import check_block, means, tiling, touched

Scope: TypeAlias = Literal["layer", "global", "block", "filter"]


def weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of all linear and convolutional layers by name, in the model's order, shared ones once."""
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        weight = module._parameters.get("weight") if isinstance(module, nn.Linear | _ConvNd) else None
        if weight is not None and id(weight) not in seen:
            seen.add(id(weight))
            found[f"{name}.weight" if name else "weight"] = weight
    return found


def count(model: nn.Module, weights_only: bool = True) -> int:
    """Return the number of weights of linear and convolutional layers: no biases, no normalisation layers.

    With `weights_only=False`, the number of all parameters.
    """
    if weights_only:
        return sum(weight.numel() for weight in weights(model).values())
    return sum(param.numel() for param in model.parameters())


def nonzero(model: nn.Module) -> int:
    """Return how many of the weights that `count` counts differ from zero."""
    return sum(int(weight.detach().count_nonzero()) for weight in weights(model).values())


def keep_masks(
    scores: Mapping[str, Tensor],
    sparsity: float,
    scope: Scope = "layer",
    among: Mapping[str, Tensor] | None = None,
    block: tuple[int, int] = (4, 4),
) -> dict[str, Tensor]:
    """Return boolean masks, True where a weight stays, that prune a share of the weights or structures exactly.

    Args:
        scores: one score per weight, by name; the lowest are pruned.  Infinite ones are: -inf before and inf after all
            others.
        sparsity: the share to prune, from 0 to 1.
        scope: the share holds in each `"layer"`, or over all layers together (`"global"`), or it is one of the
            structures in each layer: tiles (`"block"`) or output rows (`"filter"`) of its matrix.
        among: boolean tensors of the scores' shapes: the share is one of the weights marked here, or of the structures
            with a mark, and weights without one are False in the result.  None means all weights.
        block: rows and columns of a tile with scope `"block"`; at the matrix's edges tiles may be smaller.

    Raises:
        ValueError: for a share outside [0, 1], an unknown scope, a tile that is none, scores that are not numbers, or a
            structure with scores of both inf and -inf, which have no mean.
    """
    share = check_sparsity(sparsity)
    if scope not in get_args(Scope):
        raise ValueError(f"scope must be one of {', '.join(get_args(Scope))}, got {scope!r}")
    check_block(block)
    for name, score in scores.items():
        if score.isnan().any():
            raise ValueError(f"scores must be numbers, those of {name} contain nan")
    if among is None:
        among = {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    if scope == "layer":
        return {name: _keep(score, among[name], share) for name, score in scores.items()}
    if scope != "global":
        return {name: _keep_structures(name, score, among[name], share, scope, block) for name, score in scores.items()}
    if not scores:
        return {}
    # float64 holds every score of a narrower dtype exactly, so that layers of different dtypes compare as they are
    together = torch.cat([score.flatten().to("cpu", torch.float64) for score in scores.values()])
    kept = _keep(together, torch.cat([among[name].flatten().cpu() for name in scores]), share)
    sizes = [score.numel() for score in scores.values()]
    parts = torch.split(kept, sizes)
    return {
        name: part.view(score.shape).to(score.device) for (name, score), part in zip(scores.items(), parts, strict=True)
    }


@torch.no_grad()
def apply_masks(model: nn.Module, keep: Mapping[str, Tensor]) -> None:
    """Set the weights of a model to zero where their mask is False; nothing else is touched.

    Raises:
        ValueError: before anything is changed, if a mask belongs to no weight of the model or has another shape.
    """
    own = weights(model)
    for name, mask in keep.items():
        if name not in own:
            raise ValueError(f"keep has a mask for {name!r}, the model's weights are {', '.join(own) or 'none'}")
        if mask.shape != own[name].shape or mask.dtype != torch.bool:
            raise ValueError(
                f"the mask of {name} must be boolean of shape {tuple(own[name].shape)}, "
                f"got {mask.dtype} of shape {tuple(mask.shape)}"
            )
    for name, mask in keep.items():
        own[name].masked_fill_(~mask, 0.0)


def check_sparsity(sparsity: float) -> float:
    """Return a share as a float, or raise ValueError unless it lies in [0, 1]."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float) or not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must be a share from 0 to 1, got {sparsity!r}")
    return float(sparsity)


def _keep(scores: Tensor, among: Tensor, share: float) -> Tensor:
    """Return the mask, in the shape of `scores`, after pruning a share of the entries marked in `among`."""
    candidates = among.flatten().nonzero().squeeze(1)
    order = scores.flatten()[candidates].argsort(stable=True)
    kept = among.flatten().clone()
    kept[candidates[order[: round(share * len(candidates))]]] = False
    return kept.view(scores.shape)


def _keep_structures(
    name: str, scores: Tensor, among: Tensor, share: float, scope: Literal["block", "filter"], block: tuple[int, int]
) -> Tensor:
    """Return the mask of the marked entries of the structures that stay."""
    tiles = tiling(scores.shape, scope, block)
    mean = means(scores, tiles)
    if mean.isnan().any():
        raise ValueError(f"scores of {name} have inf and -inf in one structure of scope {scope!r}, so no mean there")
    kept = tiles.expand(_keep(mean, touched(among, tiles), share).numpy())
    return kept.to(among.device) & among
