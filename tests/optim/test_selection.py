"""Whose turn it is: modules by weight, parameters by blocks, whatever the names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcmcopt.optim.selection import Candidate, modules, probabilities


def named(*names, group=0, blocks=1, weight=1.0):
    return [Candidate(group, name, 2, blocks, weight) for name in names]


def unnamed(*dims, group=0, weight=1.0):
    return [Candidate(group, None, d, 10 * d + 1, weight) for d in dims]


@pytest.mark.parametrize(
    ("candidates", "numbers"),
    [
        (named("a.weight", "a.bias", "b.weight", "a.scale"), [0, 0, 1, 0]),
        (named("a.b.weight", "a.weight", "weight", "bias"), [0, 1, 2, 2]),
        (named("a.weight") + named("a.bias", group=1), [0, 1]),
        (unnamed(2, 1, 4, 1, 1, 2), [0, 0, 1, 1, 1, 2]),
        (unnamed(1, 1, 2, 0), [0, 0, 1, 1]),
        (unnamed(2, 1) + unnamed(1, 2, group=1), [0, 0, 1, 2]),
        (named("a.weight", "a.bias") + unnamed(2, 1, group=1), [0, 0, 1, 1]),
        (unnamed(2, 1) + named("a.weight", group=1), [0, 0, 1]),
        ([], []),
    ],
)
def test_modules_go_by_name_or_else_by_the_weight_before(candidates, numbers):
    assert modules(candidates) == numbers


def test_modules_are_equally_likely_and_blocks_share_their_module():
    candidates = [Candidate(0, n, 2, b, 1.0) for n, b in (("a.weight", 90), ("a.bias", 10), ("b.weight", 5))]
    assert probabilities(candidates, modules(candidates)) == pytest.approx([0.45, 0.05, 0.5])


def test_group_weights_are_relative_weights_of_modules():
    candidates = [
        Candidate(0, "a.weight", 2, 3, 3.0),
        Candidate(1, "b.weight", 2, 100, 1.0),
        Candidate(1, "c.weight", 2, 1, 1.0),
    ]
    assert probabilities(candidates, modules(candidates)) == pytest.approx([3 / 5, 1 / 5, 1 / 5])


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["a.w", "a.b", "b.w", "c.d.w"]), st.integers(1, 50)),
        min_size=1,
        max_size=8,
        unique_by=lambda c: c[:2],
    )
)
def test_probabilities_are_positive_and_sum_to_one(drawn):
    candidates = [Candidate(group, name, 2, blocks, 1.0 + group) for group, name, blocks in drawn]
    shares = probabilities(candidates, modules(candidates))
    assert sum(shares) == pytest.approx(1)
    assert all(share > 0 for share in shares)
