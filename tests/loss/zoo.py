"""Small models of every kind that the incremental loss must follow, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations, parametrize, prune


class Net(nn.Module):
    """A forward function over some modules, parameters and buffers."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def P(*shape: int) -> nn.Parameter:
    return nn.Parameter(0.5 * torch.randn(shape))


def image(body: nn.Module, features: int) -> nn.Sequential:
    """Put a body between a convolution of 2 x 6 x 7 images to 4 channels and a linear classifier."""
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), body, nn.Flatten(), nn.Linear(features, 3))


def middle(function: Callable[[Any, Tensor], Tensor], **parts: Any) -> Net:
    """Put a function of (samples, 8) between two linear layers."""
    return Net(
        lambda m, x: m.last(function(m, m.first(x))), **{"first": nn.Linear(5, 8), "last": nn.LazyLinear(3)} | parts
    )


def spatial(function: Callable[[Any, Tensor], Tensor], **parts: Any) -> Net:
    """Put a function of (samples, 4, 6, 7) between a convolution and a linear layer."""
    return Net(
        lambda m, x: m.last(function(m, m.first(x)).flatten(1)),
        **{"first": nn.Conv2d(2, 4, 3, padding=1), "last": nn.LazyLinear(3)} | parts,
    )


VECTORS = (5,)
IMAGES = (2, 6, 7)


def pruned() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    prune.random_unstructured(model[0], "weight", 0.4)
    return model


def parametrised_elsewhere() -> nn.Module:
    layer = nn.Linear(5, 5)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return Net(lambda m, x: m.b(torch.relu(F.linear(x, m.a.weight))), a=layer, b=nn.Linear(5, 3))


class Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w + w.t()


def parametrised() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    parametrize.register_parametrization(model[1], "weight", Symmetric())
    parametrizations.weight_norm(model[0])
    return model


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3))
    model[2].weight = model[0].weight
    return model


def twice() -> nn.Module:
    return Net(
        lambda m, x: m.last(torch.relu(m.shared(torch.relu(m.shared(x))))), shared=nn.Linear(5, 5), last=nn.Linear(5, 3)
    )


def residual_body() -> nn.Module:
    return Net(
        lambda m, x: F.relu(m.norm(m.two(F.relu(m.one(x)))) + x),
        one=nn.Conv2d(4, 4, 3, padding=1),
        two=nn.Conv2d(4, 4, 3, padding=1, bias=False),
        norm=nn.BatchNorm2d(4),
    )


def in_place_sum(m, x):
    y = m.side(x)
    y += x
    return y.relu_()


def chunks_in_layers(m, x):
    parts = x.chunk(2, 1)
    one, same, two = parts[0], parts[0], parts[1]  # views of one tensor
    return torch.cat([m.b(m.a(one).relu()).tanh() + two, m.c(same.relu()) * one], 1)


def dense_cat(m, x):
    x = torch.cat([x, m.one(x)], 1)
    return torch.cat([x, F.relu(m.two(x))], dim=1)


