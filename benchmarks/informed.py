"""Loss evaluations to the same training loss, blind and informed proposals, a gradient counted as three.

    python benchmarks/informed.py

    dense    random walks of 1, 4 and 16 weights       against   Langevin steps of a layer
    climb    the same under rule="improve"
    sparse   walks, births, deaths and swaps           against   Langevin, informed births, deaths and swaps
    binary   flips of 1 and 4 signs                    against   informed flips of 1 and 4 signs
    reused   the same                                  against   informed flips on one gradient per 10 proposals

on the digits' 64-32-10 network and 1,200 samples, full batch, at one λ with all scales adapted.  The chain is counted
from its first proposal, so adaptation is part of the cost.  A loss counts as reached when a step of 10 proposals ends
at or below it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

from experiments.data import digits
from experiments.models import binarize, mlp
from mcmcopt import (
    BirthDeath,
    Gaussian,
    GreedyMCMC,
    InformedBirthDeath,
    InformedFlip,
    InformedSwap,
    Langevin,
    Laplace,
    RandomWalk,
    SignFlip,
    SpikeSlab,
    Swap,
)

LOSSES = (1.0, 0.5, 0.3, 0.2, 0.1)
LAM = 12_000.0
GAIN = 3.0  # of binary weights, in units of the initial root-mean-square
WALKS = (RandomWalk(k=1), RandomWalk(k=4), RandomWalk(k=16))
SPARSE = SpikeSlab(p=0.1, slab=Laplace(0.3))
CASES: dict[str, dict[str, Any]] = {
    "dense": {"prior": Gaussian(0.3), "blind": WALKS, "informed": (Langevin(precondition=True),)},
    "climb": {"prior": Gaussian(0.3), "blind": WALKS, "informed": (Langevin(precondition=True),), "rule": "improve"},
    "sparse": {
        "prior": SPARSE,
        "blind": (*WALKS, BirthDeath(weight=3.0), Swap()),
        "informed": (
            Langevin(precondition=True, weight=6.0),
            InformedBirthDeath(k=1),
            InformedBirthDeath(k=8, saliency="adam", temperature="rank"),
            InformedSwap(k=4, saliency="adam", temperature="rank"),
        ),
    },
    "binary": {
        "prior": Gaussian(1.0),
        "blind": (SignFlip(k=1), SignFlip(k=4)),
        "informed": (InformedFlip(k=1), InformedFlip(k=4)),
    },
    "reused": {
        "prior": Gaussian(1.0),
        "blind": (SignFlip(k=1), SignFlip(k=4)),
        "informed": (InformedFlip(k=1, reuse=True), InformedFlip(k=4, reuse=True)),
    },
}


def costs(case: str, kind: str, seed: int, budget: int) -> dict[float, int]:
    """Return the forward-equivalents after which each loss was reached, for those that were within the budget."""
    data = digits(1200, 197, 400, True, seed).train
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = mlp()
    x, y = data.x.flatten(1), data.y
    settings = CASES[case]
    groups: list[dict[str, Any]] = [{"params": list(model.parameters())}]
    if case in ("binary", "reused"):
        binarize(model, GAIN)
        weights, biases = ([p for p in model.parameters() if (p.dim() >= 2) is sparse] for sparse in (True, False))
        groups = [{"params": weights, "moves": settings[kind]}, {"params": biases, "moves": RandomWalk(k=4)}]
    chain = GreedyMCMC(
        groups,
        LAM,
        n_proposals=10,
        prior=settings["prior"],
        moves=settings[kind],
        rule=settings.get("rule", "metropolis"),
        seed=seed,
        grad=False,
    )
    loss_of = per_sample(model, x, y)
    found: dict[float, int] = {}
    spent = 0
    while spent < budget and len(found) < len(LOSSES):
        loss = float(chain.step(loss_of))
        info = chain.info
        spent += 0 if info is None else info.evaluations + 2 * info.gradients
        found |= {level: spent for level in LOSSES if loss <= level and level not in found}
    return found


def per_sample(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Return a closure of the losses."""
    return lambda: cross_entropy(model(x), y, reduction="none")


def shown(cost: float, budget: int) -> str:
    """Return a cost, or that it exceeds the budget."""
    return f"{cost:10,.0f}" if cost < float("inf") else f" >{budget:8,}"


def ratio(blind: float, informed: float) -> str:
    """Return blind over informed, where both are known."""
    return f"{blind / informed:7.1f}" if max(blind, informed) < float("inf") else "      ?"


def main() -> int:
    """Print one row per case and loss: medians over seeds and their ratio."""
    parser = argparse.ArgumentParser(description="Evaluations to the same loss, blind and informed.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=60_000, help="forward-equivalents per chain")
    parser.add_argument("--cases", default=",".join(CASES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"digits, 64-32-10, 1,200 samples, {options.seeds} seeds; forward-equivalents to a training loss, medians")
    print("case      loss      blind  informed   ratio")
    for case in options.cases.split(","):
        runs = {
            kind: [costs(case, kind, seed, options.budget) for seed in range(options.seeds)]
            for kind in ("blind", "informed")
        }
        for level in LOSSES:
            blind, informed = ([run.get(level, float("inf")) for run in runs[kind]] for kind in ("blind", "informed"))
            b, i = statistics.median(blind), statistics.median(informed)
            print(f"{case:8s} {level:5.2f} {shown(b, options.budget)} {shown(i, options.budget)} {ratio(b, i)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
