"""Layer sparsity (Hebiri and Lederer 2020, arXiv:2006.15604): whole layers vanish, and a smaller network remains.

A ReLU is the identity on x ↦ Wx + b where x, W and b have no negative entry; the next layer V, c then takes the two in:

    V relu(Wx + b) + c = (VW) x + (Vb + c)

So what is to become zero is the negative part of a layer as a whole, a group lasso:

    penalty = Σ_j λ_j ‖min([W_j b_j], 0)‖_F

Its proximal step, of size τ = λ × learning rate, leaves the positive part and shrinks the negative one, to exactly zero
where its norm is at most τ:

    prox_τ(W) = max(W, 0) + max(0, 1 - τ / ‖min(W, 0)‖_F) · min(W, 0)

The bias is a column of W for an input of constant 1.  A layer takes part if its inputs cannot be negative, and a ReLU
and another linear layer follow: the last does not, the first only where the caller says that the network's inputs are
nonnegative.  Not implemented: convolutions, which merge into larger kernels.

The penalty alone does not bound what it asks for: c·W_j and W_{j+1}/c give the same network, so weight decay belongs to
it, or the last layer grows for the others to shrink.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mcmcopt.sparsity.masked import Pruner

NONNEGATIVE_STAYS = (nn.Flatten, nn.Identity, nn.Dropout, nn.MaxPool2d, nn.AvgPool2d)
"""Modules of which nonnegative inputs have nonnegative outputs."""


class LayerSparsity(Pruner):
    """Shrinks the negative parts of layers while a gradient method trains, so that some layers vanish.

    A `Pruner` without masks: `after_step` makes the proximal step with the learning rate that the weight's group has
    then.  The fixed points are those of loss + `penalty` under SGD, with momentum too; under a method that divides by
    its gradients' size, such as Adam, the strength is relative to that size.  `penalty` is for training by subgradient
    instead, where nothing becomes exactly zero.  Afterwards `merged` builds the network that remains.

    Args:
        strength: λ, or one by the layers' names, 0 for those that are left out; at least 0.
        nonnegative_inputs: whether the network's inputs are known to have no negative entry, as those of images are.

    Raises:
        ValueError: for a strength that is negative or not finite; by `begin` for a model of which no layer could
            vanish, or a strength of another layer.
        TypeError: by `begin`, unless the model is an `nn.Sequential`.
    """

    def __init__(self, strength: float | Mapping[str, float], nonnegative_inputs: bool = False) -> None:
        super().__init__()
        given = strength if isinstance(strength, Mapping) else {"": strength}
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"strength{f' of {name}' * bool(name)} must be finite and at least 0, got {value!r}")
        self.strength = {str(n): float(v) for n, v in given.items()} if isinstance(strength, Mapping) else given[""]
        self.nonnegative_inputs = nonnegative_inputs

    def penalty(self, model: nn.Module) -> Tensor:
        """Return Σ λ ‖min([W b], 0)‖_F over the layers that may vanish, differentiable; a scalar.

        Raises:
            ValueError: for a model of which no layer could vanish, or a strength of another layer.
            TypeError: unless the model is an `nn.Sequential`.
        """
        terms = [value * _norm(negative_part(layer)) for layer, value in self._strengths(model).values()]
        return torch.stack(terms).sum()

    def _begun(self) -> None:
        self._strengths(self._bound_model)  # raises where nothing could vanish

    def _update(self, t: int) -> None:
        assert self._optimizer is not None  # noqa: S101 -- begin has set it
        rates = {id(p): _rate(group) for group in self._optimizer.param_groups for p in group["params"]}
        for layer, value in self._strengths(self._bound_model).values():
            if layer.weight.requires_grad:  # else frozen, as where no group has it: it stays as it is
                shrink(layer, value * rates.get(id(layer.weight), 0.0))

    def _strengths(self, model: nn.Module) -> dict[str, tuple[nn.Linear, float]]:
        """Return the layers that may vanish and their λ."""
        layers = candidates(model, self.nonnegative_inputs)
        if not layers:
            raise ValueError(
                "model has no layer that could vanish: a linear layer with nonnegative inputs, from a ReLU or by "
                f"nonnegative_inputs=True, and a ReLU and a linear layer right after it; got {model}"
            )
        if not isinstance(self.strength, dict):
            return {name: (layer, self.strength) for name, layer in layers.items()}
        if unknown := sorted(set(self.strength) - set(layers)):
            raise ValueError(f"strength names {', '.join(unknown)}; the layers that may vanish are {', '.join(layers)}")
        return {name: (layer, self.strength.get(name, 0.0)) for name, layer in layers.items()}


def candidates(model: nn.Module, nonnegative_inputs: bool = False) -> dict[str, nn.Linear]:
    """Return the layers that could vanish, whatever their weights, by name.

    They are plain linear layers at the top level of an `nn.Sequential` whose inputs cannot be negative, each followed
    by a ReLU and another linear layer.  Layers with hooks or parametrizations stay out: they compute something else.

    Raises:
        TypeError: unless the model is an `nn.Sequential`.
    """
    if not isinstance(model, nn.Sequential):
        raise TypeError(f"model must be an nn.Sequential, of which the order of layers is known, got {type(model)}")
    found: dict[str, nn.Linear] = {}
    modules = list(model._modules.items())  # with repeats: one ReLU object may stand in several places
    nonnegative = nonnegative_inputs
    for i, (name, module) in enumerate(modules):
        following = [m for _, m in modules[i + 1 : i + 3]]
        if nonnegative and _is(module, nn.Linear) and len(following) == 2:
            assert isinstance(module, nn.Linear)  # noqa: S101 -- for the type checker
            if _is(following[0], nn.ReLU) and _is(following[1], nn.Linear):
                found[name] = module
        nonnegative = _is(module, nn.ReLU) or (nonnegative and _is(module, *NONNEGATIVE_STAYS))
    return found


@torch.no_grad()
def vanished(model: nn.Module, nonnegative_inputs: bool = False) -> list[str]:
    """Return the names of the layers that have no negative entry, so that the ReLU after them is the identity.

    Raises:
        TypeError: unless the model is an `nn.Sequential`.
    """
    found = candidates(model, nonnegative_inputs)
    return [name for name, layer in found.items() if all(bool((part >= 0).all()) for part in _parts(layer))]


@torch.no_grad()
def merged(model: nn.Module, nonnegative_inputs: bool = False) -> nn.Sequential:
    """Return a copy of a network without its vanished layers: the same function, up to rounding.

    The layer after a vanished one takes it in, under its own name.  That saves parameters where the product matrix is
    smaller than the two: (inputs × outputs) < width × (inputs + outputs), biases aside, which always holds where the
    width is at least the smaller of the others; a bottleneck costs some.  Everything else is copied as it is.  The
    product is summed in float64; the function is the same where the inputs are as declared.

    Args:
        model: an `nn.Sequential`; is not changed.
        nonnegative_inputs: whether the network's inputs are known to have no negative entry.

    Raises:
        TypeError: unless the model is an `nn.Sequential`.
    """
    gone = set(vanished(model, nonnegative_inputs))
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before: nn.Linear | None = None
    skip_relu = False
    for name, module in copy.deepcopy(model)._modules.items():
        assert module is not None  # noqa: S101 -- a Sequential has no empty places
        if skip_relu:
            skip_relu = False
            continue
        if before is not None:
            assert isinstance(module, nn.Linear)  # noqa: S101 -- else the one before it would have stayed
            module, before = _product(before, module), None
        if name in gone:
            assert isinstance(module, nn.Linear)  # noqa: S101
            before, skip_relu = module, True
        else:
            layers[name] = module
    result = nn.Sequential(layers)
    result.training = model.training
    return result


def negative_part(layer: nn.Linear) -> list[Tensor]:
    """Return min(W, 0) and, if there is one, min(b, 0) of a layer."""
    return [part.clamp(max=0) for part in _parts(layer)]


@torch.no_grad()
def shrink(layer: nn.Linear, threshold: float) -> None:
    """Make the proximal step of threshold · ‖min([W b], 0)‖_F on a layer, in place."""
    negative = negative_part(layer)
    norm = float(_norm(negative))
    if norm == 0 or threshold == 0:
        return
    keep = max(0.0, 1 - threshold / norm)
    for part, low in zip(_parts(layer), negative, strict=True):
        part.copy_(torch.where(part < 0, keep * low if keep else torch.zeros_like(low), part))


def _parts(layer: nn.Linear) -> list[Tensor]:
    return [part for part in (layer.weight, layer.bias) if part is not None]


def _norm(parts: list[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.cat([part.flatten() for part in parts]))
    return norm


def _rate(group: Mapping[str, Any]) -> float:
    """Return the length of a step on a gradient that stays the same: with momentum μ, lr / (1 - μ)."""
    momentum = float(group.get("momentum", 0.0))
    dampening = float(group.get("dampening", 0.0)) if momentum else 0.0
    return float(group["lr"]) * (1 - dampening) / (1 - momentum)


def _is(module: nn.Module | None, *kinds: type[nn.Module]) -> bool:
    """Return whether a module is of exactly one of these classes and nothing else happens at its call."""
    return module is not None and type(module) in kinds and not (module._forward_hooks or module._forward_pre_hooks)


def _product(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """Return the linear layer that computes second(first(x))."""
    V, W = second.weight.double(), first.weight.double()
    weight = V @ W
    bias = None if second.bias is None else second.bias.double()
    if first.bias is not None:
        bias = V @ first.bias.double() + (0 if bias is None else bias)
    result = nn.Linear(first.in_features, second.out_features, bias is not None, device="meta")  # draws no weights
    result.to_empty(device=second.weight.device).to(second.weight.dtype)
    result.weight.copy_(weight)
    if bias is not None:
        result.bias.copy_(bias)
    result.train(second.training)
    return result.requires_grad_(first.weight.requires_grad or second.weight.requires_grad)