ACTIVATIONS = [
    nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.LeakyReLU(0.1), nn.LeakyReLU(0.1, inplace=True), nn.ELU(),
    nn.CELU(), nn.SELU(), nn.GELU(), nn.GELU(approximate="tanh"), nn.SiLU(), nn.Mish(), nn.Sigmoid(), nn.Tanh(),
    nn.Softplus(), nn.Softsign(), nn.Hardtanh(), nn.Hardsigmoid(), nn.Hardswish(), nn.LogSigmoid(), nn.Tanhshrink(),
    nn.Softshrink(), nn.Hardshrink(), nn.Threshold(0.1, 0.3), nn.PReLU(), nn.Dropout(0.5), nn.AlphaDropout(0.5),
    nn.Identity(), nn.RReLU(),
]  # fmt: skip
FUNCTIONS = {
    "F.relu": F.relu, "F.relu in place": lambda x: F.relu(x, inplace=True), "torch.relu": torch.relu,
    "relu positional": lambda x: F.relu(x, True), "F.relu6": F.relu6, "F.leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "F.elu in place": lambda x: F.elu(x, 1.0, True), "F.elu": F.elu, "F.celu": F.celu, "F.selu": F.selu,
    "F.gelu": F.gelu, "F.silu": F.silu, "F.mish": F.mish, "F.softplus": F.softplus, "F.softsign": F.softsign,
    "F.hardtanh": F.hardtanh, "F.hardsigmoid": F.hardsigmoid, "F.hardswish": F.hardswish,
    "F.logsigmoid": F.logsigmoid, "F.tanhshrink": F.tanhshrink, "F.threshold": lambda x: F.threshold(x, 0.1, 0.2),
    ".relu": lambda x: x.relu(), ".relu_": lambda x: x.relu_(), ".tanh": lambda x: x.tanh(),
    ".tanh_": lambda x: x.tanh_(), ".sigmoid": lambda x: x.sigmoid(), "torch.sigmoid": torch.sigmoid,
    "torch.tanh": torch.tanh, ".abs": lambda x: x.abs(), "neg": lambda x: -x, "power": lambda x: x**2,
    "power of 2": lambda x: 2**x, ".clamp": lambda x: x.clamp(-0.5, 0.5), "clamp min": lambda x: x.clamp(min=0),
    ".exp": lambda x: x.exp(), "sin": torch.sin, ".square": lambda x: x.square(), "F.dropout": F.dropout,
    "log1p of square": lambda x: torch.log1p(x * x), "float": lambda x: x.double(),
}  # fmt: skip
POOLS = {
    "max 2": nn.MaxPool2d(2), "max 3/2": nn.MaxPool2d(3, 2), "max padded": nn.MaxPool2d(3, 2, padding=1),
    "max ceil": nn.MaxPool2d(2, ceil_mode=True), "max dilated": nn.MaxPool2d(2, 1, dilation=2),
    "max (1, 3)": nn.MaxPool2d((1, 3)), "max (2, 2)": nn.MaxPool2d((2, 2), (2, 2)), "max 3": nn.MaxPool2d(3),
    "avg 2": nn.AvgPool2d(2), "avg 3/1": nn.AvgPool2d(3, 1, padding=1), "avg ceil": nn.AvgPool2d(2, ceil_mode=True),
    "avg uncounted": nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
    "adaptive avg": nn.AdaptiveAvgPool2d(1), "adaptive avg (2, 3)": nn.AdaptiveAvgPool2d((2, 3)),
    "adaptive max": nn.AdaptiveMaxPool2d(2), "lp": nn.LPPool2d(2, 2), "pad": nn.ZeroPad2d(1),
    "upsample": nn.Upsample(scale_factor=2), "upsample bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "as it is": nn.AvgPool2d(1),
}  # fmt: skip
FUNCTIONAL_POOLS = {
    "F.max": lambda x: F.max_pool2d(x, 2),
    "F.max stride": lambda x: F.max_pool2d(x, 3, 2, 1),
    "F.max keywords": lambda x: F.max_pool2d(x, kernel_size=2, stride=1),
    "torch.max": lambda x: torch.max_pool2d(x, 2),
    "F.max ceil": lambda x: F.max_pool2d(x, 2, ceil_mode=True),
    "F.avg": lambda x: F.avg_pool2d(x, 2, padding=1),
    "F.adaptive avg": lambda x: F.adaptive_avg_pool2d(x, (1, 1)),
    "F.adaptive max": lambda x: F.adaptive_max_pool2d(x, 3),
    "mean": lambda x: x.mean((2, 3)),
    "mean kept": lambda x: x.mean(dim=[-2, -1], keepdim=True),
    "torch.mean": lambda x: torch.mean(x, (2, 3)),
    "mean over x": lambda x: x.mean(-1),
    "amax": lambda x: x.amax((2, 3)),
    "sum over y": lambda x: x.sum(2),
    "mean over channels": lambda x: x.mean(1),
    "sum of channels": lambda x: x.sum((1, 2)),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2),
    "F.pad": lambda x: F.pad(x, (1, 0, 2, 1)),
    "pool without channels": lambda x: F.avg_pool2d(x.mean(1), 3, 1, 1),
    "1d": lambda x: F.max_pool1d(x.flatten(2), 3),
}


