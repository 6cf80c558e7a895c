"""C1: log A(θ→θ') = -log A(θ'→θ) for every move, at λ = 0, where log A is prior ratio + log q(back)/q(forth).

Errors made alike in both directions pass here; the closed forms in the other files of this folder see those.
"""

import numpy as np
import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st

from mcmcopt.chain.inclusion import AlquierLounici, Bernoulli, BetaBinomial, Complexity, RigolletTsybakov, SoftCap
from mcmcopt.chain.moves import BirthDeath, RandomWalk, SignFlip, Swap, Toggle
from mcmcopt.chain.priors import log_prior_ratio
from mcmcopt.chain.slabs import Gaussian, Laplace, StudentT
from tests.chain.states import accept, layers, make_layer, way_back

MOVES = [
    RandomWalk(),
    RandomWalk(k=1),
    RandomWalk(k=3, noise="student_t"),
    RandomWalk(k=2, noise="uniform"),
    SignFlip(k=2),
    BirthDeath(),
    BirthDeath(birth=0.2, density="laplace"),
    Toggle(),
    Toggle(density="student_t"),
    Swap(),
    Swap(density="laplace"),
]
INCLUSIONS = (
    Bernoulli(0.2),
    BetaBinomial(2.0, 5.0),
    Complexity(),
    AlquierLounici(),
    RigolletTsybakov(),
    SoftCap(0.3, 9.0),
)
SLABS = (Gaussian(0.5), StudentT(3.0, 0.4), Laplace(1.5))


def log_a(move, edits, scale):
    return log_prior_ratio(edits) + move.log_q_ratio(edits, scale)


@pytest.mark.parametrize("move", MOVES, ids=repr)
@given(layer=layers(INCLUSIONS, SLABS), scale=st.sampled_from([0.1, 1.0]), seed=st.integers(0, 10**6))
def test_the_way_back_has_the_opposite_ratio(move, layer, scale, seed):
    before, mask = layer.param.clone(), layer.mask()
    edits = move.draw(layer, scale, np.random.default_rng(seed))
    if edits is None:
        event("impossible")
        return
    event(f"{edits[0].kind.value} at {layer.active} of {layer.tiling.count}")
    forth, back = log_a(move, edits, scale), way_back(edits)
    accept(edits)
    assert log_a(move, back, scale) == pytest.approx(-forth, abs=1e-10, rel=1e-12)
    accept(back)
    assert torch.equal(layer.param, before)
    assert torch.equal(layer.mask(), mask)


@pytest.mark.parametrize("move", MOVES, ids=repr)
def test_both_ends_are_among_the_states_tried(move):
    kinds = set()
    for k in (0, 1, 11, 12):
        layer = make_layer(active=range(k))
        for seed in range(80):
            edits = move.draw(layer, 1.0, np.random.default_rng(seed))
            kinds.add((edits[0].kind.value if edits else "none", k))
    if isinstance(move, BirthDeath | Toggle):
        assert {("birth", 0), ("birth", 1), ("birth", 11), ("death", 1), ("death", 11), ("death", 12)} <= kinds
    elif isinstance(move, Swap):
        assert kinds == {("none", 0), ("death", 1), ("death", 11), ("none", 12)}
    else:
        assert kinds == {("none", 0), ("walk", 1), ("walk", 11), ("walk", 12)}
