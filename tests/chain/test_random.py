"""Random streams are functions of (seed, purpose, index) and of nothing else."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mcmcopt.chain.random import Purpose, Streams, distinct

KEYS = st.tuples(st.sampled_from(Purpose), st.sampled_from([0, 1, 2, 199, 2**31, 2**63]))


def numbers(rng: np.random.Generator) -> list[float]:
    return [*rng.random(3).tolist(), int(rng.integers(7)), float(rng.standard_normal()), *rng.permutation(5).tolist()]


@given(seed=st.sampled_from([0, 1, 2**64, 2**128 - 1]), uses=st.lists(KEYS, min_size=1, max_size=8), odd=st.booleans())
def test_a_stream_does_not_depend_on_what_was_drawn_before(seed, uses, odd):
    streams = Streams(seed)
    for purpose, index in uses:
        rng = streams.at(index, purpose)
        assert numbers(rng) == numbers(Streams(seed).at(index, purpose))
        if odd:
            rng.integers(5, dtype=np.uint32)  # leaves half a word in the generator's buffer
        rng.standard_normal(len(uses))


def test_streams_of_different_seeds_purposes_and_indices_share_no_number():
    seen: set[int] = set()
    for seed in (0, 1, 2**64):
        streams = Streams(seed)
        for purpose in Purpose:
            for index in (0, 1, 2, 1000):
                seen.update(streams.at(index, purpose).integers(2**63, size=50).tolist())
    assert len(seen) == 3 * len(Purpose) * 4 * 50


def test_the_first_numbers_of_successive_streams_are_uniform_and_uncorrelated():
    streams = Streams(5)
    u = np.array([streams.at(index).random() for index in range(4000)])
    assert stats.kstest(u, "uniform").pvalue > 1e-4
    assert stats.pearsonr(u[1:], u[:-1]).pvalue > 1e-4


def test_the_global_generators_are_left_alone():
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    distinct(50, 8, Streams(0).at(3))
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("seed", [-1, 2**128, 1.0, "x", True, None])
def test_a_bad_seed_is_refused(seed):
    with pytest.raises(ValueError, match="seed must be") as caught:
        Streams(seed)
    assert repr(seed) in str(caught.value)


@pytest.mark.parametrize(("n", "k"), [(5, 1), (5, 2), (6, 2), (6, 3), (5, 4), (4, 4)])
def test_distinct_draws_every_subset_equally_often(n, k):
    rng = np.random.default_rng(n * 10 + k)
    subsets = [tuple(sorted(subset)) for subset in combinations(range(n), k)]
    counts = Counter(tuple(sorted(distinct(n, k, rng).tolist())) for _ in range(300 * len(subsets)))
    assert set(counts) == set(subsets)
    assert len(subsets) == 1 or stats.chisquare(list(counts.values())).pvalue > 1e-4


@given(n=st.integers(1, 60), k=st.integers(1, 70), seed=st.integers(0, 999))
def test_distinct_gives_the_smaller_of_both_numbers_all_different_and_in_range(n, k, seed):
    values = distinct(n, k, np.random.default_rng(seed))
    assert values.dtype == np.int64
    assert len(values) == len(set(values.tolist())) == min(n, k)
    assert all(0 <= value < n for value in values)