def convolution(*args: Any, second: tuple | None = None, **options: Any) -> nn.Module:
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, *args, **options), nn.ReLU()]
    layers += [nn.Conv2d(args[0], *second), nn.ReLU()] if second else []
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 3)), VECTORS),
    "mlp without biases": (lambda: nn.Sequential(nn.Linear(5, 9, bias=False), nn.Linear(9, 3, bias=False)), VECTORS),
    "one layer": (lambda: nn.Linear(5, 3), VECTORS),
    "one column": (lambda: nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 3)), (1,)),
    "wide": (lambda: nn.Sequential(nn.Linear(5, 160), nn.ReLU(), nn.Linear(160, 130), nn.Linear(130, 3)), VECTORS),
    "nested": (
        lambda: nn.Sequential(nn.Sequential(nn.Linear(5, 6), nn.Sequential(nn.ReLU())), nn.Sequential(nn.Linear(6, 3))),
        VECTORS,
    ),
    "conv": (lambda: convolution(5, 3), IMAGES),
    "conv stride 2": (lambda: convolution(5, 3, stride=2, padding=1, second=(4, 2)), IMAGES),
    "conv stride (3, 1)": (lambda: convolution(5, (2, 3), stride=(3, 1), padding=(2, 0)), IMAGES),
    "conv dilated": (lambda: convolution(5, 3, padding=2, dilation=2, bias=False), IMAGES),
    "conv padded much": (lambda: convolution(3, 1, padding=3), IMAGES),
    "conv grouped": (lambda: convolution(6, 3, groups=2, padding=1, second=(4, 3)), IMAGES),
    "conv depthwise": (lambda: convolution(4, 3, groups=4, padding=1, second=(4, 1)), IMAGES),
    "conv depthwise x 2": (lambda: convolution(8, 3, groups=4, bias=False), IMAGES),
    "conv same": (lambda: convolution(4, 3, padding="same"), IMAGES),
    "conv circular": (lambda: convolution(4, 3, padding=1, padding_mode="circular"), IMAGES),
    "many channels": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 20, 3), nn.ReLU(), nn.Conv2d(20, 9, 3), nn.ReLU(), nn.Flatten(), nn.Linear(54, 3)
        ),
        IMAGES,
    ),
    "conv 1d": (
        lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)),
        IMAGES,
    ),
    "transposed conv": (lambda: spatial(lambda m, x: m.up(x), up=nn.ConvTranspose2d(4, 2, 2)), IMAGES),
    "functional conv": (
        lambda: spatial(lambda m, x: F.conv2d(x, m.w, m.b, padding=1, groups=2), w=P(4, 2, 3, 3), b=P(4)),
        IMAGES,
    ),
    "functional conv by position": (
        lambda: spatial(lambda m, x: F.conv2d(x, m.w, None, 2, (1, 0)), w=P(5, 4, 2, 3)),
        IMAGES,
    ),
    "batch norm": (lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)), VECTORS),
    "batch norm 2d": (lambda: image(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3)), 60), IMAGES),
    "batch norm plain": (lambda: image(nn.BatchNorm2d(4, affine=False), 168), IMAGES),
    "batch norm of features": (lambda: image(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(168)), 168), IMAGES),
    "batch norm of lines": (lambda: image(nn.Sequential(nn.Flatten(2), nn.BatchNorm1d(4)), 168), IMAGES),
    "batch statistics": (lambda: image(nn.BatchNorm2d(4, track_running_stats=False), 168), IMAGES),
    "layer norm": (lambda: nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3)), VECTORS),
    "group norm": (lambda: image(nn.GroupNorm(2, 4), 168), IMAGES),
    "instance norm": (lambda: image(nn.InstanceNorm2d(4, affine=True), 168), IMAGES),
    "softmax": (lambda: nn.Sequential(nn.Linear(5, 8), nn.Softmax(1), nn.Linear(8, 3), nn.LogSoftmax(1)), VECTORS),
    "residual": (lambda: image(nn.Sequential(residual_body(), residual_body()), 168), IMAGES),
    "in-place sum": (lambda: spatial(in_place_sum, side=nn.Conv2d(4, 4, 1)), IMAGES),
    "torch.add alpha": (lambda: middle(lambda m, x: torch.add(x, m.side(x), alpha=2), side=nn.Linear(8, 8)), VECTORS),
    "cat": (
        lambda: spatial(lambda m, x: torch.cat([m.a(x), x, m.b(x)], 1), a=nn.Conv2d(4, 2, 1), b=nn.MaxPool2d(3, 1, 1)),
        IMAGES,
    ),
    "cat of the same": (lambda: middle(lambda m, x: torch.cat((x, x.tanh(), x), dim=-1)), VECTORS),
    "cat dense blocks": (lambda: spatial(dense_cat, one=nn.Conv2d(4, 2, 1), two=nn.Conv2d(6, 2, 3, padding=1)), IMAGES),
    "cat over y": (lambda: spatial(lambda m, x: torch.cat([x, x.relu()], 2)), IMAGES),
    "cat with the batch": (
        lambda: Net(lambda m, x: m.last(torch.cat([x, m.a(x)], 1)), a=nn.Linear(5, 2), last=nn.Linear(7, 3)),
        VECTORS,
    ),
    "stack": (lambda: middle(lambda m, x: torch.stack([x, x.tanh()], 1).flatten(1)), VECTORS),
    "mask buffer": (lambda: middle(lambda m, x: x * m.mask, mask=torch.tensor([1.0, 0, 1, 1, 0, 2, 1, 1])), VECTORS),
    "mask of channels": (lambda: spatial(lambda m, x: m.mask * x, mask=torch.rand(4, 1, 1)), IMAGES),
    "mask of places": (lambda: spatial(lambda m, x: x.sub(m.mask), mask=torch.rand(1, 1, 6, 7)), IMAGES),
    "mask of lines": (lambda: spatial(lambda m, x: x / m.mask, mask=1 + torch.rand(7)), IMAGES),
    "gates": (lambda: middle(lambda m, x: x * torch.sigmoid(m.side(x)), side=nn.Linear(8, 8)), VECTORS),
    "gates of the batch": (
        lambda: Net(lambda m, x: m.last(m.a(x) * x), a=nn.Linear(5, 5), last=nn.Linear(5, 3)),
        VECTORS,
    ),
    "squeeze and excite": (
        lambda: spatial(lambda m, x: x * torch.sigmoid(m.g(x.mean((2, 3), keepdim=True))), g=nn.Conv2d(4, 4, 1)),
        IMAGES,
    ),
    "differences": (lambda: middle(lambda m, x: (m.side(x) - x) / (1 + x * x), side=nn.Linear(8, 8)), VECTORS),
    "numbers": (lambda: middle(lambda m, x: 1 - (2 * x - 0.5) / 3 + x.mul(0.5).add(1).div(2).sub(1)), VECTORS),
    "own operand": (lambda: middle(lambda m, x: x * x + x), VECTORS),
    "maximum": (lambda: middle(lambda m, x: torch.maximum(x, -x).minimum(m.cap), cap=torch.tensor(0.7)), VECTORS),
    "in place arithmetic": (lambda: middle(lambda m, x: x.mul_(2).add_(1).sub_(0.5)), VECTORS),
    "a branch that is pooled": (lambda: spatial(lambda m, x: x.flatten(1) + m.mask, mask=torch.rand(168)), IMAGES),
    "view": (lambda: spatial(lambda m, x: x.view(x.size(0), -1)), IMAGES),
    "reshape": (lambda: spatial(lambda m, x: x.reshape(x.shape[0], 2, -1).relu().reshape(x.shape[0], -1)), IMAGES),
    "size arithmetic": (lambda: spatial(lambda m, x: x.view(-1, x.size(1) * x.size(2) * x.size(3))), IMAGES),
    "squeeze": (lambda: middle(lambda m, x: x.unsqueeze(1).relu().squeeze(1)), VECTORS),
    "unflatten": (
        lambda: middle(lambda m, x: m.conv(m.up(x)).flatten(1), up=nn.Unflatten(1, (2, 2, 2)), conv=nn.Conv2d(2, 3, 2)),
        VECTORS,
    ),
    ".unflatten": (lambda: middle(lambda m, x: x.unflatten(1, (2, 4)).contiguous().mean(2)), VECTORS),
    "pooled without channels": (
        lambda: middle(lambda m, x: F.avg_pool2d(x.unflatten(1, (2, 4)), 3, 1, 1).flatten(1)),
        VECTORS,
    ),
    "channels merged": (
        lambda: spatial(lambda m, x: m.conv(x.reshape(x.size(0), 2, 12, 7)).relu(), conv=nn.Conv2d(2, 5, 3, padding=1)),
        IMAGES,
    ),
    "channels split": (
        lambda: spatial(
            lambda m, x: m.norm(x.reshape(-1, 8, 3, 7)).relu() + m.mask,
            norm=nn.BatchNorm2d(8),
            mask=torch.rand(8, 1, 1),
        ),
        IMAGES,
    ),
    "channels of unequal size": (
        lambda: spatial(lambda m, x: m.conv(x.reshape(-1, 7, 4, 6)).flatten(1) + x.flatten(1), conv=nn.Conv2d(7, 7, 1)),
        IMAGES,
    ),
    "transposed": (lambda: spatial(lambda m, x: m.conv(x.permute(0, 2, 1, 3)), conv=nn.Conv2d(6, 3, 1)), IMAGES),
    "samples merged": (
        lambda: spatial(lambda m, x: m.side(x.reshape(-1, 7)).view(x.size(0), -1), side=nn.Linear(7, 2)),
        IMAGES,
    ),
    "linear on lines": (lambda: spatial(lambda m, x: m.side(x), side=nn.Linear(7, 2)), IMAGES),
    "chunks": (lambda: middle(lambda m, x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1]), VECTORS),
    "chunks in layers": (
        lambda: middle(chunks_in_layers, a=nn.Linear(4, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 4)),
        VECTORS,
    ),
    "slices": (lambda: middle(lambda m, x: x[:, :3] + x[:, 3:6].relu()), VECTORS),
    "mean over samples": (lambda: middle(lambda m, x: x - x.mean(0)), VECTORS),
    "dropout": (lambda: middle(lambda m, x: F.dropout(m.d(x), 0.5, training=m.training), d=nn.Dropout(0.3)), VECTORS),
    "dropout 2d": (lambda: image(nn.Dropout2d(0.5), 168), IMAGES),
    "twice": (twice, VECTORS),
    "tied": (tied, VECTORS),
    "functional linear": (lambda: middle(lambda m, x: F.linear(x, m.w, m.b), w=P(6, 8), b=P(6)), VECTORS),
    "functional linear tied": (lambda: middle(lambda m, x: F.linear(F.linear(x, m.w), weight=m.w), w=P(8, 8)), VECTORS),
    "a gate parameter": (lambda: middle(lambda m, x: x * m.gate + m.shift, gate=P(8), shift=P(1, 8)), VECTORS),
    "a scalar parameter": (lambda: middle(lambda m, x: x * m.scale, scale=P()), VECTORS),
    "a gate on channels": (lambda: spatial(lambda m, x: x * m.gate, gate=P(4, 1, 1)), IMAGES),
    "a matrix product": (lambda: middle(lambda m, x: x @ m.w, w=P(8, 5)), VECTORS),
    "a transposed matrix": (lambda: middle(lambda m, x: x @ m.w.t(), w=P(5, 8)), VECTORS),
    "a transposed matrix of two": (lambda: middle(lambda m, x: x[:, :2] @ m.w.t(), w=P(5, 2)), VECTORS),
    "a masked matrix of two": (
        lambda: middle(lambda m, x: F.linear(x, m.w * m.mask), w=P(2, 8), mask=torch.ones(2, 8)),
        VECTORS,
    ),
    "a masked matrix": (
        lambda: middle(lambda m, x: F.linear(x, m.w * m.mask, m.b), w=P(6, 8), mask=torch.ones(6, 8), b=P(6)),
        VECTORS,
    ),
    "a row on top": (lambda: middle(lambda m, x: x + m.p.unsqueeze(0), p=P(8)), VECTORS),
    "an expanded row": (lambda: middle(lambda m, x: x + m.p.unsqueeze(0).expand(x.size(0), -1), p=P(8)), VECTORS),
    "an expanded vector": (lambda: middle(lambda m, x: x * m.p.expand(x.size(0), -1), p=P(8)), VECTORS),
    "a chunked parameter": (lambda: middle(lambda m, x: x * m.p.chunk(2)[0] + m.p.chunk(2)[1], p=P(16)), VECTORS),
    "parametrised elsewhere": (parametrised_elsewhere, VECTORS),
    "per-channel prelu": (lambda: image(nn.PReLU(4), 168), IMAGES),
    "bilinear": (lambda: middle(lambda m, x: m.side(x, x.tanh()), side=nn.Bilinear(8, 8, 4)), VECTORS),
    "attention": (
        lambda: spatial(
            lambda m, x: m.a(*[x.flatten(2).transpose(1, 2)] * 3)[0], a=nn.MultiheadAttention(4, 2, batch_first=True)
        ),
        IMAGES,
    ),
    "pruned": (pruned, VECTORS),
    "parametrised": (parametrised, VECTORS),
}
MODELS |= {
    f"activation {a}": (lambda a=a: image(nn.Sequential(a, nn.Conv2d(4, 2, 3)), 40), IMAGES) for a in ACTIVATIONS
}
MODELS |= {
    f"function {name}": (lambda f=f: middle(lambda m, x: f(x) if f is not F.dropout else f(x, training=False)), VECTORS)
    for name, f in FUNCTIONS.items()
}
MODELS |= {f"pool {n}": (lambda p=p: spatial(lambda m, x: m.pool(x), pool=p), IMAGES) for n, p in POOLS.items()}
MODELS |= {f"pool {n}": (lambda p=p: spatial(lambda m, x: p(x)), IMAGES) for n, p in FUNCTIONAL_POOLS.items()}


