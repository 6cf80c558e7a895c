"""A real network's linear and convolutional layers replaced by binary ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch import nn

from mcmcopt.binary.latent import LatentConv2d, LatentLinear
from mcmcopt.binary.layers import BinaryConv2d, BinaryLinear
from mcmcopt.binary.quantizers import Quantizer
from mcmcopt.binary.scale import Scale


def binary_layers(model: nn.Module, scale: Scale = "learnt", bias: bool = True, keep: Sequence[str] = ()) -> nn.Module:
    """Replace layers by `BinaryLinear` and `BinaryConv2d` of the same signs, in place, and return the model.

    Args:
        model: its `nn.Linear` and `nn.Conv2d`, none of a subclass, are replaced.
        scale: `"learnt"`, `"fixed"` or `"none"`.
        bias: False leaves biases out.
        keep: regular expressions at the start of names of layers that stay real.

    Raises:
        ValueError: if no layer is left to replace, two share a weight, or the model is itself one layer.
    """

    def make(layer: nn.Linear | nn.Conv2d) -> nn.Module:
        if isinstance(layer, nn.Linear):
            return BinaryLinear.from_real(layer, scale, bias)
        return BinaryConv2d.from_real(layer, scale, bias)

    return _replaced(model, make, keep)


def latent_layers(
    model: nn.Module, quantizer: Quantizer, scale: Scale = "learnt", keep: Sequence[str] = ()
) -> nn.Module:
    """Replace layers by `LatentLinear` and `LatentConv2d` made of the same weights, in place, and return the model.

    Args:
        model: its `nn.Linear` and `nn.Conv2d`, none of a subclass, are replaced.
        quantizer: `BinaryConnect()`, `XNOR()` or `DoReFa(bits)`.
        scale: `"learnt"`, `"fixed"` or `"none"`.
        keep: regular expressions at the start of names of layers that stay real.

    Raises:
        ValueError: if no layer is left to replace, two share a weight, or the model is itself one layer.
    """

    def make(layer: nn.Linear | nn.Conv2d) -> nn.Module:
        if isinstance(layer, nn.Linear):
            return LatentLinear.from_real(layer, quantizer, scale)
        return LatentConv2d.from_real(layer, quantizer, scale)

    return _replaced(model, make, keep)


def _replaced(model: nn.Module, make: Callable[[nn.Linear | nn.Conv2d], nn.Module], keep: Sequence[str]) -> nn.Module:
    if type(model) in (nn.Linear, nn.Conv2d):
        raise ValueError(
            f"the model is one layer, {model}, which cannot be replaced in place: wrap it in nn.Sequential"
        )
    found = [
        (name, module)
        for name, module in model.named_modules(remove_duplicate=False)
        if type(module) in (nn.Linear, nn.Conv2d) and not any(re.match(pattern, name) for pattern in keep)
    ]
    if not found:
        raise ValueError(f"the model has no linear or convolutional layer to replace (keep={list(keep)})")
    owners: dict[int, nn.Module] = {}
    for name, module in found:
        assert isinstance(module, nn.Linear | nn.Conv2d)  # noqa: S101 -- chosen for it
        if owners.setdefault(id(module.weight), module) is not module:
            raise ValueError(f"the weight of {name} is shared with another layer: binary layers have each its own")
    made: dict[nn.Module, nn.Module] = {}
    for name, module in found:
        assert isinstance(module, nn.Linear | nn.Conv2d)  # noqa: S101
        if module not in made:
            made[module] = make(module)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, made[module])
    return model
