"""Mirror descent against torch's SGD, against its algorithms written in numpy, and against its own definition."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from mcmcopt import ElasticNet, Euclidean, Hypentropy, MirrorDescent, NegativeEntropy, PNorm
from mcmcopt.optim import mirror_descent
from tests.optim.gradient_problems import make_descent, snapshot, steps
from tests.optim.problems import bits, make_model

# ---------------------------------------------------------------- Euclidean is SGD, bit for bit

SGD_OPTIONS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "decay": {"weight_decay": 0.01},
    "both": {"momentum": 0.9, "weight_decay": 0.01},
    "dampened": {"momentum": 0.8, "weight_decay": 0.01, "dampening": 0.3},
    "nesterov": {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
}


def check_equals_sgd(options, dtype=torch.float32, n=100):
    """Two groups, gradients that come and go, and 100 steps."""
    weights = []
    for kind in (torch.optim.SGD, MirrorDescent):
        model = make_model(dtype=dtype)
        groups = [
            {"params": [*model.first.parameters(), model.temperature]},
            {"params": [*model.norm.parameters(), *model.second.parameters()], "lr": 0.03, "momentum": 0.5},
        ]
        optimizer = kind(groups, lr=0.1, **options)
        closure = make_descent(model, optimizer)

        def sometimes(closure=closure, model=model, optimizer=optimizer):
            loss = closure()
            sometimes.t += 1
            if sometimes.t % 7 == 1:
                model.second.bias.grad = None
            return loss

        sometimes.t = 0
        steps(optimizer, sometimes, n)
        weights.append([bits(param) for param in model.parameters()])
    assert weights[0] == weights[1]


@pytest.mark.parametrize("options", SGD_OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_euclidean_is_sgd_bit_for_bit(options, dtype):
    check_equals_sgd(SGD_OPTIONS[options], dtype)


@pytest.mark.parametrize("scheduler", [lambda o: OneCycleLR(o, 0.2, total_steps=20), lambda o: CosineAnnealingLR(o, 5)])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)])
@pytest.mark.filterwarnings("ignore:Detected call of:UserWarning")
def test_it_stays_so_under_schedulers_that_change_rate_and_momentum(scheduler, momentum, lr):
    weights = []
    for kind in (torch.optim.SGD, MirrorDescent):
        model = make_model()
        optimizer = kind(model.parameters(), lr=lr.clone() if isinstance(lr, torch.Tensor) else lr, momentum=momentum)
        schedule, closure = scheduler(optimizer), make_descent(model, optimizer)
        for _ in range(19):
            optimizer.step(closure)
            schedule.step()
        weights.append([bits(param) for param in model.parameters()])
    assert weights[0] == weights[1]


def decoupled_decay(param, grad, state, group):
    param.mul_(1 - float(group["lr"]) * group["weight_decay"])
    return right_direction(param, grad, state, {**group, "weight_decay": 0})


def always_dampened(param, grad, state, group):
    state["averaged"].fill_(1)
    return right_direction(param, grad, state, group)


def decay_after_momentum(param, grad, state, group):
    return right_direction(param, grad, state, {**group, "weight_decay": 0}).add(param, alpha=group["weight_decay"])


right_direction = mirror_descent._direction
WRONG_DIRECTIONS = {
    "decoupled decay": (decoupled_decay, "both"),
    "dampened from the start": (always_dampened, "dampened"),
    "decay after momentum": (decay_after_momentum, "both"),
}


@pytest.mark.parametrize("error", WRONG_DIRECTIONS)
def test_planted_errors_of_the_direction_are_caught(error, monkeypatch):
    wrong, options = WRONG_DIRECTIONS[error]
    monkeypatch.setattr(mirror_descent, "_direction", wrong)
    with pytest.raises(AssertionError):
        check_equals_sgd(SGD_OPTIONS[options], n=5)


# ---------------------------------------------------------------- the definition: an argmin

# name: (potential, start, unconstrained coordinates -> weights, weights -> coordinates, Φ)
SIGNED, ABOVE = np.array([0.7, -0.4, 0.05, 1.2]), np.array([0.4, 0.1, 0.3, 0.2])
ARGMINS = {
    "p=1.5": (PNorm(1.5), SIGNED, lambda x: x, lambda w: w, lambda w: np.sum(np.abs(w) ** 1.5) ** (4 / 3) / 2),
    "p=3": (PNorm(3), SIGNED, lambda x: x, lambda w: w, lambda w: np.sum(np.abs(w) ** 3) ** (2 / 3) / 2),
    "entropy": (NegativeEntropy(), ABOVE, np.exp, np.log, lambda w: np.sum(w * np.log(w) - w)),
    "simplex": (
        NegativeEntropy(True),
        ABOVE,
        lambda x: np.exp(x) / np.exp(x).sum(),
        np.log,
        lambda w: np.sum(w * np.log(w) - w),
    ),
    "hypentropy": (
        Hypentropy(0.2),
        SIGNED,
        lambda x: x,
        lambda w: w,
        lambda w: np.sum(w * np.arcsinh(w / 0.2) - np.sqrt(w**2 + 0.04)),
    ),
}


@pytest.mark.parametrize("name", ARGMINS)
def test_a_step_is_the_argmin_of_the_linearised_loss_and_the_divergence(name):
    potential, start, weights, coordinates, phi = ARGMINS[name]
    g, lr = np.array([0.5, -1.0, 0.3, 0.8]), 0.7
    param = nn.Parameter(torch.from_numpy(start.copy()))
    param.grad = torch.from_numpy(g)
    MirrorDescent([param], lr, potential).step()

    eps = 1e-6
    slope = np.array([(phi(start + eps * e) - phi(start - eps * e)) / (2 * eps) for e in np.eye(4)])

    def objective(x):
        w = weights(x)
        return lr * g @ w + phi(w) - phi(start) - slope @ (w - start)

    best = minimize(objective, coordinates(start), tol=1e-14, options={"gtol": 1e-9})
    np.testing.assert_allclose(param.detach().numpy(), weights(best.x), atol=2e-5)


def test_linearised_bregman_is_the_argmin_of_the_linearised_loss_and_the_divergence():
    mu, delta, lr = 0.3, 2.0, 0.7
    start, g = np.array([[0.7, -0.4, 0.0, 1.2]]), np.array([[0.5, -1.0, 0.6, 0.8]])
    param = nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = MirrorDescent([param], lr, ElasticNet(mu, delta))
    param.grad = torch.from_numpy(g)
    optimizer.step()
    p = start / delta + mu * np.sign(start)

    def objective(x):  # w = a − b with a, b ≥ 0 makes it smooth
        w = x[:4] - x[4:]
        return lr * g[0] @ w + mu * x.sum() + w @ w / (2 * delta) - p[0] @ w

    best = minimize(objective, np.full(8, 0.1), bounds=[(0, None)] * 8, tol=1e-15, options={"gtol": 1e-10})
    np.testing.assert_allclose(param.detach().numpy()[0], best.x[:4] - best.x[4:], atol=1e-5)


# ---------------------------------------------------------------- trajectories against numpy

GENERATOR = np.random.default_rng(0)
DESIGN = GENERATOR.normal(size=(30, 12))
TRUTH = np.zeros(12)
TRUTH[[2, 7, 9]] = 1.5, -2.0, 1.0
TARGET = DESIGN @ TRUTH


def gradient(w):
    return DESIGN.T @ (DESIGN @ w.ravel() - TARGET).reshape(-1) / len(TARGET)


def trajectory(optimizer, param, n=100):
    """Return the weights after each of n steps on least squares."""
    path = []
    for _ in range(n):
        param.grad = torch.from_numpy(gradient(param.detach().numpy()).reshape(param.shape))
        optimizer.step()
        path.append(param.detach().numpy().copy())
    return np.array(path)


def numpy_path(start, lr, mirror, inverse, momentum=0.0, decay=0.0, n=100, dual=None):
    """Return the same, written down once more: momentum averages gradients, in the dual space."""
    w, z, average, path = start.copy(), dual, np.zeros_like(start), []
    for _ in range(n):
        average = momentum * average + gradient(w).reshape(w.shape) + decay * w
        z = (mirror(w) if dual is None else z) - lr * average
        w = inverse(z)
        path.append(w)
    return np.array(path)


def soft(v, threshold):
    return np.sign(v) * np.maximum(np.abs(v) - threshold, 0)


def softmax_to(total):
    return lambda z: total * np.exp(z) / np.exp(z).sum()


PATHS = {
    "multiplicative weights": (NegativeEntropy(), np.full(12, 0.3), np.log, np.exp),
    "hedge": (NegativeEntropy(True, total=3.0), np.full(12, 0.25), np.log, softmax_to(3.0)),
    "hypentropy": (
        Hypentropy(0.1),
        np.linspace(-1, 1, 12),
        lambda w: np.arcsinh(w / 0.1),
        lambda z: 0.1 * np.sinh(z),
    ),
}


def check_path(name, momentum):
    potential, start, mirror, inverse = PATHS[name]
    param = nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = MirrorDescent([param], 0.02, potential, momentum, 0.05)
    np.testing.assert_allclose(
        trajectory(optimizer, param), numpy_path(start, 0.02, mirror, inverse, momentum, 0.05), rtol=1e-8, atol=1e-12
    )


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_paths_are_those_of_the_closed_forms(name, momentum):
    check_path(name, momentum)


def momentum_of_weights(param, direction, state, group):
    """Heavy ball after the mirror map: the same for Euclidean, another method for all others."""
    before, grad = param.clone(), param.grad.add(param, alpha=group["weight_decay"])
    last = state.setdefault("last", before)
    right_move(param, grad, state, group)
    param.add_(before - last, alpha=group["momentum"])
    state["last"] = before


def step_in_the_primal(param, direction, state, group):
    param.sub_(direction * float(group["lr"]))


right_move = mirror_descent._move


@pytest.mark.parametrize("wrong", [momentum_of_weights, step_in_the_primal])
def test_planted_errors_of_the_move_are_caught(wrong, monkeypatch):
    monkeypatch.setattr(mirror_descent, "_move", wrong)
    with pytest.raises(AssertionError):
        check_path("hypentropy", 0.8)


def test_hedge_on_rows_is_the_multiplicative_weights_formula():
    w = torch.softmax(torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4), -1)
    param, g = nn.Parameter(w.clone()), torch.linspace(2, -2, 12, dtype=torch.float64).view(3, 4)
    optimizer = MirrorDescent([param], 0.5, NegativeEntropy("last"))
    for _ in range(20):
        param.grad = g
        optimizer.step()
    weights = w.numpy() * np.exp(-0.5 * 20 * g.numpy())
    np.testing.assert_allclose(param.detach().numpy(), weights / weights.sum(1, keepdims=True), rtol=1e-10)


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_hypentropy_is_the_unnormalised_plus_minus_exponentiated_gradient(momentum):
    u, v = np.linspace(0.1, 0.4, 12), np.linspace(0.3, 0.05, 12)
    beta = 2 * math.sqrt(u[0] * v[0])
    v = beta**2 / 4 / u  # one β for all
    start, param = u - v, nn.Parameter(torch.from_numpy(u - v))
    path = trajectory(MirrorDescent([param], 0.05, Hypentropy(beta), momentum), param, 60)
    average = np.zeros(12)
    for w in path:
        average = momentum * average + gradient(u - v)
        u, v = u * np.exp(-0.05 * average), v * np.exp(0.05 * average)
        np.testing.assert_allclose(u * v, beta**2 / 4)
        np.testing.assert_allclose(w, u - v, rtol=1e-8, atol=1e-12)
    assert bool((np.sign(start) != np.sign(path[-1])).any())  # signs can change, as they cannot in either half


# ---------------------------------------------------------------- linearised Bregman iterations


def rows(v, threshold):
    norms = np.sqrt((v**2).sum(1, keepdims=True))
    return v * np.maximum(1 - threshold * math.sqrt(v.shape[1]) / np.maximum(norms, 1e-300), 0)


@pytest.mark.parametrize("blocks", ["scalar", "row"])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_linearised_bregman_iterations_are_reproduced_and_recover_the_sparse_truth(blocks, momentum):
    mu, delta, shrink = 1.0, 3.0, soft if blocks == "scalar" else rows
    param = nn.Parameter(torch.zeros(6, 2, dtype=torch.float64))
    optimizer = MirrorDescent([param], 0.05, ElasticNet(mu, delta, blocks), momentum)
    path = trajectory(optimizer, param, 400)
    expected = numpy_path(
        np.zeros((6, 2)), 0.05, None, lambda v: delta * shrink(v, mu), momentum, n=400, dual=np.zeros((6, 2))
    )
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-12)

    active = (path.reshape(400, -1) != 0).sum(1)
    assert active[0] == 0  # sparse from the start: nothing has earned it yet
    assert active[-1] < 12
    np.testing.assert_allclose(path[-1].ravel(), TRUTH, atol=0.05)
    truth = TRUTH.reshape(6, 2).any(1)
    if blocks == "row":
        assert ((path[-1] != 0).all(1) == (path[-1] != 0).any(1)).all()
        assert (path[-1] != 0).any(1)[truth].all()
    dual = optimizer.state[param]["dual"].numpy()
    sizes = np.abs(dual) if blocks == "scalar" else np.sqrt((dual**2).mean(1, keepdims=True)).repeat(2, 1)
    assert ((sizes > mu) == (path[-1] != 0)).all()


def test_mu_zero_is_gradient_descent_of_rate_delta_times_lr():
    runs = []
    for make in (lambda p: MirrorDescent([p], 0.01, ElasticNet(0.0, delta=4.0)), lambda p: MirrorDescent([p], 0.04)):
        param = nn.Parameter(torch.zeros(6, 2, dtype=torch.float64))
        runs.append(trajectory(make(param), param, 50))
    np.testing.assert_allclose(*runs, rtol=1e-10)


def filters():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 40, 3), nn.Flatten(), nn.Linear(40, 10))


@pytest.mark.parametrize("blocks", ["scalar", "filter", (4, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sparse_start_keeps_a_share_of_the_blocks_at_the_same_size_of_signals(blocks, dtype):
    potential = ElasticNet(0.2, 1.5, blocks)
    before, model = filters().to(dtype), filters().to(dtype)
    optimizer = MirrorDescent(model.parameters(), 0.1, potential, density=0.2, seed=5)
    for old, new in zip(before.parameters(), model.parameters(), strict=True):
        dual = optimizer.state[new]["dual"]
        assert dual.dtype == torch.float32
        assert torch.equal(potential.inverse(dual).to(dtype), new)  # consistent before the first step
        kept = new != 0
        if new.dim() < 2:
            torch.testing.assert_close(new, old, rtol=1e-6, atol=0)
            continue
        assert float(kept.float().mean()) == pytest.approx(0.2, abs=0.03)
        rtol = 1e-2 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(new[kept], old[kept] * math.sqrt(5), rtol=rtol, atol=1e-6)
        if blocks == "filter":
            assert torch.equal(kept.flatten(1).any(1), kept.flatten(1).all(1))


def test_the_draw_depends_on_the_seed_alone_and_differs_between_layers():
    def start(seed):
        params = [nn.Parameter(torch.ones(8, 8)) for _ in range(2)]
        MirrorDescent([{"params": params[:1]}, {"params": params[1:]}], 0.1, ElasticNet(0.1), density=0.3, seed=seed)
        return [bits(param) for param in params]

    assert start(1) == start(1)
    assert start(1)[0] != start(2)[0]
    assert start(1)[0] != start(1)[1]


def test_frozen_layers_are_not_thinned():
    model = filters()
    model[0].requires_grad_(False)
    before = bits(model[0].weight)
    MirrorDescent(model.parameters(), 0.1, ElasticNet(0.1), density=0.1)
    assert bits(model[0].weight) == before
    assert int((model[2].weight != 0).sum()) == 40


def test_weights_appear_while_it_trains_and_biases_are_dense():
    model = make_model()
    optimizer = MirrorDescent(model.parameters(), 0.1, ElasticNet(0.3), momentum=0.9, density=0.1, seed=1)
    closure, first = make_descent(model, optimizer), None
    active = []
    for _ in range(60):
        loss = float(optimizer.step(closure).detach())
        first = loss if first is None else first
        active.append(int((model.first.weight != 0).sum()))
    assert 2 <= active[0] < active[-1] < 24
    assert loss < 0.8 * first
    assert bool((model.first.bias != 0).all())


@pytest.mark.parametrize("way", ["in place", "data", "load"])
def test_weights_that_others_have_changed_are_refused_and_nothing_moves(way):
    model = make_model()
    optimizer = MirrorDescent(model.parameters(), 0.1, ElasticNet(0.1), momentum=0.9)
    closure = make_descent(model, optimizer)
    steps(optimizer, closure, 2)
    with torch.no_grad():
        if way == "in place":
            model.first.weight[0, 0] = 0.0
        elif way == "load":
            model.load_state_dict(make_model(seed=1).state_dict())
        else:
            model.first.weight.data = torch.zeros_like(model.first.weight)
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match="are not those of its dual variable"):
        optimizer.step(closure)
    assert snapshot(model, optimizer) == before
    MirrorDescent(model.parameters(), 0.1, ElasticNet(0.1)).step(closure)  # as the message says


def test_weights_that_are_written_back_are_not():
    model = make_model()
    optimizer = MirrorDescent(model.parameters(), 0.1, ElasticNet(0.1))
    closure = make_descent(model, optimizer)
    optimizer.step(closure)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(make_model(seed=1).state_dict())
    model.load_state_dict(kept)
    optimizer.step(closure)


# ---------------------------------------------------------------- groups, states, arguments


def test_groups_have_potentials_of_their_own_and_each_is_as_if_alone():
    start = np.linspace(0.2, 1.3, 12)
    potentials = [Euclidean(), PNorm(3), Hypentropy(0.2), NegativeEntropy(), ElasticNet(0.1, min_dim=1)]
    together = [nn.Parameter(torch.from_numpy(start.copy())) for _ in potentials]
    groups = [{"params": [p], "potential": own} for p, own in zip(together, potentials, strict=True)]
    optimizer = MirrorDescent(groups, 0.01, momentum=0.5)
    for _ in range(30):
        for param in together:
            param.grad = torch.from_numpy(gradient(param.detach().numpy()))
        optimizer.step()
    for param, potential in zip(together, potentials, strict=True):
        alone = nn.Parameter(torch.from_numpy(start.copy()))
        trajectory(MirrorDescent([alone], 0.01, potential, momentum=0.5), alone, 30)
        assert torch.equal(alone, param)


@pytest.mark.parametrize(
    "potential", [Euclidean(), PNorm(1.5), NegativeEntropy(), Hypentropy(0.1), ElasticNet(0.1, min_dim=1)], ids=repr
)
def test_a_rate_of_zero_holds_the_weights_still(potential):
    param = nn.Parameter(torch.linspace(0.2, 1.3, 12))
    optimizer = MirrorDescent([param], 0.1, potential, momentum=0.9)
    param.grad = torch.ones(12)
    optimizer.step()
    before = bits(param)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert bits(param) == before


@pytest.mark.parametrize("potential", [PNorm(2.5), NegativeEntropy(), Hypentropy(0.1), ElasticNet(0.01, min_dim=1)])
def test_narrow_weights_follow_the_wide_ones(potential):
    """The way through the mirror map and back adds no more than bfloat16's own rounding of the weights."""
    ends = []
    for dtype in (torch.float64, torch.bfloat16):
        param = nn.Parameter(torch.linspace(0.2, 1.3, 12, dtype=dtype))
        optimizer = MirrorDescent([param], 0.1, potential)
        for _ in range(20):
            param.grad = torch.full_like(param, 0.25)
            optimizer.step()
        ends.append(param.detach().double())
    torch.testing.assert_close(ends[1], ends[0], rtol=0.05, atol=0.01)


