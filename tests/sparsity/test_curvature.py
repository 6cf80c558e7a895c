"""Optimal brain damage against the exact Hessian and the Gauss-Newton matrix, both dense and of the test's own."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn.functional import cross_entropy, mse_loss

from mcmcopt.sparsity import OBD, Random, curvature, gauss_newton_diagonal, keep_masks, prune, weights

from .test_saliency import agree, data, mean_loss, normalised, tiny, values


def smooth():
    """Return a network in which outputs are curved in each weight."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(2, 2, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3)
    ).double()


def targets(loss_fn):
    """Return `data`, with vectors as targets where the loss wants them."""
    generator = torch.Generator().manual_seed(7)
    return [
        (x, y if loss_fn is cross_entropy else torch.randn(len(y), 3, generator=generator, dtype=torch.float64))
        for x, y in data()
    ]


def flat(model, keep=None):
    """Return the flat weights in force, and the outputs of the model as a function of them and of inputs."""
    own = {n: w if keep is None else w * keep[n] for n, w in values(model).items()}
    sizes = [w.numel() for w in own.values()]

    def outputs(vector, x):
        parts = {n: p.view_as(own[n]) for n, p in zip(own, vector.split(sizes), strict=True)}
        return functional_call(model, parts, (x,))

    return torch.cat([w.flatten() for w in own.values()]), outputs


def whole(batches):
    return (torch.cat(part) for part in zip(*batches, strict=True))


def exact_hessian(model, loss_fn, batches, keep=None):
    point, outputs = flat(model, keep)
    x, y = whole(batches)
    return jacrev(jacrev(lambda vector: loss_fn(outputs(vector, x), y)))(point)


def gauss_newton(model, loss_fn, batches):
    """Return mean Jᵀ H_L J, H_L written out: diag(p) - ppᵀ for cross-entropy, 2/K for the mean of K squares."""
    point, outputs = flat(model)
    x, _ = whole(batches)
    jacobian = jacrev(lambda vector: outputs(vector, x))(point)  # (samples, outputs, weights)
    if loss_fn is cross_entropy:
        p = outputs(point, x).softmax(1)
        inner = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    else:
        inner = torch.eye(3, dtype=point.dtype).expand(len(x), 3, 3) * 2 / 3
    return torch.einsum("ncj,ncd,ndk->jk", jacobian, inner, jacobian) / len(x)


def vector(named):
    return torch.cat([tensor.flatten() for tensor in named.values()])


