"""Runs: every optimizer at two steps, resuming bit for bit, skipping, failing, being in each other's way."""

import csv
import json
import math
import os
import signal
import subprocess
import sys

import pytest
import torch
from hydra.errors import InstantiationException

from experiments import job, record
from experiments.config import folder, resolved
from experiments.job import InterruptedRunError, Stop, run
from experiments.record import FolderBusyError, locked
from mcmcopt.optim.greedy_mcmc import GreedyMCMC

from .conftest import ROOT, SHORT

TIMES = ("seconds", "pruning_seconds", "joules", "joules_estimated")


class StopAfter(Stop):
    """Asks to stop after so many steps: a run looks once per step."""

    def __init__(self, steps):
        self.left = steps

    @property
    def asked(self):
        self.left -= 1
        return self.left <= 0


def table(path):
    with path.open() as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def status(path):
    return json.loads((path / "status.json").read_text())


@pytest.mark.parametrize("optimizer", SHORT)
def test_outputs_of_every_optimizer(short, optimizer, capsys):
    before = torch.get_rng_state()
    path = run(short(optimizer))
    assert torch.equal(torch.get_rng_state(), before)
    names = {p.name for p in path.iterdir()} - {".lock"}
    tables = {"layers.csv", "metrics.csv", "resistance.csv"}
    assert names == tables | {".hydra", "checkpoint.pt", "energy.jsonl", "env.json", "status.json", "summary.json"}
    assert status(path)["status"] == "ok"
    metrics, summary = table(path / "metrics.csv"), json.loads((path / "summary.json").read_text())
    assert [int(row["epoch"]) for row in metrics] == list(range(summary["epochs"] + 1))
    assert summary["weights"] == 2368
    assert float(metrics[-1]["validation_accuracy"]) == summary["validation_accuracy"]
    assert int(metrics[-1]["evaluations"]) == summary["evaluations"] > 0
    assert (summary["gradients"] == 0) == optimizer.startswith("mcmc")
    chain = optimizer.startswith(("mcmc", "hybrid"))
    assert (metrics[-1]["log_target"] != "") == chain
    assert bool(summary["acceptance"]) == chain
    assert summary["samples"] + 2 * summary["gradients"] <= summary["forwards"] <= 3 * summary["samples"]
    curve = table(path / "resistance.csv")
    kinds = [("magnitude", "layer"), ("magnitude", "global"), ("random", "layer")]
    assert {(row["criterion"], row["scope"], row["basis"]) for row in curve} == {
        (*kind, basis) for kind in kinds for basis in ("all", "remaining")
    }
    assert len(curve) == 6 * 19
    assert [row["requested"] for row in curve if row["test_accuracy_finetuned"]] == ["0.9", "0.95", "0.98"]
    assert summary["test_accuracy_at_95"] == next(float(r["test_accuracy"]) for r in curve if r["requested"] == "0.95")
    if optimizer == "sgd_pruned":
        assert summary["weights_kept"] == 2368 - round((1 - 0.083) * 2368)
    written = "".join(p.read_text() for p in path.glob("*.json")) + (path / ".hydra" / "config.yaml").read_text()
    assert str(ROOT) not in written
    assert "joules" in capsys.readouterr().out


def test_pruned_weights_stay_exactly_zero_after_every_step(short):
    from experiments.batches import Batches
    from experiments.data import digits
    from experiments.models import mlp
    from experiments.train import Training
    from mcmcopt.sparsity import OneShot, nonzero

    model = mlp()
    sgd = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    data = digits(100, 10, 10, True, 0)
    pruning = OneShot(0.1, at=0.25, scope="global")
    training = Training(model, sgd, data.train, Batches(100, 50, 0), epochs=3, pruning=pruning)
    kept = [nonzero(model) for _ in training.run()]
    assert kept == [2368, 237, 237, 237, 237, 237]


PRUNED = {
    "force": ("pruning=force", "train.pruning.rounds=3", "train.augment=true", "train.density_power=0.25"),
    "obd": ("pruning=obd", "train.bfloat16=true", "train.channels_last=true", "train.eval_train=100"),
    "deepr": ("pruning=deepr", "train.augment=true"),
    "soft_deepr": ("pruning=soft_deepr",),
    "skeletonization_shuffled": ("pruning=skeletonization_shuffled", "train.pruning.at=0"),
}
"""Ways of pruning beside settings of their own, by name."""


@pytest.mark.parametrize("name", [*SHORT, *PRUNED])
def test_resumed_run_is_the_same_run(short, tmp_path, name):
    optimizer = "sgd" if name in PRUNED else name
    longer = ("train.eval_every=2", "train.epochs=4", *PRUNED.get(name, ()))
    whole = run(short(optimizer, *longer, f"out={tmp_path}/whole"))
    cfg = short(optimizer, *longer, f"out={tmp_path}/cut")
    path = folder(resolved(cfg))
    # between rows, in the middle of an epoch (of two steps for gradients), and after pruning where there is any
    done = 0
    for stop in (1, 3, 7) if "pruning" in cfg.train and cfg.train.pruning else (1, 3):
        with pytest.raises(InterruptedRunError):
            run(cfg, stop=StopAfter(stop - done))
        done = stop
        assert status(path)["status"] == "interrupted"
        assert torch.load(path / "checkpoint.pt", weights_only=True)["training"]["counters"]["step"] == done
        with (path / "metrics.csv").open("a") as file:  # rows that a crash left after the checkpoint
            file.write("999,1\n")
    cut = run(cfg)
    assert cut.name == whole.name
    for name in ("metrics.csv", "layers.csv", "resistance.csv"):
        assert table(whole / name) == table(cut / name), name
    states = [torch.load(p / "checkpoint.pt", weights_only=True)["training"] for p in (whole, cut)]
    for state in states:
        for key in ("seconds", "pruning_seconds", "row_seconds"):
            del state["counters"][key]
    assert_same(*states)


