"""Deep rewiring, as properties of its state after every step, against both algorithms written out."""

import io
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from mcmcopt.sparsity import DeepR, OneShot, Pruner, SoftDeepR, count, weights

from .test_masked import OPTIMIZERS, STEPS, network, trained

RATE = 0.1
LIVELY = {"l1": 0.05, "temperature": 1e-3}  # such that some connections cross zero at every step


def sgd(model, rate=RATE):
    return torch.optim.SGD(model.parameters(), rate)


def linear(inputs=100, outputs=100, value=None):
    torch.manual_seed(0)
    model = torch.nn.Linear(inputs, outputs, bias=False)
    if value is not None:
        with torch.no_grad():
            model.weight.copy_(value * torch.where(model.weight < 0, -1.0, 1.0))
    return model


def counts(pruner):
    return {name: int(mask.sum()) for name, mask in pruner.masks.items()}


def states(pruner, **kwargs):
    """Train, yielding model, optimizer, and masks, signs and weights of before and after each step."""
    before = None
    for model, optimizer in trained(pruner, **kwargs):
        own = {n: w.detach().clone() for n, w in weights(model).items()}
        after = {n: (pruner.masks[n].clone(), pruner.state_dict()["signs"][n], own[n]) for n in own}
        if before is not None:
            yield model, optimizer, before, after
        before = after


@pytest.mark.parametrize("distribution", ["uniform", "erk"])
@pytest.mark.parametrize("density", [0.05, 0.3, 1.0])
def test_the_number_in_each_layer_never_changes(density, distribution):
    own = DeepR(density, **LIVELY, distribution=distribution)
    model = network()
    own.begin(model, sgd(model), STEPS)
    first = counts(own)
    assert sum(first.values()) == pytest.approx(density * count(model), abs=3)
    assert all(counts(own) == first for _ in trained(own))


@pytest.mark.parametrize("distribution", ["uniform", "erk"])
def test_the_number_over_all_layers_never_changes_while_layers_gain_and_lose(distribution):
    own = DeepR(0.25, **LIVELY, scope="global", distribution=distribution)
    model = network()
    own.begin(model, sgd(model), STEPS)
    first = counts(own)
    if distribution == "uniform":
        assert sum(first.values()) == count(model) - round(0.75 * count(model))  # 1 fewer than layer by layer
    after = [counts(own) for _ in trained(own)]
    assert all(sum(c.values()) == sum(first.values()) for c in after)
    assert any(c != first for c in after)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam"])
@pytest.mark.parametrize("make", [DeepR, SoftDeepR])
def test_active_connections_keep_their_sign_and_what_switches_is_forgotten(make, optimizer):
    own, lost, gained = make(0.3, **LIVELY), 0, 0
    for model, torch_optimizer, before, after in states(own, make=OPTIMIZERS[optimizer]):
        for name, weight in weights(model).items():
            (mask, sign, _), (now, sign_now, value) = before[name], after[name]
            assert ((value * sign_now)[now] >= 0).all()
            assert not value[~now].any()
            same = mask & now & (value != 0)  # at zero it may be another one, born where the old one was lost
            assert torch.equal(sign[same], sign_now[same])
            switched = mask != now
            lost, gained = lost + int((mask & ~now).sum()), gained + int((now & ~mask).sum())
            for memory in torch_optimizer.state[weight].values():
                if memory.shape == weight.shape:
                    assert not memory[switched].any()
                    assert memory[now & ~switched].any()
    assert lost > 20
    assert gained > 20


