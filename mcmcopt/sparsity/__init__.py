"""Pruning: exact masks by a criterion, before, during or after training, and how well accuracy resists them."""

from mcmcopt.sparsity.criteria import Criterion, Magnitude, Random, shuffled
from mcmcopt.sparsity.curvature import OBD, gauss_newton_diagonal
from mcmcopt.sparsity.curve import area, sparsity_at
from mcmcopt.sparsity.deep_rewiring import DeepR, SoftDeepR
from mcmcopt.sparsity.freeze import Frozen, freeze, from_state_dict, from_torch, to_state_dict, to_torch
from mcmcopt.sparsity.layer_sparsity import LayerSparsity, merged
from mcmcopt.sparsity.masked import Pruner
from mcmcopt.sparsity.masks import Scope, apply_masks, count, keep_masks, nonzero, weights
from mcmcopt.sparsity.network import mean_gradient
from mcmcopt.sparsity.posterior import AcceptanceCounts, Inclusion
from mcmcopt.sparsity.prune import prune, sparsity_after
from mcmcopt.sparsity.resistance import Resistance, resistance_curve
from mcmcopt.sparsity.rigl import RigL
from mcmcopt.sparsity.saliency import SNIP, GraSP, Skeletonization, SynFlow
from mcmcopt.sparsity.schedules import Gradual, GradualMagnitude, OneShot

__all__ = [
    "OBD",
    "SNIP",
    "AcceptanceCounts",
    "Criterion",
    "DeepR",
    "Frozen",
    "GraSP",
    "Gradual",
    "GradualMagnitude",
    "Inclusion",
    "LayerSparsity",
    "Magnitude",
    "OneShot",
    "Pruner",
    "Random",
    "Resistance",
    "RigL",
    "Scope",
    "Skeletonization",
    "SoftDeepR",
    "SynFlow",
    "apply_masks",
    "area",
    "count",
    "freeze",
    "from_state_dict",
    "from_torch",
    "gauss_newton_diagonal",
    "keep_masks",
    "mean_gradient",
    "merged",
    "nonzero",
    "prune",
    "resistance_curve",
    "shuffled",
    "sparsity_after",
    "sparsity_at",
    "to_state_dict",
    "to_torch",
    "weights",
]
