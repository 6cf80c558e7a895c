"""Mirror maps against potentials written down a second time in numpy, and errors that these checks must catch."""

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime

from mcmcopt import ElasticNet, Euclidean, Hypentropy, NegativeEntropy, PNorm
from mcmcopt.optim.potentials import Potential

SHAPE = (3, 5)


def tiles(w, r, c):
    return [w[i : i + r, j : j + c] for i in range(0, w.shape[0], r) for j in range(0, w.shape[1], c)]


def entropy(w):
    return np.sum(w * np.log(w) - w) if (w > 0).all() else np.inf


def net(mu, delta, r, c):
    def phi(w):
        blocks = tiles(w, r, c)
        return mu * sum(np.sqrt(b.size) * np.sqrt(np.sum(b**2)) for b in blocks) + np.sum(w**2) / (2 * delta)

    return phi


# name: (potential, Φ in numpy)
CASES = {
    "euclidean": (Euclidean(), lambda w: np.sum(w**2) / 2),
    "p=1.3": (PNorm(1.3), lambda w: np.sum(np.abs(w) ** 1.3) ** (2 / 1.3) / 2),
    "p=4": (PNorm(4), lambda w: np.sum(w**4) ** 0.5 / 2),
    "entropy": (NegativeEntropy(), entropy),
    "simplex": (NegativeEntropy(True, total=2.0), entropy),
    "simplices": (NegativeEntropy("last", total=3.0), entropy),
    "hypentropy": (Hypentropy(0.3), lambda w: np.sum(w * np.arcsinh(w / 0.3) - np.sqrt(w**2 + 0.09))),
    "lasso": (ElasticNet(0.7, delta=2.5), net(0.7, 2.5, 1, 1)),
    "rows": (ElasticNet(0.7, delta=2.5, blocks="row"), net(0.7, 2.5, 1, 5)),
    "ragged tiles": (ElasticNet(0.5, delta=0.4, blocks=(2, 2)), net(0.5, 0.4, 2, 2)),
    "dense": (ElasticNet(0.7, delta=2.5, min_dim=3), lambda w: np.sum(w**2) / 5),
}
EACH = pytest.mark.parametrize("case", CASES)


def point(case, rng):
    """Return weights in the domain, and the projection of directions onto it."""
    w = rng.normal(size=SHAPE)
    if case == "entropy":
        return np.abs(w) + 0.1, lambda d: d
    if case == "simplex":
        w = np.abs(w) + 0.1
        return 2 * w / w.sum(), lambda d: d - d.mean()
    if case == "simplices":
        w = np.abs(w) + 0.1
        return 3 * w / w.sum(1, keepdims=True), lambda d: d - d.mean(1, keepdims=True)
    return w, lambda d: d


PARTS = np.array(
    [
        [[i <= y < i + r and j <= x < j + c for x in range(SHAPE[1])] for y in range(SHAPE[0])]
        for r, c in ((2, 2), (1, 5))
        for i in range(0, SHAPE[0], r)
        for j in range(0, SHAPE[1], c)
    ]
)
"""Indicators of the tiles and of the rows: the directions in which a block grows."""


def check_mirror(case, potential):
    """The mirror map is the gradient of Φ (on a simplex, up to what is the same for all)."""
    rng = np.random.default_rng(0)
    for _ in range(3):
        w, tangent = point(case, rng)
        z = potential.mirror(torch.from_numpy(w)).numpy()
        gradient = approx_fprime(w.ravel(), lambda x: CASES[case][1](x.reshape(SHAPE)), 1e-7).reshape(SHAPE)
        np.testing.assert_allclose(tangent(z), tangent(gradient), atol=1e-5)


def check_inverse(case, potential):
    """The inverse map minimises Φ(w) − ⟨z, w⟩: no nearby point of the domain is better, and Φ is convex."""
    rng = np.random.default_rng(1)
    for scale in (0.3, 1.0, 3.0):
        z = rng.normal(size=SHAPE) * scale
        w = potential.inverse(torch.from_numpy(z)).numpy()
        _, tangent = point(case, rng)
        if case.startswith("simpl"):
            axis, total = (None, 2.0) if case == "simplex" else (1, 3.0)
            np.testing.assert_allclose(w.sum(axis), total)

        def value(w, z=z):
            return CASES[case][1](w) - np.sum(z * w)

        best = value(w)
        size = 0.01 * w.min() if case in ("entropy", "simplex", "simplices") else 1e-4
        for direction in (*np.eye(w.size).reshape(-1, *SHAPE), *rng.uniform(-1, 1, (100, *SHAPE)), *(w * PARTS)):
            step = tangent(direction) * size / max(1, np.abs(direction).max())
            assert min(value(w + step), value(w - step)) > best - 1e-13 * (1 + abs(best))


