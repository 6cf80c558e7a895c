"""The straight-through estimator: a step function in the forward, the identity in the backward.

    forward   q                        backward   ∂L/∂w = ∂L/∂q · 1{|w| ≤ bound}

Bengio et al. (2013) with bound = ∞; Hubara et al. (2016) with bound = 1, beyond which a weight gets no gradient.
"""

from __future__ import annotations

import math

from torch import Tensor


def straight_through(w: Tensor, q: Tensor, bound: float = math.inf) -> Tensor:
    """Return q bit for bit, whose gradient goes to w, where |w| is at most `bound`, instead of q.

    Args:
        w: latent weights, finite.
        q: what stands for them in the forward, of the same shape.
        bound: beyond it w gets no gradient.
    """
    passed = w if bound == math.inf else w.clamp(-bound, bound)
    return q.detach() + (passed - passed.detach())  # the bracket is 0 for every finite w
