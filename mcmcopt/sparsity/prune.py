"""The one loop of pruning: score, keep the best, score what is left, and so on.

    c_0 = 1;   for r = 1 … R:   c_r = top((1 - s_r) n, scores(w, c_{r-1}))

with s_R = s and, before, the share pruned after r of R rounds:

    exponential  1 - (1 - s)^(r/R)          de Jorge et al. (2021, eq. 8), Tanaka et al. (2020, algorithm 1)
    cubic        s (1 - (1 - r/R)³)         Zhu and Gupta (2018, eq. 1)
    linear       s r/R

One round is one shot.  Weights pruned before stay so, unless `revive`: then they compete with the rest by their scores.
SNIP in many rounds is iterative SNIP; with `revive`, FORCE (both de Jorge et al. 2021); SynFlow takes 100 rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from mcmcopt.sparsity.criteria import Batch, Criterion, LossFn
from mcmcopt.sparsity.masks import Scope, check_masks, check_scope, check_sparsity, keep_masks
from mcmcopt.sparsity.structures import check_block, tiling, touched

Schedule: TypeAlias = Literal["exponential", "cubic", "linear"]

Batches: TypeAlias = Sequence[Batch] | Callable[[int], Sequence[Batch]]
"""What scores are averaged over: the same in every round, or a function of the round's number, from 0."""


def prune(
    model: nn.Module,
    criterion: Criterion,
    sparsity: float,
    loss_fn: LossFn | None = None,
    batches: Batches = (),
    *,
    scope: Scope = "layer",
    rounds: int = 1,
    schedule: Schedule = "exponential",
    revive: bool = False,
    block: tuple[int, int] = (4, 4),
    keep: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the masks that prune a share of a network's weights by a criterion; the network itself stays as it is.

    Args:
        model: `apply_masks(model, masks)` sets its weights, `freeze` holds the zeros while it trains.
        criterion: scores the weights; the lowest go, exactly as many as `keep_masks` says, ties as it says.
        sparsity: the share of weights (or structures) that is pruned in the end, from 0 to 1.
        loss_fn: mean loss of a batch from outputs and targets, where the criterion needs one.
        batches: inputs and targets, where it needs them.
        scope: see `keep_masks`.
        rounds: between which scores are computed again, at the masks that hold then.
        schedule: of the share after each round.
        revive: whether weights pruned in one round may come back in a later one.
        block: rows and columns of a tile with scope `"block"` or `"global-block"`.
        keep: boolean masks that hold before the first round; what they switch off stays so, whatever `revive`.

    Raises:
        ValueError: for an argument out of range; whatever the criterion raises.
    """
    share, rounds, schedule = check_sparsity(sparsity), check_rounds(rounds), check_schedule(schedule)
    check_scope(scope)
    check_block(block)
    if keep is not None:
        own_weights = check_masks(model, keep)
        keep = {n: keep.get(n, torch.ones_like(w, dtype=torch.bool)) for n, w in own_weights.items()}
    start, now = keep, keep
    for r in range(1, rounds + 1):
        own = batches(r - 1) if callable(batches) else batches
        scores = criterion(model, loss_fn, own, now)
        on = start if revive else now
        if on is not None:
            scores = {name: _with_off_first(score, on[name], scope, block) for name, score in scores.items()}
        now = keep_masks(scores, sparsity_after(r, rounds, share, schedule), scope, block=block)
        if on is not None:
            now = {name: mask & on[name] for name, mask in now.items()}
    assert now is not None  # noqa: S101 -- there was a round
    return dict(now)


def _with_off_first(score: Tensor, on: Tensor, scope: Scope, block: tuple[int, int]) -> Tensor:
    """Return scores by which all weights that are off go before any other, or the masks would grow.

    Where structures are pruned these are the structures that are off as a whole; in others, a weight that is off adds
    nothing to the mean.
    """
    if scope in ("layer", "global"):
        return score.masked_fill(~on, -math.inf)
    tiles = tiling(score.shape, scope.removeprefix("global-"), block)
    whole = tiles.expand((~touched(on, tiles)).numpy()).to(score.device)
    return score.masked_fill(~on & score.isfinite(), 0.0).masked_fill(whole, -math.inf)


def sparsity_after(r: float, rounds: float, sparsity: float, schedule: Schedule) -> float:
    """Return the share pruned after r of so many rounds: `sparsity` itself after the last."""
    if r >= rounds:
        return sparsity
    done = max(r / rounds, 0.0)
    if schedule == "exponential":
        return 1 - math.pow(1 - sparsity, done)
    return sparsity * (done if schedule == "linear" else 1 - (1 - done) ** 3)


def check_rounds(rounds: int) -> int:
    """Return a number of rounds, or raise ValueError unless it is at least 1."""
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ValueError(f"rounds must be an integer of at least 1, got {rounds!r}")
    return rounds


def check_schedule(schedule: Schedule) -> Schedule:
    """Return a schedule's name, or raise ValueError unless there is one of that name."""
    if schedule not in get_args(Schedule):
        raise ValueError(f"schedule must be one of {', '.join(get_args(Schedule))}, got {schedule!r}")
    return schedule
