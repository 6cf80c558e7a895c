"""What is reported of pruning: which curves, which shares, which numbers of them; settings are refused by name."""

import math

import pytest
import torch

from experiments import outcome
from experiments.data import digits
from experiments.models import mlp
from experiments.outcome import SPARSITIES, Protocol
from experiments.schema import Resistance
from mcmcopt.sparsity import area, count, nonzero, sparsity_at, weights


def protocol(**changes):
    return Protocol(**{**vars(Resistance()), **changes})


@pytest.fixture(scope="module")
def data():
    return digits(130, 40, 60, True, 0)


def model():
    torch.manual_seed(0)
    return mlp()


def at(rows, share, key="test_accuracy", kind=("magnitude", "layer", "all")):
    found = [r[key] for r in rows if (r["criterion"], r["scope"], r["basis"]) == kind and r["requested"] == share]
    assert len(found) == 1
    return found[0]


def test_rows_of_each_curve(data):
    scopes = ["layer", "global", "block", "filter"]
    rows = outcome.resistance(model(), data, 0, protocol(scopes=scopes, finetune_epochs=0, block=[32, 8]))
    kinds = [(r["criterion"], r["scope"], r["basis"]) for r in rows]
    expected = [("magnitude", scope) for scope in scopes] + [("random", "layer")]
    assert list(dict.fromkeys(kinds)) == [(*kind, basis) for kind in expected for basis in ("all", "remaining")]
    for kind in set(kinds):
        own = [r for r in rows if (r["criterion"], r["scope"], r["basis"]) == kind]
        assert [r["requested"] for r in own] == [0.0, *SPARSITIES]
        kept = [r["weights_kept"] for r in own]
        assert kept == sorted(kept, reverse=True)
        assert all(r["reached"] == pytest.approx(1 - r["weights_kept"] / 2368) for r in own)
    assert at(rows, 0.9, "weights_kept") == 2048 + 320 - round(0.9 * 2048) - round(0.9 * 320)
    assert at(rows, 0.5, "weights_kept", ("magnitude", "block", "all")) == 4 * 32 * 8 + 2 * 10 * 8  # of 8 and 4 tiles
    assert at(rows, 0.5, "weights_kept", ("magnitude", "filter", "all")) == 16 * 64 + 5 * 32
    assert all(r["test_accuracy_finetuned"] is None for r in rows)


def test_finetunes_are_where_they_are_asked_for(data):
    network = model()
    before = [p.detach().clone() for p in network.parameters()]
    state = torch.get_rng_state()
    rows = outcome.resistance(network, data, 0, protocol(finetune_at=[0.5, 0.65], finetune_lr=0.1, finetune_epochs=20))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))
    done = [r for r in rows if r["test_accuracy_finetuned"] is not None]
    assert [(r["criterion"], r["scope"], r["basis"], r["requested"]) for r in done] == [
        ("magnitude", "layer", "all", 0.5),
        ("magnitude", "layer", "all", 0.65),  # a share of no curve so far enters them all
    ]
    assert all(r["test_accuracy_finetuned"] > r["test_accuracy"] + 0.3 for r in done)  # an untrained network learns
    assert all(r["validation_accuracy_finetuned"] > r["validation_accuracy"] + 0.3 for r in done)
    assert len(rows) == 6 * 20
    plain = outcome.resistance(network, data, 0, protocol(finetune_at=[]))
    kept = [{k: v for k, v in r.items() if "finetuned" not in k} for r in rows if r["requested"] != 0.65]
    assert kept == [{k: v for k, v in r.items() if "finetuned" not in k} for r in plain]
    again = outcome.resistance(network, data, 0, protocol(finetune_at=[0.5, 0.65], finetune_lr=0.1, finetune_epochs=20))
    assert again == rows


