"""Losses with gradients: those of autograd, from closures of every kind and from the cache; nothing is left behind."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from mcmcopt import GreedyMCMC, IncrementalLoss, InformedBirthDeath, InformedFlip, Langevin, RandomWalk, SpikeSlab
from mcmcopt.loss.incremental import bound as binding
from mcmcopt.loss.objective import ClosureObjective, GradientObjective, write
from tests.loss.small import LOSS, mlp
from tests.optim.problems import bits

KINDS = ("plain", "backward", "per sample", "per sample backward")


def problem(n=40, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return mlp(), torch.randn(n, 5, dtype=torch.float64), torch.randint(3, (n,))


def closure_of(kind, model, x, y, fails=lambda: None):
    def closure():
        loss = functional.cross_entropy(model(x), y, reduction="none" if "sample" in kind else "mean")
        fails()
        if "backward" in kind:
            loss.mean().backward()
        return loss

    return closure


def truth(model, x, y, change):
    """Return the loss and the gradients of a copy with the change written, by autograd."""
    twin = copy.deepcopy(model)
    for param in twin.parameters():
        param.grad = None
    own = dict(zip(model.parameters(), twin.parameters(), strict=True))
    write({own[param]: values for param, values in change.items()})
    loss = functional.cross_entropy(twin(x), y)
    loss.backward()
    return loss.detach(), {param: own[param].grad for param in model.parameters()}


def changes(model):
    first, last = model[0].weight, model[-1].bias
    one = {first: (torch.tensor([3, 7]), torch.tensor([0.9, 0.0], dtype=torch.float64))}
    both = one | {last: (torch.tensor([1]), torch.tensor([-2.0], dtype=torch.float64))}
    return {"none": {}, "one": one, "both": both}


def traces(model):
    return [
        (bits(param), id(param.grad), None if param.grad is None else bits(param.grad)) for param in model.parameters()
    ]


@pytest.mark.parametrize("what", ["none", "one", "both"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grad", [None, True, False])
@pytest.mark.parametrize("present", [False, True])
def test_a_closure_s_gradients_are_those_of_autograd_and_everything_is_put_back(kind, what, grad, present):
    if grad is ("backward" not in kind):
        return
    model, x, y = problem()
    for i, param in enumerate(model.parameters()):
        param.grad = torch.full_like(param, float(i)) if present and i % 2 else None
    change, params = changes(model)[what], list(model.parameters())
    loss, gradients = truth(model, x, y, change)
    before = traces(model)
    objective = ClosureObjective(closure_of(kind, model, x, y), params, grad)
    for _ in range(2):
        found, slopes = objective.propose_with_gradient(change, params[:3])
        assert traces(model) == before
        assert list(slopes) == params[:3]
        torch.testing.assert_close(found.mean(), loss, rtol=1e-12, atol=0)
        assert found.shape == ((40,) if "sample" in kind else ())
        assert not found.requires_grad
        for param in params[:3]:
            torch.testing.assert_close(slopes[param], gradients[param], rtol=1e-12, atol=1e-15)
            assert slopes[param] is not param.grad
            assert not slopes[param].requires_grad
    assert objective.grad is ("backward" in kind)
    assert all(not param._backward_hooks for param in params)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("grad", [None, "known"])
def test_a_closure_that_raises_leaves_nothing_behind(kind, error, grad):
    model, x, y = problem()

    def fails():
        raise error("in the closure")

    params = list(model.parameters())
    params[0].grad = torch.ones_like(params[0])
    before = traces(model)
    known = None if grad is None else "backward" in kind
    objective = ClosureObjective(closure_of(kind, model, x, y, fails), params, known)
    for change in changes(model).values():
        with pytest.raises(error, match="in the closure"):
            objective.propose_with_gradient(change, params)
        assert traces(model) == before
        assert objective.grad is known
        assert all(not param._backward_hooks for param in params)


@pytest.mark.parametrize("backward", [False, True])
def test_a_parameter_that_the_loss_does_not_see_has_gradient_zero(backward):
    seen, unseen = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))

    def closure():
        loss = seen.square().sum()
        if backward:
            loss.backward()
        return loss

    _, slopes = ClosureObjective(closure, [seen, unseen], None).propose_with_gradient({}, [seen, unseen])
    assert slopes[seen].tolist() == [2.0] * 3
    assert slopes[unseen].tolist() == [0.0] * 3


LOST = {
    "detach": lambda loss: loss.detach(),
    "item": lambda loss: loss.item(),
    "constant": lambda loss: torch.tensor(1.0),
}


@pytest.mark.parametrize("how", [*LOST, "no_grad"])
def test_a_loss_without_a_way_to_its_gradient_is_refused_with_advice(how):
    model, x, y = problem()

    def closure():
        if how == "no_grad":
            with torch.no_grad():
                return LOSS(model(x), y)
        return LOST[how](LOSS(model(x), y))

    params = list(model.parameters())
    optimizer = GreedyMCMC(params, 1.0, prior=SpikeSlab(0.5), moves=[InformedFlip()])
    before = traces(model)
    match = r"without detach\(\), item\(\) or no_grad\(\) inside; or call backward\(\) itself"
    for call in (lambda: ClosureObjective(closure, params, None).propose_with_gradient({}, params),
                 lambda: optimizer.step(closure)):  # fmt: skip
        with pytest.raises(TypeError, match=match):
            call()
        assert traces(model) == before
    assert all(group["step"] == 0 for group in optimizer.param_groups)
    assert torch.isfinite(ClosureObjective(closure, params, None).evaluate())  # nobody else minds


@pytest.mark.parametrize(
    "loss_fn", [LOSS, nn.CrossEntropyLoss(reduction="none"), nn.CrossEntropyLoss(label_smoothing=0.1)]
)
@pytest.mark.parametrize("portion", [7, 40, 2048])
@pytest.mark.parametrize("layout", ["tiles", "major"])
def test_the_cache_gives_the_same_as_a_closure_in_portions_of_any_size(monkeypatch, loss_fn, portion, layout):
    monkeypatch.setattr(binding, "GRADIENT_SAMPLES", portion)
    model, x, y = problem()
    params = list(model.parameters())
    bound = IncrementalLoss(model, loss_fn, layout=layout).bind(x, y)
    plain = ClosureObjective(lambda: loss_fn(model(x), y), params, None)
    assert isinstance(bound, GradientObjective)
    assert isinstance(plain, GradientObjective)
    for commits in range(3):
        for change in changes(model).values():
            before = traces(model)
            (loss, slopes), (want, gradients) = (each.propose_with_gradient(change, params) for each in (bound, plain))
            assert traces(model) == before
            torch.testing.assert_close(loss, want, rtol=1e-12, atol=1e-14)
            for param in params:
                torch.testing.assert_close(slopes[param], gradients[param], rtol=1e-11, atol=1e-14)
        write(change)
        bound.commit()  # the change proposed last
        assert bound._commits == commits + 1  # the gradient's own writes were not taken for somebody else's
        torch.testing.assert_close(bound.evaluate().double(), plain.evaluate(), rtol=1e-12, atol=1e-14)
        assert bound._commits == commits + 1


WEIGHTED = nn.CrossEntropyLoss(weight=torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64))


@pytest.mark.parametrize("loss_fn", [WEIGHTED, nn.CrossEntropyLoss(reduction="sum"), lambda o, y: LOSS(o, y).exp()])
def test_a_loss_that_need_not_be_a_mean_over_samples_is_differentiated_as_a_whole(monkeypatch, loss_fn):
    monkeypatch.setattr(binding, "GRADIENT_SAMPLES", 7)
    model, x, y = problem()
    params = list(model.parameters())
    bound = IncrementalLoss(model, loss_fn).bind(x, y)
    _, slopes = bound.propose_with_gradient({}, params)
    wanted = torch.autograd.grad(loss_fn(model(x), y), params)
    for param, want in zip(params, wanted, strict=True):
        torch.testing.assert_close(slopes[param], want, rtol=1e-11, atol=1e-14)


def test_a_failing_gradient_leaves_the_cache_as_it_was():
    model, x, y = problem()
    fail = []

    def loss_fn(output, target):
        if fail and output.requires_grad:
            raise KeyboardInterrupt
        return LOSS(output, target)

    bound = IncrementalLoss(model, loss_fn).bind(x, y)
    loss, before = bound.evaluate(), traces(model)
    fail.append(1)
    with pytest.raises(KeyboardInterrupt):
        bound.propose_with_gradient(changes(model)["both"], list(model.parameters()))
    assert traces(model) == before
    bound.rollback()
    assert torch.equal(bound.evaluate(), loss)


MOVES = (InformedBirthDeath(2, "group"), InformedFlip(), Langevin("group", precondition=True), RandomWalk(k=2))


@pytest.mark.parametrize("kind", ["incremental", *KINDS[1:]])
def test_the_chain_is_the_same_whichever_way_the_gradient_comes(kind):
    runs = []
    for each in ("plain", kind):
        model, x, y = problem()
        options = {"prior": SpikeSlab(0.5), "moves": MOVES, "n_proposals": 40, "lr": 0.2}
        optimizer = GreedyMCMC(model.parameters(), 40.0, speculate=5 if each == "incremental" else 1, **options)
        objective = IncrementalLoss(model, LOSS).bind(x, y) if each == "incremental" else closure_of(each, model, x, y)
        decisions = []
        for _ in range(4):
            loss = optimizer.step(objective)
            decisions += [(move.proposed, move.accepted) for layer in optimizer.info.layers.values()
                          for move in layer.moves.values()]  # fmt: skip
        runs.append((decisions, [optimizer.mask(p).tolist() for p in model.parameters()], loss))
        assert 10 < sum(accepted for _, accepted in decisions) < 150
        assert all(param.grad is None for param in model.parameters())
    assert runs[0][:2] == runs[1][:2]
    torch.testing.assert_close(runs[0][2], runs[1][2], rtol=1e-9, atol=0)