def test_a_step_across_zero_ends_a_connection_and_a_new_one_starts_at_zero():
    model, own = linear(4, 3, value=0.1), DeepR(0.5, l1=0.0)
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9)
    own.begin(model, optimizer, STEPS)
    mask, sign = own.masks["weight"].clone(), own.state_dict()["signs"]["weight"]
    victim = tuple(mask.nonzero()[0].tolist())
    model.weight.grad = torch.zeros_like(model.weight)
    model.weight.grad[victim] = 2 * sign[victim].float()  # a step of 0.2 against 0.1
    own.mask_gradients()
    optimizer.step()
    assert optimizer.state[model.weight]["momentum_buffer"][victim] != 0
    own.after_step(1)
    now = own.masks["weight"]
    assert int(now.sum()) == int(mask.sum())
    assert not optimizer.state[model.weight]["momentum_buffer"][victim].any()
    new = now & ~mask
    if not now[victim]:
        assert int(new.sum()) == 1
    assert not model.weight[new].any()
    assert not model.weight[victim].any()
    others = mask.clone()
    others[victim] = False
    assert now[others].all()
    assert torch.equal(model.weight[others].abs(), torch.full((5,), 0.1))


def test_new_connections_forget_what_the_optimizer_knew_before():
    model, own = linear(value=0.5), DeepR(0.5, l1=10.0)  # the prior ends all 5,000 in one step
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9)
    model.weight.grad = torch.ones_like(model.weight)
    optimizer.step()
    own.begin(model, optimizer, STEPS)
    first = own.masks["weight"].clone()
    own.after_step(1)
    new = own.masks["weight"] & ~first
    assert new.any()
    assert not optimizer.state[model.weight]["momentum_buffer"][new].any()


def test_a_connection_at_zero_is_active_and_its_gradient_moves_it():
    model, own = linear(4, 3, value=0.0), DeepR(0.5, l1=0.0)
    optimizer = sgd(model)
    own.begin(model, optimizer, STEPS)
    mask, sign = own.masks["weight"].clone(), own.state_dict()["signs"]["weight"].float()
    own.after_step(1)
    assert torch.equal(own.masks["weight"], mask)
    model.weight.grad = -sign  # makes every θ grow
    own.mask_gradients()
    optimizer.step()
    own.after_step(2)
    assert torch.equal(own.masks["weight"], mask)
    assert torch.allclose(model.weight, RATE * sign * mask)


def births(scope, trials):
    """Return the chi-square of how often each connection is drawn, while two of the active ones are lost at a time."""
    model = torch.nn.Sequential(linear(5, 4), linear(4, 10))
    layer = np.repeat([0, 1] if scope == "layer" else [0, 0], [20, 40])
    own, rng = DeepR(0.5, l1=0.0, scope=scope), np.random.default_rng(0)
    own.begin(model, sgd(model), trials)
    drawn, expected, variance = np.zeros(60), np.zeros(60), np.zeros(60)
    for t in range(1, trials + 1):
        left = torch.cat([mask.flatten() for mask in own.masks.values()])
        lost = rng.choice(np.flatnonzero(left), 2, replace=False)
        theta = left.float()
        theta[lost] = -1.0
        left[lost] = False
        for (name, weight), part in zip(weights(model).items(), theta.split([20, 40]), strict=True):
            with torch.no_grad():
                weight.copy_(own.state_dict()["signs"][name] * part.view(weight.shape))
        own.after_step(t)
        dormant = ~left.numpy()
        chance = dormant * np.bincount(layer[lost], minlength=2)[layer] / np.bincount(layer, dormant)[layer]
        drawn += torch.cat([mask.flatten() for mask in own.masks.values()]).numpy() & dormant
        expected, variance = expected + chance, variance + chance * (1 - chance)
    assert drawn.sum() == 2 * trials
    return ((drawn - expected) ** 2 / variance).sum()


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_new_connections_are_uniform_over_the_dormant_ones(scope):
    # About chi-square of 60, whose standard deviation is 11: each term is a deviation in units of its variance.
    assert births(scope, 1000) < 60 + 4 * math.sqrt(2 * 60)


