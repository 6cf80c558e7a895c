"""C19: a random loss or a moving buffer in the closure is refused, by the name of the module that causes it."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules import module as torch_module

from mcmcopt.loss.guards import ClosureError, guarded


class Net(nn.Module):
    """A network with one middle module, whose name appears in messages."""

    def __init__(self, middle: nn.Module | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), middle or nn.Identity())
        self.head = nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


@pytest.fixture(autouse=True)
def _repeatable():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    assert not torch_module._global_forward_pre_hooks


X = torch.linspace(-1, 1, 32).view(8, 4)


def closure(model: nn.Module):
    return lambda: model(X).square().mean().detach()


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: buffer.numpy().tobytes() for name, buffer in model.named_buffers()}


DROPOUTS = [nn.Dropout(0.5), nn.Dropout1d(0.5), nn.AlphaDropout(0.5), nn.FeatureAlphaDropout(0.5)]


@pytest.mark.parametrize("dropout", DROPOUTS, ids=lambda d: type(d).__name__)
def test_dropout_in_train_mode_is_named(dropout):
    with pytest.raises(ClosureError, match=r"dropout is in train mode: body\.1 \(.*p=0\.5") as caught:
        guarded(closure(Net(dropout)))
    assert "model.eval()" in str(caught.value)
    assert "torch.manual_seed" in str(caught.value)


def test_dropout_in_eval_mode_or_with_p_zero_passes():
    model = Net(nn.Dropout(0.5)).eval()
    assert torch.equal(guarded(closure(model)), closure(model)())
    guarded(closure(Net(nn.Dropout(0.0))))


def test_dropout_with_common_random_numbers_passes():
    model = Net(nn.Dropout(0.5))

    def seeded():
        torch.manual_seed(7)
        return closure(model)()

    assert torch.equal(guarded(seeded), seeded())


def test_functional_dropout_and_random_batches_are_seen_by_the_numbers_that_they_draw():
    model = Net().eval()

    def dropout():
        return functional.dropout(model(X), training=True).mean()

    def batch():
        return model(X[torch.randint(8, (3,))]).square().mean()

    def augmentation():
        return model(X + 0.1 * torch.randn_like(X)).square().mean()

    for random in (dropout, batch, augmentation):
        with pytest.raises(ClosureError, match="different loss at the same parameters; it draws random numbers"):
            guarded(random)


NORMS = [
    nn.BatchNorm1d(6),
    nn.BatchNorm1d(6, momentum=None),
    nn.Sequential(nn.SyncBatchNorm(6).eval(), nn.BatchNorm1d(6)),
]


@pytest.mark.parametrize("norm", NORMS, ids=["plain", "cumulative", "nested"])
def test_batch_norm_in_train_mode_is_named_and_its_buffers_are_put_back_bitwise(norm):
    model = Net(norm)
    before = bits(model)
    with pytest.raises(ClosureError, match=r"changes the buffers body\.1\.(1\.)?running_mean") as caught:
        guarded(closure(model))
    assert "num_batches_tracked" in str(caught.value)
    assert "eval()" in str(caught.value)
    assert bits(model) == before


def test_batch_norm_in_eval_mode_or_without_running_statistics_passes():
    guarded(closure(Net(nn.BatchNorm1d(6)).eval()))
    guarded(closure(Net(nn.BatchNorm1d(6, track_running_stats=False))))


class Counter(nn.Module):
    """Replaces its buffer instead of writing into it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count = self.count + 1
        return x


def test_a_replaced_buffer_is_put_back_as_the_object_that_it_was():
    model = Net(Counter())
    buffer = model.body[1].count
    with pytest.raises(ClosureError, match=r"body\.1\.count"):
        guarded(closure(model))
    assert model.body[1].count is buffer
    assert float(buffer) == 0


def test_a_buffer_of_nan_that_stays_as_it_is_passes():
    model = Net()
    model.body[1].register_buffer("missing", torch.tensor([float("nan"), 1.0]))
    guarded(closure(model))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_the_closure_puts_buffers_back(error):
    model = Net(nn.BatchNorm1d(6))
    before = bits(model)

    def failing():
        model(X)
        raise error("in the closure")

    with pytest.raises(error, match="in the closure"):
        guarded(failing)
    assert bits(model) == before


def test_a_deterministic_closure_is_evaluated_once():
    calls = []

    def counted():
        calls.append(1)
        return torch.tensor(1.0)

    assert guarded(counted) == 1
    assert len(calls) == 1


def test_a_model_in_one_module_is_named_by_its_class():
    with pytest.raises(ClosureError, match=r"Dropout \(Dropout\(p=0\.5"):
        guarded(closure(nn.Dropout(0.5)))


def test_a_guard_draws_no_random_numbers_itself():
    model, state = Net().eval(), torch.get_rng_state()
    guarded(closure(model))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_that_is_always_nan_is_not_called_random():
    def hopeless():
        return torch.rand(()).mul(float("nan"))

    assert guarded(hopeless).isnan()


def test_randomness_from_elsewhere_shows_in_a_second_look():
    rng = np.random.default_rng(0)
    with pytest.raises(ClosureError, match="another batch"):
        guarded(lambda: torch.tensor(rng.random()), twice=True)
    guarded(lambda: torch.tensor(rng.random()))  # unseen without
    guarded(lambda: torch.tensor([1.0, float("nan")]), twice=True)
