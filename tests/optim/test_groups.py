"""Parameter groups: their own settings, adding them, freezing, tying, naming."""

import copy
from collections import Counter

import pytest
import torch
from torch import nn

from mcmcopt import BetaBinomial, BirthDeath, Gaussian, GreedyMCMC, Laplace, RandomWalk, SpikeSlab
from tests.optim.problems import bits, chain, make, make_closure, make_model, snapshot


def test_groups_have_their_own_settings():
    model = make_model()
    groups = [
        {"params": list(model.first.parameters()), "prior": SpikeSlab(0.2), "blocks": "row", "lr": 0.1, "lam": 5.0},
        {
            "params": [model.temperature],
            "moves": RandomWalk(k=1),
            "prior": Laplace(0.1),
            "lam": lambda step: 7.0 + step,
        },
        {"params": list(model.second.parameters()), "selection_weight": 2.0, "adapt": False},
    ]
    optimizer = GreedyMCMC(groups, 30.0, prior=SpikeSlab(0.3), n_proposals=30, adapt=True)
    first, middle, last = optimizer.param_groups
    assert [group["lam"] for group in optimizer.param_groups] == [5.0, 7.0, 30.0]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 1.0, 1.0]
    assert (first["blocks"], last["blocks"]) == ("row", "scalar")
    assert [repr(group["prior"]) for group in (first, middle, last)] == [
        repr(SpikeSlab(0.2)),
        "Laplace(scale=0.1)",
        repr(SpikeSlab(0.3)),
    ]
    for _ in range(4):
        optimizer.step(make_closure(model))
    assert middle["lam"] == 10.0
    info = optimizer.info
    assert info.layers["0.0"].blocks == 6
    assert info.layers["2.0"].blocks == 18
    assert set(info.layers["1.0"].moves) == {"walk(k=1)"}
    assert info.lam != info.lam  # nan: no one temperature
    assert not optimizer.state[model.second.weight]["adaptations"].any()
    assert optimizer.state[model.first.weight]["adaptations"].any()


def test_layers_of_a_group_of_weight_zero_or_frozen_never_move():
    model = make_model()
    model.norm.requires_grad_(False)
    groups = [{"params": model.first.parameters()}, {"params": model.second.parameters(), "selection_weight": 0}]
    groups += [{"params": model.norm.parameters()}]
    optimizer = GreedyMCMC(groups, 0.0, n_proposals=50, prior=SpikeSlab(0.5))
    before = {name: bits(param) for name, param in model.named_parameters()}
    for _ in range(3):
        optimizer.step(make_closure(model))
    same = {name for name, param in model.named_parameters() if bits(param) == before[name]}
    assert same == {"second.weight", "second.bias", "norm.weight", "norm.bias", "temperature"}
    model.norm.requires_grad_(True)
    optimizer.step(make_closure(model))
    assert bits(model.norm.weight) != before["norm.weight"]


def test_modules_are_drawn_by_their_group_s_weight_and_parameters_by_their_blocks():
    model = make_model()
    groups = [
        {"params": list(model.first.named_parameters(prefix="first")), "selection_weight": 3.0},
        {"params": list(model.second.named_parameters(prefix="second"))},
    ]
    optimizer = GreedyMCMC(groups, 0.0, n_proposals=4000)
    optimizer.step(lambda: 0.0)
    drawn = {name: sum(m.proposed for m in layer.moves.values()) for name, layer in optimizer.info.layers.items()}
    assert sum(drawn.values()) == 4000
    shares = {
        "first.weight": 3 / 4 * 24 / 30,
        "first.bias": 3 / 4 * 6 / 30,
        "second.weight": 18 / 21 / 4,
        "second.bias": 3 / 21 / 4,
    }
    for name, share in shares.items():
        assert abs(drawn[name] - 4000 * share) < 5 * (4000 * share * (1 - share)) ** 0.5


def everything_frozen(model):
    model.requires_grad_(False)
    return {}


NOTHING = {
    "frozen": everything_frozen,
    "births without a prior": lambda model: {"moves": BirthDeath()},
    "weight zero": lambda model: {"selection_weight": 0.0},
}


