"""Sweeps as a user starts them: several processes, a job that fails, signals; and what a wrong command line says."""

import os
import signal
import subprocess
import sys
import time

import pytest

from experiments import stop, sweep
from experiments.stop import SWEEP, FollowersStop

from .conftest import ROOT
from .test_run import status

RUN = ROOT / "experiments" / "run.py"


def started(tmp_path, *arguments):
    return subprocess.Popen(
        [sys.executable, RUN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )


def statuses(tmp_path):
    return {path.parent: status(path.parent)["status"] for path in tmp_path.rglob("status.json")}


def test_two_jobs_at_once_one_that_fails_and_a_stop_from_outside(tmp_path):
    """SIGTERM to the first process alone: both jobs write their checkpoints; the same command does the rest."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    steps = ("train.epochs=null", "train.steps=6000", "train.eval_every=3000", "resistance.finetune_epochs=0")
    command = ("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"out={tmp_path}", "optimizer=sgd", *steps)
    command += ("energy=off", "optimizer.lr=-1,0.1,0.2")
    with started(tmp_path, *command) as process:
        seen = {}
        while sorted(seen.values()) != ["failed", "running", "running"]:  # the others go on, at the same time
            assert process.poll() is None, process.communicate()
            seen = statuses(tmp_path)
            time.sleep(0.005)
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "ValueError: Invalid learning rate: -1.0" in err
    assert "stopping all runs" in err
    assert err.count("interrupted; the same command resumes it") == 2
    assert "Traceback" not in err
    after = statuses(tmp_path)
    assert sorted(after.values()) == ["failed", "interrupted", "interrupted"]
    for path, state in after.items():
        assert (path / "checkpoint.pt").exists() == (state == "interrupted")
        assert ("Invalid learning rate" in (status(path)["traceback"] or "")) == (state == "failed")
    with started(tmp_path, *command) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert sorted(statuses(tmp_path).values()) == ["failed", "ok", "ok"]
    assert out.count("resumed at step") == 2
    assert "Traceback" not in err


def test_a_job_looks_for_the_sweep_it_belongs_to(tmp_path):
    sign = tmp_path / "sign"
    sign.touch()
    follower = FollowersStop(sign, os.getppid(), seconds=0)
    assert not follower.asked
    sign.unlink()
    assert follower.asked
    sign.touch()
    assert follower.asked  # for good


def test_a_job_stops_when_the_leading_process_is_gone(tmp_path):
    sign = tmp_path / "sign"
    sign.touch()
    assert FollowersStop(sign, os.getppid() + 1).asked


def test_a_job_looks_now_and_then_and_takes_a_signal_twice(tmp_path):
    sign = tmp_path / "sign"
    sign.touch()
    follower = FollowersStop(sign, os.getppid(), seconds=1000)
    assert not follower.asked
    sign.unlink()
    assert not follower.asked
    follower(signal.SIGTERM, None)
    follower(signal.SIGTERM, None)
    assert follower.asked


def test_the_leading_process_asks_once_and_then_insists(tmp_path, monkeypatch, capsys):
    sign = tmp_path / "sign"
    sign.touch()
    monkeypatch.setenv(SWEEP, str(sign))
    assert not sweep.stopped()
    sweep.stop_all(signal.SIGINT, None)
    assert sweep.stopped()
    assert "stopping all runs" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        sweep.stop_all(signal.SIGINT, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("optimizer=mcmv",), "Could not find 'optimizer/mcmv'"),
        (("train.epoch=3",), "Key 'epoch' not in 'Train'"),
        (("data=cifar10", "model=cnn60k"), "data.root has no value: give data.root=…"),
        (
            ("data=cifar10", "model=cnn60k", "data.root=/nowhere"),
            "failed with FileNotFoundError: CIFAR-10 is not there",
        ),
        (("out=/dev/null/x",), "failed with NotADirectoryError: [Errno 20] Not a directory: '/dev/null/x/"),
        (("-m", "out=/dev/null/x", "seed=0,1"), "out=/dev/null/x: [Errno 20] Not a directory"),
        (("train.epochs=0",), "failed with ValueError: train.epochs or train.steps must be at least 1"),
    ],
)
def test_what_is_wrong_is_said_once_and_without_a_traceback(arguments, said, tmp_path, monkeypatch, capsys):
    """In this process: what the command line does, less the time to start Python."""
    from experiments.run import main

    monkeypatch.setattr(sys, "argv", [str(RUN), "--config-path", str(ROOT / "conf"), *arguments])
    monkeypatch.setattr(stop, "of_this_process", stop.Stop)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert err.count(said) == 1, err
    assert "Traceback" not in err
    assert out == ""
