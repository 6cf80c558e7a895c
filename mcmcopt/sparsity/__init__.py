"""Pruning of trained networks: exact masks by a criterion, and how well accuracy resists them."""

from mcmcopt.sparsity.criteria import Criterion, Magnitude, Random
from mcmcopt.sparsity.masks import Scope, apply_masks, count, keep_masks, nonzero, weights
from mcmcopt.sparsity.resistance import Resistance, resistance_curve

__all__ = [
    "Criterion",
    "Magnitude",
    "Random",
    "Resistance",
    "Scope",
    "apply_masks",
    "count",
    "keep_masks",
    "nonzero",
    "resistance_curve",
    "weights",
]
