"""Informed births, deaths, swaps and flips: the way back, what they touch, how often what is chosen, what they refuse.

The closed forms that they are held to stand in tests/statistical/informed_detectors.py.
"""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from mcmcopt import BirthDeath, GreedyMCMC, RandomWalk, SpikeSlab
from mcmcopt.chain import adapt
from mcmcopt.chain.inclusion import BetaBinomial, Complexity
from mcmcopt.chain.kernel import Kernel
from mcmcopt.chain.layer import Kind
from mcmcopt.chain.moments import Moments
from mcmcopt.chain.moves import InformedBirthDeath, InformedFlip, InformedSwap, Langevin
from mcmcopt.chain.point import Point
from mcmcopt.chain.slabs import Laplace, StudentT
from tests.chain.states import layers, make_layer
from tests.statistical.informed_detectors import mismatch
from tests.statistical.informed_harness import Case, Chain, Loss, bowl

MOVES = [
    *(
        InformedBirthDeath(k, saliency=saliency, temperature=temperature, birth=0.4)
        for saliency in ("gain", "snip", "obd", "adam", "magnitude")
        for k, temperature in ((1, "auto"), (2, 1.5), (3, "rank"))
    ),
    InformedBirthDeath(2, "group", "snip", 1.0, "normal"),
    InformedSwap(),
    InformedSwap(2, saliency="magnitude", temperature=3.0, density="laplace"),
    InformedSwap(2, "group", "obd", "rank"),
    InformedFlip(),
    InformedFlip(3, temperature=2.0),
    InformedFlip(2, "group"),
]
SUPPORT = [move for move in MOVES if not isinstance(move, InformedFlip)]
PRIORS = ((BetaBinomial(2.0, 5.0), Complexity()), (StudentT(3.0, 0.4), Laplace(0.8)))


@pytest.mark.parametrize("move", [*MOVES, Langevin(), Langevin("group", precondition=True)], ids=repr)
@settings(max_examples=25)
@given(one=layers(*PRIORS), other=layers(*PRIORS), seed=st.integers(0, 10**6))
def test_the_way_back_has_the_opposite_ratio(move, one, other, seed):
    found = mismatch(move, [one, other], np.random.default_rng(seed))
    event("impossible" if found is None else "done")
    assert found is None or found <= 1e-10


@pytest.mark.parametrize("move", MOVES, ids=repr)
def test_both_ends_are_among_the_states_tried(move):
    kinds = set()
    for k in (0, 1, 3, 9, 11, 12):
        for seed in range(30):
            drawn = draw(move, make_layer(active=range(k)), seed=seed)
            kinds.add((drawn[0].kind.value if drawn else "none", k))
    least, most = move.k, 12 - move.k
    for k in (0, 1, 3, 9, 11, 12):
        possible = {kind for kind, there in kinds if there == k}
        if isinstance(move, InformedFlip):
            assert possible == ({"walk"} if k >= least else {"none"})
        elif isinstance(move, InformedSwap):
            assert possible == ({"death"} if least <= k <= most else {"none"})
        else:
            assert possible == {"birth" if k <= most else "none", "death" if k >= least else "none"}


def slopes(layer, seed=3):
    generator = np.random.default_rng(seed)
    if layer.moments is None:
        layer.moments = Moments(torch.from_numpy(generator.exponential(size=layer.tiling.numel)), torch.tensor(1))
    return {other.param: torch.from_numpy(generator.standard_normal(other.param.shape)) for other in layer.group}


def draw(move, layer, scale=0.5, seed=0, lam=2.0):
    layer.param.requires_grad_()  # frozen layers are left out of a group
    before, mask = layer.param.detach().clone(), layer.mask()
    gradients = slopes(layer)
    kept = {param: gradient.clone() for param, gradient in gradients.items()}
    edits = move.draw(layer, scale, np.random.default_rng(seed), Point(lam, gradients))
    assert torch.equal(layer.param, before)  # a draw writes nothing
    assert torch.equal(layer.mask(), mask)
    assert all(torch.equal(gradients[param], kept[param]) for param in kept)
    return edits


