"""What train.binary says of a model: weights of one magnitude, or layers of mcmcopt.binary in place of its own."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from experiments.config import build
from experiments.models import binarize
from mcmcopt.binary import check_binary, clip_latents
from mcmcopt.optim.greedy_mcmc import GreedyMCMC


def make_binary(model: nn.Module, binary: Any) -> None:
    """Make a model binary, in place; to be called before an optimizer takes hold of its parameters.

    Args:
        model: is changed in place.
        binary: None for no change; a number, the magnitude that `binarize` takes; or the node of a function of the
            model, such as mcmcopt.binary.binary_layers.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(binary, dict):
        build(binary, model)
    elif isinstance(binary, bool) or not isinstance(binary, int | float | None):
        raise ValueError(f"train.binary must be null, a positive number or a node with a _target_, got {binary!r}")
    elif binary is not None:
        binarize(model, float(binary))


def keep_binary(optimizer: Optimizer, model: nn.Module, binary: Any) -> None:
    """Have latent weights clipped, and binary layers looked at, after each step of an optimizer.

    Raises:
        ValueError: if the optimizer is none that keeps binary what `binarize` has made so.
    """
    if isinstance(binary, dict):

        def after_step(*_: Any) -> None:
            clip_latents(model)
            check_binary(model)

        optimizer.register_step_post_hook(after_step)
    elif binary is not None and not isinstance(optimizer, GreedyMCMC):
        raise ValueError(f"train.binary={binary} is for chains, whose sign flips keep weights binary: leave it null")