def test_signs_of_new_connections_are_random_and_the_first_ones_are_the_weights():
    model, own = linear(value=0.5), DeepR(0.5, l1=10.0)  # the prior ends all 5,000 in one step
    own.begin(model, sgd(model), STEPS)
    first = own.state_dict()["signs"]["weight"]
    assert torch.equal(first.float(), model.weight.sign() + (model.weight == 0) * first)
    own.after_step(1)
    sign, mask = own.state_dict()["signs"]["weight"], own.masks["weight"]
    assert set(sign.unique().tolist()) == {-1, 1}
    positive = int((sign[mask] > 0).sum())
    assert abs(positive - 2500) < 5 * math.sqrt(5000) / 2
    kept = int((sign[mask] == first[mask]).sum())
    assert abs(kept - 2500) < 5 * math.sqrt(5000) / 2


class Fixed(Pruner):
    """Holds given zeros, and does nothing else."""

    def __init__(self, masks):
        super().__init__()
        self._given = masks

    def _begun(self):
        self.masks = self._given
        self.after_step(0)

    def _update(self, t):
        pass


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize(("rate", "l1", "temperature"), [(0.001, 0.0, 0.0), (0.0, 0.5, 1.0)])
def test_without_prior_noise_or_crossing_it_is_plain_masked_training(optimizer, rate, l1, temperature):
    def made(parameters):
        found = OPTIMIZERS[optimizer](parameters)
        found.param_groups[0]["lr"] = rate
        return found

    def far_from_zero():
        model = network()
        with torch.no_grad():
            for weight in weights(model).values():
                weight.add_(3 * weight.sign())
        return model

    own = DeepR(0.3, l1, temperature)
    *_, (one, _) = trained(own, made, model=far_from_zero())
    *_, (two, _) = trained(Fixed(own.masks), made, model=far_from_zero())
    for name, a in one.named_parameters():
        assert torch.equal(a, two.get_parameter(name))
        start = far_from_zero().get_parameter(name)
        assert torch.equal(a[a != 0], start[a != 0]) == (rate == 0)


@pytest.mark.parametrize("make", [DeepR, SoftDeepR])
@pytest.mark.parametrize("rate", [0.1, 0.02])
def test_prior_and_noise_have_the_stated_mean_and_variance_at_the_rate_of_the_group(make, rate):
    model, l1, temperature, steps = linear(200, 200, value=5.0), 0.3, 0.01, 4
    optimizer = torch.optim.SGD([{"params": list(model.parameters()), "lr": 1.0}], 1.0)
    own = make(0.5, l1, temperature)
    own.begin(model, optimizer, steps)
    sign = own.state_dict()["signs"]["weight"]
    mask = own.masks["weight"].clone()
    optimizer.param_groups[0]["lr"] = rate  # as a scheduler does
    previous, moves = 5.0, []
    for t in range(1, steps + 1):
        own.after_step(t)
        theta = (model.weight.detach() * sign)[mask].double()
        moves.append(theta - previous)
        previous = theta
    assert torch.equal(own.masks["weight"][mask], mask[mask])
    n, variance = int(mask.sum()), 2 * rate * temperature
    for move in moves:
        assert move.mean() == pytest.approx(-rate * l1, abs=5 * math.sqrt(variance / n))
        assert move.var() == pytest.approx(variance, rel=5 * math.sqrt(2 / n))
    correlation = np.corrcoef(torch.stack(moves).numpy())  # steps draw anew
    assert np.abs(correlation - np.eye(steps)).max() < 5 / math.sqrt(n)


def test_a_scheduler_is_followed_step_by_step_and_biases_are_not_touched():
    model, own = torch.nn.Linear(3, 2), DeepR(1.0, l1=0.5)
    with torch.no_grad():
        model.weight.fill_(10.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)
    own.begin(model, optimizer, STEPS)
    bias, expected = model.bias.detach().clone(), 10.0
    for t in range(1, 7):
        optimizer.step()
        expected -= 0.5 * optimizer.param_groups[0]["lr"]
        own.after_step(t)
        scheduler.step()
        assert torch.allclose(model.weight, torch.full((2, 3), expected))
    assert expected == pytest.approx(10 - 2 * 0.5 * (0.1 + 0.01 + 0.001))
    assert torch.equal(model.bias, bias)


