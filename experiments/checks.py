"""What settings of a training go together: refused by name before the first step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mcmcopt.optim.hybrid import Hybrid

if TYPE_CHECKING:
    from experiments.train import Training


def check(training: Training) -> None:
    """Raise ValueError, naming the setting under `train`, for what cannot be carried out."""
    if (training.epochs is None) == (training.steps is None):
        raise ValueError(
            f"exactly one of train.epochs and train.steps must be given, got {training.epochs} and {training.steps}: "
            "set the other one to null"
        )
    length = training.epochs if training.steps is None else training.steps
    if length is None or length < 1:
        raise ValueError(f"train.epochs or train.steps must be at least 1, got {length}")
    if training.max_seconds is not None and not training.max_seconds > 0:
        raise ValueError(f"train.max_seconds must be larger than 0, or null, got {training.max_seconds}")
    if (training.chain is not None and training.pruning is not None) or (
        training.alone and training.decay != "constant"
    ):
        raise ValueError(
            "train.pruning and train.decay are for gradient methods: a chain's zeros come from its prior, its "
            "proposal scales adapt. Leave them null and constant"
        )
    if isinstance(training.optimizer, Hybrid) and (
        len(training.optimizer.chains) > 1 or not training.gradient_groups()
    ):
        raise ValueError("optimizer.optimizers must have a gradient method and at most one chain")
    if training.chain_batches is not None and (training.alone or training.chain is None):
        raise ValueError("train.chain_batch_size is for hybrids of a chain and a gradient method: leave it null")
    if not 0 <= training.density_power < math.inf or (training.density_power and training.alone):
        raise ValueError(
            f"train.density_power must be at least 0, and 0 for a chain alone, got {training.density_power}"
        )
    if training.decay not in ("constant", "cosine"):
        raise ValueError(f'train.decay must be "constant" or "cosine", got {training.decay!r}')
    if training.max_seconds is not None and (training.pruning is not None or training.decay != "constant"):
        raise ValueError("train.pruning and train.decay count in steps of a known number: no train.max_seconds")
    if (training.incremental and training.chain is None) or (training.growth is not None and not training.alone):
        raise ValueError("train.incremental and train.growth are for chains: leave them false and null")
    if training.refresh_steps < 1:
        raise ValueError(f"train.refresh_steps must be at least 1, got {training.refresh_steps}")
    if (training.augment is not None or training.bfloat16) and training.chain is not None:
        raise ValueError("train.augment and train.bfloat16 are for gradient methods: a chain's loss is a function")
    if training.eval_train is not None and not 1 <= training.eval_train <= len(training.split):
        raise ValueError(f"train.eval_train must lie in 1..{len(training.split)}, or null, got {training.eval_train}")
