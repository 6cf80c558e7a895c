"""The mixture of moves on a layer: constant weights, scales and their adaptation in shared tensors."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

from mcmcopt.chain.kernel import Kernel
from mcmcopt.chain.moves import BirthDeath, RandomWalk, SignFlip, Swap
from tests.chain.states import make_layer

MOVES = (BirthDeath(weight=2.0), RandomWalk(k=1), Swap(weight=0.5), RandomWalk(k=3, weight=1.5))


def make_kernel(layer, moves=MOVES):
    log_scale, adaptations = torch.zeros(len(moves), dtype=torch.float64), torch.zeros(len(moves), dtype=torch.int64)
    return Kernel(layer, moves, log_scale, adaptations), log_scale, adaptations


@pytest.mark.parametrize(("dense", "choices"), [(False, [0, 1, 2, 3]), (True, [1, 3])])
def test_moves_that_apply_are_chosen_in_proportion_to_their_weights(dense, choices):
    kernel, _, _ = make_kernel(make_layer(dense=dense))
    assert kernel.choices == choices
    counts = Counter(kernel.choose(u) for u in np.random.default_rng(0).random(8000).tolist())
    weights = np.array([MOVES[i].weight for i in choices])
    assert set(counts) == set(choices)
    assert stats.chisquare([counts[i] for i in choices], 8000 * weights / weights.sum()).pvalue > 1e-4
    assert kernel.choose(0.0) == choices[0]
    assert kernel.choose(1 - 2**-53) == choices[-1]


def test_the_choice_does_not_depend_on_the_state():
    u = np.random.default_rng(0).random(50).tolist()
    chosen = [[make_kernel(make_layer(active=range(k)))[0].choose(v) for v in u] for k in (0, 1, 6, 11, 12)]
    assert all(choices == chosen[0] for choices in chosen)


def test_the_scale_is_lr_times_rms_times_the_adapted_part():
    layer = make_layer()
    layer.rms = 0.3
    kernel, log_scale, _ = make_kernel(layer)
    log_scale[1] = math.log(5.0)
    assert kernel.scale(1, 0.1) == pytest.approx(0.1 * 0.3 * 5)
    assert kernel.scale(3, 0.1) == pytest.approx(0.1 * 0.3)
    assert kernel.scale(1, 0.0) == 0.0


def test_adaptation_is_written_into_the_tensors_and_undone_by_restore():
    layer = make_layer()
    kernel, log_scale, adaptations = make_kernel(layer)
    edits = MOVES[1].draw(layer, 1.0, np.random.default_rng(0))
    kernel.adapt(1, 1.0, edits, True)
    snapshot, kept = kernel.snapshot(), (log_scale.clone(), adaptations.clone())
    kernel.adapt(1, 1.0, edits, False)
    kernel.adapt(3, 1.0, edits, True)
    assert adaptations.tolist() == [0, 2, 0, 1]
    assert log_scale[1] < kept[0][1]
    kernel.restore(snapshot)
    assert torch.equal(log_scale, kept[0])
    assert torch.equal(adaptations, kept[1])


def test_what_teaches_nothing_does_not_count_as_an_adaptation():
    layer = make_layer()
    kernel, log_scale, adaptations = make_kernel(layer, (SignFlip(),))
    kernel.adapt(0, 1.0, SignFlip().draw(layer, 1.0, np.random.default_rng(0)), True)
    assert adaptations.tolist() == [0]
    assert log_scale.tolist() == [0.0]