def test_the_state_of_other_potentials_or_sizes_is_refused_by_naming_both_and_changes_nothing():
    model = make_model()
    optimizer = MirrorDescent(model.parameters(), 0.1, ElasticNet(0.1))
    optimizer.step(make_descent(model, optimizer))
    before = snapshot(model, optimizer)
    twin = make_model()
    other = MirrorDescent(twin.parameters(), 0.1, ElasticNet(0.2))
    with pytest.raises(ValueError, match=r"parameter group 0 has potential=ElasticNet\(mu=0\.2.*ElasticNet\(mu=0\.1"):
        optimizer.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match=r"has potential=None, this optimizer has potential=ElasticNet"):
        optimizer.load_state_dict(torch.optim.SGD(twin.parameters(), 0.1).state_dict())
    with pytest.raises(ValueError, match=r"sizes \[2\], this optimizer of sizes \[7\]"):
        optimizer.load_state_dict(MirrorDescent(twin.first.parameters(), 0.1).state_dict())
    damaged = optimizer.state_dict()
    del damaged["state"][1]["dual"]
    with pytest.raises(ValueError, match="parameter 1 has 'dual' as None"):
        optimizer.load_state_dict(damaged)
    assert snapshot(model, optimizer) == before


def test_the_dual_of_narrow_weights_is_saved_and_loaded_as_it_is():
    model = make_model(dtype=torch.bfloat16)
    optimizer = MirrorDescent(model.parameters(), 0.1, ElasticNet(0.1), momentum=0.9)
    steps(optimizer, make_descent(model, optimizer), 2)
    optimizer.load_state_dict(optimizer.state_dict())
    for param in model.parameters():
        state = {name: tensor.dtype for name, tensor in optimizer.state[param].items()}
        assert state == {"averaged": torch.int64, "momentum_buffer": torch.bfloat16, "dual": torch.float32}


