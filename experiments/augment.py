"""Augmentation of a batch of images: shifted by up to four pixels, mirrored every other time (He et al. 2016, 4.2)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

PADDING = 4


def shifted_and_mirrored(x: Tensor, seed: int, step: int) -> Tensor:
    """Return the images, each cut out of itself with four pixels of 0 around, mirrored with probability ½.

    Args:
        x: (n, channels, height, width), of any dtype.
        seed, step: the draws depend on these alone, so that a resumed run goes on with the same ones.
    """
    n, channels, height, width = x.shape
    rng = np.random.default_rng((seed, step))  # torch's generator would drop all but 32 bits of a seed made of both
    top, left = torch.from_numpy(rng.integers(2 * PADDING + 1, size=(2, n)))
    mirrored = torch.from_numpy(rng.random(n) < 0.5)
    rows = top.unsqueeze(1) + torch.arange(height)
    columns = torch.arange(width).expand(n, width)
    columns = left.unsqueeze(1) + torch.where(mirrored.unsqueeze(1), columns.flip(1), columns)
    own = (
        torch.arange(n).view(n, 1, 1, 1),
        torch.arange(channels).view(1, channels, 1, 1),
        rows.view(n, 1, height, 1),
        columns.view(n, 1, 1, width),
    )
    return pad(x, (PADDING,) * 4)[tuple(index.to(x.device) for index in own)]
