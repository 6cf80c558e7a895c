"""What the chain costs beyond the closure: time per proposal against a bare loop, on the digits MLP.

    python benchmarks/overhead.py

The bare loop draws a layer and k weights of it, adds noise, calls the same closure, and puts the old values back: no
prior, no decision, no adaptation, no record.  Both run in turns within one process, on one thread; the table gives
medians, and the ratio as the median of the ratios of neighbouring rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mcmcopt import GreedyMCMC, RandomWalk, SpikeSlab

SAMPLES = 1400


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def bare_loop(params: list[Tensor], closure: Callable[[], Tensor], k: int, n: int) -> None:
    with torch.no_grad():
        for _ in range(n):
            values = params[int(torch.randint(len(params), ()))].detach()
            indices = torch.randint(values.numel(), (k,))
            old = values.take(indices)
            values.put_(indices, old + 0.01 * torch.randn(k))
            closure().mean().item()
            values.put_(indices, old)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--proposals", type=int, default=400, help="proposals per round")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(SAMPLES, 64, generator=generator)
    y = torch.randint(10, (SAMPLES,), generator=generator)

    def scorer(model: nn.Module) -> Callable[[], Tensor]:
        return lambda: cross_entropy(model(x), y, reduction="none")

    n = arguments.proposals
    print(f"digits MLP 64-32-10, {SAMPLES} samples, losses per sample, 1 thread, {arguments.rounds} rounds of {n}")
    print(f"{'chain':<44}{'µs/proposal':>12}{'bare µs':>10}{'ratio':>8}{'extra µs':>10}")
    settings = {
        "dense, walk of 1 weight": (1, {"moves": RandomWalk(k=1)}),
        "dense, walk of 8 weights": (8, {"moves": RandomWalk(k=8)}),
        "dense, default moves": (8, {}),
        "spike and slab, default moves": (8, {"prior": SpikeSlab(p=0.1), "init": "prior"}),
    }
    for name, (k, options) in settings.items():
        model, plain = network(), network()
        optimizer = GreedyMCMC(model.parameters(), lam=SAMPLES, n_proposals=n, **options)
        score, score_plain, params = scorer(model), scorer(plain), list(plain.parameters())
        optimizer.step(score)
        bare_loop(params, score_plain, k, n)
        ours, bare, ratios = [], [], []
        for _ in range(arguments.rounds):
            bare.append(seconds(lambda: bare_loop(params, score_plain, k, n)) / n)  # noqa: B023
            time_of_step = seconds(lambda: optimizer.step(score))  # noqa: B023
            ours.append(time_of_step / optimizer.info.evaluations)
            ratios.append(ours[-1] / bare[-1])
        a, b = statistics.median(ours) * 1e6, statistics.median(bare) * 1e6
        print(f"{name:<44}{a:>12.1f}{b:>10.1f}{statistics.median(ratios):>8.3f}{a - b:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
