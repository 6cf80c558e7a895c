"""What the last step did, as plain typed records."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class MoveInfo:
    """One move on one layer during one step."""

    proposed: int = 0
    accepted: int = 0
    probability: float = 0.0
    """Sum of min(1, A) over the proposals."""

    @property
    def acceptance_rate(self) -> float:
        """The mean acceptance probability; nan where nothing was proposed."""
        return self.probability / self.proposed if self.proposed else float("nan")


@dataclass
class LayerTally:
    """What a step counts on one layer while it runs."""

    impossible: int = 0
    moves: dict[str, MoveInfo] = field(default_factory=dict)


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
    """Evaluations of the loss, the first one of the step included."""
    non_finite: int
    """Proposals rejected because their loss was not finite."""
    layers: dict[str, LayerInfo]

    @property
    def log_target(self) -> float:
        """-λℓ + log π(w, γ), up to the posterior's normalising constant."""
        return self.data_term + self.log_prior

    @property
    def proposed(self) -> int:
        """Proposals that were scored."""
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
