"""What a model is worth on one part of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from experiments.data import Split, portions
from experiments.device import precision


@dataclass(frozen=True)
class Score:
    """Accuracy as a share, and mean cross-entropy in nats."""

    accuracy: float
    loss: float


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, bfloat16: bool = False) -> Score:
    """Return a model's accuracy and loss on a part of the data, in eval mode; the mode is put back.

    Of an empty part both are nan.  With `bfloat16`, products are computed in it.
    """
    if not len(split):
        return Score(math.nan, math.nan)
    training = model.training
    model.eval()
    correct, loss = 0, 0.0
    for x, y in portions(split.x, split.y):
        with precision(x.device, bfloat16):
            logits = model(x).float()
        correct += int((logits.argmax(1) == y).sum())
        loss += float(cross_entropy(logits, y, reduction="none").double().sum())
    model.train(training)
    return Score(correct / len(split), loss / len(split))
