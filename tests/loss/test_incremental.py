"""C8: whatever is proposed to whatever model, the incremental loss is that of the model called anew."""

import copy
import warnings
import zlib

import pytest
import torch
from torch import nn
from torch.nn import functional

from mcmcopt.loss.incremental import IncrementalLoss
from mcmcopt.loss.incremental.affine import BatchNorm
from mcmcopt.loss.incremental.bound import Bound
from mcmcopt.loss.incremental.rules import Binary, ByChannel, Concatenate
from mcmcopt.loss.incremental.tiles import Tiles
from mcmcopt.loss.objective import write
from tests.loss.walks import plain, sparsify, walk
from tests.loss.zoo import CODES, MODELS

N = 70


@pytest.fixture(autouse=True)
def _repeatable():
    with torch.random.fork_rng(devices=[]):
        yield


def generator(name):
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def build(name, dtype=torch.float64, n=N):
    """Return a model, a batch and labels."""
    maker, shape = MODELS[name]
    g = generator(name)
    torch.manual_seed(g.initial_seed())
    model, x = maker().to(dtype).eval(), torch.randn(n, *shape, generator=g, dtype=torch.float64).to(dtype)
    with torch.no_grad():
        model(x)  # lazy layers
    sparsify(model, g)
    return model, x, torch.randint(3, (n,), generator=g), g


def bound_of(model, loss_fn, x, y, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of operations without a rule: test_incremental_guards
        return IncrementalLoss(model, loss_fn, **options).bind(x, y)


@pytest.mark.parametrize("layout", ["tiles", "major"])
@pytest.mark.parametrize("name", MODELS)
def test_losses_are_those_of_the_model(name, layout):
    model, x, y, g = build(name)
    bound = bound_of(model, nn.CrossEntropyLoss(), x, y, layout=layout)
    assert walk(bound, 24, g) > 12


@pytest.mark.parametrize("layout", ["tiles", "major"])
@pytest.mark.parametrize("name", CODES)
def test_integer_images_are_normalised_as_the_model_does(name, layout):
    g = generator(name)
    torch.manual_seed(0)
    model = CODES[name]().double().eval()
    x = torch.randint(256, (N, 2, 6, 7), generator=g, dtype=torch.uint8)
    model(x)
    bound = bound_of(model, nn.CrossEntropyLoss(), x, torch.randint(3, (N,), generator=g), layout=layout)
    assert (len(bound._plan.codes) > 0) == (layout == "tiles" and name in ("normalised", "grouped"))
    tolerance = 1e-10 if name != "normalised" else 1e-6  # a float32 step in the model
    walk(bound, 16, g, tolerance)


def test_embeddings_are_followed():
    g = generator("embeddings")
    model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(20, 3)).double()
    x, y = torch.randint(7, (N, 5), generator=g), torch.randint(3, (N,), generator=g)
    walk(bound_of(model, nn.CrossEntropyLoss(), x, y), 24, g)


