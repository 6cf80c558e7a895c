"""What the incremental loss refuses, warns of, and notices: C19, and writes by others."""

import copy
import re
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

from mcmcopt import GreedyMCMC
from mcmcopt.loss.guards import ClosureError
from mcmcopt.loss.incremental import IncrementalLoss
from mcmcopt.loss.incremental.bound import Bound
from mcmcopt.loss.incremental.rules import Elementwise
from mcmcopt.loss.incremental.tiles import Tiles
from mcmcopt.loss.objective import ClosureObjective, Objective, SpeculativeObjective, write
from tests.loss.small import LOSS, ask, assert_right, batch, mlp
from tests.loss.walks import cache, plain, same
from tests.loss.zoo import Net, P
from tests.optim.problems import bits


@pytest.fixture(autouse=True)
def _repeatable():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


# Models that cannot be followed -------------------------------------------------------------------------------------


def branching(m, x):
    return m.a(x) if x.sum() > 0 else m.a(-x)


class TwoArguments(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 3)

    def forward(self, x, scale):
        return self.a(x) * scale


def pruned(layer):
    prune.random_unstructured(layer, "weight", 0.4)
    layer.weight = layer.weight.double()
    return layer


def hooked():
    model = Net(lambda m, x: m.a(x), a=nn.Linear(5, 3))
    model.register_forward_hook(lambda module, args, out: out * 2)
    return model


def later_read(m, x):
    y = m.a(x)
    z = functional.relu(y, inplace=True)
    return y - 0.5 * z


def assigning(m, x):
    y = m.a(x)
    y[:, 1] = 0.0
    return y


UNTRACEABLE = {
    "a branch on values": (lambda: Net(branching, a=nn.Linear(5, 3)), "torch.fx cannot trace it"),
    "a number from values": (lambda: Net(lambda m, x: m.a(x) * float(x.max()), a=nn.Linear(5, 3)), "cannot trace"),
    "two outputs": (lambda: Net(lambda m, x: {"logits": m.a(x)}["logits"] if x.dim() else x, a=nn.Linear(5, 3)), None),
    "a weight computed before": (
        lambda: Net(lambda m, x: functional.linear(m.b(x), m.a.weight), b=nn.Linear(5, 5), a=pruned(nn.Linear(5, 3))),
        "is computed from parameters",
    ),
    "a hook on the model": (hooked, "it has forward hooks"),
    "in-place effects": (lambda: Net(later_read, a=nn.Linear(5, 3)), "reads it afterwards"),
    "a fixed batch size": (lambda: Net(lambda m, x: m.a(x.view(70, 5)), a=nn.Linear(5, 3)), "fails on a batch of 2"),
    "assignment to items": (lambda: Net(assigning, a=nn.Linear(5, 3)), "cannot trace"),
}


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_models_that_cannot_be_followed_are_called_whole(name):
    maker, reason = UNTRACEABLE[name]
    model, (x, y) = maker().double(), batch()
    engine = IncrementalLoss(model, LOSS)
    if reason is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bound = engine.bind(x, y)
    else:
        with pytest.warns(UserWarning, match="is evaluated whole for every proposal: .*" + reason) as caught:
            bound = engine.bind(x, y)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert isinstance(bound, ClosureObjective)
        engine.bind(*batch())  # warns no more
    assert isinstance(bound, Objective)
    assert_right(bound, model, next(model.parameters()), x, y)


def test_a_second_argument_without_default_is_called_whole():
    (x, y), model = batch(), TwoArguments().double()
    with pytest.warns(UserWarning, match="its forward takes more than the batch"):
        bound = IncrementalLoss(model, LOSS).bind(x, y)
    with pytest.raises(TypeError, match="scale"):
        bound.evaluate()


def test_a_second_argument_with_a_default_is_followed():
    class Default(TwoArguments):
        def forward(self, x, scale=2.0):
            return self.a(x) * scale

    (x, y), model = batch(), Default().double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bound = IncrementalLoss(model, LOSS).bind(x, y)
    assert isinstance(bound, SpeculativeObjective)
    assert_right(bound, model, model.a.weight, x, y)


