"""C10: a chain on the incremental loss decides as one on the plain closure."""

import copy
import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from mcmcopt import BirthDeath, GreedyMCMC, RandomWalk, SignFlip, SpikeSlab, Swap
from mcmcopt.loss.incremental import IncrementalLoss
from mcmcopt.loss.incremental.tiles import Tiles
from mcmcopt.loss.objective import ClosureObjective
from mcmcopt.optim.sweep import Sweep
from tests.optim.problems import bits

LAYOUTS = ("tiles", "major")


class Residual(nn.Module):
    """Two small convolutions with batch normalisation around a shortcut."""

    def __init__(self, channels=4):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.one, self.two = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))
        self.last = nn.Linear(channels, 3)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        y = functional.relu(self.norms[0](self.one(x)))
        x = functional.max_pool2d(functional.relu(x + self.norms[1](self.two(y))), 2)
        return self.last(x.mean((2, 3)))


def mlp(inputs=6, hidden=12, classes=3):
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, classes)
    )


def small_cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 9, 10),
    )  # fmt: skip


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 3), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(64, 30), nn.Tanh(), nn.Linear(30, 20), nn.Tanh(), nn.Linear(20, 10),
    )  # fmt: skip


def vgg():
    layers, channels = [], 3
    for width in (8, "pool", 12, 12, "pool"):
        if width == "pool":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, 10))


NETWORKS = {
    "mlp": (mlp, (6,), 3),
    "residual": (Residual, (1, 6, 7), 3),
    "cnn": (small_cnn, (1, 12, 12), 10),
    "lenet": (lenet, (1, 12, 12), 10),
    "vgg": (vgg, (3, 12, 12), 10),
}
PRIORS = {
    "dense": {},
    "scalar": {"prior": SpikeSlab(0.5), "init": "prior"},
    "row": {"prior": SpikeSlab(0.6), "blocks": "row", "moves": (RandomWalk(k=2), BirthDeath(), Swap(), SignFlip())},
    "filter": {"prior": SpikeSlab(0.6), "blocks": "filter", "moves": (RandomWalk(), BirthDeath(), Swap())},
    "walks": {"moves": (RandomWalk(k=5), SignFlip(k=2))},
}


def problem(network, dtype, n=70):
    maker, shape, classes = NETWORKS[network]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model, x = maker().to(dtype).eval(), torch.randn(n, *shape).to(dtype)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean += 0.2 * torch.randn(len(module.running_mean))
                module.running_var *= 0.5 + torch.rand(len(module.running_var))
        return model, x, torch.randint(classes, (n,))


def chain(network, prior, objective, *, steps=5, reduction="mean", **options):
    """Return the bits of all parameters after every step of 60 proposals, the tallies, and the model."""
    model, x, y = problem(network, torch.float64)
    loss_fn = nn.CrossEntropyLoss(reduction=reduction)
    optimizer = GreedyMCMC(model.named_parameters(), 200.0, n_proposals=60, seed=5, **PRIORS[prior], **options)
    bound = objective(model, loss_fn, x, y)
    found = []
    for _ in range(steps):
        loss = optimizer.step(bound)
        found.append([bits(p) for p in model.parameters()])
    info = optimizer.info
    found.append(
        {
            name: {label: (m.proposed, m.accepted) for label, m in layer.moves.items()}
            for name, layer in info.layers.items()
        }
    )
    return found, loss, model


def closure(model, loss_fn, x, y):
    return lambda: loss_fn(model(x), y)


def incremental(layout="auto", **options):
    return lambda model, loss_fn, x, y: IncrementalLoss(model, loss_fn, layout=layout, **options).bind(x, y)


@pytest.mark.parametrize("network", ["mlp", "residual"])
@pytest.mark.parametrize("prior", PRIORS)
def test_free_chains_in_float64_are_the_same(network, prior):
    serial, loss, _ = chain(network, prior, closure)
    accepted = sum(count for moves in serial[-1].values() for _, count in moves.values())
    assert 3 < accepted < 57
    for layout in LAYOUTS:
        for options in ({}, {"speculate": 4}):
            found, other, _ = chain(network, prior, incremental(layout), **options)
            assert found == serial
            assert abs(float(other) / float(loss) - 1) < 1e-12
    found, _, _ = chain(network, prior, incremental(refresh_every=3), speculate="auto")
    assert found == serial


@pytest.mark.parametrize("network", ["mlp", "residual"])
def test_free_chains_on_losses_per_sample_are_the_same(network):
    serial, _, _ = chain(network, "scalar", closure, reduction="none")
    for layout in LAYOUTS:
        assert chain(network, "scalar", incremental(layout), reduction="none", speculate=4)[0] == serial


# Teacher-forced -----------------------------------------------------------------------------------------------------


