"""C14 for slabs: densities against scipy, draws against densities, ratios against differences of log-densities."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from mcmcopt.chain.slabs import DalalyanTsybakov, Gaussian, Laplace, StudentT

SLABS = {  # slab: the same law in scipy
    "gaussian": (Gaussian(0.3), stats.norm(scale=0.3)),
    "gaussian-wide": (Gaussian(20.0), stats.norm(scale=20.0)),
    "laplace": (Laplace(0.5), stats.laplace(scale=0.5)),
    "student-3": (StudentT(3.0, 0.2), stats.t(3.0, scale=0.2)),
    "cauchy": (StudentT(1, 2), stats.cauchy(scale=2.0)),
    "student-30": (StudentT(30.0), stats.t(30.0)),
    "dalalyan-tsybakov": (DalalyanTsybakov(0.4), stats.t(3.0, scale=0.4 / math.sqrt(3))),
}
EACH = pytest.mark.parametrize(("slab", "law"), SLABS.values(), ids=SLABS)
X = torch.tensor([-1e3, -3.0, -0.5, -1e-8, 0.0, 0.2, 1.0, 7.0, 1e4], dtype=torch.float64)


@EACH
def test_log_prob_is_that_of_scipy(slab, law):
    x = X[X.abs() < 100]  # scipy's Laplace takes the logarithm of a density that underflows beyond
    np.testing.assert_allclose(slab.log_prob(x).numpy(), law.logpdf(x.numpy()), rtol=1e-12, atol=1e-12)


@EACH
def test_the_density_integrates_to_one(slab, law):
    half, _ = integrate.quad(lambda x: float(slab.log_prob(torch.tensor(x, dtype=torch.float64)).exp()), 0, math.inf)
    assert 2 * half == pytest.approx(1, abs=1e-7)


@EACH
def test_draws_follow_the_density(slab, law):
    draws = slab.sample(5000, np.random.default_rng(11))
    assert draws.dtype == torch.float64
    assert draws.shape == (5000,)
    assert stats.kstest(draws.numpy(), law.cdf).pvalue > 1e-4


@EACH
def test_log_ratio_is_the_difference_of_the_log_densities(slab, law):
    rng = np.random.default_rng(2)
    for size in (1, 7):
        new, old = (torch.from_numpy(rng.standard_t(2, size)) for _ in range(2))
        direct = float((slab.log_prob(new) - slab.log_prob(old)).sum())
        assert slab.log_ratio(new, old) == pytest.approx(direct, abs=1e-10, rel=1e-10)
        assert slab.log_ratio(new, old) == pytest.approx(-slab.log_ratio(old, new), abs=1e-12)
    assert slab.log_ratio(X, X) == 0.0
    assert slab.log_density(X) == pytest.approx(float(slab.log_prob(X).sum()), rel=1e-12)


@EACH
def test_log_prob_keeps_shape_dtype_and_symmetry(slab, law):
    for dtype in (torch.float64, torch.float32):
        x = X[:6].to(dtype).view(2, 3)
        assert slab.log_prob(x).dtype == dtype
        assert slab.log_prob(x).shape == (2, 3)
        assert torch.equal(slab.log_prob(x), slab.log_prob(-x))


@EACH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_score_is_the_derivative_that_autograd_finds(slab, law, dtype):
    x = X.to(dtype)[X != 0].view(2, 4).requires_grad_()
    (derivative,) = torch.autograd.grad(slab.log_prob(x).sum(), x)
    score = slab.score(x.detach())
    assert (score.dtype, score.shape) == (dtype, x.shape)
    torch.testing.assert_close(score, derivative, rtol=1e-5 if dtype is torch.float32 else 1e-12, atol=0.0)
    assert torch.equal(slab.score(-x.detach()), -score)
    assert float(slab.score(torch.zeros(1, dtype=dtype))) == 0.0


def test_log_ratios_stay_exact_where_a_quotient_of_densities_under_or_overflows():
    old, new = torch.full((363,), 0.5, dtype=torch.float64), torch.full((363,), 1.0, dtype=torch.float64)
    assert Gaussian(0.01).log_ratio(new, old) == pytest.approx(-363 * 0.75 / (2 * 1e-4))
    assert Gaussian(0.01).log_ratio(old, new) == pytest.approx(363 * 0.75 / (2 * 1e-4))


def test_student_log_ratio_is_the_closed_form():
    nu, sigma, new, old = 5.0, 0.3, torch.tensor([0.7, -2.0]).double(), torch.tensor([0.1, 4.0]).double()
    ratios = [(1 + n**2 / (nu * sigma**2)) / (1 + o**2 / (nu * sigma**2)) for n, o in zip(new, old, strict=True)]
    assert StudentT(nu, sigma).log_ratio(new, old) == pytest.approx(-(nu + 1) / 2 * sum(math.log(r) for r in ratios))


def test_dalalyan_tsybakov_is_the_power_minus_two_of_tau_squared_plus_theta_squared():
    tau = 0.4
    difference = DalalyanTsybakov(tau).log_prob(X) + 2 * (tau**2 + X.square()).log()
    np.testing.assert_allclose(difference.numpy(), float(difference[0]), rtol=0, atol=1e-10)
    assert torch.equal(DalalyanTsybakov(tau).log_prob(X), StudentT(3.0, tau / math.sqrt(3)).log_prob(X))


def test_a_slab_is_a_dense_prior():
    slab = Laplace(2.0)
    assert slab.slab is slab
    assert slab.inclusion is None
    assert slab.per == "layer"


@pytest.mark.parametrize(
    ("slab", "text"),
    [
        (Gaussian(0.5), "Gaussian(scale=0.5)"),
        (Laplace(2), "Laplace(scale=2.0)"),
        (StudentT(3), "StudentT(df=3.0, scale=1.0)"),
        (DalalyanTsybakov(0.1), "DalalyanTsybakov(tau=0.1)"),
    ],
)
def test_reprs_say_how_to_make_the_slab_again(slab, text):
    assert repr(slab) == text
    assert repr(eval(text)) == text  # noqa: S307


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "x", True, None])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (Gaussian, "scale"),
        (Laplace, "scale"),
        (lambda v: StudentT(3.0, v), "scale"),
        (lambda v: StudentT(v), "df"),
        (DalalyanTsybakov, "tau"),
    ],
)
def test_bad_parameters_are_refused_by_name_and_value(make, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a positive, finite number") as caught:
        make(value)
    assert repr(value) in str(caught.value)
