"""One small problem, a table of optimizers for it, and bitwise records of everything that a step may change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mcmcopt import (
    BetaBinomial,
    BirthDeath,
    GeometricAnnealing,
    GreedyMCMC,
    InformedBirthDeath,
    InformedFlip,
    InformedSwap,
    Langevin,
    Laplace,
    RandomWalk,
    SignFlip,
    SpikeSlab,
    StudentT,
    Swap,
    Toggle,
)

JUMPS = (RandomWalk(k=2), BirthDeath(), Swap(), Toggle())
CONFIGS: dict[str, dict[str, Any]] = {
    "dense": {},
    "scalar": {"prior": SpikeSlab(0.3), "init": "prior"},
    "row": {"prior": SpikeSlab(0.5, slab=Laplace(0.5)), "blocks": "row", "moves": JUMPS},
    "tile": {"prior": SpikeSlab(0.5), "blocks": (2, 3), "moves": (RandomWalk(), *JUMPS)},
    "group": {"prior": SpikeSlab(inclusion=BetaBinomial(), per="group"), "init": "prior", "moves": JUMPS},
    "noise": {"prior": StudentT(3.0, 0.5), "moves": (RandomWalk(k=3, noise="student_t"), SignFlip(k=2))},
    "hot": {"prior": SpikeSlab(0.5), "init": "prior", "moves": JUMPS, "lam": 0.0, "n_proposals": 80},
    "annealed": {"prior": SpikeSlab(0.3), "lam": GeometricAnnealing(1.0, 1e3, 5)},
    "climb": {"prior": SpikeSlab(0.3), "rule": "improve"},
    "frozen-scales": {"prior": SpikeSlab(0.3), "adapt": False, "lr": 0.1},
    "informed": {
        "prior": SpikeSlab(0.5),
        "moves": (RandomWalk(k=2), InformedBirthDeath(2), InformedSwap(scope="group"), BirthDeath()),
    },
    "langevin": {
        "prior": SpikeSlab(0.5),
        "moves": (Langevin("group", precondition=True), InformedBirthDeath(scope="group", saliency="snip")),
        "lr": 0.2,
    },
    "informed-flip": {"prior": StudentT(3.0, 0.5), "moves": (InformedFlip(2), InformedFlip(1, "group"), RandomWalk(4))},
    "informed-obd": {
        "prior": SpikeSlab(inclusion=BetaBinomial(), per="group"),
        "blocks": (2, 3),
        "moves": (InformedBirthDeath(saliency="obd"), InformedSwap(saliency="obd", temperature="rank"), RandomWalk()),
    },
}
INFORMED = ("informed", "langevin", "informed-flip", "informed-obd")
"""Those whose moves ask for gradients."""


class Net(nn.Module):
    """Two linear layers, batch normalisation in between and a zero-dimensional parameter at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.second = nn.Linear(6, 3)
        self.temperature = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.norm(self.first(x)))) * self.temperature


def make_model(seed: int = 0, dtype: torch.dtype = torch.float32) -> Net:
    """Return a network in eval mode without disturbing the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net().to(dtype).eval()


def make_closure(model: nn.Module, per_sample: bool = False, backward: bool = False) -> Callable[[], torch.Tensor]:
    """Return the cross-entropy of a fixed batch of 16."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 4, generator=generator).to(next(model.parameters()).dtype)
    y = torch.randint(3, (16,), generator=generator)

    def closure() -> torch.Tensor:
        loss = nn.functional.cross_entropy(model(x), y, reduction="none" if per_sample else "mean")
        if backward:
            loss.mean().backward()
        return loss

    return closure


def make(config: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **options: Any):
    """Return a model, an optimizer of the table and a closure."""
    model = make_model(dtype=dtype)
    settings = {"lam": 30.0, "n_proposals": 25, "seed": seed} | CONFIGS[config] | options
    return model, GreedyMCMC(model.parameters(), **settings), make_closure(model)


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    """Return a tensor's content; -0.0 differs from 0.0, and nan equals itself."""
    flat = tensor.detach().clone(memory_format=torch.contiguous_format).view(-1)
    return tensor.dtype, tuple(tensor.shape), flat.view(torch.uint8).numpy().tobytes()


def snapshot(model: nn.Module, optimizer: GreedyMCMC) -> dict[str, Any]:
    """Return everything that a failed step must leave as it was."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    derived = ("params", "lam")  # lam is a function of the step
    return {
        "weights": {name: bits(tensor) for name, tensor in model.state_dict().items()},
        "grads": [None if param.grad is None else (id(param.grad), bits(param.grad)) for param in params],
        "state": [{name: bits(tensor) for name, tensor in optimizer.state[param].items()} for param in params],
        "masks": [bits(optimizer.mask(param)) for param in params],
        "groups": [
            {key: repr(v) for key, v in group.items() if key not in derived} for group in optimizer.param_groups
        ],
        "info": copy.deepcopy(optimizer.info),
    }


def chain(model: nn.Module, optimizer: GreedyMCMC) -> dict[str, Any]:
    """Return what two copies of one chain must have in common."""
    return {key: value for key, value in snapshot(model, optimizer).items() if key != "grads"}
