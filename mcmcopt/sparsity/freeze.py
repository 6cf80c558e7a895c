"""Masks in use: zeros held under any gradient optimizer, masks in state dicts, and those of torch.nn.utils.prune.

Masks are plain boolean tensors by the names of `mcmcopt.sparsity.weights`: `torch.save` takes them as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune
from torch.optim import Optimizer

from mcmcopt.sparsity.masks import apply_masks, check_masks, weights

SUFFIX = "_mask"
"""Of a mask's key in a state dict, after the weight's name, as torch.nn.utils.prune has it."""


class Frozen:
    """Weights held at zero: what `freeze` returns.

    Gradients are masked as autograd hands them over, so that momentum, moments and weight decay have nothing to move;
    after each step of the optimizer the zeros are written again, for optimizers that move weights without a gradient.
    """

    def __init__(self, model: nn.Module, keep: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        own = weights(model)
        self._model = model
        self.masks = {name: mask.to(own[name].device, copy=True) for name, mask in keep.items()}
        apply_masks(model, self.masks)
        for name, mask in self.masks.items():
            forget(optimizer, own[name], ~mask)
            if (gradient := own[name].grad) is not None:
                gradient.masked_fill_(~mask, 0.0)
        self._handles: list[Any] = [
            own[name].register_hook(_masking(mask))  # type: ignore[no-untyped-call]
            for name, mask in self.masks.items()
            if own[name].requires_grad
        ]
        self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        apply_masks(self._model, self.masks)

    def __repr__(self) -> str:
        off = sum(int((~mask).count_nonzero()) for mask in self.masks.values())
        return f"Frozen({off} weights of {', '.join(self.masks)}{'' if self._handles else ', removed'})"

    def remove(self) -> None:
        """Let the weights go: they are zero now and may move from the next step on."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def freeze(model: nn.Module, keep: Mapping[str, Tensor], optimizer: Optimizer) -> Frozen:
    """Set the weights whose mask is off to zero and hold them there while an optimizer trains the rest.

    Args:
        model: weights without a mask are free.
        keep: boolean masks by name; copied.
        optimizer: a gradient method over these weights; what its state remembers of the held ones is forgotten.

    Returns:
        a handle; its `remove()` ends it.  A deep copy of the model is a free one.

    Raises:
        ValueError: before anything is changed, if a mask belongs to no weight, has another shape, or the optimizer does
            not hold its weight.
        TypeError: for a chain, `KLMirrorDescent` or `Hybrid`: their states are laws of the weights, in which a zero is
            the prior's affair.
    """
    own = check_masks(model, keep)
    if any(hasattr(optimizer, name) for name in ("mask", "inclusion", "optimizers")):
        raise TypeError(f"optimizer must be a gradient method, {type(optimizer).__name__} holds zeros by its prior")
    held = {id(param) for group in optimizer.param_groups for param in group["params"]}
    if free := [name for name in keep if own[name].requires_grad and id(own[name]) not in held]:
        raise ValueError(f"optimizer must be over the weights that are to be held, it does not have {', '.join(free)}")
    return Frozen(model, keep, optimizer)


def _masking(mask: Tensor) -> Any:
    return lambda gradient: gradient.masked_fill(~mask, 0.0)  # inf or nan times 0 would be nan


@torch.no_grad()
def forget(optimizer: Optimizer, weight: Tensor, where: Tensor) -> None:
    """Set an optimizer's memory of some entries of a weight to zero: momentum, moments."""
    for value in optimizer.state.get(weight, {}).values():
        if isinstance(value, Tensor) and value.shape == weight.shape:
            value.masked_fill_(where, 0)


def to_state_dict(keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of the masks under the keys that torch.nn.utils.prune gives them, such as `"fc1.weight_mask"`."""
    return {f"{name}{SUFFIX}": mask.detach().to(torch.bool, copy=True) for name, mask in keep.items()}


def from_state_dict(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the masks of weights in a state dict, of `to_state_dict` or of a network that torch pruned.

    Raises:
        ValueError: for a mask with other values than 0 and 1.
    """
    out = {}
    for key, value in state.items():
        if key.rpartition(".")[2] == f"weight{SUFFIX}":  # a mask of attention or of a bias is another thing
            if not ((value == 0) | (value == 1)).all():
                raise ValueError(f"{key} must be a mask of 0 and 1, it has other values")
            out[key.removesuffix(SUFFIX)] = value.to(torch.bool, copy=True)
    return out


def to_torch(model: nn.Module, keep: Mapping[str, Tensor]) -> None:
    """Prune a model by torch.nn.utils.prune with these masks: each weight becomes `weight_orig` times `weight_mask`.

    Raises:
        ValueError: before anything is changed, if a mask belongs to no weight or has another shape.
    """
    check_masks(model, keep)
    own = weights(model)
    for name, mask in keep.items():
        for module in model.modules():
            if module._parameters.get("weight") is own[name]:  # a shared weight has several
                torch_prune.custom_from_mask(module, "weight", mask)  # type: ignore[no-untyped-call]


def from_torch(model: nn.Module) -> dict[str, Tensor]:
    """Return the masks of a model that torch.nn.utils.prune has pruned, and make it a plain one with zeros there.

    Weights that are not pruned have no mask; biases that are pruned are made plain as well, without a mask here.
    """
    out = {}
    for name, module in model.named_modules():
        for key in [k.removesuffix(SUFFIX) for k in module._buffers if k.endswith(SUFFIX)]:
            if f"{key}_orig" not in module._parameters:
                continue  # a buffer of the module's own
            mask = module._buffers[f"{key}{SUFFIX}"]
            assert mask is not None  # noqa: S101 -- torch made it
            out[f"{name}.{key}" if name else key] = mask.detach().to(torch.bool, copy=True)
            torch_prune.remove(module, key)  # type: ignore[no-untyped-call]
    own = weights(model)  # asked for now, since it refuses networks that are still pruned by torch
    return {name: mask for name, mask in out.items() if name in own}
