"""Layers that keep real latent weights for the optimizer and show the forward a quantized form of them.

    y = s ⊙ (q(W) x) + b

The baselines of the binary layers: q is `BinaryConnect()`, `XNOR()` or `DoReFa(bits)`; any gradient method trains W.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mcmcopt.binary.layers import conv_arguments
from mcmcopt.binary.quantizers import BinaryConnect, Quantizer
from mcmcopt.binary.scale import Scale, add_scale, affine, channel_rms, scale_kind


class LatentLinear(nn.Linear):
    """A linear layer of latent weights.

    Args:
        in_features, out_features, bias, device, dtype: as in `nn.Linear`.
        quantizer: from latent weights to those of the forward.
        scale: `"learnt"`, a parameter `scale` (out_features,); `"fixed"`, a buffer of that name; or `"none"`.  At
            first it gives each row the root-mean-square of the real weights that the latent ones are made of.
    """

    scale: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        quantizer: Quantizer | None = None,
        scale: Scale = "learnt",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.quantizer: Quantizer = BinaryConnect() if quantizer is None else quantizer
        _begin(self, scale)

    @classmethod
    def from_real(cls, layer: nn.Linear, quantizer: Quantizer, scale: Scale = "learnt") -> LatentLinear:
        """Return a layer whose latent weights are made of a real layer's, which stays as it is."""
        bias, dtype = layer.bias is not None, layer.weight.dtype
        made = cls(layer.in_features, layer.out_features, bias, quantizer, "none", "meta", dtype)
        return _taken(made, layer, scale)

    @property
    def quantized(self) -> Tensor:
        """The weights of the forward, without the scale."""
        return self.quantizer(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return s ⊙ (q(W) x) + b."""
        return affine(linear(x, self.quantizer(self.weight)), self.scale, self.bias, 0)

    def extra_repr(self) -> str:
        """Return what `repr` says of the layer."""
        return f"{super().extra_repr()}, quantizer={self.quantizer}, scale={scale_kind(self)}"


class LatentConv2d(nn.Conv2d):
    """A two-dimensional convolution of latent weights.

    Args:
        in_channels, …, dtype: as in `nn.Conv2d`.
        quantizer, scale: as in `LatentLinear`.
    """

    scale: Tensor | None

    def __init__(self, *args: Any, quantizer: Quantizer | None = None, scale: Scale = "learnt", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.quantizer: Quantizer = BinaryConnect() if quantizer is None else quantizer
        _begin(self, scale)

    @classmethod
    def from_real(cls, layer: nn.Conv2d, quantizer: Quantizer, scale: Scale = "learnt") -> LatentConv2d:
        """Return a layer whose latent weights are made of a real layer's, which stays as it is."""
        return _taken(cls(**conv_arguments(layer), quantizer=quantizer, scale="none"), layer, scale)

    @property
    def quantized(self) -> Tensor:
        """The weights of the forward, without the scale."""
        return self.quantizer(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return s ⊙ (q(W) x) + b."""
        return affine(self._conv_forward(x, self.quantizer(self.weight), None), self.scale, self.bias, 2)

    def extra_repr(self) -> str:
        """Return what `repr` says of the layer."""
        own = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{own}, quantizer={self.quantizer}, scale={scale_kind(self)}"


@torch.no_grad()
def clip_latents(model: nn.Module) -> None:
    """Clip the latent weights of a model to what their quantizer says; to be called after each step.

    `optimizer.register_step_post_hook(lambda *_: clip_latents(model))` does so.
    """
    for module in model.modules():
        if isinstance(module, LatentLinear | LatentConv2d) and module.quantizer.clip is not None:
            module.weight.clamp_(-module.quantizer.clip, module.quantizer.clip)


_Made = TypeVar("_Made", LatentLinear, LatentConv2d)


@torch.no_grad()
def _begin(layer: LatentLinear | LatentConv2d, scale: Scale) -> None:
    """Turn the real weights that a layer holds into latent ones, with the scale that makes up for it."""
    real = channel_rms(layer.weight)
    layer.weight.copy_(layer.quantizer.start(layer.weight))
    shown = channel_rms(layer.quantized).clamp_min(torch.finfo(real.dtype).tiny)
    add_scale(layer, scale, real / shown)


@torch.no_grad()
def _taken(made: _Made, layer: nn.Linear | nn.Conv2d, scale: Scale) -> _Made:
    if not bool(layer.weight.isfinite().all()):
        raise ValueError(f"the weights of {layer} must be finite")
    made.to_empty(device=layer.weight.device)
    made.weight.copy_(layer.weight)
    if made.bias is not None and layer.bias is not None:
        made.bias.copy_(layer.bias)
    del made.scale
    _begin(made, scale)
    return made.train(layer.training)
