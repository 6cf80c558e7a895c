"""KL of a chain's Gibbs law, estimated on digits: python experiments/gibbs_kl.py prints a ladder of temperatures.

ρ_λ ∝ exp(-λ r) π, r the share of errors on the n training images (the chain needs no gradient), π a Gaussian on the
weights of the MLP.  KL(ρ_λ‖π) by thermodynamic integration (`mcmcopt.bounds.gibbs_kl_estimate`).  An estimate, no
bound: chains that have not forgotten where they came from overstate r and the integral.  What the kl form would give if
it were KL stands beside it, and the error on the test set.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

LADDER = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 250.0, 500.0, 1000.0, 2000.0)
DELTA = 0.05


@dataclass(frozen=True)
class Rung:
    """Means over the chain at one λ: errors on the training and on the test set."""

    lam: float
    risk: float
    test_risk: float


def climb(seed: int, sweeps: int, ladder: Sequence[float] = LADDER) -> tuple[list[Rung], int]:
    """Return the rungs, each going on from the last state of the one before, and n.

    Args:
        seed: of split, network and chain.
        sweeps: steps of 200 proposals at each λ, of which the second half counts.
        ladder: values of λ, 0 first.
    """
    import torch

    from experiments.data import digits
    from experiments.models import mlp
    from mcmcopt import Gaussian, GreedyMCMC, RandomWalk

    data = digits(1200, 197, 400, stratified=True, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = mlp()
        with torch.no_grad():  # from the prior, to begin with λ = 0
            for param in model.parameters():
                param.normal_(0, 0.5)
    moves = [RandomWalk(k=1), RandomWalk(k=16), RandomWalk(k=200)]
    optimizer = GreedyMCMC(model.parameters(), 0.0, prior=Gaussian(0.5), moves=moves, seed=seed)

    def errors(part: str = "train") -> torch.Tensor:
        split = getattr(data, part)
        return (model(split.x).argmax(1) != split.y).double()

    rungs = []
    for lam in ladder:
        optimizer.param_groups[0]["lam"] = lam
        train, test = [], []
        for sweep in range(sweeps):
            value = float(optimizer.step(errors))
            if sweep >= sweeps // 2:
                train.append(value)
                with torch.no_grad():
                    test.append(float(errors("test").mean()))
        rungs.append(Rung(lam, sum(train) / len(train), sum(test) / len(test)))
    return rungs, len(data.train)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Estimate KL of the chain's Gibbs law on digits.")
    parser.add_argument("--seed", type=int, default=0, help="of split, network and chain")
    parser.add_argument("--sweeps", type=int, default=20, help="steps at each λ (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.sweeps < 2:
        parser.error(f"--sweeps must be at least 2, got {options.sweeps}")
    import torch

    from mcmcopt.bounds import gibbs_kl_estimate, kl_bound

    torch.set_num_threads(1)
    rungs, n = climb(options.seed, options.sweeps)
    estimates = gibbs_kl_estimate([rung.lam for rung in rungs], [rung.risk for rung in rungs])
    print("lambda  risk, %  KL, estimated  kl form with it, %  test error, %")
    for rung, estimate in zip(rungs, estimates, strict=True):
        value, test = 100 * kl_bound(rung.risk, max(estimate, 0.0), n, DELTA), 100 * rung.test_risk
        print(f"{rung.lam:6g}  {100 * rung.risk:7.2f}  {estimate:13.1f}  {value:18.1f}  {test:13.2f}")
    print(f"n = {n}, delta = {DELTA}; estimates, not bounds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