def test_operations_without_a_rule_are_named_once():
    (x, y), model = batch(), mlp(nn.Unflatten(1, (2, 3)), nn.LocalResponseNorm(2), nn.Flatten())
    engine = IncrementalLoss(model, LOSS)
    with pytest.warns(UserWarning, match=r"no incremental rule for 3 \(LocalResponseNorm\): computed whole") as caught:
        bound = engine.bind(x, y)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert_right(bound, model, model[0].weight, x, y)
    engine.bind(*batch())  # warns no more


# Randomness ---------------------------------------------------------------------------------------------------------

IN_TRAIN_MODE = {
    "2 (Dropout(p=0.5": lambda: mlp(nn.Dropout(0.5)),
    "2 (AlphaDropout(p=0.5": lambda: mlp(nn.AlphaDropout(0.5)),
    "2 (BatchNorm1d(6": lambda: mlp(nn.BatchNorm1d(6)),
    "2.0 (BatchNorm1d(6": lambda: mlp(nn.Sequential(nn.BatchNorm1d(6))),
}


@pytest.mark.parametrize("label", IN_TRAIN_MODE)
def test_train_mode_is_refused_by_name(label):
    model = IN_TRAIN_MODE[label]()
    engine = IncrementalLoss(model, LOSS)
    before = bits(torch.get_rng_state())
    with pytest.raises(ClosureError, match=re.escape(label)) as caught:
        engine.bind(*batch())
    assert "model.eval()" in str(caught.value)
    x, y = batch()
    model.eval()
    bound = engine.bind(x, y)
    same(bound.evaluate(), plain(model, LOSS, x, y), 1e-12)
    model.train()
    with pytest.raises(ClosureError, match=re.escape(label)):
        bound.evaluate()
    assert before != bits(torch.get_rng_state())  # only batch() drew
    model.eval()
    assert_right(bound, model, model[0].weight, x, y)


