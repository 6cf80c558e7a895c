"""Layers that vanish, on digits: python experiments/layer_sparsity.py prints a markdown table.

A deep narrow ReLU network trains under `mcmcopt.sparsity.LayerSparsity` (Hebiri and Lederer 2020) at several strengths,
`merged` builds the network that remains, and that one is trained on without the regulariser.  Beside it stands its
control: a network of the same remaining shape trained from scratch for as many epochs, without the regulariser.  At
strength 0 it is the network itself.  Where all hidden layers vanish, what remains is a linear classifier: the digits'
pixels lie in 0..1, so that the first layer may vanish as well.

Seconds are medians over forward passes of the test images that alternate between both networks, on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

if TYPE_CHECKING:
    from torch import Tensor, nn

    from experiments.data import Data
    from mcmcopt.sparsity import Pruner

SIZES = (64, 32, 32, 32, 10)
STRENGTHS = (0.0, 0.01, 0.03, 0.1, 1.0)
LR, MOMENTUM, WEIGHT_DECAY, BATCH = 0.1, 0.9, 5e-4, 50


@dataclass(frozen=True)
class Outcome:
    """One training: accuracies as shares of the test images, milliseconds of a pass over all of them.

    Args:
        gone: names of the layers that vanished.
        remaining: sizes of the network that remains, inputs to outputs.
        before, after: parameters, biases included.
        trained, merged, refitted: accuracy under the regulariser, after merging, and trained on without it.
        fresh: of a network of the remaining shape from scratch.
        difference: the largest one between the logits before and after merging.
        ms_before, ms_after: of one forward pass.
    """

    gone: tuple[str, ...]
    remaining: tuple[int, ...]
    before: int
    after: int
    trained: float
    merged: float
    refitted: float
    fresh: float
    difference: float
    ms_before: float
    ms_after: float


def train(model: nn.Module, data: Data, epochs: int, seed: int, pruning: Pruner | None = None, lr: float = LR) -> float:
    """Train with SGD, its rate falling to 0 by a cosine; return the accuracy on the test images."""
    import torch

    from experiments.batches import Batches
    from experiments.evaluate import evaluate
    from experiments.train import Training

    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    batches = Batches(len(data.train), BATCH, seed)
    training = Training(model, optimizer, data.train, batches, epochs=epochs, decay="cosine", pruning=pruning)
    for _ in training.run():
        pass
    return evaluate(model, data.test).accuracy


def built(sizes: Sequence[int], seed: int) -> nn.Sequential:
    """Return a network of these sizes; the global random state stays as it is."""
    import torch

    from experiments.models import mlp

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return mlp(sizes)


def milliseconds(models: Sequence[nn.Module], x: Tensor, repeats: int) -> list[float]:
    """Return the median time of one forward pass of each model, in turns."""
    import torch

    times: list[list[float]] = [[] for _ in models]
    with torch.no_grad():
        for _ in range(repeats + 3):
            for own, model in zip(times, models, strict=True):
                start = time.perf_counter()
                model(x)
                own.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(own[3:]) for own in times]


def run(sizes: Sequence[int], strength: float, seed: int, epochs: int, refit: int, repeats: int = 300) -> Outcome:
    """Return what one strength gives with one seed, which fixes split, network and order."""
    import torch

    from experiments.data import digits
    from experiments.evaluate import evaluate
    from mcmcopt.sparsity import LayerSparsity, count, merged
    from mcmcopt.sparsity.layer_sparsity import vanished

    data = digits(1200, 197, 400, stratified=True, seed=seed)
    model = built(sizes, seed)
    trained = train(model, data, epochs, seed, LayerSparsity(strength, nonnegative_inputs=True))
    small = merged(model, nonnegative_inputs=True)
    with torch.no_grad():
        difference = float((model(data.test.x) - small(data.test.x)).abs().max())
    accuracy = evaluate(small, data.test).accuracy
    ms_before, ms_after = milliseconds((model, small), data.test.x, repeats)
    linear = [module for module in small if isinstance(module, torch.nn.Linear)]
    remaining = (linear[0].in_features, *(module.out_features for module in linear))
    return Outcome(
        gone=tuple(vanished(model, nonnegative_inputs=True)),
        remaining=remaining,
        before=count(model, weights_only=False),
        after=count(small, weights_only=False),
        trained=trained,
        merged=accuracy,
        # products of nonnegative matrices have large singular values: the whole rate can throw them out
        refitted=train(small, data, refit, seed + 1, lr=LR / 2),
        fresh=train(built(remaining, seed), data, epochs + refit, seed),
        difference=difference,
        ms_before=ms_before,
        ms_after=ms_after,
    )


def line(strength: float, outcomes: Sequence[Outcome]) -> str:
    """Return a row of the table: means over seeds, ranges where they differ."""

    def mean(name: str) -> float:
        return statistics.fmean(getattr(outcome, name) for outcome in outcomes)

    def span(values: Sequence[int]) -> str:
        low, high = min(values), max(values)
        return f"{low:,}" if low == high else f"{low:,}–{high:,}"

    names = sorted({name for outcome in outcomes for name in outcome.gone})
    share = [f"{n} {sum(n in o.gone for o in outcomes)}/{len(outcomes)}" for n in names]
    return (
        f"| {strength:g} | {', '.join(share) or 'none'} | {span([o.before for o in outcomes])} → "
        f"{span([o.after for o in outcomes])} | {100 * mean('trained'):.2f} | {100 * mean('merged'):.2f} | "
        f"{100 * mean('refitted'):.2f} | {100 * mean('fresh'):.2f} | {max(o.difference for o in outcomes):.1e} | "
        f"{mean('ms_before'):.3f} → {mean('ms_after'):.3f} |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Layers that vanish, on digits.")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="of the network (default: %(default)s)")
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS, help="λ (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=30, help="under the regulariser (default: %(default)s)")
    parser.add_argument("--refit", type=int, default=10, help="epochs without it (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: %(default)s)")
    options = parser.parse_args(arguments)
    if len(options.sizes) < 3 or min(options.sizes) < 1 or (options.sizes[0], options.sizes[-1]) != (64, 10):
        parser.error(f"--sizes must be 64, at least one hidden layer, 10, got {options.sizes}")
    if min(options.epochs, options.refit, options.seeds) < 1:
        parser.error("--epochs, --refit and --seeds must be at least 1")
    if not all(0 <= strength < float("inf") for strength in options.strengths):
        parser.error(f"--strengths must be finite and at least 0, got {options.strengths}")
    import torch

    torch.set_num_threads(1)
    sizes, seeds = tuple(options.sizes), options.seeds
    print(
        f"MLP {'-'.join(map(str, sizes))} on digits, {options.epochs} epochs + {options.refit}; mean of {seeds} seeds"
    )
    print()
    print(
        "| λ | vanished (of seeds) | parameters | trained, % | merged, % | refitted, % | same shape from scratch, % "
        "| largest change of a logit | ms for 400 images |"
    )
    print("|" + "---|" * 9)
    for strength in options.strengths:
        outcomes = [run(sizes, strength, seed, options.epochs, options.refit) for seed in range(seeds)]
        print(line(strength, outcomes), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