class Forced:
    """Scores each proposal on a plain closure, which decides, and on the incremental loss.

    Both and an evaluation in float64 are noted, the latter to measure how far rounding takes the closure.
    """

    def __init__(self, model, x, y, layout):
        loss_fn = nn.CrossEntropyLoss(reduction="none")
        self.exact, self.y = copy.deepcopy(model).double(), y
        self.pairs = dict(zip(model.parameters(), self.exact.parameters(), strict=True))
        self.model, self.x, self.x64, self.loss_fn = model, x, x.double(), loss_fn
        self.plain = ClosureObjective(lambda: self._whole(), [], False)
        self.twin = copy.deepcopy(model)
        self.twins = dict(zip(model.parameters(), self.twin.parameters(), strict=True))
        self.fast = IncrementalLoss(self.twin, loss_fn, layout=layout, refresh_every=100_000).bind(x, y)
        self.scores = []

    def _whole(self):
        return self.loss_fn(self.model(self.x), self.y)

    def _double(self):
        with torch.no_grad():
            for param, twin in self.pairs.items():
                twin.copy_(param)
            return self.loss_fn(self.exact(self.x64), self.y)

    def evaluate(self):
        self.now = [self.plain.evaluate(), self.fast.evaluate(), self._double()]
        return self.now[0]

    def propose(self, change):
        from mcmcopt.loss.objective import lent

        self.change = {self.twins[param]: values for param, values in change.items()}
        with lent(change):
            exact = self._double()
        self.next = [self.plain.propose(change), self.fast.propose(self.change), exact]
        self.scores.append([float((a.double() - b.double()).mean()) for a, b in zip(self.now, self.next, strict=True)])
        return self.next[0]

    def commit(self, number=0):
        from mcmcopt.loss.objective import write

        write(self.change)
        self.fast.commit()
        self.now = self.next

    def rollback(self):
        self.fast.rollback()


def forced(network, layout, proposals, monkeypatch, lam=1000.0):
    """Return λ·decrease by closure, incrementally and in float64, with log u - log r, for every proposal scored."""
    model, x, y = problem(network, torch.float32, 60)
    objective, thresholds, decide = Forced(model, x, y, layout), [], Sweep._decide

    def noting(self, proposal, loss):
        thresholds.append(proposal.log_u - proposal.log_ratio)
        return decide(self, proposal, loss)

    monkeypatch.setattr(Sweep, "_decide", noting)
    options = {"prior": SpikeSlab(0.7), "moves": (RandomWalk(k=2), RandomWalk(k=20), BirthDeath(), SignFlip())}
    optimizer = GreedyMCMC(model.parameters(), lam, n_proposals=proposals // 4, seed=7, **options)
    for _ in range(4):
        optimizer.step(objective)
    scores = lam * torch.tensor(objective.scores, dtype=torch.float64)
    return scores, torch.tensor(thresholds, dtype=torch.float64)


def check(network, layout, proposals, monkeypatch):
    scores, thresholds = forced(network, layout, proposals, monkeypatch)
    plain, fast, exact = scores.unbind(1)
    usable = scores.isfinite().all(1)
    plain, fast, exact, thresholds = (v[usable] for v in (plain, fast, exact, thresholds))
    assert len(plain) > 0.5 * proposals
    accepted = plain > thresholds
    assert 0.02 < float(accepted.double().mean()) < 0.98
    rounding = (plain - exact).abs()
    scale = 1e-4 + rounding.square().mean().sqrt() + rounding  # λ times the measured rounding of the closure
    apart = (fast > thresholds) != accepted
    far = apart & ((plain - thresholds).abs() > 4 * scale)
    assert not far.any(), f"{int(far.sum())} of {len(plain)} decided otherwise, {int(apart.sum())} within rounding"
    assert int(apart.sum()) <= 1 + 0.01 * len(plain)
    # beyond decisions: the scores are as exact as the closure's, up to a small factor
    assert float((fast - exact).abs().quantile(0.9)) < 10 * float(scale.max())
    return int(apart.sum())


FORCED = ["mlp", "cnn", "lenet", "vgg"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("network", FORCED)
def test_forced_decisions_differ_by_no_more_than_rounding(network, layout, monkeypatch):
    check(network, layout, 200, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("network", FORCED)
def test_forced_decisions_differ_by_no_more_than_rounding_in_the_long_run(network, monkeypatch):
    check(network, "tiles", 10_000, monkeypatch)


# Planted errors ----------------------------------------------------------------------------------------------------


def _without(name, *, padding=False):
    kernel = getattr(Tiles, name)

    def wrong(self, *args, bias=None, **terms):
        if not padding:
            return kernel(self, *args, **terms)
        geometry = args[3]
        shifted = geometry._replace(padding=(max(geometry.padding[0] - 1, 0), geometry.padding[1]))
        return kernel(self, *args[:3], shifted, bias=bias, **terms)

    return wrong


ERRORS = {
    "a stale cache": ("put", lambda self, target, rows: None),
    "no bias in linear maps": ("linear_rows", _without("linear_rows")),
    "no bias in convolutions": ("conv_rows", _without("conv_rows")),
    "wrong padding": ("conv_rows", _without("conv_rows", padding=True)),
}


@pytest.mark.parametrize("error", ERRORS)
def test_a_planted_error_decides_otherwise(error, monkeypatch):
    name, wrong = ERRORS[error]
    network = "mlp" if "linear" in error else "cnn"
    check(network, "tiles", 200, monkeypatch)
    monkeypatch.undo()
    monkeypatch.setattr(Tiles, name, wrong)
    with pytest.raises(AssertionError):
        check(network, "tiles", 200, monkeypatch)


@pytest.mark.parametrize("error", ["a stale cache", "no bias in linear maps"])
def test_a_planted_error_changes_the_free_chain(error, monkeypatch):
    serial, _, _ = chain("mlp", "scalar", closure)
    assert chain("mlp", "scalar", incremental("tiles"))[0] == serial
    monkeypatch.setattr(Tiles, *ERRORS[error])
    assert chain("mlp", "scalar", incremental("tiles"))[0] != serial


def test_the_networks_of_the_forced_runs_need_no_dense_operation():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for network in FORCED:
            model, x, y = problem(network, torch.float32)
            loss = IncrementalLoss(model, nn.CrossEntropyLoss()).bind(x, y).evaluate()
            assert math.isfinite(float(loss))
