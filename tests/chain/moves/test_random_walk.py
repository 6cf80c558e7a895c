"""Random walks and flips: uniform choice of entries, symmetric noise of unit scale, adaptation targets."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats

from mcmcopt.chain import adapt
from mcmcopt.chain.moves import RandomWalk, SignFlip
from tests.chain.states import make_layer


def entries(move, layer, n, seed=0):
    rng = np.random.default_rng(seed)
    return Counter(tuple(sorted(move.draw(layer, 1.0, rng)[0].indices.tolist())) for _ in range(n))


@pytest.mark.parametrize("move", [RandomWalk, SignFlip])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_every_set_of_active_scalars_is_equally_likely(move, k):
    layer = make_layer(active=[1, 4, 5, 9, 11])
    sets = list(combinations([1, 4, 5, 9, 11], k))
    counts = entries(move(k=k), layer, 400 * len(sets))
    assert set(counts) == set(sets)
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


def test_a_whole_block_is_drawn_uniformly_from_the_active_ones_whatever_its_size():
    layer = make_layer((5, 7), (2, 3), active=[0, 2, 5, 8])
    counts = entries(RandomWalk(), layer, 2000)
    assert set(counts) == {tuple(layer.tiling.indices(b).tolist()) for b in (0, 2, 5, 8)}
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


def test_one_entry_comes_from_a_uniform_block_and_is_uniform_within_it():
    layer = make_layer((5, 7), (2, 3), active=[0, 2, 5, 8])
    counts = entries(RandomWalk(k=1), layer, 6000)
    expected = {
        (index,): 6000 / 4 / layer.tiling.size(b) for b in (0, 2, 5, 8) for index in layer.tiling.indices(b).tolist()
    }
    assert set(counts) == set(expected)
    assert stats.chisquare([counts[e] for e in expected], list(expected.values())).pvalue > 1e-4


def test_several_entries_come_from_different_blocks():
    layer = make_layer((5, 7), (2, 3), active=[0, 2, 5, 8])
    owner = {int(i): b for b in range(9) for i in layer.tiling.indices(b)}
    for chosen in entries(RandomWalk(k=3), layer, 200):
        assert len({owner[i] for i in chosen}) == 3
    assert {len(chosen) for chosen in entries(RandomWalk(k=7), layer, 50)} == {4}


def test_dense_layers_move_any_entry():
    counts = entries(RandomWalk(k=1), make_layer((5,), dense=True), 2000)
    assert len(counts) == 5
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


LAWS = {"normal": stats.norm(), "student_t": stats.t(3), "uniform": stats.uniform(-(3**0.5), 2 * 3**0.5)}


@pytest.mark.parametrize("noise", LAWS)
@pytest.mark.parametrize("scale", [1e-3, 2.0])
def test_steps_have_the_noise_s_law_times_the_scale(noise, scale):
    layer, rng = make_layer((100, 100)), np.random.default_rng(4)
    (edit,) = RandomWalk(k=10_000, noise=noise).draw(layer, scale, rng)
    steps = ((edit.new - edit.old) / scale).numpy()
    assert stats.kstest(steps, LAWS[noise].cdf).pvalue > 1e-4
    assert stats.kstest(-steps, LAWS[noise].cdf).pvalue > 1e-4
    if noise != "student_t":
        assert steps.std() == pytest.approx(1, abs=0.06)


def test_flips_change_signs_and_nothing_else():
    (edit,) = SignFlip(k=3).draw(make_layer(), 1.0, np.random.default_rng(0))
    assert torch.equal(edit.new, -edit.old)
    assert SignFlip().log_q_ratio((edit,), 1.0) == RandomWalk().log_q_ratio((edit,), 1.0) == 0.0


def test_a_flip_of_zeros_is_impossible_and_a_step_below_the_resolution_stays():
    layer = make_layer((2, 2))
    layer.param.zero_()
    assert SignFlip().draw(layer, 1.0, np.random.default_rng(0)) is None
    coarse = make_layer((2, 2), dtype=torch.bfloat16)
    (edit,) = RandomWalk().draw(coarse, 1e-9, np.random.default_rng(0))
    assert torch.equal(edit.new, edit.old)  # it is accepted, so that the scale grows out of this


@pytest.mark.parametrize(("k", "target"), [(1, 0.44), (3, 0.234)])
def test_adaptation_steers_towards_the_target_of_its_dimension(k, target):
    edits = RandomWalk(k=k).draw(make_layer(), 1.0, np.random.default_rng(0))
    for accepted in (False, True):
        adapted = RandomWalk(k=k).adapt(0.3, 7, edits, accepted, 1.0)
        assert adapted == pytest.approx(0.3 + adapt.gain(7) * (accepted - target))
    assert SignFlip(k=k).adapt(0.3, 7, edits, True, 1.0) is None


def test_labels_name_the_number_of_entries():
    assert [move.labels for move in (RandomWalk(), RandomWalk(k=8), SignFlip(k=2))] == [
        ("walk",),
        ("walk(k=8)",),
        ("flip(k=2)",),
    ]
