"""From a parameter group to the chain's objects: checked settings, initial state, and the kernels over that state.

All state lives in plain tensors of `optimizer.state` (index tensors on the CPU, where the random numbers are drawn)
and plain numbers of the groups; the objects built here only look at it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mcmcopt.chain.blocks import Tiling, check_spec
from mcmcopt.chain.checks import non_negative
from mcmcopt.chain.inclusion import Inclusion
from mcmcopt.chain.kernel import Kernel
from mcmcopt.chain.layer import Layer
from mcmcopt.chain.moments import Moments
from mcmcopt.chain.moves import AnyMove, BirthDeath, InformedMove, RandomWalk, Swap
from mcmcopt.chain.priors import Prior
from mcmcopt.chain.random import Purpose, Streams
from mcmcopt.chain.slabs import Gaussian, Slab
from mcmcopt.chain.support import Support


def default_moves(prior: Prior) -> tuple[AnyMove, ...]:
    """Return random walks of one and of several weights; under an inclusion prior also births, deaths and swaps."""
    walks: tuple[AnyMove, ...] = (RandomWalk(k=1), RandomWalk(k=4), RandomWalk(k=16))
    return walks if prior.inclusion is None else (*walks, BirthDeath(weight=3.0), Swap())


def check_group(group: dict[str, Any]) -> None:
    """Check the settings of a parameter group and put them into their final form.

    Raises:
        ValueError, TypeError: naming the setting, its value and what would be right.
    """
    group["lam_schedule"] = group["lam"] if callable(group["lam"]) else None
    update_lam(group)
    lr = group["lr"]
    group["lr"] = lr if isinstance(lr, Tensor) else non_negative("lr", lr)
    non_negative("lr", float(group["lr"]))
    group["selection_weight"] = non_negative("selection_weight", group["selection_weight"])
    if not isinstance(group["adapt"], bool):
        raise ValueError(f"adapt must be True or False, got {group['adapt']!r}")
    group["prior"] = Gaussian(1.0) if group["prior"] is None else group["prior"]
    prior = group["prior"]
    if not isinstance(getattr(prior, "slab", None), Slab) or not isinstance(
        getattr(prior, "inclusion", prior), Inclusion | None
    ):
        raise TypeError(f"prior must be a slab such as Gaussian(1.0), or a SpikeSlab, got {prior!r}")
    moves = default_moves(prior) if group["moves"] is None else group["moves"]
    moves = tuple(moves) if isinstance(moves, Iterable) and not isinstance(moves, str) else (moves,)
    for move in moves:
        if not isinstance(move, AnyMove):
            raise TypeError(f"moves must be moves such as RandomWalk(k=8) or BirthDeath(), got {move!r}")
    if not moves:
        raise ValueError("moves must name at least one move, got none; None chooses the default")
    group["moves"] = moves
    if isinstance(group["blocks"], list):
        group["blocks"] = tuple(group["blocks"])
    check_spec(group["blocks"])
    for param in group["params"]:
        if not param.is_floating_point():
            raise TypeError(f"params must be floating, got a parameter of {param.dtype} and shape {tuple(param.shape)}")


def update_lam(group: dict[str, Any]) -> None:
    """Set the group's λ for its present step and check it."""
    schedule = group["lam_schedule"]
    group["lam"] = non_negative("lam", group["lam"] if schedule is None else schedule(group["step"]))