def normalised(x: Any, m: Any) -> Any:
    return (x.float().to(m.std.dtype) / 255 - m.mean) / m.std


PIXELS = {"mean": torch.rand(2, 1, 1), "std": 0.5 + torch.rand(2, 1, 1)}
CODES: dict[str, Callable[[], nn.Module]] = {
    "normalised": lambda: Net(lambda m, x: m.body(normalised(x, m)), body=convolution(5, 3, padding=1), **PIXELS),
    "mean image": lambda: Net(
        lambda m, x: m.body(x.double() * 0.01 - m.image), body=convolution(5, 3), image=torch.rand(2, 6, 7)
    ),
    "wrapping": lambda: Net(lambda m, x: m.body((x + 100).double() * 0.01), body=convolution(5, 3)),
    "reciprocal": lambda: Net(lambda m, x: m.body(20 / (x.double() * 1.0 + 0.01).add(1)), body=convolution(5, 3)),
    "floor": lambda: Net(lambda m, x: m.body(x.double().div(40, rounding_mode="floor") * 0.1), body=convolution(5, 3)),
    "integers in between": lambda: Net(
        lambda m, x: m.body((x.double() / 40).to(torch.int32).to(torch.float64)), body=convolution(5, 3)
    ),
    "grouped": lambda: Net(
        lambda m, x: m.body(x.double() / 255),
        body=nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1, groups=2), nn.Flatten(), nn.LazyLinear(3)),
    ),
    "features": lambda: Net(lambda m, x: m.last(x.double().flatten(1) / 255), last=nn.LazyLinear(3)),
}
