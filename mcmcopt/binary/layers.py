"""Layers whose weights are exactly -1 or +1, with a real scale and a real bias per output channel.

    y = s ⊙ (W x) + b,   W in {-1, +1}

No latent weights and no estimator of a gradient: W is trained by sign flips, `SignFlip` of a chain or `Bop`, and s and
b by anything that trains real parameters.  s starts at 1/√(3·fan-in), the standard deviation of the weights that
`nn.Linear` and `nn.Conv2d` start from, so that outputs have the variance of theirs.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mcmcopt.binary.scale import Scale, add_scale, affine, channel_rms, scale_kind, to_signs


class BinaryLinear(nn.Linear):
    """A linear layer of weights ±1.

    Args:
        in_features, out_features, bias, device, dtype: as in `nn.Linear`.
        scale: `"learnt"`, a parameter `scale` (out_features,); `"fixed"`, a buffer of that name; or `"none"`.
    """

    scale: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        scale: Scale = "learnt",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        add_scale(self, scale, self.weight.new_full((out_features,), _start(self.weight)))

    @classmethod
    def from_real(cls, layer: nn.Linear, scale: Scale = "learnt", bias: bool = True) -> BinaryLinear:
        """Return a layer with the signs of a real layer's weights, its bias, and each row's root-mean-square as scale.

        Args:
            layer: stays as it is.
            scale: as above.
            bias: False leaves the bias out.
        """
        keep = bias and layer.bias is not None
        made = cls(layer.in_features, layer.out_features, keep, scale, "meta", layer.weight.dtype)
        return _taken(made, layer)

    def reset_parameters(self) -> None:
        """Draw signs with equal probability, the bias as `nn.Linear` does, and reset the scale."""
        super().reset_parameters()
        _reset(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return s ⊙ (W x) + b."""
        return affine(linear(x, self.weight), self.scale, self.bias, 0)

    def extra_repr(self) -> str:
        """Return what `repr` says of the layer."""
        return f"{super().extra_repr()}, scale={scale_kind(self)}"


class BinaryConv2d(nn.Conv2d):
    """A two-dimensional convolution of weights ±1.

    Args:
        in_channels, …, dtype: as in `nn.Conv2d`.
        scale: `"learnt"`, a parameter `scale` (out_channels,); `"fixed"`, a buffer of that name; or `"none"`.
    """

    scale: Tensor | None

    def __init__(self, *args: Any, scale: Scale = "learnt", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        add_scale(self, scale, self.weight.new_full((self.out_channels,), _start(self.weight)))

    @classmethod
    def from_real(cls, layer: nn.Conv2d, scale: Scale = "learnt", bias: bool = True) -> BinaryConv2d:
        """Return a layer with the signs of a real one's weights, its bias, and each filter's root-mean-square as scale.

        Args:
            layer: stays as it is.
            scale: as above.
            bias: False leaves the bias out.
        """
        return _taken(cls(**conv_arguments(layer, bias), scale=scale), layer)

    def reset_parameters(self) -> None:
        """Draw signs with equal probability, the bias as `nn.Conv2d` does, and reset the scale."""
        super().reset_parameters()
        _reset(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return s ⊙ (W x) + b."""
        return affine(self._conv_forward(x, self.weight, None), self.scale, self.bias, 2)

    def extra_repr(self) -> str:
        """Return what `repr` says of the layer."""
        own = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{own}, scale={scale_kind(self)}"


def check_binary(model: nn.Module) -> None:
    """Refuse a model with a weight of a binary layer that is neither -1 nor +1.

    Raises:
        ValueError: naming the weight and a value.
    """
    for name, module in model.named_modules():
        if isinstance(module, BinaryLinear | BinaryConv2d):
            weight = module.weight.detach()
            wrong = weight.abs() != 1
            if bool(wrong.any()):
                raise ValueError(
                    f"{name + '.' if name else ''}weight must be -1 or +1 everywhere, {int(wrong.sum())} of "
                    f"{weight.numel()} entries are not, {float(weight[wrong][0]):g} among them: train the weights of "
                    "binary layers by sign flips (SignFlip, Bop) alone, in a group of their own"
                )


def conv_arguments(layer: nn.Conv2d, bias: bool = True) -> dict[str, Any]:
    """Return the arguments that make a convolution like another one, on no device: nothing is drawn at random."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    own = {name: getattr(layer, name) for name in names}
    keep = bias and layer.bias is not None
    return own | {"bias": keep, "device": "meta", "dtype": layer.weight.dtype}


_Made = TypeVar("_Made", BinaryLinear, BinaryConv2d)


def _start(weight: Tensor) -> float:
    return 1 / math.sqrt(3 * max(1, weight[0].numel())) if len(weight) else 1.0


@torch.no_grad()
def _reset(layer: BinaryLinear | BinaryConv2d) -> None:
    to_signs(layer.weight)
    scale = getattr(layer, "scale", None)
    if scale is not None:  # there is none yet in the first call
        scale.fill_(_start(layer.weight))


@torch.no_grad()
def _taken(made: _Made, layer: nn.Linear | nn.Conv2d) -> _Made:
    if not bool(layer.weight.isfinite().all()):
        raise ValueError(f"the weights of {layer} must be finite")
    made.to_empty(device=layer.weight.device)
    made.weight.copy_(layer.weight)
    to_signs(made.weight)
    if made.scale is not None:
        made.scale.copy_(channel_rms(layer.weight))
    if made.bias is not None and layer.bias is not None:
        made.bias.copy_(layer.bias)
    return made.train(layer.training)