def check_round_trip(case, potential):
    rng = np.random.default_rng(2)
    for _ in range(3):
        w = point(case, rng)[0]
        np.testing.assert_allclose(potential.inverse(potential.mirror(torch.from_numpy(w))).numpy(), w, rtol=1e-9)


CHECKS = {"mirror": check_mirror, "inverse": check_inverse, "round trip": check_round_trip}


@EACH
@pytest.mark.parametrize("check", CHECKS)
def test_the_maps_are_those_of_the_potential(case, check):
    CHECKS[check](case, CASES[case][0])


class Wrong(Potential):
    """A case's potential, with another inverse or mirror map."""

    def __init__(self, case, inverse=None, mirror=None):
        right = CASES[case][0]
        self.inverse = inverse or right.inverse
        self.mirror = mirror or right.mirror

    mirror = inverse = None


Wrong.__abstractmethods__ = frozenset()


def soft(z, threshold):
    return z.sign() * (z.abs() - threshold).clamp_min(0)


def row_norms(z):
    return z.norm(dim=1, keepdim=True)


def padded(z):
    return torch.nn.functional.pad(z, (0, 1, 0, 1))


# what is wrong: (case, wrong potential, check that must fail)
PLANTED = {
    "inverse without beta": ("hypentropy", Wrong("hypentropy", torch.sinh), "inverse"),
    "mirror without beta": ("hypentropy", Wrong("hypentropy", mirror=torch.asinh), "mirror"),
    "neither has beta": ("hypentropy", Wrong("hypentropy", torch.sinh, torch.asinh), "inverse"),
    "another base": ("entropy", Wrong("entropy", torch.exp2), "inverse"),
    "p for q": ("p=4", Wrong("p=4", PNorm(4).mirror), "inverse"),
    "without its norm": ("p=4", Wrong("p=4", mirror=lambda w: w.sign() * w.abs() ** 3), "mirror"),
    "not normalised": ("simplex", Wrong("simplex", torch.exp), "inverse"),
    "total forgotten": ("simplex", Wrong("simplex", NegativeEntropy(True).inverse), "inverse"),
    "normalised over all": ("simplices", Wrong("simplices", NegativeEntropy(True, total=3.0).inverse), "inverse"),
    "threshold without delta": ("lasso", Wrong("lasso", lambda z: soft(2.5 * z, 0.7)), "inverse"),
    "without delta": ("lasso", Wrong("lasso", lambda z: soft(z, 0.7)), "inverse"),
    "hard threshold": ("lasso", Wrong("lasso", lambda z: 2.5 * z * (z.abs() > 0.7)), "inverse"),
    "no subgradient": ("lasso", Wrong("lasso", mirror=lambda w: w / 2.5), "round trip"),
    "entries for rows": ("rows", Wrong("rows", ElasticNet(0.7, delta=2.5).inverse), "inverse"),
    "without root of m": (
        "rows",
        Wrong("rows", lambda z: 2.5 * z * (1 - 0.7 / row_norms(z)).clamp_min(0)),
        "inverse",
    ),
    "ragged tiles as full ones": (
        "ragged tiles",
        Wrong("ragged tiles", lambda z: ElasticNet(0.5, 0.4, (2, 2)).inverse(padded(z))[:3, :5]),
        "inverse",
    ),
}


@pytest.mark.parametrize("error", PLANTED)
def test_planted_errors_are_caught(error):
    case, wrong, check = PLANTED[error]
    with pytest.raises(AssertionError):
        CHECKS[check](case, wrong)


@pytest.mark.parametrize("p", [1.05, 1.5, 2, 3, 10, 60])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_p_norms_hold_for_all_scales_large_p_and_zeros(p, scale):
    w = torch.tensor([1.0, -0.5, 0.0, 1e-3, -1e-3, 0.9]) * scale
    potential = PNorm(p)
    z = potential.mirror(w)
    assert bool(z.isfinite().all())
    assert z[2] == 0
    torch.testing.assert_close(potential.inverse(z).float(), w, rtol=1e-6, atol=0)
    assert torch.equal(potential.inverse(potential.mirror(torch.zeros(3))), torch.zeros(3, dtype=torch.float64))


