"""The loop of pruning: exact counts in every round, who may come back, iterative SNIP and FORCE by the test's own."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from experiments.models import lenet5_caffe, vgg_d
from mcmcopt.sparsity import (
    SNIP,
    GraSP,
    Magnitude,
    Random,
    Skeletonization,
    SynFlow,
    count,
    keep_masks,
    prune,
    sparsity_after,
    weights,
)

from .test_criteria import changed, snapshot
from .test_saliency import data, images, mean_loss, normalised, tiny, values

SCHEDULES = ("exponential", "cubic", "linear")


def share_after(r, rounds, s, schedule):
    """Return the share by the papers' formulas."""
    if schedule == "exponential":  # de Jorge et al., eq. 8: log of the share kept falls evenly
        return 1 - math.exp((r / rounds) * math.log(1 - s))
    return s * r / rounds if schedule == "linear" else s - s * (1 - r / rounds) ** 3


def number(masks):
    return sum(int(mask.sum()) for mask in masks.values())


class Told:
    """A criterion that gives the scores it is told, and remembers with what it was called."""

    name = "told"

    def __init__(self, *scores):
        self.scores, self.keeps, self.batches = scores, [], []

    def __call__(self, model, loss_fn=None, batches=(), keep=None):
        self.keeps.append(keep if keep is None else {n: m.clone() for n, m in keep.items()})
        self.batches.append(batches)
        scores = self.scores[min(len(self.keeps), len(self.scores)) - 1]
        return {n: s.clone() for n, s in scores.items()}


def three():
    """Return a model of weights 1 x 8 and 2 x 6."""
    return nn.Sequential(nn.Linear(8, 1), nn.Linear(6, 2))


def scores(seed, model=None):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(w.shape, generator=generator) for n, w in weights(model or three()).items()}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_share_after_each_round(schedule):
    for s in (0.0, 0.5, 0.98):
        for r in range(1, 8):
            assert sparsity_after(r, 7, s, schedule) == pytest.approx(share_after(r, 7, s, schedule), abs=1e-12)
        assert sparsity_after(7, 7, s, schedule) == s
        assert sparsity_after(0, 7, s, schedule) == 0
    assert sparsity_after(1, 4, 1 - 1 / 16, "exponential") == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("revive", [False, True])
def test_counts_are_exact_in_every_round(schedule, scope, revive):
    model = tiny()
    told = Told(*(scores(r, model) for r in range(5)))
    final = prune(model, told, 0.9, scope=scope, rounds=5, schedule=schedule, revive=revive)
    assert told.keeps[0] is None
    for r, keep in enumerate([*told.keeps[1:], final], start=1):
        s = share_after(r, 5, 0.9, schedule)
        if scope == "global":
            assert number(keep) == count(model) - round(s * count(model))
        else:
            assert all(int(m.sum()) == m.numel() - round(s * m.numel()) for m in keep.values())


@pytest.mark.parametrize("scope", ["layer", "global", "filter", "global-unit"])
def test_one_round_is_keep_masks(scope):
    model = tiny()
    one = prune(model, Magnitude(), 0.6, scope=scope)
    two = keep_masks(Magnitude()(model), 0.6, scope)
    assert all(torch.equal(one[n], two[n]) for n in two)


def test_equal_scores_go_by_index_in_the_models_order_and_round_by_round():
    flat = {n: torch.ones_like(w) for n, w in scores(0).items()}
    for rounds in (1, 4):
        keep = prune(three(), Told(flat), 0.55, scope="global", rounds=rounds)
        assert torch.cat([m.flatten() for m in keep.values()]).tolist() == [False] * 11 + [True] * 9
        keep = prune(three(), Told(flat), 0.5, rounds=rounds)
        assert keep["0.weight"].flatten().tolist() == [False] * 4 + [True] * 4
        assert keep["1.weight"].flatten().tolist() == [False] * 6 + [True] * 6


@pytest.mark.parametrize("revive", [False, True])
def test_only_with_revive_does_a_weight_come_back(revive):
    first = scores(0)
    told = Told(first, {n: -s for n, s in first.items()})  # what went first is the best now
    final = prune(three(), told, 0.75, scope="global", rounds=2, revive=revive)
    after_one = told.keeps[1]
    nested = all((final[n] <= after_one[n]).all() for n in final)
    assert nested is not revive
    assert number(final) == 5
    if revive:
        expected = keep_masks({n: -s for n, s in first.items()}, 0.75, "global")
        assert all(torch.equal(final[n], expected[n]) for n in final)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("revive", [False, True])
