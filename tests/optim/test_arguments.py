"""Bad input is refused at the door: the message has the argument's name, the value, and what would be right."""

import math

import pytest
import torch

from mcmcopt import Bernoulli, Gaussian, GreedyMCMC, RandomWalk, SpikeSlab
from tests.optim.problems import make_closure, make_model, snapshot

BAD = {
    "lam": [-1, -1e-9, math.nan, math.inf, "x", True, None, lambda step: -1.0, lambda step: "x"],
    "n_proposals": [0, -3, 1.5, "x", True, None],
    "prior": [0.1, "gaussian", Bernoulli(0.1), Gaussian, SpikeSlab, True],
    "moves": ["walk", [RandomWalk(), "swap"], [], 5, True, RandomWalk, [RandomWalk]],
    "blocks": ["column", (0, 1), (2, 2, 2), 4, True, None, (100, 1), (1, 7)],
    "lr": [-1, math.nan, math.inf, "x", True, None, torch.tensor(-1.0), torch.tensor(math.nan)],
    "selection_weight": [-1, math.nan, math.inf, "x", True, None],
    "init": ["sparse", None, 0, True],
    "rule": ["greedy", None, 1],
    "adapt": ["x", None, 1],
    "grad": ["x", 0, 1],
    "speculate": [0, -2, 1.5, "x", "AUTO", True, False, None],
    "seed": [-1, 2**128, 1.5, "x", True, None],
}
CASES = [(name, value) for name, values in BAD.items() for value in values]


def shown(value):
    """Return what of a bad value must be seen in the message."""
    if isinstance(value, torch.Tensor):
        return repr(float(value))
    if isinstance(value, list) and value:
        return repr(value[-1])
    if callable(value) and not isinstance(value, type):
        return repr(value(0))
    return "none" if value == [] else repr(value)


@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{i}-{n}" for i, (n, _) in enumerate(CASES)])
def test_a_bad_argument_is_refused_by_name_and_value_and_the_model_stays_as_it_is(name, value):
    model = make_model()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    arguments = {"lam": 1.0, "prior": SpikeSlab(0.1), "init": "prior"} | {name: value}
    with pytest.raises((ValueError, TypeError)) as caught:
        GreedyMCMC(model.parameters(), **arguments)
    message = str(caught.value)
    assert message.startswith((f"{name} must", f"{name}={value!r} does not fit"))
    assert shown(value) in message
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("lam", [0, 0.0, 1, 10**6])
@pytest.mark.parametrize("lr", [0, 1, 0.5, torch.tensor(0.5)])
def test_the_ends_of_the_ranges_are_allowed(lam, lr):
    GreedyMCMC(make_model().parameters(), lam, lr=lr, n_proposals=1, seed=2**128 - 1)


@pytest.mark.parametrize(
    ("key", "value"), [("lr", -1.0), ("lr", math.nan), ("lam", math.nan), ("lam", -1.0), ("lam", "x")]
)
def test_settings_that_turn_bad_later_stop_the_next_step(key, value):
    model = make_model()
    optimizer = GreedyMCMC(model.parameters(), 1.0)
    optimizer.param_groups[0][key] = value
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match=f"^{key} must"):
        optimizer.step(make_closure(model))
    assert snapshot(model, optimizer) == before


def test_one_move_stands_for_a_list_of_one():
    optimizers = [GreedyMCMC(make_model().parameters(), 1.0, moves=m) for m in (RandomWalk(k=2), [RandomWalk(k=2)])]
    assert repr(optimizers[0]) == repr(optimizers[1])


def test_a_tile_from_a_configuration_file_may_be_a_list():
    (group,) = GreedyMCMC([torch.zeros(4, 4)], 1.0, blocks=[2, 2]).param_groups
    assert group["blocks"] == (2, 2)


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="speed"):
        GreedyMCMC(make_model().parameters(), 1.0, speed=2)
