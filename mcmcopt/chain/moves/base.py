"""What a move is: it draws edits and knows how probable they were, forth and back.

A `Move` is blind: it draws from the state alone and knows log q(back)/q(forth) before the loss is evaluated.  An
`InformedMove` looks at the gradient as well, so that q(back) needs the gradient at the proposed state: it knows
log q of a proposal at any point, and the ratio is the difference of two of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeAlias

import numpy as np

from mcmcopt.chain.checks import positive
from mcmcopt.chain.layer import Edit, Layer
from mcmcopt.chain.point import Point

Edits: TypeAlias = tuple[Edit, ...]


class AnyMove(ABC):
    """What blind and informed moves have in common.

    Args:
        weight: how often the move is chosen, relative to the other moves that apply to the layer.
    """

    changes_support = False  # such a move applies to layers with an inclusion prior only
    labels: tuple[str, ...]  # what its proposals are called in reports

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = positive("weight", weight)

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
            unit: lr · rms of the first edit's layer.
        """
        return None

    def _options(self) -> str:
        return ""

    def __repr__(self) -> str:
        options = [self._options()] if self._options() else []
        options += [f"weight={self.weight!r}"] if self.weight != 1.0 else []
        return f"{type(self).__name__}({', '.join(options)})"


class Move(AnyMove):
    """A reversible proposal on one layer that does not look at the loss."""

    @abstractmethod
    def draw(self, layer: Layer, scale: float, rng: np.random.Generator) -> Edits | None:
        """Return proposed edits of the layer's present state, or None where the move is impossible there.

        An impossible move counts as a rejection: the probabilities of choosing moves are constant.
        """

    @abstractmethod
    def log_q_ratio(self, edits: Edits, scale: float) -> float:
        """Return log[q(back)/q(forth)] of edits at the layer's present state, the Jacobian included."""


class InformedMove(AnyMove):
    """A reversible proposal that uses the gradient of the loss; the way back uses it at the proposed state.

    With `reuse=True` both use the gradient at the state that the step began with, so that a proposal costs a plain
    evaluation.  Given that gradient the move is exact; that it is taken anew at each step's first state is not: the
    kernel then depends on where the chain was.  `n_proposals` is how long one gradient serves.  On three binary weights
    the total variation to the target is 0.054 with one proposal per step and below 0.02 with four
    (tests/statistical/test_reused_gradients.py).
    """

    needs_moments = False  # whether it goes by `Layer.moments`
    reuse = False

    @abstractmethod
    def draw(self, layer: Layer, scale: float, rng: np.random.Generator, point: Point) -> Edits | None:
        """Return proposed edits at a point, or None where the move is impossible there."""

    @abstractmethod
    def log_q(self, layer: Layer, edits: Edits, scale: float, point: Point) -> float:
        """Return the log-probability (density) of drawing these edits at a point, when `layer` has the turn."""

    def log_q_ratio(self, layer: Layer, edits: Edits, scale: float, before: Point, after: Point) -> float:
        """Return log[q(back)/q(forth)]: the edits undone at the point after, over the edits at the point before."""
        back = self.log_q(layer, way_back(edits), scale, after)
        return back - self.log_q(layer, edits, scale, before)


def way_back(edits: Edits) -> Edits:
    """Return the proposal that undoes another one: each edit reversed, the last one first."""
    return tuple(edit.reversed() for edit in reversed(edits))