NAN, INF = math.nan, math.inf
BAD = {
    "lr": [-1, NAN, INF, "x", True, None, torch.tensor(-1.0)],
    "potential": ["euclidean", 2, Euclidean, True],
    "momentum": [-0.1, 1, 1.5, NAN, "x", True, None],
    "weight_decay": [-1, NAN, INF, "x", None],
    "dampening": [-0.1, 1.5, NAN, None],
    "nesterov": [1, None, "x"],
    "density": [0, -0.1, 1.1, NAN, "x", None],
    "seed": [-1, 1.5, "x", None, True, 2**128],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_argument_is_refused_by_name_and_value_and_the_model_stays_as_it_is(name, value):
    model = make_model()
    before = [bits(param) for param in model.parameters()]
    arguments = {"lr": 0.1, "potential": ElasticNet(0.1), "density": 0.5, "momentum": 0.5} | {name: value}
    with pytest.raises((ValueError, TypeError), match=f"^{name} must") as caught:
        MirrorDescent(model.parameters(), **arguments)
    shown = repr(float(value)) if isinstance(value, torch.Tensor | int) and not isinstance(value, bool) else repr(value)
    assert shown in str(caught.value) or repr(value) in str(caught.value)
    assert [bits(param) for param in model.parameters()] == before


def test_settings_that_do_not_go_together_are_refused():
    param = nn.Parameter(torch.ones(3, 3))
    with pytest.raises(ValueError, match="nesterov must be False without momentum"):
        MirrorDescent([param], 0.1, nesterov=True)
    with pytest.raises(ValueError, match=r"density must be 1 with Hypentropy\(beta=1\.0\)"):
        MirrorDescent([param], 0.1, Hypentropy(1.0), density=0.5)
    with pytest.raises(ValueError, match=r"blocks=\(4, 4\) does not fit"):
        MirrorDescent([param], 0.1, ElasticNet(0.1, blocks=(4, 4)))
    with pytest.raises(TypeError, match=r"params must be real, got a parameter of torch\.complex64 and shape \(2,\)"):
        MirrorDescent([nn.Parameter(torch.ones(2, dtype=torch.complex64))], 0.1)


def test_parameters_outside_of_the_domain_are_named_and_no_other_is_changed():
    good, bad = nn.Parameter(torch.full((4, 4), 0.5)), nn.Parameter(torch.tensor([0.5, 0.0]))
    with pytest.raises(ValueError, match=r"above 0, parameter head\.bias has 0\.0"):
        MirrorDescent([("body", good), ("head.bias", bad)], 0.1, NegativeEntropy())
    with pytest.raises(ValueError, match=r"above 0, parameter 0\.1 has 0\.0"):
        MirrorDescent([good, bad], 0.1, NegativeEntropy())
    optimizer = MirrorDescent([good], 0.1, ElasticNet(0.1), density=0.5)
    before = bits(good)
    with pytest.raises(ValueError, match=r"parameter 1\.0 has 0\.0"):
        optimizer.add_param_group({"params": [bad], "potential": NegativeEntropy(), "density": 1.0})
    assert bits(good) == before
    assert len(optimizer.param_groups) == len(optimizer.state) == 1


def test_sparse_gradients_are_refused_before_anything_moves():
    embedding, head = nn.Embedding(4, 2, sparse=True), nn.Linear(2, 1)
    optimizer = MirrorDescent([*head.parameters(), *embedding.parameters()], 0.1, momentum=0.9)
    head(embedding(torch.tensor([1, 2]))).sum().backward()
    before = bits(head.weight)
    with pytest.raises(ValueError, match=r"dense gradients, a parameter of shape \(4, 2\).*sparse=False"):
        optimizer.step()
    assert bits(head.weight) == before


def test_nan_gradients_reach_the_weights_as_with_sgd():
    for potential in (Euclidean(), PNorm(3), Hypentropy(0.1), NegativeEntropy(), ElasticNet(0.1)):
        param = nn.Parameter(torch.full((2, 2), 0.5))
        param.grad = torch.tensor([[math.nan, 1.0], [1.0, 1.0]])
        MirrorDescent([param], 0.1, potential).step()
        assert bool(param[0, 0].isnan())


def test_a_step_without_a_closure_uses_the_gradients_that_are_there_also_under_a_grad_scaler():
    model = make_model()
    optimizer = MirrorDescent(model.parameters(), 0.1, Hypentropy(0.2))
    before = bits(model.first.weight)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(make_descent(model, optimizer)().detach())
    assert optimizer.step() is None
    assert bits(model.first.weight) != before
    scaler.step(optimizer)
