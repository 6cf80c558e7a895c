"""Tilings cut parameters of any shape into blocks that cover each entry exactly once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mcmcopt.chain.blocks import Tiling, check_spec

CASES = [  # shape, spec, number of blocks, sizes that occur
    ((), "scalar", 1, {1}),
    ((), "row", 1, {1}),
    ((5,), "scalar", 5, {1}),
    ((5,), "filter", 5, {1}),
    ((5,), (2, 2), 5, {1}),
    ((4, 6), "scalar", 24, {1}),
    ((4, 6), "row", 4, {6}),
    ((4, 1), "row", 4, {1}),
    ((4, 6), (2, 3), 4, {6}),
    ((4, 6), (1, 1), 24, {1}),
    ((4, 6), (4, 6), 1, {24}),
    ((5, 7), (2, 3), 9, {6, 2, 3, 1}),
    ((6, 3, 2, 2), "filter", 6, {12}),
    ((6, 3, 2, 2), (4, 5), 6, {20, 10, 8, 4}),
    ((0, 3), "scalar", 0, set()),
    ((3, 0), "row", 0, set()),
    ((0, 3), "row", 0, set()),
]


@pytest.mark.parametrize(("shape", "spec", "count", "sizes"), CASES)
def test_blocks_partition_the_entries(shape, spec, count, sizes):
    tiling = Tiling(shape, spec)
    blocks = [tiling.indices(b) for b in range(tiling.count)]
    assert tiling.count == count
    assert {tiling.size(b) for b in range(count)} == sizes
    assert [len(indices) for indices in blocks] == [tiling.size(b) for b in range(count)]
    assert tiling.scalar == (sizes <= {1})
    entries = torch.cat(blocks) if blocks else torch.empty(0, dtype=torch.int64)
    assert entries.dtype == torch.int64
    assert sorted(entries.tolist()) == list(range(tiling.numel)) == list(range(int(np.prod(shape, dtype=int))))
    assert all(torch.equal(indices, indices.sort().values) for indices in blocks)


@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    ),
    data=st.data(),
)
def test_any_tile_that_fits_partitions_the_matrix_into_rectangles(shape, data):
    rows, columns = shape[0], int(np.prod(shape[1:]))
    r, c = data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns))
    tiling = Tiling(shape, (r, c))
    assert tiling.count == -(-rows // r) * -(-columns // c)
    owner = np.full(rows * columns, -1)
    for block in range(tiling.count):
        indices = tiling.indices(block).numpy()
        assert (owner[indices] == -1).all()
        owner[indices] = block
    expected = [[(i // r) * -(-columns // c) + j // c for j in range(columns)] for i in range(rows)]
    assert (owner.reshape(rows, columns) == expected).all()


@pytest.mark.parametrize(("shape", "spec", "count", "sizes"), CASES)
def test_expand_is_true_on_exactly_the_active_blocks(shape, spec, count, sizes):
    tiling = Tiling(shape, spec)
    rng = np.random.default_rng(3)
    for active in (np.zeros(count, bool), np.ones(count, bool), rng.random(count) < 0.5):
        mask = tiling.expand(active)
        assert mask.shape == shape
        assert mask.dtype == torch.bool
        expected = torch.zeros(tiling.numel, dtype=torch.bool)
        for block in np.flatnonzero(active):
            expected[tiling.indices(int(block))] = True
        assert torch.equal(mask.reshape(-1), expected)


@pytest.mark.parametrize(("shape", "spec", "count", "sizes"), CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sums_are_taken_over_each_block(shape, spec, count, sizes, dtype):
    tiling = Tiling(shape, spec)
    values = torch.from_numpy(np.random.default_rng(4).integers(-9, 9, tiling.numel)).to(dtype)
    kept = values.clone()
    found = tiling.sums(values)
    assert found.dtype == dtype
    assert found.tolist() == [float(values[tiling.indices(b)].sum()) for b in range(count)]
    assert torch.equal(values, kept)


def test_indices_follow_the_logical_order_whatever_the_memory_format():
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    assert torch.equal(weight.take(Tiling(weight.shape, "filter").indices(2)), weight[2].flatten())


@pytest.mark.parametrize(("spec", "block"), [("scalar", 3), ("row", 2), ((2, 3), 0), ((2, 3), 5), ((2, 3), 8)])
def test_sampled_entries_are_uniform_on_the_block(spec, block):
    tiling, rng = Tiling((5, 7), spec), np.random.default_rng(0)
    entries = tiling.indices(block).tolist()
    draws = [tiling.sample_entry(block, rng) for _ in range(400 * len(entries))]
    counts = [draws.count(entry) for entry in entries]
    assert sum(counts) == len(draws)
    assert len(entries) == 1 or stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize(
    "spec", ["column", "", "Row", (0, 2), (2, -1), (2,), (1, 2, 3), (1.0, 2), (True, 2), 3, None, [2, 2], True]
)
def test_an_unknown_spec_is_refused_with_its_value(spec):
    with pytest.raises(ValueError, match="blocks must be") as caught:
        check_spec(spec)
    assert repr(spec) in str(caught.value)
    with pytest.raises(ValueError, match="blocks must be"):
        Tiling((4, 4), spec)


@pytest.mark.parametrize(("shape", "spec"), [((4, 6), (5, 1)), ((4, 6), (1, 7)), ((4, 2, 3), (4, 7))])
def test_a_tile_that_does_not_fit_names_the_tile_the_shape_and_the_matrix(shape, spec):
    with pytest.raises(ValueError, match="does not fit") as caught:
        Tiling(shape, spec)
    assert all(text in str(caught.value) for text in ("blocks", str(spec), str(shape), "4 x 6"))


def test_more_blocks_than_32_bits_can_number_are_refused():
    with pytest.raises(ValueError, match="2147483648 blocks"):
        Tiling((2**16, 2**15), "scalar")
