"""Certificates and the oracle bound as the scripts compute them, on data made here."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from experiments import certificate, gibbs_kl, oracle_bound
from experiments.data import Split


def blobs(n, seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (n,), generator=generator)
    x = nn.functional.one_hot(y, 3).float() * 4 + torch.randn(n, 3, generator=generator)
    return Split(x.view(n, 1, 1, 3), y)


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 3))


SHORT = certificate.Settings(epochs=4, posterior_epochs=2, batch_size=32, lr=0.05, draws=200, subset=50)


def test_the_halves_are_disjoint_and_all_there_is():
    split = Split(torch.arange(101.0).view(101, 1, 1, 1), torch.arange(101))
    prior, bound = certificate.halves(split, 3)
    assert sorted([*prior.y.tolist(), *bound.y.tolist()]) == list(range(101))
    assert abs(len(prior) - len(bound)) == 1
    assert torch.equal(prior.x.flatten().long(), prior.y)
    assert not torch.equal(certificate.halves(split, 4)[0].y, prior.y)


def test_a_certificate_is_not_vacuous_has_its_parts_and_repeats_by_its_seed():
    outcomes = [certificate.certify(network(), blobs(1000, 1), blobs(300, 2), SHORT, seed=0) for _ in range(2)]
    for outcome in outcomes:
        best = outcome.certificates["kl"]
        assert best.n == 500
        assert best.confidence == pytest.approx(0.95)
        assert outcome.test_risk < best.value < 0.35
        assert best.value <= min(outcome.certificates[name].value for name in ("mcallester", "quadratic"))
        text = certificate.describe(outcome)
        for part in ("KL(rho||pi)", "n = 500", "delta' = 0.01", "delta = 0.04", "mcallester", "catoni", "test error"):
            assert part in text
    assert outcomes[0].certificates == outcomes[1].certificates


def test_the_posterior_never_sees_the_prior_half_nor_the_prior_the_bound_half(monkeypatch):
    seen = []
    train = certificate._train
    monkeypatch.setattr(
        certificate, "_train", lambda *args: (seen.append((type(args[1]).__name__, args[2])), train(*args))
    )
    data = blobs(400, 1)
    certificate.certify(network(), data, blobs(50, 2), SHORT, seed=5)
    prior, bound = certificate.halves(data, 5)
    (first, on), (second, then) = seen
    assert (first, second) == ("SGD", "KLMirrorDescent")
    assert torch.equal(on.x, prior.x)
    assert torch.equal(then.x, bound.x)


def test_a_folder_without_the_files_is_said(tmp_path, capsys):
    assert certificate.main(["--data", str(tmp_path)]) == 1
    assert "train-images" in capsys.readouterr().err


def test_the_oracle_is_the_minimum_over_all_subsets():
    x, y = oracle_bound.problem(12, 5, 0)
    direct = math.inf
    for chosen in itertools.product((False, True), repeat=5):
        part = x[:, list(chosen)]
        fit = part @ np.linalg.pinv(part) @ y if any(chosen) else 0 * y
        direct = min(direct, float(np.square(y - fit).sum()) + 0.7 * sum(chosen))
    best = oracle_bound.residuals(x, y)
    assert oracle_bound.oracle(best, 0.7)[0] == pytest.approx(direct)
    assert best == sorted(best, reverse=True)


def test_the_least_alpha_is_where_the_inequality_begins():
    best = [10.0, 4.0, 3.5]
    least = oracle_bound.least_alpha(best, 6.0)
    assert oracle_bound.oracle(best, least)[0] == pytest.approx(6.0)
    assert oracle_bound.oracle(best, least * 0.99)[0] < 6.0
    assert oracle_bound.least_alpha(best, 11.0) == math.inf
    assert oracle_bound.least_alpha(best, 1.0) == 0.0


def test_the_oracle_bound_is_drawn_and_printed(tmp_path, capsys):
    arguments = ["--out", str(tmp_path), "--lengths", "3", "6", "--d", "4", "--seeds", "2", "--proposals", "20"]
    assert oracle_bound.main(arguments) == 0
    assert (tmp_path / "oracle-bound.svg").read_text().startswith("<svg")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["3", "6"]


def test_the_gibbs_law_s_divergence_grows_with_lambda_as_its_risk_falls():
    rungs, n = gibbs_kl.climb(seed=0, sweeps=2, ladder=(0.0, 1000.0))
    assert n == 1200
    assert [rung.lam for rung in rungs] == [0.0, 1000.0]
    assert rungs[1].risk < rungs[0].risk - 0.05