def test_what_is_off_before_stays_off(revive, scope):
    start = keep_masks(scores(9), 0.4, scope)
    told = Told(*({n: s + 10 * ~start[n] for n, s in scores(r).items()} for r in range(3)))
    final = prune(three(), told, 0.7, scope=scope, rounds=3, revive=revive, keep=start)
    assert all(not (keep[n] & ~start[n]).any() for keep in (*told.keeps, final) for n in start)
    assert number(final) == 6 if scope == "global" else [int(m.sum()) for m in final.values()] == [2, 4]
    assert all(torch.equal(told.keeps[0][n], start[n]) for n in start)
    same = prune(three(), Told(scores(0)), 0.3, scope=scope, keep=start)  # fewer than are off already
    assert all(torch.equal(same[n], start[n]) for n in start)


@pytest.mark.parametrize("scope", ["filter", "global-filter", "unit", "global-unit"])
def test_structures_of_which_single_weights_are_off_go_by_their_scores(scope):
    model = nn.Linear(6, 6, bias=False)
    level = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.5])
    with torch.no_grad():
        model.weight.copy_((level.unsqueeze(1) if scope.endswith("filter") else level).expand(6, 6))
    off = ~torch.eye(6, dtype=torch.bool)  # one in each row and column
    keep = prune(model, Magnitude(), 0.5, scope=scope, keep={"weight": off})["weight"]
    left = keep.any(1) if scope.endswith("filter") else keep.any(0)
    assert left.tolist() == [True] * 3 + [False] * 3
    assert not (keep & ~off).any()


def by_hand(model, target, rounds, revive):
    """Iterative SNIP, or FORCE: gradients at c ⊙ w, all weights compete or those that are left."""
    w = values(model)
    total = sum(v.numel() for v in w.values())
    c = {n: torch.ones_like(v) for n, v in w.items()}
    history = []
    for r in range(1, rounds + 1):
        in_force = {n: (c[n] * w[n]).requires_grad_() for n in w}
        gradient = torch.autograd.grad(mean_loss(model, in_force), list(in_force.values()))
        scored = torch.cat([(v * g).abs().flatten() for v, g in zip(w.values(), gradient, strict=True)])
        if not revive:
            scored[torch.cat([m.flatten() for m in c.values()]) == 0] = -1
        flat = torch.ones(total, dtype=torch.float64)
        pruned = round(share_after(r, rounds, target, "exponential") * total)
        flat[scored.sort(stable=True).indices[:pruned]] = 0
        c = {n: p.view_as(w[n]) for n, p in zip(w, flat.split([v.numel() for v in w.values()]), strict=True)}
        history.append(flat.bool())
    return c, history


@pytest.mark.parametrize("revive", [False, True])
def test_iterative_snip_and_force(revive):
    model = tiny()
    expected, history = by_hand(model, 0.9, 6, revive)
    own = prune(model, SNIP(), 0.9, cross_entropy, data(), scope="global", rounds=6, revive=revive)
    for name, mask in own.items():
        assert torch.equal(mask, expected[name].bool())
    came_back = any((after & ~before).any() for before, after in pairwise(history))
    assert came_back == revive  # that the case tells the two apart
    one_shot = prune(model, SNIP(), 0.9, cross_entropy, data(), scope="global")
    assert any(not torch.equal(own[n], one_shot[n]) for n in own)


def test_each_round_gets_its_own_batches():
    told, asked = Told(scores(0)), []

    def source(r):
        asked.append(r)
        return [f"batch {r}"]

    prune(three(), told, 0.5, None, source, rounds=4)
    assert asked == [0, 1, 2, 3]
    assert told.batches == [[f"batch {r}"] for r in range(4)]
    same = Told(scores(0))
    prune(three(), same, 0.5, None, ["one"], rounds=2)
    assert same.batches == [["one"], ["one"]]


