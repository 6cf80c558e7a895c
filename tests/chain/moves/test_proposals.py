"""What every move promises of its edits: they touch only what they name, and hold storable values."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcmcopt.chain.layer import Kind
from mcmcopt.chain.moves import BirthDeath, RandomWalk, SignFlip, Swap, Toggle
from tests.chain.states import layers, make_layer

WALKS = [RandomWalk(), RandomWalk(k=1), RandomWalk(k=3), SignFlip(), SignFlip(k=3)]
JUMPS = [BirthDeath(), BirthDeath(birth=0.9), Toggle(), Swap()]


def draw(move, layer, scale=0.5, seed=0):
    before, mask = layer.param.clone(), layer.mask()
    edits = move.draw(layer, scale, np.random.default_rng(seed))
    assert torch.equal(layer.param, before)  # a draw writes nothing
    assert torch.equal(layer.mask(), mask)
    return edits


@pytest.mark.parametrize("move", [*WALKS, *JUMPS], ids=repr)
@given(layer=layers(), seed=st.integers(0, 10**6))
def test_edits_are_of_the_right_form_and_within_their_block(move, layer, seed):
    for edit in draw(move, layer, seed=seed) or ():
        assert edit.layer is layer
        assert edit.indices.dtype == torch.int64
        assert len(edit.indices) == len(set(edit.indices.tolist())) > 0
        assert edit.old.dtype == edit.new.dtype == torch.float64
        assert edit.old.shape == edit.new.shape == edit.indices.shape
        assert torch.equal(edit.old, layer.param.view(-1)[edit.indices])
        active = layer.mask().flatten()[edit.indices]
        if edit.kind is Kind.WALK:
            assert edit.block == -1
            assert bool(active.all())
            assert not torch.equal(edit.old, edit.new)
        else:
            assert torch.equal(edit.indices, layer.tiling.indices(edit.block))
            assert bool(active.any()) == bool(active.all()) == (edit.kind is Kind.DEATH)
            dead = edit.new if edit.kind is Kind.DEATH else edit.old
            assert torch.equal(dead, torch.zeros_like(dead))


@pytest.mark.parametrize("move", [*WALKS, *JUMPS], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_those_that_the_parameter_can_store(move, dtype):
    layer = make_layer((5, 7), (2, 3), active=[0, 2, 5, 8], dtype=dtype)
    drawn = [draw(move, layer, seed=seed) for seed in range(20)]
    edits = [edit for edits in drawn if edits for edit in edits]
    assert edits
    for edit in edits:
        assert torch.equal(edit.new.to(dtype).double(), edit.new)
        assert torch.equal(layer.param.view(-1)[edit.indices].double(), edit.old)


@pytest.mark.parametrize(
    ("move", "impossible"),
    [(RandomWalk(), {0}), (RandomWalk(k=2), {0}), (SignFlip(), {0}), (Swap(), {0, 12}), (Toggle(), set())],
    ids=repr,
)
def test_a_move_is_impossible_exactly_at_its_ends(move, impossible):
    for k in (0, 1, 6, 11, 12):
        layer = make_layer(active=range(k))
        assert all((draw(move, layer, seed=seed) is None) == (k in impossible) for seed in range(10))


def test_births_at_the_full_and_deaths_at_the_empty_end_are_impossible_not_exchanged():
    kinds = {k: [draw(BirthDeath(), make_layer(active=range(k)), seed=s) for s in range(400)] for k in (0, 5, 12)}
    impossible = {k: sum(edits is None for edits in drawn) for k, drawn in kinds.items()}
    assert impossible[5] == 0
    assert all(abs(impossible[k] - 200) < 5 * 10 for k in (0, 12))  # five standard deviations
    assert {edits[0].kind for edits in kinds[0] if edits} == {Kind.BIRTH}
    assert {edits[0].kind for edits in kinds[12] if edits} == {Kind.DEATH}


@pytest.mark.parametrize("move", [RandomWalk(), RandomWalk(k=3), *JUMPS], ids=repr)
def test_scale_zero_makes_moves_with_a_scale_impossible(move):
    assert all(draw(move, make_layer(active=range(6)), scale=0.0, seed=seed) is None for seed in range(10))


def test_a_flip_has_no_scale():
    assert draw(SignFlip(), make_layer(), scale=0.0) is not None


@pytest.mark.parametrize("move", JUMPS, ids=repr)
def test_births_and_deaths_on_a_dense_layer_are_refused_by_name(move):
    with pytest.raises(ValueError, match="'encoder' has no inclusion prior"):
        move.draw(make_layer(dense=True, name="encoder"), 1.0, np.random.default_rng(0))


@pytest.mark.parametrize("move", WALKS, ids=repr)
def test_walks_apply_to_dense_layers_of_any_shape(move):
    for shape in ((), (1,), (5,), (2, 3, 2)):
        edits = draw(move, make_layer(shape, dense=True))
        assert edits is not None
        assert len(edits[0].indices) == min(move.k or 1, max(1, math.prod(shape)))


REPRS = [
    (RandomWalk(), "RandomWalk()"),
    (RandomWalk(k=8, noise="student_t", weight=2), "RandomWalk(k=8, noise='student_t', weight=2.0)"),
    (SignFlip(), "SignFlip(k=1)"),
    (SignFlip(k=4, weight=0.5), "SignFlip(k=4, weight=0.5)"),
    (BirthDeath(), "BirthDeath()"),
    (BirthDeath(birth=0.3, density="laplace", weight=3.0), "BirthDeath(birth=0.3, density='laplace', weight=3.0)"),
    (Toggle(density="student_t"), "Toggle(density='student_t')"),
    (Swap(weight=0.1), "Swap(weight=0.1)"),
]


@pytest.mark.parametrize(("move", "text"), REPRS, ids=[text for _, text in REPRS])
def test_reprs_say_how_to_make_the_move_again(move, text):
    assert repr(move) == text == repr(eval(text))  # noqa: S307


BAD = [("weight", v) for v in (0, -1, math.nan, math.inf, "x", True, None)]


@pytest.mark.parametrize("make", [RandomWalk, SignFlip, BirthDeath, Toggle, Swap])
@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_weight_is_refused_by_name_and_value(make, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be") as caught:
        make(**{name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("make", "name", "values"),
    [
        (RandomWalk, "k", (0, -3, 1.5, "x", True)),
        (SignFlip, "k", (0, -3, 1.5, "x", True)),
        (RandomWalk, "noise", ("gauss", None, 3)),
        (BirthDeath, "birth", (0, 1, -0.1, math.nan, "x", True, None)),
        (BirthDeath, "density", ("gauss", None, 3)),
        (Toggle, "density", ("gauss", None)),
        (Swap, "density", ("gauss", None)),
    ],
)
def test_bad_options_are_refused_by_name_and_value(make, name, values):
    for value in values:
        with pytest.raises(ValueError, match=f"^{name} must") as caught:
            make(**{name: value})
        assert repr(value) in str(caught.value)