class Mixed(nn.Module):
    """Float64 in the middle of a float32 network."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(6, 6).double(), nn.Linear(6, 3)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)).double())).float())


@pytest.mark.parametrize("layout", ["tiles", "major"])
def test_a_network_of_two_precisions_is_followed(layout):
    g = generator("mixed")
    torch.manual_seed(0)
    model, x, y = Mixed(), torch.randn(N, 5, generator=g), torch.randint(3, (N,), generator=g)
    walk(bound_of(model, nn.CrossEntropyLoss(), x, y, layout=layout), 24, g, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_of_half_precision_is_evaluated_whole(dtype):
    model, x, y, _ = build("mlp", dtype)
    with pytest.warns(UserWarning, match="swallow small accepted changes"):
        objective = IncrementalLoss(model, nn.CrossEntropyLoss()).bind(x, y)
    assert torch.equal(objective(), nn.CrossEntropyLoss()(model(x), y))


@pytest.mark.parametrize("layout", ["tiles", "major"])
def test_logits_that_were_channels_are_classes(layout):
    model = nn.Sequential(nn.Conv2d(1, 2, (1, 4)), nn.Flatten())
    x, y = torch.randn(70, 1, 1, 8), torch.randint(10, (70,))
    bound = IncrementalLoss(model, nn.CrossEntropyLoss(), layout=layout).bind(x, y)
    bound.evaluate()
    weight = model[0].weight
    change = {weight: (torch.tensor([1]), torch.tensor([0.7]))}
    loss = bound.propose(change)
    write(change)
    assert float(loss) == pytest.approx(float(plain(model, nn.CrossEntropyLoss(), x, y, {})), rel=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 64, 65, 600])
@pytest.mark.parametrize("name", ["mlp", "batch norm 2d", "samples merged", "mean over samples", "chunks", "cat"])
def test_any_number_of_samples(name, n):
    model, x, y, g = build(name, n=n)
    walk(bound_of(model, nn.CrossEntropyLoss(reduction="none"), x, y, layout="tiles"), 12, g)


def signs(outputs, y):
    return (outputs * y.unsqueeze(1)).square().mean(1).log1p().sum()


CLASSES = {
    "mean": nn.CrossEntropyLoss(),
    "none": nn.CrossEntropyLoss(reduction="none"),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1),
    "weighted": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)),
    "one class ignored": nn.CrossEntropyLoss(ignore_index=1),
    "function": functional.cross_entropy,
    "of any kind": lambda outputs, y: functional.cross_entropy(outputs, y, reduction="none").square(),
    "likelihood": lambda outputs, y: functional.nll_loss(outputs.log_softmax(1), y),
    "margin": nn.MultiMarginLoss(),
    "custom": signs,
}


@pytest.mark.parametrize("layout", ["tiles", "major"])
@pytest.mark.parametrize("name", CLASSES)
def test_losses_of_classes(name, layout):
    model, x, y, g = build("mlp")
    bound = bound_of(model, CLASSES[name], x, y, layout=layout)
    walk(bound, 12, g)
    assert bound.evaluate().shape == plain(model, CLASSES[name], x, y).shape
    assert float(bound.evaluate().min()) >= bound.lower_bound


@pytest.mark.parametrize("layout", ["tiles", "major"])
def test_ignored_labels(layout):
    model, x, y, g = build("mlp")
    y[::3] = -100
    walk(bound_of(model, nn.CrossEntropyLoss(), x, y, layout=layout), 12, g)


@pytest.mark.parametrize("layout", ["tiles", "major"])
@pytest.mark.parametrize("loss_fn", [nn.MSELoss(), functional.mse_loss, nn.MSELoss(reduction="none"), nn.L1Loss()])
@pytest.mark.parametrize("n", [N, 128])
def test_losses_of_numbers(loss_fn, n, layout):
    model, x, _, g = build("mlp", n=n)
    walk(bound_of(model, loss_fn, x, torch.randn(n, 3, dtype=torch.float64, generator=g), layout=layout), 12, g)


@pytest.mark.parametrize("layout", ["tiles", "major"])
@pytest.mark.parametrize("loss_fn", [nn.BCEWithLogitsLoss(), nn.MSELoss(), nn.HuberLoss(reduction="none")])
def test_one_number_per_sample(loss_fn, layout):
    _, x, y, g = build("mlp")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1), nn.Flatten(0)).double()
    walk(bound_of(model, loss_fn, x, (y > 1).double(), layout=layout), 12, g)


@pytest.mark.parametrize("loss_fn", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="none"), nn.MSELoss()])
def test_losses_of_images(loss_fn):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 3, 1)).double()
    x, g = torch.randn(N, 2, 5, 4, dtype=torch.float64), generator("images")
    classes = torch.randint(3, (N, 5, 4), generator=g)
    y = x.new_ones(N, 3, 5, 4) if isinstance(loss_fn, nn.MSELoss) else classes
    walk(bound_of(model, loss_fn, x, y, layout="tiles"), 12, g)


@pytest.mark.parametrize("name", ["mlp", "conv", "residual"])
def test_float32_stays_close_over_hundreds_of_accepted_proposals(name):
    model, x, y, g = build(name, torch.float32)
    loss_fn = nn.CrossEntropyLoss()
    bound = bound_of(model, loss_fn, x, y, layout="tiles", refresh_every=10_000)
    bound.evaluate()
    for step in range(300):
        param = list(model.parameters())[step % len(list(model.parameters()))]
        at = torch.randperm(param.numel(), generator=g)[: 1 + step % 3]
        change = {param: (at, param.detach().take(at) * 0.9 + 0.1 * torch.randn(len(at), generator=g))}
        bound.propose(change)
        write(change)
        bound.commit()
    assert bound._commits == 300
    exact = plain(copy.deepcopy(model).double(), loss_fn, x.double(), y)
    assert abs(float(bound.evaluate()) / float(exact) - 1) < 1e-5


@pytest.mark.parametrize("layout", ["tiles", "major"])
@pytest.mark.parametrize("name", ["one layer", "mlp", "wide", "batch norm 2d", "cat"])
def test_float32_losses_are_those_of_the_model(name, layout):
    model, x, y, g = build(name, torch.float32)
    walk(bound_of(model, nn.CrossEntropyLoss(), x, y, layout=layout), 60, g, 1e-5)


@pytest.mark.parametrize("every", [1, 7])
def test_all_is_computed_afresh_after_a_number_of_commits(every):
    model, x, y, _ = build("mlp")
    bound = bound_of(model, nn.CrossEntropyLoss(), x, y, refresh_every=every)
    right = float(bound.evaluate())
    bound._values[3][:, 0] += 1.0  # an error in the cache
    bound._loss += 1.0
    change = {model[0].bias: (torch.tensor([0]), model[0].bias.detach()[:1].clone())}
    for commits in range(every):
        assert (commits == 0) or abs(float(bound.evaluate()) - right) > 1e-3
        bound.propose(change)
        write(change)
        bound.commit()
    assert abs(float(bound.evaluate()) - right) < 1e-12


# Planted errors ----------------------------------------------------------------------------------------------------


def _no_put(self, target, rows):
    pass


def _no_bias(put):
    return lambda *args, bias=None, **options: put(*args, **options)


def _padded_less(put):
    def conv_rows(self, source, channels, weight, geometry, **options):
        if geometry.padding == (1, 1):  # as if shifted by one
            geometry = geometry._replace(padding=(0, 1))
        return put(self, source, channels, weight, geometry, **options)

    return conv_rows


ERRORS = {
    "commit leaves the cache": ("mlp", Tiles, "put", _no_put),
    "bias forgotten in linear maps": ("mlp", Tiles, "linear_rows", _no_bias(Tiles.linear_rows)),
    "bias forgotten in convolutions": ("residual", Tiles, "conv_rows", _no_bias(Tiles.conv_rows)),
    "wrong padding": ("residual", Tiles, "conv_rows", _padded_less(Tiles.conv_rows)),
    "a step function instead of relu": ("mlp", Tiles, "relu", lambda self, data: (data > 0).to(data.dtype)),
    "running statistics ignored": (
        "batch norm",
        BatchNorm,
        "_affine",
        lambda self, edits: (torch.ones(8), torch.zeros(8)),
    ),
    "concatenated channels not renumbered": (
        "cat",
        Concatenate,
        "patch",
        lambda self, s, patches, e: next(filter(None, patches)),
    ),
    "second operand's change missed": ("residual", Binary, "patch", lambda self, s, patches, e: patches[0]),
    "both uses of a module, one seen": ("twice", Bound, "_reach", lambda self, params: Bound_reach(self, params)[1:]),
    "a rollback that commits": ("mlp", Bound, "rollback", lambda self: self.commit()),
    "always the first of several": ("mlp", Bound, "commit", lambda self, number=0: Bound_commit(self)),
    "pooling of the wrong windows": (
        "pool max 2",
        ByChannel,
        "_apply",
        lambda self, b, d, c, s: b.store(self.node.call(lambda _: b.major(d, (c, *s[1:])).flip(-1))),
    ),
}
Bound_reach, Bound_commit = Bound._reach, Bound.commit


@pytest.mark.parametrize("error", ERRORS)
def test_a_planted_error_is_found(error, monkeypatch):
    name, owner, attribute, wrong = ERRORS[error]
    model, x, y, g = build(name)
    bound = bound_of(model, nn.CrossEntropyLoss(), x, y, layout="tiles")
    walk(bound, 12, g)
    monkeypatch.setattr(owner, attribute, wrong)
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        walk(bound, 24, g)