@pytest.mark.parametrize("loss_fn", [cross_entropy, mse_loss])
@pytest.mark.parametrize("masked", [False, True])
def test_the_diagonal_is_the_exact_hessians_in_a_relu_network(loss_fn, masked):
    model = tiny()
    keep = keep_masks(Random(3)(model), 0.3) if masked else None
    assert len(flat(model)[0]) < 200
    own = gauss_newton_diagonal(model, loss_fn, targets(loss_fn), keep)
    assert {n: h.shape for n, h in own.items()} == {n: w.shape for n, w in weights(model).items()}
    exact = exact_hessian(model, loss_fn, targets(loss_fn), keep).diagonal()
    torch.testing.assert_close(vector(own), exact, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("loss_fn", [cross_entropy, mse_loss])
def test_with_curved_outputs_it_is_the_gauss_newton_matrix_and_not_the_hessian(loss_fn):
    model = smooth()
    own = vector(gauss_newton_diagonal(model, loss_fn, targets(loss_fn)))
    torch.testing.assert_close(own, gauss_newton(model, loss_fn, targets(loss_fn)).diagonal(), atol=1e-10, rtol=1e-9)
    exact = exact_hessian(model, loss_fn, targets(loss_fn)).diagonal()
    assert (own - exact).abs().max() > 0.01 * exact.abs().max()


def test_the_score_is_the_second_difference_of_the_loss():
    model, eps = tiny(), 1e-4
    w = values(model)
    literal = {n: torch.zeros_like(v) for n, v in w.items()}
    for name, tensor in w.items():
        for j in range(tensor.numel()):
            sides = []
            for step in (eps, 0.0, -eps):
                moved = tensor.clone()
                moved.view(-1)[j] += step
                sides.append(float(mean_loss(model, {**w, name: moved})))
            curved = (sides[0] - 2 * sides[1] + sides[2]) / eps**2
            literal[name].view(-1)[j] = curved * float(tensor.view(-1)[j]) ** 2 / 2
    agree(OBD()(model, cross_entropy, data()), literal, 1e-5)


def test_the_score_is_what_a_removal_costs_where_the_loss_is_a_parabola_at_its_minimum():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    model = nn.Linear(4, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    w = model.weight.detach()
    score = OBD()(model, mse_loss, [(x[:20], y[:20]), (x[20:], y[20:])])["weight"]
    for j in range(w.numel()):
        without = w.clone()
        without.view(-1)[j] = 0
        cost = mse_loss(x @ without.T, y) - mse_loss(x @ w.T, y)
        assert float(score.view(-1)[j]) == pytest.approx(float(cost), rel=1e-9)


def test_weights_that_are_off_have_the_score_of_coming_back():
    model = tiny()
    keep = keep_masks(Random(3)(model), 0.3)
    diagonal = exact_hessian(model, cross_entropy, data(), keep).diagonal()
    scores = vector(OBD()(model, cross_entropy, data(), keep))
    torch.testing.assert_close(scores, diagonal * vector(values(model)).square() / 2, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("entries", [1, 700, 2**25])
def test_how_many_samples_go_together_does_not_matter(monkeypatch, entries):
    model = tiny()
    expected = vector(gauss_newton_diagonal(model, cross_entropy, data()))
    monkeypatch.setattr(curvature, "ENTRIES", entries)
    torch.testing.assert_close(vector(gauss_newton_diagonal(model, cross_entropy, data())), expected)


def test_normalisation_layers_enter_by_their_running_statistics():
    model = normalised().double()
    batches = [(x.double(), y) for x, y in data((2, 4, 4))]
    own = vector(gauss_newton_diagonal(model.train(), cross_entropy, batches))
    assert model.training
    torch.testing.assert_close(
        own, exact_hessian(model.eval(), cross_entropy, batches).diagonal(), atol=1e-10, rtol=1e-9
    )


@pytest.mark.parametrize("loss_fn", [cross_entropy, mse_loss])
def test_float32_and_targets_that_are_probabilities(loss_fn):
    model = tiny()
    generator = torch.Generator().manual_seed(7)
    batches = [(x, torch.rand(len(x), 3, generator=generator, dtype=torch.float64).softmax(1)) for x, _ in data()]
    expected = vector(gauss_newton_diagonal(model, loss_fn, batches))
    torch.testing.assert_close(expected, exact_hessian(model, loss_fn, batches).diagonal(), atol=1e-10, rtol=1e-9)
    single = vector(gauss_newton_diagonal(model.float(), loss_fn, [(x.float(), y.float()) for x, y in batches]))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, expected.float(), atol=1e-5, rtol=1e-4)


def test_the_least_costly_go():
    model = tiny()
    scores = vector(OBD()(model, cross_entropy, data()))
    keep = vector(prune(model, OBD(), 0.3, cross_entropy, data(), scope="global"))
    assert scores[~keep].max() <= scores[keep].min()
    assert int((~keep).sum()) == round(0.3 * len(keep))


def test_bad_arguments_are_named():
    (x, y), _ = data()
    with pytest.raises(ValueError, match="one vector per sample"):
        gauss_newton_diagonal(nn.Conv2d(2, 3, 3).double(), lambda z, y: z.mean(), [(x, y)])
    with pytest.raises(ValueError, match="loss_fn"):
        gauss_newton_diagonal(tiny(), None, data())
    with pytest.raises(ValueError, match="batches"):
        gauss_newton_diagonal(tiny(), cross_entropy, [])
    with pytest.raises(ValueError, match="no linear or convolutional layer"):
        OBD()(nn.Flatten(), cross_entropy, [(x, y)])