RANDOM = {
    "dropout": lambda m, x: m.a(functional.dropout(x, 0.5, training=True)),
    "rand_like": lambda m, x: m.a(x + torch.rand_like(x)),
    "bernoulli": lambda m, x: m.a(x * torch.bernoulli(torch.sigmoid(x))),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_operations_are_refused(name):
    x, y = batch()
    before = bits(torch.get_rng_state())
    with pytest.raises(ClosureError, match=f"{name} draws random numbers"):
        IncrementalLoss(Net(RANDOM[name], a=nn.Linear(5, 3)).double().eval(), LOSS).bind(x, y)
    assert torch.get_rng_state().dtype is torch.uint8
    assert before != bits(torch.get_rng_state())  # nn.Linear drew


def test_functional_dropout_in_train_mode_is_refused():
    model = Net(lambda m, x: m.a(functional.dropout(x, 0.5, m.training)), a=nn.Linear(5, 3)).double()
    x, y = batch()
    with pytest.raises(ClosureError, match="dropout draws random numbers"):
        IncrementalLoss(model.train(), LOSS).bind(x, y)
    bound = IncrementalLoss(model.eval(), LOSS).bind(x, y)
    assert_right(bound, model, model.a.weight, x, y)
    model.train()
    with pytest.raises(ClosureError, match="dropout draws random numbers"):
        bound.evaluate()


def test_the_mode_decides_which_branch_is_followed():
    model = Net(lambda m, x: m.a(x) if m.training else m.b(x.tanh()), a=nn.Linear(5, 3), b=nn.Linear(5, 3)).double()
    x, y = batch()
    bound = IncrementalLoss(model.eval(), LOSS).bind(x, y)
    assert_right(bound, model, model.b.weight, x, y)
    model.train()
    assert_right(bound, model, model.a.weight, x, y)
    model.eval()
    assert_right(bound, model, model.b.weight, x, y)


# Writes by others ---------------------------------------------------------------------------------------------------


def load(model, x):
    model.load_state_dict(
        {name: value + 0.1 for name, value in model.state_dict().items() if value.is_floating_point()}, strict=False
    )


def step_of_another(model, x):
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    model(x).square().mean().backward()
    optimizer.step()


@torch.no_grad()
def in_place(model, x):
    model[0].weight.mul_(1.5)


def buffer(model, x):
    model[2].running_mean += 1.0


def replaced_buffer(model, x):
    model[2].running_var = model[2].running_var * 2


def replaced_parameter(model, x):
    model[0].weight = nn.Parameter(model[0].weight.detach() * 2)


def replaced_data(model, x):
    model[0].weight.data = model[0].weight.data * 2


def moved_batch(model, x):
    x.mul_(1.5)


def replaced_module(model, x):
    model[0] = nn.Linear(5, 6).double()


WRITES = [
    load,
    step_of_another,
    in_place,
    buffer,
    replaced_buffer,
    replaced_parameter,
    replaced_data,
    moved_batch,
    replaced_module,
]


@pytest.mark.parametrize("layout", ["tiles", "major"])
@pytest.mark.parametrize("writes", WRITES)
def test_writes_by_others_are_noticed(writes, layout):
    model, (x, y) = mlp(nn.BatchNorm1d(6)).eval(), batch()
    bound = IncrementalLoss(model, LOSS, layout=layout).bind(x, y)
    assert_right(bound, model, model[0].weight, x, y)
    before = bound.evaluate()
    writes(model, x)
    assert abs(float(plain(model, LOSS, x, y) - before)) > 1e-6
    for param in (model[0].weight, model[2].weight, model[3].bias):
        assert_right(bound, model, param, x, y)


@pytest.mark.parametrize("change", ["buffer", "replaced"])
@pytest.mark.parametrize("function", [lambda m, x: m.a(x * m.mask), lambda m, x: m.a(x) * float(m.mask.sum())])
def test_changed_buffers_are_noticed_where_they_are_constants(function, change):
    model, (x, y) = Net(function, a=nn.Linear(5, 3), mask=torch.ones(5)).double(), batch()
    engine = IncrementalLoss(model, LOSS)
    bound = engine.bind(x, y)
    assert_right(bound, model, model.a.weight, x, y)
    if change == "buffer":
        model.mask[2] = 3.0
    else:
        model.mask = torch.full((5,), 2.0, dtype=torch.float64)
    assert_right(bound, model, model.a.weight, x, y)
    model.mask[1] = 0.0
    x, y = batch(80)  # the next batch is bound with the buffers as they are now
    assert_right(engine.bind(x, y), model, model.a.weight, x, y)


def test_a_batch_changed_in_place_is_another_batch():
    model, (x, y) = mlp(), batch()
    engine = IncrementalLoss(model, LOSS)
    bound = engine.bind(x, y)
    y.copy_((y + 1) % 3)
    assert engine.bind(x, y) is not bound
    same(bound.evaluate(), plain(model, LOSS, x, y), 1e-12)


def test_what_it_writes_itself_needs_no_refresh(monkeypatch):
    model, (x, y) = mlp(nn.LayerNorm(6)), batch()
    bound = IncrementalLoss(model, LOSS).bind(x, y)
    bound.evaluate()
    monkeypatch.setattr(Bound, "_fill", lambda self: pytest.fail("computed afresh"))
    for param in model.parameters():
        bound.propose(ask(param))
        bound.rollback()
        bound.evaluate()
        bound.propose(ask(param))
        write(ask(param))
        bound.commit()
        same(bound.evaluate(), plain(copy.deepcopy(model), LOSS, x, y), 1e-12)


def test_a_proposal_for_another_model_changes_nothing(monkeypatch):
    model, (x, y) = mlp(), batch()
    bound = IncrementalLoss(model, LOSS).bind(x, y)
    before, other = bound.evaluate(), nn.Parameter(torch.zeros(3))
    assert torch.equal(bound.propose(ask(other)), before)
    write(ask(other))
    bound.commit()
    monkeypatch.setattr(Bound, "_fill", lambda self: pytest.fail("computed afresh"))
    assert torch.equal(bound.evaluate(), before)


# Mistakes -----------------------------------------------------------------------------------------------------------

BAD = {
    "model must be": {"model": lambda x: x},
    "loss_fn must be": {"loss_fn": 3},
    "memory_budget must be": {"memory_budget": 0},
    "refresh_every must be": {"refresh_every": 0},
    "refresh_every must be an": {"refresh_every": True},
    "layout must be": {"layout": "tile"},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_named(message):
    options = {"model": mlp(), "loss_fn": LOSS} | BAD[message]
    with pytest.raises((TypeError, ValueError), match=message):
        IncrementalLoss(options.pop("model"), options.pop("loss_fn"), **options)


@pytest.mark.parametrize("x", [[1.0], torch.tensor(1.0), torch.empty(0, 5)])
def test_bad_batches_are_named(x):
    with pytest.raises(ValueError, match="x must be a tensor with at least one sample"):
        IncrementalLoss(mlp(), LOSS).bind(x, torch.zeros(1))
    with pytest.raises(ValueError, match="as many samples, got 70 and 3"):
        IncrementalLoss(mlp(), LOSS).bind(batch()[0], torch.zeros(3))


def test_a_model_that_does_not_fit_the_batch_raises_its_own_error():
    model = nn.Linear(4, 3).double()
    with pytest.warns(UserWarning, match="fails on a batch"):
        bound = IncrementalLoss(model, LOSS).bind(*batch())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        bound.evaluate()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize(
    ("owner", "attribute"), [(Elementwise, "patch"), (Tiles, "cross_entropy"), (Tiles, "linear_rows")]
)
def test_an_exception_in_the_middle_leaves_everything_as_it_was(owner, attribute, error, monkeypatch):
    model, (x, y) = mlp(nn.LayerNorm(6)), batch()
    bound = IncrementalLoss(model, LOSS, layout="tiles").bind(x, y)
    changes = [ask(param) for param in model.parameters()]
    bound.evaluate()
    losses = [bits(loss) for loss in bound.propose_many(changes)]
    bound.rollback()
    before, weights = cache(bound), [bits(p) for p in model.parameters()]
    good, calls = getattr(owner, attribute), []

    def fails(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise error("in the middle")
        return good(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(owner, attribute, fails)
        with pytest.raises(error, match="in the middle"):
            bound.propose_many(changes)
    assert cache(bound) == before
    assert [bits(p) for p in model.parameters()] == weights
    assert [bits(loss) for loss in bound.propose_many(changes)] == losses
    bound.rollback()
    assert_right(bound, model, model[0].weight, x, y)


def test_an_exception_in_a_dense_operation_puts_the_parameters_back():
    class Fragile(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = P(1, 3)  # not one number per channel, for which there is a rule

        def forward(self, x):
            return x * self.w

    model, (x, y) = nn.Sequential(nn.Linear(5, 3), Fragile()).double(), batch()
    bound = IncrementalLoss(model, LOSS).bind(x, y)
    loss, weights = bound.evaluate(), bits(model[1].w)
    bound.value = lambda index: 1 / 0
    with pytest.raises(ZeroDivisionError):
        bound.propose(ask(model[1].w))
    del bound.value
    assert bits(model[1].w) == weights
    assert torch.equal(bound.evaluate(), loss)
    assert_right(bound, model, model[1].w, x, y)


def test_the_optimizer_takes_it_and_undoes_a_failed_step():
    model, (x, y) = mlp(), batch()
    engine, failing = IncrementalLoss(model, LOSS), []

    def loss_fn(outputs, labels):
        failing.append(1)
        if len(failing) == 30:
            raise RuntimeError("in the middle")
        return functional.cross_entropy(outputs, labels)

    engine = IncrementalLoss(model, loss_fn)
    optimizer = GreedyMCMC(model.parameters(), 50.0, n_proposals=100)
    before = [bits(p) for p in model.parameters()]
    with pytest.raises(RuntimeError, match="in the middle"):
        optimizer.step(engine.bind(x, y))
    assert [bits(p) for p in model.parameters()] == before
    loss = optimizer.step(engine.bind(x, y))
    same(loss, plain(copy.deepcopy(model), LOSS, x, y), 1e-12)


def test_a_loss_with_parameters_is_refused():
    class Tempered(nn.Module):
        def __init__(self):
            super().__init__()
            self.t = nn.Parameter(torch.ones(()))

        def forward(self, z, y):
            return nn.functional.cross_entropy(z * self.t, y)

    with pytest.raises(ValueError, match="loss_fn must have no parameters"):
        IncrementalLoss(mlp(), Tempered())


def test_a_buffer_of_the_loss_that_changes_is_noticed():
    x, y = torch.randn(40, 6), torch.randint(3, (40,))
    model, loss = nn.Linear(6, 3), nn.CrossEntropyLoss(weight=torch.ones(3))
    bound = IncrementalLoss(model, loss).bind(x, y)
    before = float(bound.evaluate())
    loss.weight.copy_(torch.tensor([5.0, 1.0, 0.1]))
    assert float(bound.evaluate()) == pytest.approx(float(loss(model(x), y).detach()))
    assert float(bound.evaluate()) != pytest.approx(before)


def test_a_random_loss_is_refused():
    x, y = torch.randn(40, 6), torch.randint(3, (40,))
    objective = IncrementalLoss(nn.Linear(6, 3), lambda z, y: nn.functional.cross_entropy(nn.functional.dropout(z), y))
    with pytest.raises(ClosureError, match="loss_fn draws random numbers"):
        objective.bind(x, y).evaluate()


def test_numbers_drawn_while_tracing_do_not_become_constants():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.randn(3)

    with pytest.warns(UserWarning, match="draws random numbers"):
        objective = IncrementalLoss(Noisy(), LOSS).bind(torch.randn(5, 3), torch.randint(3, (5,)))
    assert isinstance(objective, ClosureObjective)


def test_an_in_place_operation_behind_an_identity_is_seen():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.same = nn.Linear(6, 3), nn.Linear(3, 3), nn.Identity()

        def forward(self, x):
            x = self.a(x)
            return self.b(nn.functional.relu(self.same(x), inplace=True)) + x

    model, x, y = Block(), torch.randn(20, 6), torch.randint(3, (20,))
    with pytest.warns(UserWarning, match="in place"):
        objective = IncrementalLoss(model, LOSS).bind(x, y)
    assert float(objective()) == pytest.approx(float(LOSS(model(x), y).detach()))


def test_a_model_that_becomes_untraceable_is_not_followed_on_its_old_graph():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 3)

        def forward(self, x):
            z = self.a(x)
            return 10 * z if self.training and z.sum() < 1e9 else z

    model, x, y = Branch().eval(), torch.randn(20, 6), torch.randint(3, (20,))
    engine = IncrementalLoss(model, LOSS)
    bound = engine.bind(x, y)
    bound.evaluate()
    model.train()
    with pytest.warns(UserWarning, match="evaluated whole"), pytest.raises(ClosureError, match="bind the batch again"):
        bound.evaluate()
    assert float(engine.bind(x, y)()) == pytest.approx(float(LOSS(model(x), y).detach()))


def test_a_constant_divided_by_codes_is_not_taken_for_affine():
    class Inverse(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("c", torch.full((1, 2, 1, 1), 3.0))
            self.conv = nn.Conv2d(2, 3, 4)

        def forward(self, x):
            return self.conv(self.c / (x.float() + 1)).flatten(1)

    model, x, y = Inverse(), torch.randint(256, (70, 2, 4, 4), dtype=torch.uint8), torch.randint(3, (70,))
    bound = IncrementalLoss(model, LOSS, layout="tiles").bind(x, y)
    bound.evaluate()
    change = {model.conv.weight: (torch.arange(32), torch.ones(32))}
    loss = float(bound.propose(change))
    write(change)
    assert loss == pytest.approx(float(LOSS(model(x), y).detach()), rel=1e-5)
