"""Random proposals of every kind to an incremental loss, each compared with the model called anew."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn

from mcmcopt.loss.incremental import IncrementalLoss
from mcmcopt.loss.incremental.layout import Codes
from mcmcopt.loss.objective import lent, write
from tests.optim.problems import bits

KINDS = ("one", "some", "row", "rows", "vector", "module", "several", "all", "birth", "death", "flip", "row to zero")


def integers(high: int, count: int, g: torch.Generator) -> Tensor:
    return torch.randperm(high, generator=g)[: max(1, min(count, high))]  # in no order


def edit(param: Tensor, kind: str, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return flat indices and new values."""
    old, size = param.detach().reshape(-1), param.numel()
    per = size // len(param) if param.dim() else 1
    noise = 0.3 * torch.randn(size, generator=g, dtype=torch.float64).to(param.dtype)
    if kind in ("row", "rows", "row to zero"):
        rows = integers(size // per, 2 if kind == "rows" else 1, g)
        at = (rows.unsqueeze(1) * per + torch.arange(per)).view(-1)
    elif kind == "all":
        at = torch.arange(size)
    elif kind == "birth" and (old == 0).any():
        zeros = (old == 0).nonzero().view(-1)
        at = zeros[integers(len(zeros), 3, g)]
    else:
        at = integers(size, 1 if kind in ("one", "flip") else 4, g)
    if kind in ("death", "row to zero"):
        return at, torch.zeros_like(old[at])
    return at, (-old[at] if kind == "flip" else old[at] + noise[at])


def draw(model: nn.Module, kind: str, g: torch.Generator) -> dict[Tensor, tuple[Tensor, Tensor]]:
    """Return a change of one kind to a random parameter or parameters."""
    params = list(model.parameters())

    def pick(among: list[Tensor]) -> Tensor:
        return among[int(torch.randint(len(among), (1,), generator=g))]

    if kind == "vector":
        param = pick([p for p in params if p.dim() < 2] or params)
        return {param: edit(param, "some", g)}
    if kind == "module":
        homes = [list(m.parameters(recurse=False)) for m in model.modules()]
        homes = [home for home in homes if home]
        home = homes[int(torch.randint(len(homes), (1,), generator=g))]
        return {param: edit(param, "row" if param.dim() > 1 else "some", g) for param in home}
    if kind == "several":
        kinds = (KINDS[int(torch.randint(3, (1,), generator=g))] for _ in range(2))
        return {param: edit(param, each, g) for each in kinds for param in [pick(params)]}
    param = pick(params)
    return {param: edit(param, kind, g)}


@torch.no_grad()
def sparsify(model: nn.Module, g: torch.Generator) -> None:
    """Set a third of the weights to zero, and move the running statistics of normalisations off 0 and 1."""
    for param in model.parameters():
        if param.dim() > 1:
            param.mul_(torch.rand(param.shape, generator=g) > 0.33)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean += 0.2 * torch.randn(len(module.running_mean), generator=g)
            module.running_var *= 0.5 + torch.rand(len(module.running_var), generator=g)


@torch.no_grad()
def plain(model: nn.Module, loss_fn, x: Tensor, y, change=None) -> Tensor:
    """Return the loss of the model called anew."""
    with lent(change or {}):
        return loss_fn(model(x), y).double()


def cache(bound) -> list:
    """Return the bits of all cached tensors."""
    values = [v.data if isinstance(v, Codes) else v for v in bound._values]
    return [bits(v) for v in values if isinstance(v, Tensor)] + [bits(bound._loss)]


def same(got: Tensor, want: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(got.double(), want.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


def assert_cache_is_right(bound, tolerance: float) -> None:
    """Compare every cached activation with that of a new engine."""
    owner = bound._owner
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fresh = IncrementalLoss(owner.model, owner.loss_fn, layout=owner.layout).bind(bound._x, bound._y)
    same(bound.evaluate(), fresh.evaluate(), tolerance)
    assert bound._plan.stored == fresh._plan.stored
    for index, stored in enumerate(bound._plan.stored):
        if stored:
            bound._majors.clear()
            same(bound.value(index), fresh.value(index), 100 * tolerance)
    bound._majors.clear()


def walk(bound, steps: int, g: torch.Generator, tolerance: float = 1e-10) -> int:
    """Make proposals, half of which are committed, and return how many changed the loss.

    Every loss is compared with the model's, every rollback with the bits before.
    """
    owner, x, y = bound._owner, bound._x, bound._y
    other = copy.deepcopy(owner.model)  # writing into the model itself would be noticed
    twins = dict(zip(owner.model.parameters(), other.parameters(), strict=True))
    same(bound.evaluate(), plain(other, owner.loss_fn, x, y), tolerance)
    moved = 0
    for step in range(steps):
        changes = [draw(owner.model, KINDS[step % len(KINDS)], g)]
        if step % 4 == 3:
            changes += [draw(owner.model, KINDS[(step + i) % len(KINDS)], g) for i in (1, 5)]
        before, weights = cache(bound), [bits(p) for p in owner.model.parameters()]
        now = bound.evaluate()
        shadows = [{twins[param]: values for param, values in change.items()} for change in changes]
        wanted = [plain(other, owner.loss_fn, x, y, change) for change in shadows]
        one_by_one = []
        for change, want in zip(changes, wanted, strict=True):
            got = bound.propose(change)
            same(got, want, tolerance)
            one_by_one.append(bits(got))
            moved += not torch.equal(got, now)
            if len(changes) > 1:
                bound.rollback()
        if len(changes) > 1:
            assert [bits(loss) for loss in bound.propose_many(changes)] == one_by_one
        assert cache(bound) == before
        number = step % len(changes)
        if step % 2:
            write(changes[number])
            write(shadows[number])
            bound.commit(number)
            same(bound.evaluate(), wanted[number], tolerance)
            assert bound._commits > 0  # the loss came from the cache
        else:
            bound.rollback()
            assert cache(bound) == before
            assert [bits(p) for p in owner.model.parameters()] == weights
            assert bits(bound.evaluate()) == bits(now)
    assert_cache_is_right(bound, tolerance)
    return moved
