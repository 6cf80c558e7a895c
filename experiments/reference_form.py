"""What a proposal costs in the form of the 2021 reference code: a changed network, one forward on the whole batch.

Measured in the run that it is compared with, on the same threads, with the run's own kind of proposals.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mcmcopt.chain.random import Purpose, Streams
from mcmcopt.loss.objective import Change, lent
from mcmcopt.optim.greedy_mcmc import GreedyMCMC


@torch.no_grad()
def seconds_per_proposal(chain: GreedyMCMC, model: nn.Module, x: Tensor, y: Tensor, n: int) -> float:
    """Return the median time of n evaluations of a changed network on a batch; the weights are as before afterwards.

    Args:
        chain: names the parameters, of which one weight each is changed; what is changed does not matter to the cost.
        model: in eval mode.
        x, y: the batch.
        n: number of proposals timed, after one that is not.
    """
    weights = [param for group in chain.param_groups for param in group["params"] if param.dim() >= 2]
    rng = Streams(0).at(0, Purpose.PROPOSAL)
    times = []
    for _ in range(n + 1):
        param = weights[int(rng.integers(len(weights)))]
        index = torch.tensor([int(rng.integers(param.numel()))], device=param.device)
        change: Change = {param: (index, param.detach().take(index) + 1e-3)}
        start = time.perf_counter()
        with lent(change):
            float(cross_entropy(model(x), y))
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
