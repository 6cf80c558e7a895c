"""Pruning of trained networks: exact masks by a criterion, and how well accuracy resists them."""

from mcmcopt.sparsity.criteria import Criterion, Magnitude, Random
from mcmcopt.sparsity.curve import area, sparsity_at
from mcmcopt.sparsity.masked import Pruner
from mcmcopt.sparsity.masks import Scope, apply_masks, count, keep_masks, nonzero, weights
from mcmcopt.sparsity.resistance import Resistance, resistance_curve
from mcmcopt.sparsity.rigl import RigL
from mcmcopt.sparsity.schedules import GradualMagnitude, OneShot

__all__ = [
    "Criterion",
    "GradualMagnitude",
    "Magnitude",
    "OneShot",
    "Pruner",
    "Random",
    "Resistance",
    "RigL",
    "Scope",
    "apply_masks",
    "area",
    "count",
    "keep_masks",
    "nonzero",
    "resistance_curve",
    "sparsity_at",
    "weights",
]
