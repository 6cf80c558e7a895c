"""Each CPU kernel against its reference in torch, in every shape, and with nan and inf."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from mcmcopt.loss.incremental.layout import Major, Rows
from mcmcopt.loss.incremental.tiles import Tiles
from mcmcopt.loss.kernels import reference
from mcmcopt.loss.kernels.memory import TILE
from mcmcopt.loss.kernels.reference import Geometry
from tests.optim.problems import bits

SAMPLES = (1, 63, 64, 65, 130)
DTYPES = (torch.float32, torch.float64)
EACH_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
EACH_SIZE = pytest.mark.parametrize("n", SAMPLES)


def generator(*key):
    return torch.Generator().manual_seed(hash(key) % 2**31)


def normal(g, *shape):
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def some(g, high, count):
    return torch.randperm(high, generator=g)[:count].sort().values


def layouts(n, dtype):
    return Tiles(n, dtype), Major(n, torch.float64, torch.device("cpu"))


def compare(tiles, got, want, scale=1.0):
    """Compare a stored activation with a reference (samples, features) in float64."""
    got = tiles.major(got, want.shape[1:])
    assert got.dtype == tiles.dtype
    bound = (1e-13 if tiles.dtype is torch.float64 else 1e-5) * scale
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got.isposinf(), want.isposinf())
    assert torch.equal(got.isneginf(), want.isneginf())
    finite = want.isfinite()
    torch.testing.assert_close(got[finite].double(), want[finite], rtol=bound, atol=bound)


def as_stored(tiles, value):
    return tiles.store(value.to(tiles.dtype))


# Layout -------------------------------------------------------------------------------------------------------------


@EACH_SIZE
@pytest.mark.parametrize("dtype", [*DTYPES, torch.uint8, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (17,), (3, 5, 4)])
def test_storing_and_reading_return_the_same_bits(n, dtype, shape):
    tiles, g = Tiles(n, torch.float32), generator(n, *shape)
    x = torch.randint(256, (n, *shape), generator=g).to(dtype)
    stored = tiles.store(x)
    assert stored.shape == (math.ceil(n / TILE), math.prod(shape), TILE)
    assert bits(tiles.major(stored, shape)) == bits(x)
    assert not stored.transpose(1, 2).reshape(-1, math.prod(shape))[n:].any()
    parts = torch.full_like(stored, 1)
    for first in range(0, n, TILE):
        tiles.write(parts, x[first : first + TILE], first)
    assert bits(parts) == bits(stored)
    assert bits(
        tiles.store(x.flip(0).flip(0) if shape == () else x.transpose(0, -1).contiguous().transpose(0, -1))
    ) == bits(stored)


@EACH_SIZE
@EACH_DTYPE
@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("count", [0, 1, 3, 6])
def test_put_and_merged(n, dtype, size, count):
    (tiles, major), g = layouts(n, dtype), generator(n, size, count)
    ids, old, new = some(g, 6, count), normal(g, n, 6 * size), normal(g, n, count * size)
    stored = as_stored(tiles, old)
    before, rows = bits(stored), Rows(ids, size, as_stored(tiles, new))
    want = major.merged(old, Rows(ids, size, new)).to(dtype)
    assert bits(tiles.major(tiles.merged(stored, rows), (6 * size,))) == bits(want)
    assert bits(stored) == before
    tiles.put(stored, rows)
    assert bits(tiles.major(stored, (6 * size,))) == bits(want)


@EACH_SIZE
@EACH_DTYPE
def test_relu(n, dtype):
    tiles, g = Tiles(n, dtype), generator(n)
    x = normal(g, n, 9).to(dtype)
    x.view(-1)[::4] = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0], dtype=dtype).repeat(n * 9)[
        : len(x.view(-1)[::4])
    ]
    got = tiles.major(tiles.relu(tiles.store(x)), (9,))
    torch.testing.assert_close(got, torch.relu(x), rtol=0, atol=0, equal_nan=True)


# Linear maps --------------------------------------------------------------------------------------------------------


def linear_case(g, n, inputs, used, outputs, variant, sparsity=0.0):
    """Return the arguments of `linear_rows` in float64."""
    rows = some(g, inputs, used)
    weight = normal(g, outputs, used) * (torch.rand(outputs, used, generator=g) >= sparsity)
    source, terms = normal(g, n, inputs), {}
    if "old" in variant:
        terms["old"], source = source, normal(g, n, used)
    if "base" in variant:
        terms["base"] = normal(g, n, outputs)
    if "picked" in variant:
        terms["base"], terms["base_rows"] = normal(g, n, outputs + 3), some(g, outputs + 3, outputs)
    if "bias" in variant:
        terms["bias"] = normal(g, outputs) * (torch.rand(outputs, generator=g) > 0.3)  # 0 is a path of its own
    return source, rows, weight, terms


def in_tiles(tiles, source, terms):
    kept = {k: as_stored(tiles, v) if k in ("old", "base") else v for k, v in terms.items()}
    kept = {k: v.to(tiles.dtype) if k in ("bias", "scale", "shift") else v for k, v in kept.items()}
    return as_stored(tiles, source) if source.is_floating_point() else tiles.store_codes(source), kept


def rounded(dtype, *values):
    """Return what the layout holds of the arguments, in float64."""
    return [v.to(dtype).double() if v.is_floating_point() else v for v in values]


VARIANTS = ["", "bias", "base", "picked bias", "old", "old base", "old picked bias"]


@EACH_DTYPE
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("used", "outputs"), [(0, 3), (1, 1), (3, 2), (6, 3), (7, 4), (11, 5), (11, 9)])
@pytest.mark.parametrize("sparsity", [0.0, 0.8, 1.0])
def test_linear_rows(dtype, variant, used, outputs, sparsity):
    for n in (1, 64, 65, 130):
        g = generator(n, used, outputs)
        source, rows, weight, terms = linear_case(g, n, 11, used, outputs, variant, sparsity)
        (tiles, major), (stored, kept) = layouts(n, dtype), in_tiles(Tiles(n, dtype), source, terms)
        got = tiles.linear_rows(stored, rows, weight.to(dtype), **kept)
        source, weight, *values = rounded(dtype, source, weight, *terms.values())
        want = major.linear_rows(source, rows, weight, **dict(zip(terms, values, strict=True)))
        compare(tiles, got, want, 10)


@EACH_SIZE
@EACH_DTYPE
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 10), (17, 6), (260, 90)])
def test_linear_all(n, dtype, inputs, outputs):
    g, (tiles, major) = generator(n, inputs), layouts(n, dtype)
    x, weight, bias = rounded(dtype, normal(g, n, inputs), normal(g, outputs, inputs), normal(g, outputs))
    for b in (None, bias):
        got = tiles.linear_all(tiles.store(x.to(dtype)), weight.to(dtype), None if b is None else b.to(dtype))
        compare(tiles, got, major.linear_all(x, weight, b), 100)


# Convolutions -------------------------------------------------------------------------------------------------------

GEOMETRIES = [
    # size, kernel, stride, padding, dilation
    ((5, 5), (3, 3), (1, 1), (1, 1), (1, 1)),
    ((6, 9), (3, 3), (1, 1), (0, 0), (1, 1)),
    ((4, 13), (1, 1), (1, 1), (0, 0), (1, 1)),
    ((7, 10), (2, 3), (1, 1), (1, 2), (1, 1)),
    ((9, 8), (3, 2), (2, 2), (1, 0), (1, 1)),
    ((8, 11), (3, 3), (3, 1), (0, 3), (1, 1)),
    ((8, 11), (3, 3), (1, 3), (3, 0), (1, 1)),
    ((9, 12), (3, 3), (1, 1), (2, 2), (2, 2)),
    ((9, 12), (2, 3), (2, 3), (1, 3), (2, 1)),
    ((6, 18), (3, 3), (2, 1), (1, 1), (1, 2)),
    ((3, 4), (1, 1), (1, 1), (3, 3), (1, 1)),
    ((5, 6), (1, 1), (2, 2), (3, 2), (1, 1)),
    ((5, 7), (5, 7), (1, 1), (0, 0), (1, 1)),
    ((1, 9), (1, 3), (1, 1), (0, 1), (1, 1)),
    ((7, 1), (3, 1), (1, 1), (1, 0), (1, 1)),
    ((2, 2), (5, 5), (1, 1), (3, 3), (1, 1)),
    ((11, 17), (5, 5), (1, 1), (2, 2), (1, 1)),
    ((4, 33), (3, 3), (1, 2), (1, 1), (1, 1)),
]


def geometry(size, kernel, stride, padding, dilation):
    x = torch.empty(1, 1, *size)
    out = functional.conv2d(x, torch.empty(1, 1, *kernel), None, stride, padding, dilation).shape[2:]
    return Geometry(size, tuple(out), kernel, stride, padding, dilation)


def conv_case(g, n, shape, channels, used, outputs, variant, sparsity=0.0):
    """Return the arguments of `conv_rows` in float64."""
    area, per = math.prod(shape.size), math.prod(shape.out)
    ids = some(g, channels, used)
    weight = normal(g, outputs, used, *shape.kernel)
    weight *= torch.rand(weight.shape, generator=g) >= sparsity
    source, terms = normal(g, n, channels * area), {}
    if "codes" in variant:
        source = torch.randint(256, source.shape, generator=g).to(torch.uint8)
        terms["scale"], terms["shift"] = normal(g, used) / 255, normal(g, used)
    if "old" in variant:
        terms["old"], source = source, normal(g, n, used * area)
    if "base" in variant:
        terms["base"] = normal(g, n, outputs * per)
    if "picked" in variant:
        terms["base"], terms["base_rows"] = normal(g, n, (outputs + 2) * per), some(g, outputs + 2, outputs)
    if "bias" in variant:
        terms["bias"] = normal(g, outputs) * (torch.rand(outputs, generator=g) > 0.3)
    return source, ids, weight, terms


def check_conv(n, dtype, shape, channels, used, outputs, variant, sparsity=0.0):
    g = generator(n, used, outputs, *shape.size)
    source, ids, weight, terms = conv_case(g, n, shape, channels, used, outputs, variant, sparsity)
    (tiles, major), (stored, kept) = layouts(n, dtype), in_tiles(Tiles(n, dtype), source, terms)
    got = tiles.conv_rows(stored, ids, weight.to(dtype), shape, **kept)
    source, weight, *values = rounded(dtype, source, weight, *terms.values())
    want = major.conv_rows(source, ids, weight, shape, **dict(zip(terms, values, strict=True)))
    compare(tiles, got, want, 20)


@EACH_DTYPE
@pytest.mark.parametrize("case", GEOMETRIES, ids=str)
@pytest.mark.parametrize("variant", ["", "old base", "picked bias", "codes"])
def test_conv_rows_in_every_geometry(dtype, case, variant):
    shape = geometry(*case)
    for outputs, used in ((1, 1), (1, 2), (3, 2)):
        check_conv(65, dtype, shape, 3, used, outputs, variant)
    check_conv(2, dtype, shape, 3, 3, 2, variant, sparsity=0.8)


@EACH_SIZE
@EACH_DTYPE
@pytest.mark.parametrize(
    "variant", ["", "bias", "base", "picked", "old", "old picked bias", "codes bias", "codes base"]
)
@pytest.mark.parametrize("sparsity", [0.0, 0.9, 1.0])
def test_conv_rows_in_every_variant(n, dtype, variant, sparsity):
    shape = geometry((5, 9), (3, 3), (1, 1), (1, 1), (1, 1))
    for used, outputs in ((0, 2), (1, 1), (4, 5)):
        check_conv(n, dtype, shape, 4, used, outputs, variant, sparsity)


# Cross-entropy ------------------------------------------------------------------------------------------------------


def entropies(tiles, logits, labels):
    stored, prepared = tiles.store(logits.to(tiles.dtype)), tiles.prepare_labels(labels)
    return tiles.cross_entropies(stored, prepared), tiles.cross_entropy(stored, prepared)[0]


@EACH_SIZE
@EACH_DTYPE
@pytest.mark.parametrize("classes", [1, 2, 3, 10, 101])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 30.0, 1e4, 1e30])
def test_cross_entropies(n, dtype, classes, scale):
    tiles, g = Tiles(n, dtype), generator(n, classes)
    logits = (scale * normal(g, n, classes)).to(dtype).double()
    labels = torch.randint(classes, (n,), generator=g)
    each, mean = entropies(tiles, logits, labels)
    want = reference.cross_entropy(logits, labels)
    assert each.dtype is mean.dtype is torch.float64
    torch.testing.assert_close(each, want, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(mean, want.mean(), rtol=1e-6, atol=1e-6)
    assert float(mean) >= -1e-12
    torch.testing.assert_close(mean, each.mean(), rtol=1e-12, atol=1e-12)


@EACH_DTYPE
@pytest.mark.parametrize("where", [0, 5, 63, 64, 69])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 2, slice(None)])
def test_cross_entropy_of_nan_and_inf(dtype, where, value, place):
    tiles, g = Tiles(70, dtype), generator(where)
    logits, labels = normal(g, 70, 3).to(dtype).double(), torch.ones(70, dtype=torch.int64)
    logits[where, place] = value
    each, mean = entropies(tiles, logits, labels)
    want = functional.cross_entropy(logits.to(dtype), labels, reduction="none")
    assert torch.equal(each.isnan(), want.isnan())
    assert torch.equal(each.isinf(), want.isinf())
    clean = want.isfinite()
    torch.testing.assert_close(each[clean].float(), want[clean].float(), rtol=2e-6, atol=2e-6)
    assert bool(mean.isnan()) == bool(want.mean().isnan())
    assert bool(mean.isinf()) == bool(want.mean().isinf())


@EACH_SIZE
@EACH_DTYPE
@pytest.mark.parametrize("classes", [1, 3, 10])
@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0, 1e4])
def test_cross_entropy_of_a_few_changed_classes(n, dtype, classes, scale):
    tiles, g = Tiles(n, dtype), generator(n, classes)
    logits, labels = normal(g, n, classes).to(dtype), torch.randint(classes, (n,), generator=g)
    prepared = tiles.prepare_labels(labels)
    _, state = tiles.cross_entropy(tiles.store(logits), prepared)
    for step in range(20):  # each goes on from the state of the one before
        ids = some(g, classes, 1 + step % 3)
        new = (scale * normal(g, n, len(ids))).to(dtype)
        if step % 4 == 0:
            new = logits[:, ids] - 30.0  # the highest logit falls
        stored, rows = tiles.store(logits), Rows(ids, 1, tiles.store(new))
        before = bits(stored)
        mean, state = tiles.cross_entropy_rows(stored, rows, prepared, state)
        assert bits(stored) == before
        logits[:, ids] = new
        want = reference.cross_entropy(logits, labels).mean()
        torch.testing.assert_close(mean, want, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_changed_classes_of_nan_and_inf(value, place):
    tiles, g = Tiles(70, torch.float32), generator(3)
    logits, labels = normal(g, 70, 4).float(), torch.ones(70, dtype=torch.int64)
    prepared, stored = tiles.prepare_labels(labels), tiles.store(logits)
    _, state = tiles.cross_entropy(stored, prepared)
    new = logits[:, [place]].clone()
    new[5] = value
    got, after = tiles.cross_entropy_rows(stored, Rows(torch.tensor([place]), 1, tiles.store(new)), prepared, state)
    bad = logits.clone()
    bad[:, [place]] = new
    want = functional.cross_entropy(bad, labels)
    torch.testing.assert_close(got.float(), want, rtol=3e-6, atol=3e-6, equal_nan=True)
    assert bool(want.isfinite()) == (value == -math.inf and place == 0)
    if not want.isfinite():  # no state that a chain could be in
        return
    old = Rows(torch.tensor([place]), 1, tiles.store(logits[:, [place]]))  # and back
    got, _ = tiles.cross_entropy_rows(tiles.store(bad), old, prepared, after)
    torch.testing.assert_close(got.float(), functional.cross_entropy(logits, labels), rtol=3e-6, atol=3e-6)


def test_samples_that_fill_up_a_tile_do_not_count():
    for dtype in DTYPES:
        tiles, labels = Tiles(70, dtype), torch.zeros(70, dtype=torch.int64)
        stored = tiles.store(torch.zeros(70, 3, dtype=dtype))
        before, _ = tiles.cross_entropy(stored, tiles.prepare_labels(labels))
        for value in (math.nan, math.inf, 1e30):
            stored[1, :, 6:] = value
            assert torch.equal(tiles.cross_entropy(stored, tiles.prepare_labels(labels))[0], before)
            assert torch.isfinite(tiles.cross_entropies(stored, tiles.prepare_labels(labels))).all()


# nan and inf --------------------------------------------------------------------------------------------------------


@EACH_DTYPE
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("variant", ["", "bias", "old base"])
@pytest.mark.parametrize("where", ["weight", "source"])
def test_nan_and_inf_pass_through_linear_maps_and_convolutions(dtype, value, variant, where):
    n, g = 70, generator(0)
    for outputs in (1, 5):
        source, rows, weight, terms = linear_case(g, n, 7, 6, outputs, variant)
        if where == "weight":
            weight[0, 2] = value
        else:
            source[3, int(rows[1]) if "old" not in variant else 1] = value
        (tiles, major), (stored, kept) = layouts(n, dtype), in_tiles(Tiles(n, dtype), source, terms)
        want = major.linear_rows(source, rows, weight, **terms)
        assert not want.isfinite().all()
        compare(tiles, tiles.linear_rows(stored, rows, weight.to(dtype), **kept), want, 100)
    shape = geometry((5, 9), (3, 3), (1, 1), (0, 0), (1, 1))
    for outputs in (1, 5):
        source, ids, weight, terms = conv_case(g, n, shape, 2, 2, outputs, variant)
        if where == "weight":
            weight[0, 1, 2, 1] = value
        else:
            source[3, 51] = value
        stored, kept = in_tiles(tiles, source, terms)
        want = major.conv_rows(source, ids, weight, shape, **terms)
        assert not want.isfinite().all()
        compare(tiles, tiles.conv_rows(stored, ids, weight.to(dtype), shape, **kept), want, 100)


@EACH_DTYPE
def test_large_values_overflow_as_in_torch(dtype):
    top = torch.finfo(dtype).max
    tiles = Tiles(3, dtype)
    got = tiles.linear_rows(
        tiles.store(torch.full((3, 2), top, dtype=dtype)), torch.arange(2), torch.ones(5, 2, dtype=dtype)
    )
    assert tiles.major(got, (5,)).isposinf().all()


# Threads ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@EACH_DTYPE
def test_results_do_not_depend_on_the_number_of_threads(dtype):
    n, g = 64 * 9 + 5, generator(1)
    tiles, shape = Tiles(n, dtype), geometry((8, 9), (3, 3), (1, 1), (1, 1), (1, 1))
    x, weight = tiles.store(normal(g, n, 4 * 72).to(dtype)), normal(g, 8, 4, 3, 3).to(dtype)
    wide, logits = normal(g, 40, 288).to(dtype), normal(g, n, 300).to(dtype)
    stored, labels = tiles.store(logits), tiles.prepare_labels(torch.randint(300, (n,), generator=g))
    few, found = Rows(torch.tensor([3, 200]), 1, x[:, :2].contiguous()), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append([
            bits(value)
            for value in (
                tiles.conv_rows(x, torch.arange(4), weight, shape),
                tiles.linear_rows(x, torch.arange(288), wide),
                tiles.linear_rows(x, torch.arange(288), wide[:2]),
                tiles.relu(x),
                tiles.store(logits),
                tiles.merged(x, Rows(torch.arange(100), 1, x[:, :100].contiguous())),
                tiles.cross_entropy(stored, labels)[0],
                tiles.cross_entropy_rows(stored, few, labels, tiles.cross_entropy(stored, labels)[1])[0],
                tiles.cross_entropies(stored, labels),
            )
        ])  # fmt: skip
    assert found[0] == found[1] == found[2]


@pytest.mark.usefixtures("_threads")
def test_an_error_in_a_thread_is_not_lost():
    from mcmcopt.loss.kernels.threads import over_tiles

    torch.set_num_threads(2)

    def kernel(out, first, last):
        if first > 0:
            raise ValueError("in a thread")
        out[first:last] = 1

    with pytest.raises(ValueError, match="in a thread"):
        over_tiles(kernel, 4, 1e9, np.zeros(4))
