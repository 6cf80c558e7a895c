"""The oracle bound on a linear model: python experiments/oracle_bound.py writes oracle-bound.svg and prints a table.

Online regression: at each t the learner predicts y_t by E_ρ[⟨x_t, W⟩], ρ the law that the samples before t leave, and
pays ℓ_t = (prediction - y_t)².  The claim of the slides is

    Σ_t ℓ_t ≤ inf_W {Σ_t ℓ_t(W) + α ‖W‖₀},

whose right side is the minimum over all subsets of d ≤ 10 columns of the least-squares residual plus α k.  α is no
constant: to predict k coefficients from n samples costs of the order of k log n even to who knows which they are, so
that every fixed α fails for some n.  Stated here: α(n) = Var(y) (log n + 2 log d), ½ log n for the value of a
coefficient and log d for its name, in units of 2 Var(y).  It is no theorem for this learner (those of Gerchinovitz 2013
have other constants, a bound on |y| in the place of its variance, and a hotter λ); so the table also says the least α
with which the inequality held.  The learner is GreedyMCMC at λ ℓ = Σ (…)²/(2σ²), the Bayes posterior given σ, under a
spike-and-slab prior.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

if TYPE_CHECKING:
    import numpy as np

    from experiments.figures.style import Picture

COEFFICIENTS = (1.0, -0.8, 0.6)
NOISE = 0.5


def alpha(n: int, d: int) -> float:
    """Return the price of one coefficient, Var(y) (log n + 2 log d)."""
    return (NOISE**2 + sum(w * w for w in COEFFICIENTS)) * (math.log(n) + 2 * math.log(d))


def problem(n: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return standard normal inputs (n, d), and outputs (n,) of which three columns have a part, with noise."""
    import numpy as np

    rng = np.random.default_rng([seed, n, d])
    x = rng.standard_normal((n, d))
    return x, x[:, : len(COEFFICIENTS)] @ np.array(COEFFICIENTS) + NOISE * rng.standard_normal(n)


def residuals(x: np.ndarray, y: np.ndarray) -> list[float]:
    """Return the least Σ loss of k columns for k = 0 … d, over all subsets."""
    import numpy as np

    best = [float(y @ y)]
    for k in range(1, x.shape[1] + 1):
        left = []
        for columns in itertools.combinations(range(x.shape[1]), k):
            chosen = x[:, columns]
            left.append(float(np.square(y - chosen @ np.linalg.lstsq(chosen, y, rcond=None)[0]).sum()))
        best.append(min(left))
    return best


def oracle(best: Sequence[float], price: float) -> tuple[float, int]:
    """Return min_k residual + price · k and the k that has it."""
    return min((residual + price * k, k) for k, residual in enumerate(best))


def least_alpha(best: Sequence[float], paid: float) -> float:
    """Return the smallest α with paid ≤ min_k residual + α k; inf if predicting 0 throughout had been cheaper."""
    if paid > best[0]:
        return math.inf
    return max(0.0, *((paid - residual) / k for k, residual in enumerate(best) if k))


