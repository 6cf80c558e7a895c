"""The networks of `proposals.py`: models, synthetic batches, and proposals as the optimizer makes them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.costs import Site, Work, proposal, sites
from experiments import models
from mcmcopt.chain.blocks import Tiling
from mcmcopt.chain.random import distinct
from mcmcopt.loss.objective import Change, ClosureObjective

CHUNK = 256
"""Samples of one forward of the plain closure."""


@dataclass
class Kind:
    """One kind of proposal: a whole row or filter of a layer, or some of its weights."""

    label: str
    layer: str
    entries: int | None = None


@dataclass
class Case:
    """A network with a batch.

    Attributes:
        plain_model, plain_x: what the plain closure runs: the same parameters, and inputs normalised beforehand,
            which makes it faster.
        together: how many proposals are scored together; 0: not measured.
        target: for the mean over kinds; `target_together`, `target_whole`: for `propose_many`, and against one
            forward on the whole batch, which is then measured too.
    """

    name: str
    model: nn.Sequential
    x: Tensor
    y: Tensor
    kinds: list[Kind]
    target: float | None = None
    target_together: float | None = None
    target_whole: float | None = None
    together: int = 16
    repeats: int = 4
    plain_repeats: int = 1
    plain_model: nn.Module | None = None
    plain_x: Tensor | None = None
    note: str = ""
    layers: list[Site] = field(init=False)

    def __post_init__(self) -> None:
        self.model.eval()
        self.layers = sites(self.model, self.x)
        self.plain_model = self.model if self.plain_model is None else self.plain_model.eval()
        self.plain_x = self.x if self.plain_x is None else self.plain_x

    def work(self, kind: Kind) -> Work:
        return proposal(self.layers, kind.layer, kind.entries).times(len(self.x))

    def plain(self, chunk: int = CHUNK) -> ClosureObjective:
        """Return the plain closure as an objective: write the change, run the network, put the old values back."""
        model, x, y = self.plain_model, self.plain_x, self.y
        assert model is not None  # noqa: S101 -- set above
        assert x is not None  # noqa: S101 -- set above
        return plain_objective(model, x, y, chunk)

    def draw(self, kind: Kind, rng: np.random.Generator) -> Change:
        """Return a random walk of one kind."""
        weight = self.model.get_submodule(kind.layer).weight
        assert isinstance(weight, Tensor)  # noqa: S101 -- a layer with weights
        if kind.entries is None:
            tiling = Tiling(weight.shape, "row")
            indices = tiling.indices(int(rng.integers(tiling.count)))
        else:
            indices = torch.from_numpy(distinct(weight.numel(), kind.entries, rng))
        old = weight.detach().take(indices)
        noise = torch.from_numpy(rng.standard_normal(len(indices))).to(old.dtype)
        return {weight: (indices, old + 0.1 * weight.detach().std() * noise)}


def plain_objective(model: nn.Module, x: Tensor, y: Tensor, chunk: int = CHUNK) -> ClosureObjective:
    def closure() -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for first in range(0, len(x), chunk):
            logits, labels = model(x[first : first + chunk]), y[first : first + chunk]
            total += (logits.logsumexp(1) - logits.gather(1, labels.unsqueeze(1)).squeeze(1)).sum(dtype=torch.float64)
        return total / len(x)

    return ClosureObjective(closure, model.parameters(), grad=False)


def seeded(build: Callable[[], nn.Sequential]) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().eval()


def labels(n: int) -> Tensor:
    return torch.randint(10, (n,), generator=torch.Generator().manual_seed(1))


def floats(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def cnn(n: int, filters: int = 64) -> Case:
    """Return the reference CNN on uint8 images; the plain closure gets them normalised, and is without that layer."""

    def build() -> nn.Sequential:
        model = models.cnn60k()
        if filters != 64:
            model.conv1, model.fc = nn.Conv2d(3, filters, 11, stride=3), nn.Linear(filters * 64, 10)
        return model

    model = seeded(build)
    x = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    normalised = torch.empty(n, 3, 32, 32)
    for first in range(0, n, CHUNK):
        normalised[first : first + CHUNK] = model[0](x[first : first + CHUNK])
    return Case(
        f"reference CNN, n = {n:,}",
        model,
        x,
        labels(n),
        [Kind("filter", "conv1"), Kind("fc 363 weights", "fc", 363)],
        target=40,
        target_whole=100,
        plain_model=model[1:],
        plain_x=normalised,
        note="plain forms run on float32 images normalised beforehand",
    )


def mlp(n: int) -> Case:
    model = seeded(lambda: models.mlp((784, 300, 100, 10)))
    kinds = [Kind(f"fc{i} row", f"fc{i}") for i in (1, 2, 3)]
    return Case(
        f"MLP 784-300-100-10, n = {n:,}",
        model,
        floats(n, 784),
        labels(n),
        kinds,
        target_together=10,
        repeats=32,
        plain_repeats=8,
    )


def lenet(n: int) -> Case:
    kinds = [
        Kind("conv1 filter", "conv1"),
        Kind("conv2 filter", "conv2"),
        Kind("fc1 row", "fc1"),
        Kind("fc2 row", "fc2"),
    ]
    return Case(
        f"LeNet-5-Caffe, n = {n:,}",
        seeded(models.lenet5_caffe)[1:],  # its input is normalised
        floats(n, 1, 28, 28),
        labels(n),
        kinds,
        target=10,
        together=4,
        note="4 together instead of 16: each proposal of conv1 keeps about 230 MB until it is decided",
    )


def vgg(n: int) -> Case:
    model = seeded(models.vgg_d)[1:]  # its input is normalised
    for module in model:
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
    x = floats(n, 3, 32, 32)
    with torch.no_grad():  # statistics that keep activations of ordinary size
        model.train()(x[:64])
    kinds = [
        Kind(site.name, site.name) for site in sites(model.eval(), x) if isinstance(site.module, nn.Linear | nn.Conv2d)
    ]
    return Case(
        f"VGG-D, n = {n:,}",
        model,
        x,
        labels(n),
        kinds,
        target=2.5,
        together=0,
        repeats=1,
        note="propose_many not measured: every proposal would keep its activations of all layers below",
    )


def digits(n: int) -> Case:
    kinds = [Kind(f"fc{i} row", f"fc{i}") for i in (1, 2)]
    kinds += [Kind(f"fc{i}, {k} weight{'s' * (k > 1)}", f"fc{i}", k) for k in (1, 4, 16) for i in (1, 2)]
    return Case(
        f"digits MLP 64-32-10, n = {n:,}",
        seeded(models.mlp),
        floats(n, 64),
        labels(n),
        kinds,
        target=3,
        repeats=64,
        plain_repeats=32,
    )
