"""What a move is: it draws edits of one layer and knows log q(back)/q(forth) of any edits that it can draw."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeAlias

import numpy as np

from mcmcopt.chain.checks import positive
from mcmcopt.chain.layer import Edit, Layer

Edits: TypeAlias = tuple[Edit, ...]


class Move(ABC):
    """A reversible proposal on one layer.

    Args:
        weight: how often the move is chosen, relative to the other moves that apply to the layer.
    """

    changes_support = False  # such a move applies to layers with an inclusion prior only
    labels: tuple[str, ...]  # what its proposals are called in reports

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = positive("weight", weight)

    @abstractmethod
    def draw(self, layer: Layer, scale: float, rng: np.random.Generator) -> Edits | None:
        """Return proposed edits of the layer's present state, or None where the move is impossible there.

        An impossible move counts as a rejection: the probabilities of choosing moves are constant.
        """

    @abstractmethod
    def log_q_ratio(self, edits: Edits, scale: float) -> float:
        """Return log[q(back)/q(forth)] of edits at the layer's present state, the Jacobian included."""

    def label(self, edits: Edits) -> str:
        """Return the label under which a proposal is counted."""
        return self.labels[0]

    def adapt(self, log_scale: float, t: int, edits: Edits, accepted: bool, unit: float) -> float | None:
        """Return the adapted part of the log-scale after a decision, or None where there is nothing to learn.

        A pure function: speculation calls it ahead of a decision as if that were a rejection.

        Args:
            log_scale: its present value.
            t: how often it was adapted before.
            edits: the proposal.
            accepted: the decision.
            unit: lr · rms of the layer.
        """
        return None

    def _options(self) -> str:
        return ""

    def __repr__(self) -> str:
        options = [self._options()] if self._options() else []
        options += [f"weight={self.weight!r}"] if self.weight != 1.0 else []
        return f"{type(self).__name__}({', '.join(options)})"
