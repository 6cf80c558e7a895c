"""A network as a function of its masked weights, and the gradient of its mean loss: what saliencies are made of.

g = ∂L/∂(c ⊙ w),    c the masks, w the weights, L the mean loss over all samples
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mcmcopt.sparsity.criteria import Batch, LossFn
from mcmcopt.sparsity.masks import weights


class Network:
    """A model as a function of masked copies of its weights; nothing that is done to it reaches the model.

    Args:
        model: whose mode counts; its other parameters enter as constants, its buffers as copies, which what
            normalisation layers write there stays in.
        keep: masks; None: all on.
        linearised: absolute values in float64 and no additive terms, as SynFlow has it.
    """

    def __init__(self, model: nn.Module, keep: Mapping[str, Tensor] | None = None, linearised: bool = False) -> None:
        self._model, self._dtype = model, torch.float64 if linearised else None
        found = scored_weights(model)
        self._state: dict[str, Tensor] = {}
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            value = tensor.detach().clone()
            if linearised and value.is_floating_point():
                value = value.double().abs()
                if name.rpartition(".")[2] in ("bias", "running_mean"):
                    value.zero_()
            self._state[name] = value
        self.leaves = []
        first = {id(param): name for name, param in model.named_parameters()}  # of a weight that several modules share
        for name, weight in found.items():
            leaf = self._state[first[id(weight)]]
            leaf = (leaf if keep is None else leaf * keep[name]).requires_grad_()
            self._state[first[id(weight)]] = leaf
            self.leaves.append(leaf)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs for a batch of inputs."""
        if self._dtype is not None and x.is_floating_point():
            x = x.to(self._dtype)
        out: Tensor = functional_call(self._model, self._state, (x,))
        return out

    def gradient(self, value: Tensor, create_graph: bool = False) -> list[Tensor]:
        """Return the gradient of a scalar with respect to the masked weights, zeros where it does not depend on one."""
        kwargs: dict[str, Any] = {"create_graph": create_graph, "allow_unused": True, "materialize_grads": True}
        return list(torch.autograd.grad(value, self.leaves, **kwargs))


@torch.enable_grad()
def mean_gradient(
    model: nn.Module,
    loss_fn: LossFn | None,
    batches: Sequence[Batch],
    keep: Mapping[str, Tensor] | None = None,
    name: str = "the gradient",
) -> dict[str, Tensor]:
    """Return the gradient of the mean loss over all samples with respect to the weights in force, c ⊙ w.

    Raises:
        ValueError: without a loss function or batches.
    """
    loss_fn, total = checked(loss_fn, batches, name)
    network = Network(model, keep)
    sums = [torch.zeros_like(leaf) for leaf in network.leaves]
    with random_state_kept(batches):
        for x, y in batches:
            for sum_, part in zip(sums, network.gradient(loss_fn(network(x), y)), strict=True):
                sum_.add_(part, alpha=len(y) / total)
    return dict(zip(weights(model), sums, strict=True))


def checked(loss_fn: LossFn | None, batches: Sequence[Batch], name: str) -> tuple[LossFn, int]:
    """Return the loss function and the number of samples, or raise ValueError if one of them is missing."""
    if loss_fn is None:
        raise ValueError(f"{name} needs loss_fn, the mean loss from outputs and targets, got None")
    total = sum(len(y) for _, y in batches)
    if not total:
        raise ValueError(f"{name} needs batches of inputs and targets, got none")
    return loss_fn, total


def scored_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return `weights(model)`, or raise ValueError if there are none."""
    found = weights(model)
    if not found:
        raise ValueError(f"model {type(model).__name__} has no linear or convolutional layer, so nothing to score")
    return found


@contextmanager
def random_state_kept(batches: Sequence[Batch]) -> Iterator[None]:
    """Put torch's global random states back at the end: dropout in train mode draws from them."""
    with torch.random.fork_rng(devices={x.device for x, _ in batches if x.is_cuda}):
        yield


@contextmanager
def modes(model: nn.Module) -> Iterator[None]:
    """Put each module's mode back at the end."""
    before = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


@contextmanager
def ones_enter(model: nn.Module) -> Iterator[None]:
    """Let ones enter each layer that no weight comes before: what does, say the normalisation of pixels, is no path."""

    def replace(
        module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x = inputs[0] if inputs else named["input"]
        if not x.requires_grad:
            x = torch.ones_like(x, dtype=torch.float64)  # the linearised weights'
            inputs, named = ((x, *inputs[1:]), named) if inputs else (inputs, {**named, "input": x})
        return inputs, named

    known = {id(weight) for weight in weights(model).values()}
    owners = [module for module in model.modules() if id(getattr(module, "weight", None)) in known]
    handles = [module.register_forward_pre_hook(replace, with_kwargs=True) for module in owners]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
