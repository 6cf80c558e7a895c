"""Langevin steps: their law against scipy's, the preconditioner, what they touch, where they are impossible."""

import numpy as np
import pytest
import torch
from scipy import stats

from mcmcopt.chain import adapt
from mcmcopt.chain.layer import Kind
from mcmcopt.chain.moments import Moments
from mcmcopt.chain.moves import Langevin
from mcmcopt.chain.moves.langevin import preconditioner
from mcmcopt.chain.point import Point
from mcmcopt.chain.slabs import Gaussian, Laplace, StudentT
from tests.chain.states import make_layer


def slopes(*among):
    rng = np.random.default_rng(5)
    return {layer.param: torch.from_numpy(rng.standard_normal(layer.param.shape)) for layer in among}


@pytest.mark.parametrize("slab", [Gaussian(0.5), StudentT(3.0, 0.4), Laplace(0.7)], ids=repr)
@pytest.mark.parametrize("precondition", [False, True])
@pytest.mark.parametrize("owner", [0, 1])
def test_draws_and_densities_are_those_of_the_stated_normal_law(slab, precondition, owner):
    pair = [make_layer((20, 30), active=range(0, 600, 2 + i), slab=slab, seed=i) for i in range(2)]
    lam, rms, lr = 4.0, (0.3, 1.2), 0.2
    for layer, unit in zip(pair, rms, strict=True):
        layer.rms, layer.group = unit, tuple(pair)
        layer.param.requires_grad_()
        v = np.random.default_rng(7).exponential(size=600)
        layer.moments = Moments(torch.from_numpy(v), torch.tensor(3))
    gradients, move, scale = slopes(*pair), Langevin("group", precondition), lr * rms[owner]
    edits = move.draw(pair[owner], scale, np.random.default_rng(1), Point(lam, gradients))
    assert [edit.layer for edit in edits] == pair
    own, z = 0.0, []
    for layer, edit, unit in zip(pair, edits, rms, strict=True):
        assert edit.kind is Kind.WALK
        assert torch.equal(edit.indices, layer.mask().view(-1).nonzero().squeeze(1))
        assert torch.equal(edit.old, layer.values.view(-1)[edit.indices])
        M = np.ones(600)
        if precondition:
            root = np.sqrt(v)
            M = 1 / (root + 0.1 * root.mean())
            M /= M.mean()
        x = edit.old.clone().requires_grad_()
        (score,) = torch.autograd.grad(slab.log_prob(x).sum(), x)
        where = edit.indices.numpy()
        slope = score.numpy() - lam * gradients[layer.param].view(-1).numpy()[where]
        variance = (lr * unit) ** 2 * M[where]
        law = stats.norm(edit.old.numpy() + variance / 2 * slope, np.sqrt(variance))
        own += law.logpdf(edit.new.numpy()).sum()
        z.append(law.cdf(edit.new.numpy()))
    assert stats.kstest(np.concatenate(z), "uniform").pvalue > 1e-3
    assert move.log_q(pair[owner], edits, scale, Point(lam, gradients)) == pytest.approx(own, rel=1e-11)


def test_the_ratio_is_that_of_the_normal_laws_at_both_ends():
    layer = make_layer(active=range(5), slab=Gaussian(0.5))
    there = {layer.param: torch.full_like(layer.param, -0.7)}
    here, lam, scale, move = slopes(layer), 2.0, 0.3, Langevin()
    edits = move.draw(layer, scale, np.random.default_rng(2), Point(lam, here))
    (edit,) = edits
    old, new, where = edit.old.numpy(), edit.new.numpy(), edit.indices.numpy()
    forth = stats.norm(old + scale**2 / 2 * (-old / 0.25 - lam * here[layer.param].view(-1).numpy()[where]), scale)
    back = stats.norm(new + scale**2 / 2 * (-new / 0.25 + lam * 0.7), scale)
    found = move.log_q_ratio(layer, edits, scale, Point(lam, here), Point(lam, there, edits))
    assert found == pytest.approx((back.logpdf(old) - forth.logpdf(new)).sum(), rel=1e-10)


def test_the_preconditioner_has_mean_one_is_bounded_and_does_not_depend_on_units():
    v = torch.from_numpy(np.random.default_rng(0).exponential(size=500))
    v[:3] = torch.tensor([0.0, 1e-12, 1e6], dtype=torch.float64)
    M = preconditioner(v)
    assert float(M.mean()) == pytest.approx(1)
    torch.testing.assert_close(preconditioner(v * 1e8), M)
    assert bool((M > 0).all())
    order = v.argsort()
    assert bool((M[order].diff() <= 0).all())
    typical = torch.full((500,), 4.0, dtype=torch.float64)
    typical[0] = 0.0
    M = preconditioner(typical)
    assert float(M[0] / M[1]) == pytest.approx(11, rel=0.01)  # no entry for want of a gradient moves much farther
    assert torch.equal(preconditioner(torch.zeros(4)), torch.ones(4))


def test_before_any_gradient_was_seen_the_preconditioned_step_is_the_plain_one():
    layer = make_layer()
    layer.moments = Moments(torch.zeros(12, dtype=torch.float64), torch.tensor(0))
    drawn = [
        move.draw(layer, 0.3, np.random.default_rng(0), Point(1.0, slopes(layer)))
        for move in (Langevin(), Langevin(precondition=True))
    ]
    assert torch.equal(drawn[0][0].new, drawn[1][0].new)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3, 2)])
def test_it_applies_to_dense_layers_of_any_shape(shape):
    layer = make_layer(shape, dense=True)
    (edit,) = Langevin().draw(layer, 0.3, np.random.default_rng(0), Point(1.0, slopes(layer)))
    assert len(edit.indices) == layer.tiling.numel


def test_it_is_impossible_at_scale_zero_and_where_nothing_is_active():
    for layer, scale in ((make_layer(), 0.0), (make_layer(active=()), 0.5)):
        assert Langevin().draw(layer, scale, np.random.default_rng(0), Point(1.0, slopes(layer))) is None


def test_values_are_those_that_the_parameter_can_store():
    layer = make_layer((5, 7), (2, 3), active=[0, 2, 8], dtype=torch.bfloat16)
    (edit,) = Langevin().draw(
        layer, 0.3, np.random.default_rng(0), Point(1.0, slopes(make_layer((5, 7))) | slopes(layer))
    )
    assert torch.equal(edit.new.to(torch.bfloat16).double(), edit.new)


@pytest.mark.parametrize("accepted", [False, True])
def test_adaptation_steers_towards_0_574(accepted):
    adapted = Langevin().adapt(0.3, 7, (), accepted, 1.0)
    assert adapted == pytest.approx(0.3 + adapt.gain(7) * (accepted - 0.574))