def test_soft_the_number_varies_and_dormant_parameters_stay_between_theta_min_and_zero():
    own, totals, deepest, returned = SoftDeepR(0.3, **LIVELY, theta_min=-0.05), set(), 0.0, 0
    for _, _, before, after in states(own):
        totals.add(sum(counts(own).values()))
        for name, theta in own.state_dict()["theta"].items():
            mask = after[name][0]
            assert not theta[mask].any()
            assert ((theta >= np.float32(-0.05).item()) & (theta <= 0)).all()
            assert (theta[~mask] < 0).all()  # exactly zero has no probability
            deepest = min(deepest, float(theta.min()))
            new = mask & ~before[name][0]
            returned += int(new.sum())
            assert (after[name][2][new] != 0).all()
            assert torch.equal(before[name][1], after[name][1])  # signs are for good
    assert len(totals) > 5
    assert returned > 20
    assert deepest == pytest.approx(-0.05)


def test_soft_dormant_parameters_walk_without_drift_and_meet_no_prior():
    model, l1, temperature = linear(200, 200, value=9.0), 5.0, 1e-3
    own = SoftDeepR(0.5, l1, temperature, theta_min=-100.0)
    own.begin(model, sgd(model), STEPS)
    dormant = ~own.masks["weight"]
    start = own.state_dict()["theta"]["weight"][dormant].double()
    assert start.mean() == pytest.approx(-50, abs=5 * 100 / math.sqrt(12 * len(start)))  # uniform on (-100, 0)
    own.after_step(1)
    theta = own.state_dict()["theta"]["weight"][dormant].double()
    inside = (start > -99) & (start < -1)  # 70 standard deviations from both ends
    move, variance = (theta - start)[inside], 2 * RATE * temperature
    assert move.mean() == pytest.approx(0, abs=5 * math.sqrt(variance / len(move)))
    assert move.var() == pytest.approx(variance, rel=0.06)  # five standard deviations
    assert l1 * RATE > 5 * math.sqrt(variance / len(move))  # the prior's drift would be seen


def test_soft_the_prior_alone_has_the_density_asked_for():
    model = linear(100, 100)
    own = SoftDeepR(0.3, l1=1.0, temperature=0.1)
    assert own.theta_min == pytest.approx(-7 / 3 * 0.1)
    own.begin(model, sgd(model, 0.001), STEPS)
    with torch.no_grad():
        model.weight.sign_().mul_(0.05 * own.masks["weight"])  # not the stationary law at first
    shares = []
    for t in range(1, 1501):
        own.after_step(t)
        if t > 500 and t % 10 == 0:
            shares.append(int(own.masks["weight"].sum()) / 10000)
    # In units of T/α the walk takes steps of 0.14, which shifts its ends by up to half of one: 0.03 of the share.
    assert np.mean(shares) == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("make", [lambda: DeepR(0.3, **LIVELY, scope="global"), lambda: SoftDeepR(0.3, **LIVELY)])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_resumed_from_a_file_is_the_same(make, optimizer):
    whole = make()
    *_, (model, _) = trained(whole, OPTIMIZERS[optimizer])
    cut = make()
    *_, (half, torch_optimizer) = trained(cut, OPTIMIZERS[optimizer], steps=9)
    file = io.BytesIO()
    torch.save([cut.state_dict(), torch_optimizer.state_dict(), half.state_dict()], file)
    for _ in trained(cut, OPTIMIZERS[optimizer], first=9, model=half, optimizer=torch_optimizer):
        pass  # a state is not changed by what its pruner does later
    file.seek(0)
    state, torch_state, then = torch.load(file, weights_only=True)
    torch.manual_seed(99)
    again, fresh = make(), network()
    resumed = OPTIMIZERS[optimizer](fresh.parameters())
    again.begin(fresh, resumed, STEPS)
    fresh.load_state_dict(then)
    resumed.load_state_dict(torch_state)
    again.load_state_dict(state)
    for _ in trained(again, first=9, model=fresh, optimizer=resumed):
        pass
    for one, two in zip(model.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, two)
    assert all(torch.equal(whole.masks[n], again.masks[n]) for n in whole.masks)