@pytest.mark.parametrize("move", MOVES, ids=repr)
@settings(max_examples=20)
@given(layer=layers(), seed=st.integers(0, 10**6))
def test_edits_are_of_the_right_form_and_within_their_block(move, layer, seed):
    edits = draw(move, layer, seed=seed) or ()
    entries = [i for edit in edits for i in edit.indices.tolist()]
    assert len(entries) == len(set(entries))
    for edit in edits:
        assert edit.indices.dtype == torch.int64
        assert edit.old.dtype == edit.new.dtype == torch.float64
        assert torch.equal(edit.old, layer.param.reshape(-1)[edit.indices])
        active = layer.mask().flatten()[edit.indices]
        if edit.kind is Kind.WALK:
            assert edit.indices.tolist() == [edit.block]
            assert bool(active)
            assert torch.equal(edit.new, -edit.old)
        else:
            assert torch.equal(edit.indices, layer.tiling.indices(edit.block))
            assert bool(active.any()) == bool(active.all()) == (edit.kind is Kind.DEATH)
            dead = edit.new if edit.kind is Kind.DEATH else edit.old
            assert not dead.any()
    kinds = Counter(edit.kind for edit in edits)
    if edits:
        assert kinds in ([{Kind.DEATH: move.k, Kind.BIRTH: move.k}] if isinstance(move, InformedSwap) else
                         [{kind: move.k} for kind in Kind])  # fmt: skip
        assert [edit.kind for edit in edits] == sorted((e.kind for e in edits), key=lambda kind: kind is Kind.BIRTH)