def test_a_sparse_network_keeps_its_own_zeros_through_a_finetune(data, monkeypatch):
    """A chain's network with 5 % of its weights: at 90 % nothing is pruned, and fine-tuning may not fill it up."""
    network, kept = model(), []
    with torch.no_grad():
        for weight in weights(network).values():
            weight.mul_(torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.05)
    true = outcome.finetune

    def spied(pruned, *args):
        before = nonzero(pruned)
        true(pruned, *args)
        kept.append((before, nonzero(pruned)))

    monkeypatch.setattr(outcome, "finetune", spied)
    outcome.resistance(network, data, 0, protocol(finetune_at=[0.9]))
    assert kept == [(nonzero(network), nonzero(network))]
    assert nonzero(network) < 0.1 * count(network)


def test_summary_numbers_come_from_the_published_curve(data):
    rows = outcome.resistance(model(), data, 0, protocol(scopes=["global", "layer"]))
    # make every curve tell which one it is
    for n, row in enumerate(rows):
        row["test_accuracy"] = 1 - n / 250
        if row["test_accuracy_finetuned"] is not None:
            row["test_accuracy_finetuned"] = row["requested"] / 2
    found = outcome.pruned(rows)
    rest = ("magnitude", "layer", "remaining")
    for percent in (90, 95, 98):
        assert found[f"test_accuracy_at_{percent}"] == at(rows, percent / 100)
        assert found[f"points_lost_at_{percent}"] == 100 * (at(rows, 0.0) - at(rows, percent / 100))
        assert found[f"test_accuracy_finetuned_at_{percent}"] == percent / 200
    for percent in (50, 90):
        value = at(rows, percent / 100, kind=rest)
        assert found[f"test_accuracy_at_{percent}_remaining"] == value
        assert found[f"points_lost_at_{percent}_remaining"] == 100 * (at(rows, 0.0, kind=rest) - value)
    for basis in ("all", "remaining"):
        own = [at(rows, share, kind=("magnitude", "layer", basis)) for share in (0.0, *SPARSITIES)]
        assert found[f"area_{basis}"] == area([0.0, *SPARSITIES], own)
        assert found[f"sparsity_at_minus_1_{basis}"] == sparsity_at([0.0, *SPARSITIES], own)


def test_what_was_not_made_is_null(data):
    found = outcome.pruned(
        outcome.resistance(model(), data, 0, protocol(finetune_at=[0.95, 0.3], criteria=["magnitude"]))
    )
    absent = {key for key, value in found.items() if value is None}
    assert absent == {"test_accuracy_finetuned_at_90", "test_accuracy_finetuned_at_98"}


def test_shares_written_as_decimals_are_found():
    assert [i / 10 for i in range(10)] == [10 * i / 100 for i in range(10)]
    for percent in (50, 90, 95, 98):
        assert float(f"0.{percent}") == percent / 100
        assert percent / 100 in protocol().shares


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"scopes": ["layer", "rows"]}, "scopes must be of layer, .*, global-unit, got 'rows'"),
        ({"scopes": ["global"]}, "scopes must have 'layer'"),
        ({"scopes": ["layer", "layer"]}, "none twice"),
        ({"criteria": ["magnitude", "gradient"]}, "criteria must be of magnitude, random, got 'gradient'"),
        ({"criteria": []}, "criteria must have 'magnitude'"),
        ({"block": [4]}, "block"),
        ({"block": [0, 4]}, "block"),
        ({"finetune_epochs": -1}, "finetune_epochs"),
        ({"finetune_at": [1.0]}, "finetune_at must be shares from 0 to below 1, got 1.0"),
        ({"finetune_at": [-0.5]}, "finetune_at"),
        ({"finetune_at": [math.nan]}, "finetune_at"),
        ({"finetune_lr": 0.0}, "finetune_lr"),
        ({"finetune_lr": math.inf}, "finetune_lr"),
        ({"finetune_batch_size": 0}, "finetune_batch_size"),
    ],
)
def test_settings_out_of_range_are_named(changes, named):
    with pytest.raises(ValueError, match=f"resistance.*{named}"):
        protocol(**changes)


def test_a_run_refuses_before_it_trains(short, monkeypatch):
    from experiments import job

    monkeypatch.setattr(job, "_train", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match="finetune_lr"):
        job.run(short("sgd", "resistance.finetune_lr=0"))
