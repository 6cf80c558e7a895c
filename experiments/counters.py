"""What a run has used so far, for chains and gradient methods alike."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from mcmcopt.optim.info import StepInfo


@dataclass
class Counters:
    """What a run has used so far."""

    step: int = 0
    epoch: int = 0
    evaluations: int = 0
    """Of the loss of one batch; a gradient step counts as one."""
    gradients: int = 0
    """Of these, those with the gradient."""
    samples: int = 0
    """That went forward through the network; an evaluation counts in full, also where only a part is recomputed."""
    forwards: int = 0
    """The same, where a sample counts as three when the gradient was taken: forward-equivalents."""
    proposals: int = 0
    accepted: int = 0
    seconds: float = 0.0
    """In optimizer steps; evaluation and writing apart."""
    pruning_seconds: float = 0.0
    """In scoring, masking and rewiring: before the first step, and of `seconds` what comes after each step."""
    row_seconds: float = 0.0
    """Those of the last row of metrics.csv."""

    def count(self, samples: int, evaluations: int, gradients: int = 0) -> None:
        """Count evaluations of a batch of so many samples, of which some came with the gradient."""
        self.evaluations += evaluations
        self.gradients += gradients
        self.samples += evaluations * samples
        self.forwards += (evaluations + 2 * gradients) * samples


@dataclass
class Tally:
    """Proposals of one move on one layer since the last row of layers.csv."""

    proposed: int = 0
    accepted: int = 0


@dataclass
class Tallies:
    """Proposals by layer and move since the last row of layers.csv."""

    layers: dict[str, dict[str, Tally]] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Active entries and all entries of each layer, after the chain's last step."""

    def add(self, info: StepInfo) -> None:
        """Count a chain's step."""
        for name, layer in info.layers.items():
            self.sizes[name] = layer.active_entries, layer.size
            moves = self.layers.setdefault(name, {})
            for move, done in layer.moves.items():
                tally = moves.setdefault(move, Tally())
                tally.proposed += done.proposed
                tally.accepted += done.accepted

    def rows(self, step: int) -> list[dict[str, Any]]:
        """Return the rows of layers.csv since the last call."""
        rows = []
        for name, (active, entries) in self.sizes.items():
            size = {"step": step, "layer": name, "active": active, "size": entries}
            rows += [
                {
                    **size,
                    "move": move,
                    "proposed": t.proposed,
                    "accepted": t.accepted,
                    "acceptance": t.accepted / t.proposed,
                }
                for move, t in sorted(self.layers.get(name, {}).items())
                if t.proposed
            ] or [size]
        self.layers.clear()
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers."""
        layers = {name: {move: asdict(tally) for move, tally in moves.items()} for name, moves in self.layers.items()}
        return {"layers": layers, "sizes": {name: list(pair) for name, pair in self.sizes.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with saved numbers."""
        self.layers = {name: {m: Tally(**t) for m, t in moves.items()} for name, moves in state["layers"].items()}
        self.sizes = {name: (active, entries) for name, (active, entries) in state["sizes"].items()}
