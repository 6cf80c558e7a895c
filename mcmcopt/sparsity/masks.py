"""Masks with exact counts: which weights of the linear and convolutional layers stay.

Pruning a share s of n weights removes round(s·n) of them (halves to the even number), those of the lowest scores.
Among equal scores the lower flat index goes first; over all layers, these count in the model's order.  Of n structures
(tiles, filters, units) round(s·n) go, those of the lowest mean scores, lower numbers first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from mcmcopt.chain.blocks import Tiling
from mcmcopt.sparsity.structures import check_block, means, tiling, touched

Scope: TypeAlias = Literal["layer", "global", "block", "filter", "unit", "global-block", "global-filter", "global-unit"]
"""What is pruned and over what a share holds: weights in each layer, or over all layers (`"global"`); or structures in
each layer, or over all of them: tiles, filters (output rows), units (input columns).  Of a transposed convolution rows
are inputs; with groups a column is one input of each group."""


def weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of all linear and convolutional layers by name, in the model's order, shared ones once.

    Those of an `nn.MultiheadAttention` are its output's alone: `in_proj_weight` is no layer's.

    Raises:
        ValueError: for a layer whose weight torch computes from others (torch.nn.utils.prune, parametrizations).
    """
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        weight = module._parameters.get("weight") if isinstance(module, nn.Linear | _ConvNd) else None
        if weight is None and isinstance(module, nn.Linear | _ConvNd):
            _check_plain(name, module)
        if weight is not None and id(weight) not in seen:
            seen.add(id(weight))
            found[f"{name}.weight" if name else "weight"] = weight
    return found


def _check_plain(name: str, module: nn.Module) -> None:
    """Raise ValueError if torch computes a layer's weight from other tensors: pruned or normalised elsewhere."""
    called = name or type(module).__name__
    if "weight_orig" in module._parameters:
        raise ValueError(
            f"{called} is pruned by torch.nn.utils.prune: mcmcopt.sparsity.from_torch(model) returns the masks and "
            "makes it a plain layer"
        )
    if "weight" in getattr(module, "parametrizations", ()):
        raise ValueError(
            f"{called} has a parametrized weight: torch.nn.utils.parametrize.remove_parametrizations makes it a plain "
            "layer"
        )


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
            structures in each layer: tiles (`"block"`), output rows (`"filter"`) of its matrix, or all weights that
            leave an input of it (`"unit"`); or of the structures of all layers together (`"global-block"`,
            `"global-filter"`, `"global-unit"`).
        among: boolean tensors of the scores' shapes: the share is one of the weights marked here, or of the structures
            with a mark, and weights without one are False in the result.  None means all weights.
        block: rows and columns of a tile; at the matrix's edges tiles may be smaller.

    Raises:
        ValueError: for a share outside [0, 1], an unknown scope, a tile that is none, scores that are not numbers, or a
            structure with scores of both inf and -inf, which have no mean.
    """
    share = check_sparsity(sparsity)
    check_scope(scope)
    check_block(block)
    for name, score in scores.items():
        if score.isnan().any():
            raise ValueError(f"scores must be numbers, those of {name} contain nan")
    if among is None:
        among = {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    if scope == "layer":
        return {name: _keep(score, among[name], share) for name, score in scores.items()}
    if not scores:
        return {}
    if scope == "global":
        flat = _keep_together(scores, among, share)
        return {name: flat[name].view(score.shape).to(score.device) for name, score in scores.items()}
    tiles = {name: tiling(score.shape, scope.removeprefix("global-"), block) for name, score in scores.items()}
    mean = {name: _means(name, score, tiles[name], scope) for name, score in scores.items()}
    marked = {name: touched(among[name], tiles[name]) for name in scores}
    if scope.startswith("global-"):
        kept = _keep_together(mean, marked, share)
    else:
        kept = {name: _keep(mean[name], marked[name], share) for name in scores}
    return {n: tiles[n].expand(kept[n].numpy()).to(among[n].device) & among[n] for n in scores}


@torch.no_grad()
def apply_masks(model: nn.Module, keep: Mapping[str, Tensor]) -> None:
    """Set the weights of a model to zero where their mask is False; nothing else is touched.

    Raises:
        ValueError: before anything is changed, if a mask belongs to no weight of the model or has another shape.
    """
    own = check_masks(model, keep)
    for name, mask in keep.items():
        own[name].masked_fill_(~mask, 0.0)


def check_masks(model: nn.Module, keep: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """Return the model's weights, or raise ValueError unless every mask is boolean and has its weight's shape."""
    own = weights(model)
    for name, mask in keep.items():
        if name not in own:
            raise ValueError(f"keep has a mask for {name!r}, the model's weights are {', '.join(own) or 'none'}")
        if mask.shape != own[name].shape or mask.dtype != torch.bool:
            raise ValueError(
                f"the mask of {name} must be boolean of shape {tuple(own[name].shape)}, "
                f"got {mask.dtype} of shape {tuple(mask.shape)}"
            )
    return own


def check_sparsity(sparsity: float) -> float:
    """Return a share as a float, or raise ValueError unless it lies in [0, 1]."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float) or not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must be a share from 0 to 1, got {sparsity!r}")
    return float(sparsity)


def check_scope(scope: Scope) -> Scope:
    """Return a scope, or raise ValueError unless it is one."""
    if scope not in get_args(Scope):
        raise ValueError(f"scope must be one of {', '.join(get_args(Scope))}, got {scope!r}")
    return scope


def _keep(scores: Tensor, among: Tensor, share: float) -> Tensor:
    """Return the mask, in the shape of `scores`, after pruning a share of the entries marked in `among`."""
    kept = among.flatten().clone()
    own = scores.flatten()[kept]
    number = round(share * len(own))
    if number:
        last = own.kthvalue(number).values  # a selection: to sort fifteen million scores takes ten times as long
        stays = own > last
        ties = (own == last).nonzero().squeeze(1)
        first = number - int((own < last).count_nonzero())  # of the equal ones, so many go: those of lower index
        stays[ties[first:]] = True
        kept[among.flatten()] = stays
    return kept.view(scores.shape)


def _keep_together(scores: Mapping[str, Tensor], among: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return flat masks, on the CPU, after pruning a share of the marked entries of all layers together."""
    # concatenation promotes to a dtype that holds all of them exactly, so that layers compare as they are
    together = torch.cat([score.flatten().cpu() for score in scores.values()])
    kept = _keep(together, torch.cat([among[name].flatten().cpu() for name in scores]), share)
    return dict(zip(scores, torch.split(kept, [score.numel() for score in scores.values()]), strict=True))


def _means(name: str, scores: Tensor, tiles: Tiling, scope: str) -> Tensor:
    """Return the mean score of each structure."""
    mean = means(scores, tiles)
    if mean.isnan().any():
        raise ValueError(f"scores of {name} have inf and -inf in one structure of scope {scope!r}, so no mean there")
    return mean