@EACH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_shapes_are_kept_and_narrow_dtypes_widened(case, dtype):
    potential = CASES[case][0]
    filters = torch.rand(4, 3, 2, 2).to(dtype=dtype, memory_format=torch.channels_last)
    for w in (filters, torch.rand(SHAPE, dtype=dtype), torch.tensor(0.5, dtype=dtype), torch.zeros(0, 2, dtype=dtype)):
        if case == "ragged tiles" and not w.numel():
            continue  # no tile fits into nothing
        for out in (potential.mirror(w), potential.inverse(w)):
            assert out.shape == w.shape
            assert out.dtype == dtype or (dtype != torch.float64 and case != "euclidean" and out.dtype.itemsize >= 4)


@EACH
def test_nan_is_not_swallowed(case):
    w = torch.full(SHAPE, 0.5)
    w[0, 0] = torch.nan
    assert CASES[case][0].inverse(CASES[case][0].mirror(w))[0, 0].isnan()


def test_blocks_are_zero_or_alive_together_and_biases_are_dense():
    z = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    alive = ElasticNet(1.0, blocks="filter").inverse(z).flatten(1) != 0
    assert torch.equal(alive.any(1), z.flatten(1).square().mean(1) > 1)
    assert torch.equal(alive.any(1), alive.all(1))
    assert 0 < int(alive.any(1).sum()) < 6
    assert torch.equal(ElasticNet(1.0, delta=2.0).inverse(z[0, 0, 0]), 2 * z[0, 0, 0])
    assert torch.equal(ElasticNet(9.0, min_dim=0).inverse(z[0, 0, 0]), torch.zeros(4))


BAD = {
    "p": [(PNorm, {"p": value}) for value in (1, 0.5, -2, float("inf"), float("nan"), "x", True, None)],
    "beta": [(Hypentropy, {"beta": value}) for value in (0, -1, float("nan"), "x", None)],
    "simplex": [(NegativeEntropy, {"simplex": value}) for value in ("rows", None, 2)],
    "total": [(NegativeEntropy, {"total": 2.0}), (NegativeEntropy, {"simplex": True, "total": 0.0})],
    "mu": [(ElasticNet, {"mu": value}) for value in (-1, float("inf"), "x", None)],
    "delta": [(ElasticNet, {"mu": 1, "delta": value}) for value in (0, -1, float("nan"), None)],
    "blocks": [(ElasticNet, {"mu": 1, "blocks": value}) for value in ("column", (0, 1), 3)],
    "min_dim": [(ElasticNet, {"mu": 1, "min_dim": value}) for value in (-1, 1.5, True)],
}


@pytest.mark.parametrize(
    ("name", "kind", "options"), [(name, *case) for name, cases in BAD.items() for case in cases], ids=str
)
def test_bad_arguments_are_refused_by_name_and_value(name, kind, options):
    with pytest.raises(ValueError, match=f"^{name}[ =]") as caught:
        kind(**options)
    assert repr(options[name]) in str(caught.value)


def test_the_repr_tells_potentials_apart_and_a_list_is_a_tile():
    assert repr(ElasticNet(1, blocks=[2, 2])) == "ElasticNet(mu=1.0, delta=1.0, blocks=(2, 2), min_dim=2)"
    assert repr(PNorm(3)) == "PNorm(p=3.0)"
    assert repr(Euclidean()) == "Euclidean()"


OUTSIDE = {
    "zero": (NegativeEntropy(), [0.5, 0.0], r"above 0, parameter 3 has 0\.0"),
    "negative": (NegativeEntropy(True), [1.5, -0.5], r"above 0, parameter 3 has -0\.5"),
    "nan": (NegativeEntropy(), [0.5, float("nan")], "above 0, parameter 3 has nan"),
    "sum": (NegativeEntropy(True, total=2.0), [0.5, 0.5], r"sum to 2\.0 over the parameter, .* a sum of 1\.0"),
    "rows": (NegativeEntropy("last"), [[0.5, 0.5], [0.5, 0.75]], r"along the last dimension, .* a sum of 1\.25"),
}


@pytest.mark.parametrize("what", OUTSIDE)
def test_parameters_outside_of_the_domain_are_refused_by_name(what):
    potential, values, message = OUTSIDE[what]
    with pytest.raises(ValueError, match=message):
        potential.check(torch.tensor(values), "parameter 3")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_softmax_returns_is_on_the_simplex(dtype):
    w = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).softmax(-1).to(dtype)
    NegativeEntropy("last").check(w, "w")
    NegativeEntropy(True, total=4.0).check(w, "w")