@pytest.mark.parametrize("case", NOTHING)
def test_where_nothing_can_move_the_error_says_why(case):
    model = make_model()
    optimizer = GreedyMCMC(model.parameters(), 1.0, **NOTHING[case](model))
    with pytest.raises(ValueError, match=r"no parameter can be proposed.*frozen.*selection_weight 0.*SpikeSlab"):
        optimizer.step(make_closure(model))


def test_empty_groups_and_empty_parameters_do_no_harm():
    model = make_model()
    empty = [nn.Parameter(torch.empty(shape)) for shape in ((0,), (0, 3), (3, 0))]
    for prior in (None, SpikeSlab(0.3), SpikeSlab(inclusion=BetaBinomial(), per="group")):
        for blocks in ("scalar", "row"):
            groups = [{"params": []}, {"params": [*empty, model.first.weight]}]
            optimizer = GreedyMCMC(groups, 1.0, prior=prior, blocks=blocks, init="prior", n_proposals=20)
            optimizer.step(make_closure(model))
            assert [tuple(optimizer.mask(param).shape) for param in empty] == [(0,), (0, 3), (3, 0)]
            copy.deepcopy(optimizer).load_state_dict(optimizer.state_dict())


def test_tied_parameters_are_one_layer():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.decode.weight = self.encode.weight

        def forward(self, x):
            return self.decode(torch.tanh(self.encode(x)))

    model, x = Tied(), torch.linspace(-1, 1, 12).view(4, 3)
    optimizer = GreedyMCMC(model.parameters(), 10.0, prior=SpikeSlab(0.3), n_proposals=30)
    for _ in range(3):
        loss = optimizer.step(lambda: model(x).square().mean())
        assert torch.equal(loss, model(x).square().mean().detach())
    assert len(optimizer.info.layers) == 1
    assert model.decode.weight is model.encode.weight


def test_named_parameters_name_layers_and_errors():
    model = make_model()
    optimizer = GreedyMCMC(model.named_parameters(), 10.0, prior=SpikeSlab(0.3), n_proposals=30)
    optimizer.step(make_closure(model))
    assert list(optimizer.info.layers) == [name for name, _ in model.named_parameters()]
    with torch.no_grad():
        model.second.weight.fill_(1.0)
    with pytest.raises(ValueError, match=r"'second\.weight' has non-zero weights where mask"):
        optimizer.step(make_closure(model))


def test_two_models_with_the_same_names_keep_apart_in_the_report():
    one, two = make_model(0), make_model(1)
    groups = [{"params": list(one.named_parameters())}, {"params": list(two.named_parameters())}]
    optimizer = GreedyMCMC(groups, 0.0, n_proposals=50)
    optimizer.step(lambda: 0.0)
    info = optimizer.info
    assert len(info.layers) == 14
    assert info.proposed + sum(layer.impossible for layer in info.layers.values()) == 50


def test_a_group_added_later_joins_the_chain_at_its_step():
    model = make_model()
    optimizer = GreedyMCMC(
        model.first.parameters(), lambda step: 1.0 + step, n_proposals=20, prior=SpikeSlab(0.3), seed=5
    )
    for _ in range(3):
        optimizer.step(make_closure(model))
    before = bits(model.first.weight)
    optimizer.add_param_group({"params": model.second.parameters(), "blocks": "row", "prior": SpikeSlab(0.5)})
    assert bits(model.first.weight) == before
    first, second = optimizer.param_groups
    assert [(g["step"], g["proposal"], g["seed"], g["lam"]) for g in (first, second)] == [
        (3, 60, 5, 3.0),
        (3, 60, 5, 4.0),
    ]
    for _ in range(3):
        optimizer.step(make_closure(model))
    assert second["step"] == 6
    assert optimizer.info.layers["1.0"].moves