@pytest.mark.parametrize("make", [DeepR, SoftDeepR])
def test_numbers_follow_the_seed_alone(make):
    def final(seed, other):
        own = make(0.3, **LIVELY, seed=seed)
        model = network()
        torch.rand(other)
        np.random.seed(other)  # noqa: NPY002 -- whatever global generators did
        for _ in trained(own, model=model):
            pass
        return torch.cat([mask.flatten() for mask in own.masks.values()])

    assert torch.equal(final(1, 3), final(1, 4))
    assert not torch.equal(final(1, 3), final(2, 3))


@pytest.mark.parametrize("make", [DeepR, SoftDeepR])
def test_states_of_other_pruners_and_models_are_refused(make):
    own, model = make(0.3), network()
    own.begin(model, sgd(model), STEPS)
    other = OneShot(0.3, at=0)
    other.begin(network(), sgd(network()), STEPS)
    with pytest.raises(ValueError, match=r"the saved \w+ of \w+ are of no weight"):
        own.load_state_dict(other.state_dict())
    stranger = linear()
    again = make(0.3)
    again.begin(stranger, sgd(stranger), STEPS)
    with pytest.raises(ValueError, match="the model's weights are weight"):
        again.load_state_dict(own.state_dict())


@pytest.mark.parametrize("make", [DeepR, SoftDeepR])
def test_an_optimizer_without_the_weights_is_refused(make):
    model = network()
    with pytest.raises(ValueError, match=r"the optimizer must hold 0\.weight"):
        make(0.3).begin(model, sgd(model[3]), STEPS)


@pytest.mark.parametrize("make", [DeepR, SoftDeepR])
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"density": 0}, "density"),
        ({"density": 1.5}, "density"),
        ({"l1": -1e-4}, "l1"),
        ({"l1": math.inf}, "l1"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"distribution": "er"}, "distribution"),
        ({"seed": -1}, "seed"),
        ({"seed": 0.5}, "seed"),
    ],
)
def test_bad_settings_are_named(make, arguments, named):
    with pytest.raises(ValueError, match=named):
        make(**{"density": 0.1, **arguments})


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: DeepR(0.1, scope="block"), "scope"),
        (lambda: SoftDeepR(0.1, theta_min=0.1), "theta_min"),
        (lambda: SoftDeepR(0.1, theta_min=-math.inf), "theta_min"),
        (lambda: SoftDeepR(0.1, l1=0.0), "theta_min"),
    ],
)
def test_bad_settings_of_one_of_them_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize(
    ("pruner", "low", "high"),
    [
        (lambda: DeepR(0.2, 0.003, 1e-6), 0.0, 0.1),
        (lambda: SoftDeepR(0.2, 0.003, 1e-6), 0.0, 0.1),
        (lambda: OneShot(0.2, at=0), 0.3, 1.0),
    ],
    ids=["deepr", "soft deepr", "fixed"],
)
def test_few_connections_learn_a_separable_problem_better_than_a_fixed_choice(pruner, low, high):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 20, generator=generator)
    y = (x[:, 0] + x[:, 1] > 0).long()  # 2 of 20 inputs matter
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(20, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    optimizer, own = sgd(model, 0.5), pruner()
    own.begin(model, optimizer, 500)
    for t in range(1, 501):
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        own.mask_gradients()
        optimizer.step()
        own.after_step(t)
    assert low < loss < high