def assert_same(one, two):
    if isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_same(one[key], two[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            assert_same(a, b)
    else:
        assert one == two


def test_finished_run_is_skipped(short, monkeypatch, capsys):
    path = run(short("sgd"))
    before = (path / "metrics.csv").stat().st_mtime_ns
    monkeypatch.setattr(job, "_work", lambda *_: pytest.fail("worked again"))
    assert run(short("sgd")) == path
    assert (path / "metrics.csv").stat().st_mtime_ns == before
    assert "done before" in capsys.readouterr().out


def test_failure_is_recorded_and_repaired_by_the_next_start(short, monkeypatch, capsys):
    step = GreedyMCMC.step
    monkeypatch.setattr(GreedyMCMC, "step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(short("mcmc"))
    path = folder(resolved(short("mcmc")))
    assert status(path)["status"] == "failed"
    assert "ZeroDivisionError" in status(path)["traceback"]
    assert "failed with ZeroDivisionError" in capsys.readouterr().err
    monkeypatch.setattr(GreedyMCMC, "step", step)
    run(short("mcmc"))
    assert status(path) == {**status(path), "status": "ok", "traceback": None}


@pytest.mark.parametrize(
    ("optimizer", "override", "named"),
    [
        ("sgd", "train.epochs=0", "epochs"),
        ("sgd", "train.eval_every=0", "eval_every"),
        ("sgd", "train.decay=linear", "decay"),
        ("sgd_pruned", "train.pruning.density=0", "density"),
        ("sgd_pruned", "train.pruning.scope=row", "scope"),
        ("mcmc", "train.pruning={_target_: mcmcopt.sparsity.RigL, density: 0.1}", "prior"),
        ("mcmc", "train.decay=cosine", "adapt"),
        ("sgd", "train.binary=1.0", "binary"),
        ("sgd", "threads=0", "threads"),
    ],
)
def test_settings_out_of_range_are_named(short, optimizer, override, named):
    with pytest.raises((ValueError, InstantiationException), match=named):  # Hydra wraps what a constructor raises
        run(short(optimizer, override))


def test_two_runs_in_one_folder(short):
    path = folder(resolved(short("sgd")))
    with locked(path), pytest.raises(FolderBusyError, match="another process"):
        run(short("sgd"))
    run(short("sgd"))


def test_folder_of_another_configuration_is_left_alone(short):
    path = run(short("sgd"))
    file = path / ".hydra" / "config.yaml"
    file.write_text(file.read_text().replace("momentum: 0.9", "momentum: 0.8"))
    with pytest.raises(ValueError, match="another configuration"):
        run(short("sgd"))


def test_ctrl_c_asks_and_a_second_one_insists(short):
    stop = Stop()
    with job.stopped_by_signal(stop):
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_files_are_replaced_whole(tmp_path):
    path = tmp_path / "a.json"
    record.write_json(path, {"x": float("nan")})
    assert record.read_json(path) == {"x": None}

    def fail():
        with record.replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert record.read_json(path) == {"x": None}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_command_line_sweep_with_a_failing_job(tmp_path):
    """One sweep as a user starts it: the second job fails, the third goes on, the exit code tells."""
    command = [sys.executable, ROOT / "experiments" / "run.py", "-m", f"out={tmp_path}", "optimizer=sgd", "seed=0"]
    command += ["train.epochs=1", "train.batch_size=600", "train.eval_every=1", "optimizer.lr=0.1,-1,0.2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode != 0
    found = sorted(status(path.parent)["status"] for path in tmp_path.rglob("status.json"))
    assert found == ["failed", "ok", "ok"]
    assert done.stderr.count("failed with") == 1
    assert "Traceback" not in done.stderr
    assert "-1" in done.stderr


def test_cosine_decay_goes_from_the_rate_to_zero_over_the_whole_run():
    from experiments.batches import Batches
    from experiments.data import digits
    from experiments.models import mlp
    from experiments.train import Training

    model = mlp()
    groups = [{"params": model[1].parameters()}, {"params": model[3].parameters(), "lr": 0.4}]
    sgd = torch.optim.SGD(groups, 0.1)
    data = digits(100, 10, 10, True, 0)
    training = Training(model, sgd, data.train, Batches(100, 25, 0), epochs=2, decay="cosine")
    rates = [[group["lr"] for group in sgd.param_groups] for _ in training.run()]
    factors = [0.5 * (1 + math.cos(math.pi * t / 8)) for t in range(8)]
    assert rates == [pytest.approx([0.1 * f, 0.4 * f]) for f in factors]


def test_training_that_diverges_says_when_and_what_helps(short):
    with pytest.raises(ValueError, match=r"the training loss is nan at step \d+: .* optimizer\.lr"):
        run(short("sgd", "optimizer.lr=1e30", "train.epochs=9"))