def initial_states(group: dict[str, Any], init: str, streams: Streams, first: int) -> dict[Tensor, dict[str, Tensor]]:
    """Return the initial state of each parameter of a group; with `init="prior"`, zero what the drawn mask leaves out.

    Args:
        group: a checked group.
        init: `"dense"` or `"prior"`.
        streams: the chain's random streams.
        first: the number of parameters in earlier groups, which numbers the streams.
    """
    states: dict[Tensor, dict[str, Tensor]] = {}
    tilings = {param: Tiling(param.shape, group["blocks"]) for param in group["params"]}
    scales = _root_mean_squares(group["params"])
    for param, tiling in tilings.items():
        states[param] = {
            "rms": torch.tensor(scales[param], dtype=torch.float64),
            "log_scale": torch.zeros(len(group["moves"]), dtype=torch.float64),
            "adaptations": torch.zeros(len(group["moves"]), dtype=torch.int64),
        }
        if _is_sparse(param, group["prior"]):
            order, count = Support.full(tiling.count)
            states[param].update(order=order, active=count)
        if any(isinstance(move, InformedMove) and move.needs_moments for move in group["moves"]):
            states[param]["second_moment"] = torch.zeros(param.numel(), dtype=torch.float64)
            states[param]["gradients_seen"] = torch.tensor(0)
    if init == "prior" and group["prior"].inclusion is not None:
        _draw_masks(group["prior"], tilings, states, streams, first)
    return states


def bind_group(number: int, group: dict[str, Any], state: Mapping[Tensor, dict[str, Tensor]]) -> dict[Tensor, Kernel]:
    """Return the kernels of a group's parameters over their state tensors."""
    prior: Prior = group["prior"]
    names = group.get("param_names") or [f"{number}.{i}" for i in range(len(group["params"]))]
    layers: list[Layer] = []
    for name, param in zip(names, group["params"], strict=True):
        own, sparse = state[param], _is_sparse(param, prior)
        layers.append(
            Layer(
                name,
                param,
                Tiling(param.shape, group["blocks"]),
                prior.slab,
                prior.inclusion.at(group["step"]) if sparse and prior.inclusion is not None else None,
                Support(own["order"], own["active"]) if sparse else None,
                float(own["rms"]),
            )
        )
    for layer in layers:
        layer.group = tuple(layers)
        if "second_moment" in state[layer.param]:
            layer.moments = Moments(state[layer.param]["second_moment"], state[layer.param]["gradients_seen"])
    if prior.per == "group":
        pool = tuple(layer for layer in layers if layer.support is not None)
        for layer in pool:
            layer.pool = pool
    return {
        layer.param: Kernel(layer, group["moves"], state[layer.param]["log_scale"], state[layer.param]["adaptations"])
        for layer in layers
    }


def _is_sparse(param: Tensor, prior: Prior) -> bool:
    return param.dim() >= 2 and prior.inclusion is not None


def _root_mean_squares(params: list[Tensor]) -> dict[Tensor, float]:
    """Return each parameter's root-mean-square; where that is zero 1/√fan-in, for a bias that of its weight."""
    scales, fan_in = {}, 1
    for param in params:
        if param.dim() >= 2 and param.numel():
            fan_in = param.numel() // param.shape[0]
        values = param.detach().double()
        rms = math.sqrt(float(values.square().mean())) if param.numel() else 0.0
        scales[param] = rms if rms > 0 else 1 / math.sqrt(fan_in)
    return scales


def _draw_masks(
    prior: Prior,
    tilings: Mapping[Tensor, Tiling],
    states: Mapping[Tensor, dict[str, Tensor]],
    streams: Streams,
    first: int,
) -> None:
    sparse = [(i, param) for i, param in enumerate(tilings) if "order" in states[param]]
    sizes = [tilings[param].count for _, param in sparse]
    assert prior.inclusion is not None  # noqa: S101 -- the caller has looked
    if prior.per == "group":
        rng = streams.at(first, Purpose.GROUP_COUNT)
        total = prior.inclusion.sample(sum(sizes), rng)
        counts = rng.multivariate_hypergeometric(sizes, total, method="marginals").tolist()
    else:
        counts = [
            prior.inclusion.sample(size, streams.at(first + i, Purpose.LAYER_COUNT))
            for (i, _), size in zip(sparse, sizes, strict=True)
        ]
    for (i, param), count in zip(sparse, counts, strict=True):
        state, tiling = states[param], tilings[param]
        order = streams.at(first + i, Purpose.INITIAL_MASK).permutation(tiling.count)
        state["order"].copy_(torch.from_numpy(order))
        state["active"].fill_(count)
        mask = tiling.expand(Support(state["order"], state["active"]).mask())
        with torch.no_grad():
            param.masked_fill_(~mask.to(param.device), 0.0)
