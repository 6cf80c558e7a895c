"""Does a chain on the incremental loss decide as one on the plain closure?

    python benchmarks/agreement.py [--proposals 10000]

Teacher-forced: a chain runs on the plain closure (one float32 loss per sample, differences summed in float64), and
every proposal is scored three times from the same state: by the closure, by `IncrementalLoss` in float32 whose cache
goes through every accepted change without a refresh, and by the closure in float64.  A disagreement is a proposal that
the two float32 scores would decide differently; it is inside the rounding where |log A - log u| is below 4 times the
closure's own rounding, |log A in float32 - log A in float64|: the proposal's or the root-mean-square, what is larger.
At the end the cached loss is compared with a fresh evaluation in float64.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

from experiments.models import cnn60k, lenet5_caffe, mlp
from mcmcopt import GreedyMCMC, IncrementalLoss, SpikeSlab
from mcmcopt.loss.objective import Change, ClosureObjective, lent, write
from mcmcopt.optim.sweep import Sweep

LAM = 1000.0


def small_vgg() -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if inputs == outputs else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    "MLP 784-300-100-10": (lambda: mlp((784, 300, 100, 10)), (1, 28, 28), False),
    "reference CNN": (cnn60k, (3, 32, 32), True),
    "LeNet-5-Caffe": (lambda: lenet5_caffe()[1:], (1, 28, 28), False),
    "VGG, 4 convolutions, BN": (small_vgg, (3, 16, 16), False),
}


class Forced:
    """The plain closure as an objective, with the two other scores of every proposal on the side."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        self.model, self.x, self.y = model, x, y
        self.exact, self.twin = copy.deepcopy(model).double(), copy.deepcopy(model)
        self.pairs = list(zip(model.parameters(), self.exact.parameters(), strict=True))
        self.twins = dict(zip(model.parameters(), self.twin.parameters(), strict=True))
        self.plain = ClosureObjective(lambda: nn.functional.cross_entropy(model(x), y, reduction="none"), [], False)
        self.fast = IncrementalLoss(self.twin, nn.CrossEntropyLoss(), layout="tiles", refresh_every=10**9).bind(x, y)
        self.scores: list[list[float]] = []

    @torch.no_grad()
    def truth(self) -> Tensor:
        for param, twin in self.pairs:
            twin.copy_(param)
        x = self.x if self.x.dtype is torch.uint8 else self.x.double()
        return nn.functional.cross_entropy(self.exact(x), self.y, reduction="none")

    def evaluate(self) -> Tensor:
        losses = self.plain.evaluate()
        self.now = [losses, self.fast.evaluate(), self.truth()]
        return losses

    def propose(self, change: Change) -> Tensor:
        self.change = {self.twins[param]: values for param, values in change.items()}
        with lent(change):
            exact = self.truth()
        self.next = [self.plain.propose(change), self.fast.propose(self.change), exact]
        self.scores.append([float(a.double().mean() - b.double().mean()) for a, b in zip(self.now, self.next)])  # noqa: B905
        return self.next[0]

    def commit(self, number: int = 0) -> None:
        write(self.change)
        self.fast.commit()
        self.now = self.next

    def rollback(self) -> None:
        self.fast.rollback()


def compare(name: str, proposals: int, samples: int) -> str:
    make, shape, codes = NETWORKS[name]
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().eval()
    x = torch.randint(256, (samples, *shape), dtype=torch.uint8, generator=generator)
    x = x if codes else torch.rand((samples, *shape), generator=generator)
    y = torch.randint(10, (samples,), generator=generator)
    objective, thresholds = Forced(model, x, y), []
    decide = Sweep._decide

    def noting(self: Sweep, proposal: Any, loss: Tensor) -> Any:
        thresholds.append(proposal.log_u - proposal.log_ratio)
        return decide(self, proposal, loss)

    Sweep._decide = noting  # type: ignore[method-assign] # the threshold is known to the sweep alone
    try:
        optimizer = GreedyMCMC(model.parameters(), LAM, n_proposals=proposals, prior=SpikeSlab(0.5))
        optimizer.step(objective)
    finally:
        Sweep._decide = decide  # type: ignore[method-assign]
    plain, fast, exact = (LAM * torch.tensor(objective.scores, dtype=torch.float64)).unbind(1)
    threshold = torch.tensor(thresholds, dtype=torch.float64)
    rounding = (plain - exact).abs()
    allowed = 4 * rounding.clamp_min(rms(rounding))
    apart = (plain > threshold) != (fast > threshold)
    outside = apart & ((plain - threshold).abs() > allowed)
    fresh = float(objective.truth().mean())
    drift = abs(float(objective.fast.evaluate()) - fresh) / fresh
    return (
        f"{name:<26}{len(plain):>8}{int((plain > threshold).sum()):>10}{int(apart.sum()):>10}{int(outside.sum()):>9}"
        f"{rms(rounding):>14.1e}{rms(fast - exact):>14.1e}{drift:>12.1e}"
    )


def rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proposals", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.samples} samples, λ = {LAM:g}, spike and slab with the default moves, 1 thread, no refresh")
    print(
        f"{'':<26}{'scored':>8}{'accepted':>10}{'disagree':>10}{'outside':>9}{'λ·rounding':>14}{'ours':>14}{'drift':>12}"
    )
    for name in NETWORKS:
        print(compare(name, arguments.proposals, arguments.samples), flush=True)


if __name__ == "__main__":
    main()
