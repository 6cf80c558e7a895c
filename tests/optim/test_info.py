"""C8-like: the report of a step against numbers computed anew, and the warning about rounding."""

import copy
import math
import warnings

import pytest
import torch

from mcmcopt import BetaBinomial, GreedyMCMC, RandomWalk, SpikeSlab
from mcmcopt.optim.info import LayerInfo, MoveInfo, StepInfo
from tests.optim.problems import CONFIGS, INFORMED, make, make_closure, make_model

EACH = pytest.mark.parametrize("config", CONFIGS)


@EACH
@pytest.mark.parametrize("per_sample", [False, True])
def test_the_report_agrees_with_the_state(config, per_sample):
    model, optimizer, _ = make(config, dtype=torch.float64)
    calls, closure = [], make_closure(model, per_sample)

    def counted():
        calls.append(1)
        return closure()

    assert optimizer.info is None
    for step in (1, 2, 3):
        calls.clear()
        loss, info = optimizer.step(counted), optimizer.info
        now = float(closure().detach().mean())
        assert float(loss) == pytest.approx(now, abs=1e-14)
        assert info.step == step
        assert info.loss == pytest.approx(now, abs=1e-14)
        assert info.lam == optimizer.param_groups[0]["lam"]
        assert info.data_term == -info.lam * info.loss
        assert info.log_prior == optimizer.log_prior()
        assert info.log_target == info.data_term + info.log_prior
        moves = [item for layer in info.layers.values() for item in layer.moves.items()]
        scored = sum(move.proposed for label, move in moves if label.startswith(("informed", "langevin")))
        looks = info.gradients - scored  # at present states
        assert (looks > 0) == (scored > 0) == (config in INFORMED)
        first = 2 if step == 1 else 1  # the first one is checked
        assert info.evaluations == len(calls) == info.proposed + looks + first
        assert info.non_finite == info.speculated == info.early == 0
        impossible = sum(layer.impossible for layer in info.layers.values())
        assert info.proposed + impossible == optimizer.n_proposals
        for layer, param in zip(info.layers.values(), model.parameters(), strict=True):
            mask = optimizer.mask(param)
            assert (layer.size, layer.active_entries) == (param.numel(), int(mask.sum()))
            assert layer.is_weight == (param.dim() >= 2)
            assert 0 <= layer.active <= layer.blocks
            for move in layer.moves.values():
                assert 0 <= move.accepted <= move.proposed
                assert 0 <= move.probability <= move.proposed
                assert move.acceptance_rate == move.probability / move.proposed
        active = sum(layer.active_entries for layer in info.layers.values())
        assert info.thermal_excess == (pytest.approx(active / (2 * info.lam)) if info.lam else math.inf)
        weights = [p for p in model.parameters() if p.dim() >= 2]
        assert info.share_active == sum(int(optimizer.mask(p).sum()) for p in weights) / sum(p.numel() for p in weights)


def test_log_prior_is_that_of_the_slab_and_of_the_pattern():
    model = make_model(dtype=torch.float64)
    prior = SpikeSlab(inclusion=BetaBinomial(), per="group")
    optimizer = GreedyMCMC(model.parameters(), 1.0, prior=prior, init="prior", seed=3)
    masks = [optimizer.mask(param) for param in model.parameters()]
    normal = torch.distributions.Normal(0.0, torch.tensor(1.0, dtype=torch.float64))
    slab = sum(
        float(normal.log_prob(param.detach()[mask]).sum())
        for param, mask in zip(model.parameters(), masks, strict=True)
    )
    k = sum(int(mask.sum()) for mask in masks if mask.dim() >= 2)
    assert 0 < k < 42
    assert optimizer.log_prior() == pytest.approx(slab - math.log(43) - math.log(math.comb(42, k)))


def test_an_acceptance_rate_is_the_mean_probability_and_close_to_the_decisions():
    _, optimizer, closure = make("dense", moves=RandomWalk(k=1), adapt=False, n_proposals=1500, lam=100.0)
    optimizer.step(closure)
    moves = [layer.moves["walk(k=1)"] for layer in optimizer.info.layers.values()]
    expected = sum(move.probability for move in moves)
    assert abs(optimizer.info.accepted - expected) < 5 * math.sqrt(1500 / 4)
    assert 100 < expected < 1400


def test_records_without_content():
    assert math.isnan(MoveInfo().acceptance_rate)
    bias = LayerInfo(4, 4, 4, 4, False, 0, {}, {})
    info = StepInfo(1, 1.0, 0.5, -0.5, -2.0, 2.0, 1, 0, {"bias": bias})
    assert math.isnan(info.share_active)
    assert (info.proposed, info.accepted, info.log_target) == (0, 0, -2.5)


def test_non_finite_proposals_are_rejected_and_counted():
    model, optimizer, _ = make("dense", n_proposals=40)
    closure, calls, refused = make_closure(model, per_sample=True), [], []

    def sometimes():
        calls.append(1)
        if len(calls) <= 2 or len(calls) % 3 != 2:
            return closure()
        refused.append(1)
        return closure() * float("nan")

    optimizer.step(sometimes)
    assert optimizer.info.non_finite == len(refused) > 10
    assert optimizer.info.accepted <= optimizer.info.proposed - len(refused)
    assert torch.isfinite(closure()).all()


@pytest.mark.parametrize(("lam", "dtype", "fires"), [(1e6, torch.float32, True), (1e4, torch.float32, False)])
def test_rounding_that_blurs_decisions_is_warned_of_once(lam, dtype, fires):
    loss = 2.3  # half a unit in the last place of 2.3 is 1.4e-7
    _, optimizer, _ = make("dense", lam=lam, n_proposals=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            optimizer.step(lambda: torch.tensor(loss, dtype=dtype))
    assert len(caught) == fires
    if fires:
        assert caught[0].filename == __file__
        text = str(caught[0].message)
        assert all(part in text for part in ("lam=1e+06", "torch.float32", "one loss per sample"))


def test_per_sample_and_float64_losses_of_the_same_size_need_no_warning():
    for value in (torch.full((4096,), 2.3), torch.tensor(2.3, dtype=torch.float64), 2.3):
        make("dense", lam=1e6, n_proposals=2)[1].step(lambda value=value: value)


def test_bf16_losses_are_warned_of_early():
    with pytest.warns(UserWarning, match=r"torch\.bfloat16 loss"):
        make("dense", lam=50.0, n_proposals=2)[1].step(lambda: torch.tensor(2.3, dtype=torch.bfloat16))


def test_the_warning_is_given_again_by_neither_a_copy_nor_a_later_step():
    _, optimizer, _ = make("dense", lam=1e6, n_proposals=2)
    with pytest.warns(UserWarning, match="times the rounding"):
        optimizer.step(lambda: torch.tensor(2.3))
    copy.deepcopy(optimizer).step(lambda: torch.tensor(2.3))
