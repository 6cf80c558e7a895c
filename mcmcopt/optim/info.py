"""What the last step did, as plain typed records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mcmcopt.chain.kernel import Kernel
from mcmcopt.chain.priors import log_prior


@dataclass
class MoveInfo:
    """One move on one layer during one step."""

    proposed: int = 0
    accepted: int = 0
    probability: float = 0.0
    """Sum of min(1, A) over the proposals; one that is rejected early adds 0, since its A is never computed."""

    @property
    def acceptance_rate(self) -> float:
        """The mean acceptance probability, early rejections counted as 0; nan where nothing was proposed."""
        return self.probability / self.proposed if self.proposed else float("nan")


@dataclass
class LayerTally:
    """What a step counts on one layer while it runs."""

    impossible: int = 0
    moves: dict[str, MoveInfo] = field(default_factory=dict)


@dataclass
class Counts:
    """What a step counts over all layers while it runs; see `StepInfo`."""

    evaluations: int = 0
    non_finite: int = 0
    speculated: int = 0
    early: int = 0
    speculate: int = 1
    gradients: int = 0


@dataclass
class LayerInfo:
    """One layer after one step."""

    blocks: int
    """Number of blocks."""
    active: int
    """Number of active blocks."""
    size: int
    """Number of entries."""
    active_entries: int
    """Number of entries in active blocks."""
    is_weight: bool
    """Two or more dimensions."""
    impossible: int
    """Moves that the state did not allow or that changed nothing; no loss was evaluated."""
    moves: dict[str, MoveInfo]
    """Counts by move; births and deaths apart."""
    scales: dict[str, float]
    """Present scale of each move's proposals."""


@dataclass
class StepInfo:
    """One `step`."""

    step: int
    lam: float
    """Inverse temperature; nan where parameter groups differ, and with it all that depends on it."""
    loss: float
    data_term: float
    """-λℓ of the retained state."""
    log_prior: float
    thermal_excess: float
    """d/(2λ) with d active entries: how far above a minimum of the loss the chain sits, by equipartition."""
    evaluations: int
    """Evaluations of the loss, the first one of the step and those thrown away included."""
    non_finite: int
    """Proposals rejected because their loss was not finite."""
    layers: dict[str, LayerInfo]
    speculated: int = 0
    """Evaluations thrown away because an earlier proposal of their window was accepted."""
    early: int = 0
    """Proposals rejected without an evaluation, because no loss could have saved them."""
    speculate: int = 1
    """Proposals to a window, as last used."""
    gradients: int = 0
    """Gradients of the loss; each of them came with one of the evaluations, and costs about two more."""

    @property
    def log_target(self) -> float:
        """-λℓ + log π(w, γ), up to the posterior's normalising constant."""
        return self.data_term + self.log_prior

    @property
    def proposed(self) -> int:
        """Proposals that were decided: scored, or rejected early."""
        return sum(move.proposed for layer in self.layers.values() for move in layer.moves.values())

    @property
    def accepted(self) -> int:
        """Proposals that were accepted."""
        return sum(move.accepted for layer in self.layers.values() for move in layer.moves.values())

    @property
    def share_active(self) -> float:
        """Share of weights (parameters of two or more dimensions) that are active; nan without any."""
        weights = [layer for layer in self.layers.values() if layer.is_weight]
        size = sum(layer.size for layer in weights)
        return sum(layer.active_entries for layer in weights) / size if size else float("nan")


def report(
    groups: list[dict[str, Any]],
    kernels: Mapping[Tensor, Kernel],
    tallies: Mapping[Tensor, LayerTally],
    loss: float,
    counts: Counts,
) -> StepInfo:
    """Return the report of a step.

    Args:
        groups: the optimizer's parameter groups.
        kernels: the kernel of each parameter.
        tallies: what was counted on the layers that could be drawn.
        loss: mean loss of the retained state.
        counts: what was counted over all layers, evaluations of the present loss included.
    """
    lams = {group["lam"] for group in groups}
    lam = lams.pop() if len(lams) == 1 else math.nan
    layers, excess = {}, 0.0
    for group in groups:
        for param in group["params"]:
            kernel = kernels[param]
            layer, tally = kernel.layer, tallies.get(param, LayerTally())
            layers[layer.name] = LayerInfo(
                blocks=layer.tiling.count,
                active=layer.active,
                size=layer.tiling.numel,
                active_entries=layer.active_entries,
                is_weight=param.dim() >= 2,
                impossible=tally.impossible,
                moves=tally.moves,
                scales={repr(kernel.moves[i]): kernel.scale(i, float(group["lr"])) for i in kernel.choices},
            )
            excess += layer.active_entries / (2 * group["lam"]) if group["lam"] else math.inf
    return StepInfo(
        step=groups[0]["step"],
        lam=lam,
        loss=loss,
        data_term=-lam * loss,
        log_prior=log_prior([kernel.layer for kernel in kernels.values()]),
        thermal_excess=excess,
        evaluations=counts.evaluations,
        non_finite=counts.non_finite,
        layers=layers,
        speculated=counts.speculated,
        early=counts.early,
        speculate=counts.speculate,
        gradients=counts.gradients,
    )