def chain_losses(x: np.ndarray, y: np.ndarray, proposals: int, seed: int) -> np.ndarray:
    """Return the loss (n,) of each prediction by a chain that goes on from sample to sample.

    A prediction is the mean over `proposals` proposals in blocks of 20, each block's last state.
    """
    import numpy as np
    import torch

    from mcmcopt import BirthDeath, Gaussian, GreedyMCMC, RandomWalk, SpikeSlab

    inputs, outputs = torch.from_numpy(x), torch.from_numpy(y)
    layer = torch.nn.Linear(x.shape[1], 1, bias=False).double()
    torch.nn.init.zeros_(layer.weight)
    prior = SpikeSlab(1 / x.shape[1], slab=Gaussian(1.0))
    moves = [RandomWalk(k=1), BirthDeath(weight=2.0)]
    optimizer = GreedyMCMC(layer.parameters(), 0.0, n_proposals=20, prior=prior, moves=moves, seed=seed)
    weight, losses = layer.weight.detach(), np.empty(len(y))
    for t in range(len(y)):
        seen, target = inputs[:t], outputs[:t]
        optimizer.param_groups[0]["lam"] = t / (2 * NOISE**2)

        def loss(seen: torch.Tensor = seen, target: torch.Tensor = target) -> torch.Tensor:
            return (target - seen @ weight[0]).square() if len(target) else torch.zeros(1, dtype=torch.float64)

        total = torch.zeros(x.shape[1], dtype=torch.float64)
        for _ in range(proposals // 20):
            optimizer.step(loss)
            total += weight[0]
        losses[t] = float(inputs[t] @ total / (proposals // 20) - outputs[t]) ** 2
    return losses


def table(lengths: Sequence[int], d: int, seeds: Sequence[int], proposals: int) -> list[dict[str, Any]]:
    """Return one row per length and seed: both sides, the least α, and what least squares in hindsight would pay."""
    rows = []
    for seed in seeds:
        x, y = problem(max(lengths), d, seed)
        paid = chain_losses(x, y, proposals, seed)
        for n in lengths:
            best, price, chain = residuals(x[:n], y[:n]), alpha(n, d), float(paid[:n].sum())
            right, k = oracle(best, price)
            row = {"seed": seed, "n": n, "alpha": price, "k": k, "chain": chain, "oracle": right}
            rows.append(row | {"least_alpha": least_alpha(best, chain), "hindsight": best[-1], "zero": best[0]})
    return rows


def figure(rows: Sequence[dict[str, Any]]) -> Picture:
    """Return both sides less the residual of the best network in hindsight, against n."""
    import numpy as np
    from matplotlib.figure import Figure

    from experiments.figures.style import Picture, legend, look, style

    lengths = sorted({row["n"] for row in rows})
    with style():
        fig = Figure(figsize=(6, 3.6))
        ax = fig.subplots()
        for i, (key, label) in enumerate(
            (
                ("zero", "predicting 0"),
                ("oracle", "min Σ loss + α(n)‖W‖₀"),
                ("chain", "chain"),
                ("hindsight", "least squares in hindsight"),
            )
        ):
            values = np.array([[row[key] for row in rows if row["n"] == n] for n in lengths])
            ax.plot(lengths, values.mean(1), label=label, **look(i, len(lengths)))
            ax.fill_between(lengths, values.min(1), values.max(1), alpha=0.12, lw=0, color=look(i, 1)["color"])
        ax.set_xscale("log")
        ax.set_xlabel("samples n")
        ax.set_yscale("log")
        ax.set_ylabel("Σ loss")
        legend(fig, ax)
    seeds = len({row["seed"] for row in rows})
    caption = f"Lines: mean over {seeds} seeds; bands: lowest to highest."
    return Picture("oracle-bound", "Online loss of the chain against the oracle bound", caption, fig)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Chain against the oracle bound on a linear model.")
    parser.add_argument("--out", type=Path, default=Path("outputs/oracle-bound"), help="folder (default: %(default)s)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[10, 20, 40, 80, 160], help="values of n")
    parser.add_argument("--d", type=int, default=8, help="columns, at most 10 (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: %(default)s)")
    parser.add_argument("--proposals", type=int, default=400, help="before each sample (default: %(default)s)")
    options = parser.parse_args(arguments)
    if not len(COEFFICIENTS) <= options.d <= 10:
        parser.error(f"--d must lie between {len(COEFFICIENTS)} and 10, got {options.d}")
    if min(options.lengths) < 1 or options.seeds < 1 or options.proposals < 20:
        parser.error("--lengths and --seeds must be at least 1, --proposals at least 20")
    import torch

    from experiments.record import write_text

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="lam=")
    rows = table(options.lengths, options.d, range(options.seeds), options.proposals)
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "oracle-bound.svg", figure(rows).svg + "\n")
    print("means over seeds; least alpha: its range")
    print("   n  predicting 0    bound   k    chain  hindsight  alpha(n)   least alpha   chain below the bound")
    for n in sorted(set(options.lengths)):
        own = [row for row in rows if row["n"] == n]
        mean = {key: sum(row[key] for row in own) / len(own) for key in own[0]}
        least = f"{min(row['least_alpha'] for row in own):5.1f}-{max(row['least_alpha'] for row in own):.1f}"
        held = sum(row["chain"] <= row["oracle"] for row in own)
        print(
            f"{n:4d}  {mean['zero']:12.1f}  {mean['oracle']:7.1f}  {mean['k']:.1f}  {mean['chain']:7.1f}  "
            f"{mean['hindsight']:9.1f}  {mean['alpha']:8.1f}   {least}   {held} of {len(own)}"
        )
    print(f"written to {options.out / 'oracle-bound.svg'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