@pytest.mark.parametrize("move", MOVES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_those_that_the_parameter_can_store(move, dtype):
    layer = make_layer((5, 7), (2, 3), active=[0, 2, 5, 8], dtype=dtype)
    drawn = [draw(move, layer, seed=seed) for seed in range(10)]
    edits = [edit for edits in drawn if edits for edit in edits]
    for edit in edits:
        assert torch.equal(edit.new.to(dtype).double(), edit.new)


@pytest.mark.parametrize("move", SUPPORT, ids=repr)
def test_at_scale_zero_births_and_deaths_are_impossible(move):
    assert all(draw(move, make_layer(active=range(6)), scale=0.0, seed=seed) is None for seed in range(10))
    assert draw(InformedFlip(), make_layer(), scale=0.0) is not None  # a flip has no scale


def test_the_gradient_chooses():
    """Steep entries are born and go downhill; what the loss would lose with least harm dies; what it favours flips."""
    layer = make_layer((1, 40), active=range(20))
    flat = layer.param.view(-1)
    flat[:20] = 0.5
    gradient = torch.zeros_like(layer.param)
    gradient[0, [3, 30]] = torch.tensor([5.0, -5.0], dtype=torch.float64)
    point = Point(20.0, {layer.param: gradient})
    rng = np.random.default_rng(0)
    counts = Counter()
    values = []
    for _ in range(100):
        for move in (InformedBirthDeath(temperature=2.0), InformedFlip(temperature=2.0)):
            (edit,) = move.draw(layer, 0.3, rng, point)
            counts[edit.kind, edit.block] += 1
            values += edit.new.tolist() if (edit.kind, edit.block) == (Kind.BIRTH, 30) else []
    assert counts[Kind.BIRTH, 30] > 0.9 * sum(n for (kind, _), n in counts.items() if kind is Kind.BIRTH)
    assert counts[Kind.DEATH, 3] > 0.9 * sum(n for (kind, _), n in counts.items() if kind is Kind.DEATH)
    assert counts[Kind.WALK, 3] > 90
    assert np.median(values) == pytest.approx(0.3, abs=0.15)  # one scale against the slope


@pytest.mark.parametrize("seed", range(3))
def test_improve_accepts_exactly_what_raises_the_log_target_and_looks_back_at_nothing(seed):
    moves = (InformedBirthDeath(2), InformedSwap(1, "group"), InformedFlip(), Langevin(), RandomWalk(k=1))
    case = Case(moves, shapes=((1, 4), (2, 2)), scale=0.3)
    loss, lam = bowl(case.entries), 3.0
    asked = []

    def slope(w):
        asked.append(w.copy())
        return loss.slope(w)

    chain = Chain(case, Loss(loss.value, slope), lam, rule="improve", seed=seed)
    accepted = proposed = 0
    for _ in range(60):
        before = chain.weights
        asked.clear()
        drawn = chain.step()
        assert all(np.array_equal(w, before) for w in asked)  # never at a proposal
        if not drawn:
            continue
        after = before.copy()
        for step in drawn[0].steps:
            after[step.where] = step.new
        target = [case.log_prior(w) - lam * loss.value(w) for w in (before, after)]
        better = target[1] > target[0]
        assert np.array_equal(chain.weights, after if better else before)
        accepted, proposed = accepted + better, proposed + 1
        assert chain.optimizer.info.accepted == better
    assert 5 < accepted < proposed


def test_one_gradient_a_proposal_and_none_again_at_a_state_that_is_known():
    case = Case((InformedFlip(),), pattern=None)
    chain = Chain(case, bowl(4), 1.0, n_proposals=30)
    chain.step()
    info = chain.optimizer.info
    assert 0 < info.accepted < info.proposed == 30
    assert info.gradients == 31  # the present one, then one a proposal, accepted or not


def test_a_blind_acceptance_makes_the_gradient_unknown_and_a_rejection_does_not():
    case = Case((InformedFlip(), RandomWalk(k=1)), pattern=None, scale=0.3)
    chain = Chain(case, bowl(4), 1.0)
    chain.optimizer.n_proposals = 60
    drawn = chain.step()
    (layer,) = chain.optimizer.info.layers.values()
    informed, blind = layer.moves["informed flip(k=1)"], layer.moves["walk(k=1)"]
    assert chain.optimizer.info.gradients <= 1 + informed.proposed + blind.accepted
    assert chain.optimizer.info.gradients > informed.proposed
    assert len(drawn) == 60


def test_what_is_asked_of_the_objective_is_said():
    weight = torch.nn.Parameter(torch.ones(2, 3))

    class Plain:
        def evaluate(self):
            return weight.detach().square().sum()

        def propose(self, change): ...
        def commit(self): ...
        def rollback(self): ...

    optimizer = GreedyMCMC([weight], 1.0, prior=SpikeSlab(0.5), moves=[InformedFlip(), BirthDeath()])
    with pytest.raises(TypeError, match=r"objective with propose_with_gradient\(change, params\); Plain has none"):
        optimizer.step(Plain())
    GreedyMCMC([weight], 1.0, moves=[InformedBirthDeath(), RandomWalk()])  # there is nothing sparse for the first


def test_empty_and_frozen_layers_of_a_group_are_passed_over():
    empty, frozen, one = (torch.nn.Parameter(torch.ones(shape)) for shape in ((0, 3), (2, 2), (2, 3)))
    frozen.requires_grad_(False)
    moves = [move("group") if move is Langevin else move(2, "group") for move in
             (InformedBirthDeath, InformedSwap, InformedFlip, Langevin)]  # fmt: skip
    optimizer = GreedyMCMC([empty, frozen, one], 1.0, prior=SpikeSlab(0.5), moves=moves, n_proposals=60)
    optimizer.step(lambda: one.square().sum() + frozen.sum())
    assert {label.split("(")[0] for label in optimizer.info.layers["0.2"].moves} == {
        "informed birth", "informed death", "informed swap", "informed flip", "langevin",
    }  # fmt: skip
    assert bool((frozen == 1).all())


@pytest.mark.parametrize("number", [0, 1])
def test_the_birth_scale_learns_from_the_weights_of_the_layer_it_touched_in_that_layer_s_own_unit(number):
    move, lr, rms = InformedBirthDeath(scope="group"), 0.5, (0.1, 2.0)
    pair = [make_layer(active=range(6), seed=i) for i in range(2)]
    for layer, unit in zip(pair, rms, strict=True):
        layer.rms = unit
        layer.param.mul_(3 * unit)  # three times what it was when the chain began
    kernel = Kernel(pair[0], [move], torch.tensor([0.3], dtype=torch.float64), torch.tensor([7]))
    (edit,) = draw(InformedBirthDeath(), pair[number])
    active = pair[number].values[pair[number].values != 0]
    aim = math.log(float(active.square().mean().sqrt()) / (lr * rms[number]))
    for accepted in (False, True):
        kernel.adapt(0, lr, (edit,), accepted)
        assert kernel.scale(0, lr) / (lr * rms[0]) == pytest.approx(math.exp(0.3 + adapt.gain(7) * (aim - 0.3)))
        kernel.forget(0, (0.3, 7))
    assert InformedFlip().adapt(0.3, 7, (edit,), True, 1.0) is None


def test_labels_tell_births_from_deaths():
    drawn = [draw(InformedBirthDeath(), make_layer(active=range(6)), seed=seed) for seed in range(20)]
    assert {InformedBirthDeath().label(edits) for edits in drawn} == set(InformedBirthDeath.labels)
    assert InformedSwap().label(()) == "informed swap"
    assert InformedFlip(3).label(()) == "informed flip(k=3)"


REPRS = [
    (InformedBirthDeath(), "InformedBirthDeath()"),
    (
        InformedBirthDeath(4, "group", "snip", 2, "laplace", 0.3, weight=2),
        "InformedBirthDeath(k=4, scope='group', saliency='snip', temperature=2.0, density='laplace', birth=0.3, "
        "weight=2.0)",
    ),
    (InformedSwap(saliency="obd", temperature="rank"), "InformedSwap(saliency='obd', temperature='rank')"),
    (InformedFlip(8, "group", 3.0), "InformedFlip(k=8, scope='group', temperature=3.0)"),
    (InformedFlip(weight=0.5), "InformedFlip(weight=0.5)"),
    (Langevin("group", precondition=True), "Langevin(scope='group', precondition=True)"),
]


@pytest.mark.parametrize(("move", "text"), REPRS, ids=[text for _, text in REPRS])
def test_reprs_say_how_to_make_the_move_again(move, text):
    assert repr(move) == text == repr(eval(text))  # noqa: S307


@pytest.mark.parametrize(
    ("make", "name", "values"),
    [
        *(
            (make, "weight", (0, -1, math.nan, "x", True, None))
            for make in (InformedBirthDeath, InformedFlip, Langevin)
        ),
        *((make, "k", (0, -3, 1.5, "x", True)) for make in (InformedBirthDeath, InformedSwap, InformedFlip)),
        *((make, "scope", ("model", None, 1)) for make in (InformedBirthDeath, InformedFlip, Langevin)),
        *((make, "temperature", (0.5, math.inf, "hot", None)) for make in (InformedSwap, InformedFlip)),
        (InformedBirthDeath, "saliency", ("SNIP", None)),
        (InformedSwap, "density", ("gauss", None)),
        (InformedBirthDeath, "birth", (0, 1, math.nan, "x", True)),
        (Langevin, "precondition", (1, None, "yes")),
    ],
)
def test_bad_options_are_refused_by_name_and_value(make, name, values):
    for value in values:
        with pytest.raises(ValueError, match=f"^{name} must") as caught:
            make(**{name: value})
        assert repr(value) in str(caught.value)


def test_a_flip_leaves_out_what_has_no_sign():
    layer = make_layer((2, 3), dense=True)
    layer.param.view(-1)[[0, 4]] = 0.0
    point = Point(3.0, {layer.param: torch.ones_like(layer.param)})
    seen = {
        e.block for seed in range(40) for e in InformedFlip(k=2).draw(layer, 1.0, np.random.default_rng(seed), point)
    }
    assert seen == {1, 2, 3, 5}
    assert InformedFlip(k=5).draw(layer, 1.0, np.random.default_rng(0), point) is None