BAD_GROUPS = [
    ({"lam": -1.0}, ValueError),
    ({"lr": float("nan")}, ValueError),
    ({"blocks": (100, 1)}, ValueError),
    ({"blocks": "column"}, ValueError),
    ({"prior": 0.1}, TypeError),
    ({"moves": "walk"}, TypeError),
    ({"selection_weight": -1}, ValueError),
    ({"params": "first"}, ValueError),
    ({"params": "integers"}, TypeError),
]


@pytest.mark.parametrize(("bad", "error"), BAD_GROUPS, ids=lambda value: str(value))
def test_a_group_that_fails_leaves_the_optimizer_as_it_was(bad, error):
    model = make_model()
    options = {"n_proposals": 20, "prior": SpikeSlab(0.3), "init": "prior"}
    optimizer = GreedyMCMC(model.first.parameters(), 10.0, **options)
    optimizer.step(make_closure(model))
    twin, second = copy.deepcopy((model, optimizer))
    before = snapshot(model, optimizer)
    params = {"first": [model.first.weight], "integers": [torch.zeros(3, dtype=torch.int64)]}
    group = {"params": list(model.second.parameters())} | bad
    group["params"] = params.get(bad.get("params"), group["params"])
    with pytest.raises(error):
        optimizer.add_param_group(group)
    assert snapshot(model, optimizer) == before
    assert len(optimizer.state) == 2
    optimizer.state_dict()
    optimizer.step(make_closure(model))
    second.step(make_closure(twin))
    assert chain(model, optimizer) == chain(twin, second)


class Half:
    """A prior that lacks what the optimizer asks of it last."""

    slab, inclusion = Gaussian(1.0), None


def test_a_group_that_fails_late_leaves_no_state_behind():
    model = make_model()
    optimizer = GreedyMCMC(model.first.parameters(), 10.0)
    with pytest.raises((AttributeError, TypeError)):
        optimizer.add_param_group({"params": model.second.parameters(), "prior": Half()})
    assert set(optimizer.state) == set(model.first.parameters())
    optimizer.state_dict()
    optimizer.step(make_closure(model))


def test_group_dictionaries_can_be_used_again_for_another_chain():
    runs = []
    group = {"params": [], "lr": 0.5}
    for seed in (1, 2):
        model = make_model()
        group["params"] = list(model.parameters())
        optimizer = GreedyMCMC([group], 1.0, n_proposals=20, seed=seed)
        optimizer.step(make_closure(model))
        assert optimizer.param_groups[0]["seed"] == seed
        assert optimizer.param_groups[0]["step"] == 1
        runs.append(bits(model.first.weight))
    assert runs[0] != runs[1]


def test_init_from_the_prior_draws_the_mask_before_the_first_step_and_zeroes_the_rest():
    counts = Counter()
    for seed in range(200):
        model = make_model()
        dense = model.first.weight.detach().clone()
        optimizer = GreedyMCMC(model.parameters(), 1.0, prior=SpikeSlab(0.3), init="prior", blocks="row", seed=seed)
        mask = optimizer.mask(model.first.weight)
        assert torch.equal(model.first.weight.detach(), dense * mask)
        assert torch.equal(mask.any(1), mask.all(1))
        counts.update(mask.any(1).nonzero().flatten().tolist())
    assert set(counts) == set(range(6))
    assert all(abs(n - 60) < 5 * (200 * 0.3 * 0.7) ** 0.5 for n in counts.values())


def test_init_dense_keeps_every_weight():
    model, optimizer, _ = make("row")
    reference = make_model()
    for param, kept in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(param, kept)
        assert bool(optimizer.mask(param).all())


def test_counting_per_group_draws_one_number_for_all_layers():
    totals = Counter()
    prior = SpikeSlab(inclusion=BetaBinomial(), per="group")
    for seed in range(300):
        model = make_model()
        optimizer = GreedyMCMC(model.parameters(), 1.0, prior=prior, init="prior", seed=seed)
        totals[sum(int(optimizer.mask(m.weight).sum()) for m in (model.first, model.second)) // 11] += 1
    assert all(totals[quarter] > 300 / 4 - 5 * (300 * 3 / 16) ** 0.5 for quarter in range(3))  # uniform on 0..42
