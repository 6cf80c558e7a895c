"""A short fine-tune after pruning, the same for every network whatever trained it (Han et al., 2015)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from experiments.data import Split
from mcmcopt.sparsity import weights

MOMENTUM = 0.9


def finetune(model: nn.Module, split: Split, epochs: int, lr: float, batch_size: int, seed: int) -> None:
    """Train a pruned model in place by SGD with momentum; weights that are zero now stay exactly zero.

    Their gradients are masked, so that momentum has nothing to move.  Batches have at most `batch_size` samples and
    sizes equal to within one, so that batch statistics are never those of a rest of one sample.  Their order and the
    model's own random numbers (dropout) come from the seed; the global generator is as before in the end.  Parameters,
    buffers, gradients and modes are the caller's to put back.
    """
    params = [param for param in model.parameters() if param.requires_grad]
    held = [(weight, weight.detach() == 0) for weight in weights(model).values() if weight.requires_grad]
    order = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices={param.device for param in params if param.is_cuda}), torch.enable_grad():
        torch.manual_seed(seed)
        model.train()
        optimizer = torch.optim.SGD(params, lr, momentum=MOMENTUM)
        for _ in range(epochs):
            for index in torch.randperm(len(split), generator=order).tensor_split(-(-len(split) // batch_size)):
                optimizer.zero_grad()
                cross_entropy(model(split.x[index]), split.y[index]).backward()
                for weight, zero in held:
                    if weight.grad is not None:
                        weight.grad.masked_fill_(zero, 0.0)
                optimizer.step()
