"""Runs that are killed with SIGKILL at any moment, and what is started again: the same run, bit for bit."""

import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from experiments import record
from experiments.config import folder, resolved
from experiments.due import Checkpoints
from experiments.job import InterruptedRunError, run

from .conftest import ROOT, composed
from .test_run import StopAfter, assert_same, status, table

TABLES = ("metrics.csv", "layers.csv", "resistance.csv")
STEPS = 300
SETTINGS = {
    "sgd": ("train.batch_size=64", "progress.checkpoint_steps=1"),  # mostly writing: many kills fall into a write
    "mcmc": ("train.refresh_steps=1", "optimizer.n_proposals=10", "progress.checkpoint_steps=7"),
}


def overrides(optimizer, out):
    rows = ("train.epochs=null", f"train.steps={STEPS}", "train.eval_every=1")  # a row for each step
    rows += ("energy=off", "resistance.finetune_epochs=0")
    return [f"optimizer={optimizer}", f"out={out}", *rows, *SETTINGS[optimizer]]


def saved(path):
    return torch.load(path / "checkpoint.pt", weights_only=True)


def assert_same_run(one, two):
    for name in TABLES:
        assert table(one / name) == table(two / name), name
    states = [saved(path)["training"] for path in (one, two)]
    for state in states:
        for key in ("seconds", "pruning_seconds", "row_seconds"):
            del state["counters"][key]
    assert_same(*states)


def rows_of(path):
    """Return the number of whole rows, without looking at them."""
    file = path / "metrics.csv"
    return file.read_bytes().count(b"\n") - 1 if file.exists() else 0


@pytest.mark.parametrize("optimizer", SETTINGS)
def test_killed_at_random_moments(optimizer, tmp_path):
    rng = random.Random(f"{optimizer} 1")
    path = folder(resolved(composed(*overrides(optimizer, tmp_path / "cut"))))
    interval = int(SETTINGS[optimizer][-1].partition("=")[2])
    command = [sys.executable, ROOT / "experiments" / "run.py", *overrides(optimizer, tmp_path / "cut")]
    for low, high in ((0, 40), (100, 180)):
        # at the first kill, the first rows are just being written
        target, wait = rng.randint(low, high), rng.uniform(0, 0.01)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            while rows_of(path) < target:
                assert process.poll() is None, process.communicate()
                time.sleep(0.001)
            time.sleep(wait)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert status(path)["status"] == "running"
        reached = rows_of(path) - 1  # the row of step 0
        kept = saved(path)["training"]["counters"]["step"] if (path / "checkpoint.pt").exists() else 0
        # a row is written before its step's checkpoint
        assert 0 <= reached - kept <= interval
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert f"resumed at step {kept}\n" in done.stdout
    assert not list(path.glob(".*.tmp*"))
    # a process of its own for this one as well: in one that has run other tests, sums can differ in their last digit
    whole = overrides(optimizer, tmp_path / "whole")
    subprocess.run([*command[:2], *whole], capture_output=True, timeout=120, check=True)
    assert_same_run(folder(resolved(composed(*whole))), path)


@pytest.fixture
def half(short, tmp_path):
    """Return a configuration and the folder of its run, stopped half way."""
    cfg = short("sgd", "train.epochs=4")
    with pytest.raises(InterruptedRunError):
        run(cfg, stop=StopAfter(4))
    return cfg, folder(resolved(cfg))


@pytest.fixture
def whole(short, tmp_path):
    return run(short("sgd", "train.epochs=4", f"out={tmp_path}/whole"))


def test_killed_between_the_last_step_and_the_summary(half, whole):
    cfg, path = half
    run(cfg)
    for missing in (("summary.json",), ("summary.json", "resistance.csv")):
        for name in missing:
            (path / name).unlink()
        record.write_json(path / "status.json", {**status(path), "status": "running"})
        run(cfg)
        assert_same_run(path, whole)
        assert (path / "summary.json").exists()


def test_a_row_torn_by_a_kill_is_made_again(half, whole):
    cfg, path = half
    with (path / "metrics.csv").open("a") as file:
        file.write("5,2,12")
    with (path / "layers.csv").open("ab") as file:
        file.write(b"5,\xc3")  # half a letter as well
    run(cfg)
    assert_same_run(path, whole)


@pytest.mark.parametrize("kept", [0, 1000])
def test_a_checkpoint_cut_short_by_a_power_cut(half, whole, kept, capsys):
    cfg, path = half
    content = (path / "checkpoint.pt").read_bytes()
    (path / "checkpoint.pt").write_bytes(content[:kept])
    run(cfg)
    assert "starts again from step 0" in capsys.readouterr().err
    assert (path / "checkpoint.broken.pt").read_bytes() == content[:kept]
    assert_same_run(path, whole)


def test_what_a_killed_process_left_half_written_is_swept_up(half):
    cfg, path = half
    left = path / ".checkpoint.99999.tmp.pt"
    shutil.copy(path / "checkpoint.pt", left)
    run(cfg)
    assert not left.exists()


def test_checkpoints_are_due_by_steps_by_the_clock_or_by_either(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def taken(steps, seconds, waits=1):
        """Return where checkpoints are taken on the way from step 4; one step takes a second."""
        checkpoints, found = Checkpoints(steps, seconds, 4), []
        for step in range(5, 21):
            now[0] += 1
            if checkpoints.due(step) and step % waits == 0:
                checkpoints.taken(step)
                found.append(step)
        return found

    assert taken(5, None) == [5, 10, 15, 20]
    assert taken(None, None) == []
    assert taken(None, 3.5) == [8, 12, 16, 20]
    assert taken(10, 3.5) == [8, 10, 14, 18, 20]
    assert taken(5, None, waits=4) == [8, 12, 16, 20]  # objectives with caches: at the first refresh after it is due
    assert taken(1, None, waits=8) == [8, 16]


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("progress.checkpoint_steps=0", "progress.checkpoint_steps must be at least 1, or null, got 0"),
        ("progress.checkpoint_seconds=-1", "progress.checkpoint_seconds must be at least 0, or null, got -1"),
        ("progress.checkpoint_seconds=nan", "progress.checkpoint_seconds must be at least 0, or null, got nan"),
    ],
)
def test_intervals_out_of_range_are_named(short, override, named):
    with pytest.raises(ValueError, match=named):
        run(short("sgd", override))


def test_a_chain_with_caches_saves_at_the_first_refresh_after_it_is_due(short, monkeypatch):
    found, save = [], record.save

    def spy(path, state):
        found.append(state["training"]["counters"]["step"])
        save(path, state)

    monkeypatch.setattr(record, "save", spy)
    steps = ("train.epochs=null", "train.steps=20", "progress.checkpoint_steps=3", "train.eval_every=20")
    run(short("mcmc", *steps, "train.incremental=true", "train.refresh_steps=4"))
    assert found == [4, 8, 12, 16, 20, 20]  # and at the end