def test_skeletonization_in_rounds_takes_whole_units_and_none_of_the_inputs():
    keep = prune(tiny(), Skeletonization(), 0.5, cross_entropy, data(), scope="global-unit", rounds=4)
    assert keep["conv.weight"].all()
    for name in ("fc1.weight", "fc2.weight"):
        assert all(bool(column.all()) or not column.any() for column in keep[name].T)
    assert sum(int(m.flatten(2).any(2).any(0).sum() if m.dim() == 4 else m.any(0).sum()) for m in keep.values()) == 9


@pytest.mark.parametrize("criterion", [SNIP(), GraSP(), SynFlow(), Skeletonization(inputs=True)], ids=lambda c: c.name)
def test_the_model_is_left_alone(criterion):
    model = normalised()
    before = snapshot(model)
    prune(model, criterion, 0.8, cross_entropy, images(), scope="global", rounds=3)
    assert changed(model, before) == []


@pytest.mark.parametrize(
    ("make", "sparsity", "dense", "left"), [(lenet5_caffe, 0.98, 430_500, 8_610), (vgg_d, 0.95, 15_239_872, 761_994)]
)
def test_counts_of_the_published_table(make, sparsity, dense, left):
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in weights(make()).items()}
    generator = torch.Generator().manual_seed(0)
    drawn = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    assert sum(s.numel() for s in drawn.values()) == dense
    keep = keep_masks(drawn, sparsity, "global")
    assert number(keep) == left
    border = min(float(s[keep[n]].min()) for n, s in drawn.items())
    assert max(float(s[~keep[n]].max()) for n, s in drawn.items()) <= border
    smaller = {n: s for n, s in drawn.items() if s.numel() <= 400_000}
    by_layer = {n: int(m.sum()) for n, m in keep_masks(smaller, sparsity).items()}
    assert by_layer == {n: s.numel() - round(sparsity * s.numel()) for n, s in smaller.items()}


def test_random_scores_do_not_look_at_the_weights_and_stay_from_round_to_round():
    one, two = prune(three(), Random(2), 0.7, scope="global"), prune(three(), Random(2), 0.7, scope="global", rounds=3)
    assert all(torch.equal(one[n], two[n]) for n in one)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"sparsity": 1.1}, "sparsity"),
        ({"sparsity": True}, "sparsity"),
        ({"rounds": 0}, "rounds"),
        ({"rounds": 2.0}, "rounds"),
        ({"schedule": "sudden"}, "schedule"),
        ({"scope": "row"}, "scope"),
        ({"scope": "block", "block": (0, 2)}, "block"),
    ],
)
def test_bad_settings_are_named(settings, named):
    with pytest.raises(ValueError, match=named):
        prune(three(), Magnitude(), **{"sparsity": 0.5, **settings})


@pytest.mark.parametrize("criterion", [Magnitude(), SNIP(), SynFlow()], ids=lambda c: c.name)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda keep: {n: m.float() for n, m in keep.items()},
        lambda keep: {n: m.long() for n, m in keep.items()},
        lambda keep: {n: m[:1] for n, m in keep.items()},
        lambda keep: {**keep, "fc9.weight": keep["fc1.weight"]},
    ],
    ids=["floats", "integers", "shape", "name"],
)
def test_masks_that_are_none_of_the_model_are_named(criterion, spoil):
    keep = keep_masks(Magnitude()(tiny()), 0.3)
    with pytest.raises(ValueError, match=r"keep|the mask of"):
        prune(tiny(), criterion, 0.5, cross_entropy, data(), keep=spoil(keep))


@pytest.mark.parametrize("criterion", [Magnitude(), SNIP(), SynFlow()], ids=lambda c: c.name)
def test_a_layer_without_a_mask_is_on_or_named(criterion):
    start = {"fc1.weight": keep_masks(Magnitude()(tiny()), 0.3)["fc1.weight"]}
    whole = {n: start.get(n, torch.ones_like(w, dtype=torch.bool)) for n, w in values(tiny()).items()}
    try:
        keep = prune(tiny(), criterion, 0.5, cross_entropy, data(), keep=start)
    except ValueError as error:
        assert "keep" in str(error)  # noqa: PT017
    else:
        expected = prune(tiny(), criterion, 0.5, cross_entropy, data(), keep=whole)
        assert all(torch.equal(keep[n], expected[n]) for n in expected)
