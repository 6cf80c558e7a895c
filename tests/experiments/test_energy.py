"""What a run uses: by window, per result, and over an interruption."""

import contextlib
import functools
import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import energy as runs_energy
from experiments import record
from experiments.config import long_hash, resolved
from experiments.job import InterruptedRunError, run
from experiments.terminal import energy_rows
from mcmcopt.energy import EnergyMeter, read_log, summarize
from mcmcopt.energy.report import WindowTotal
from tests.energy.stand_ins import Steady

from .conftest import composed
from .test_run import StopAfter


@pytest.fixture
def steady(monkeypatch):
    """A machine that draws 100 W."""
    meter = functools.partial(EnergyMeter, (Steady(time.monotonic),))
    monkeypatch.setattr(runs_energy, "EnergyMeter", meter)


def summary_of(path):
    return json.loads((path / "summary.json").read_text())


FAST = "energy.inference_seconds=0.05"


@pytest.mark.parametrize("optimizer", ["mcmc", "sgd"])
def test_joules_are_power_times_the_seconds_of_each_window(short, steady, optimizer, capsys):
    path = run(short(optimizer, FAST))
    summary, rows = summary_of(path), record.read_csv(path / "metrics.csv")
    energy = summary["energy"]
    assert energy["status"] == "measured: cpu_package (counter)"
    assert set(energy["windows"]) == {"setup", "train", "epoch", "evaluate", "prune", "inference"}
    for window in energy["windows"].values():
        assert window["measured_j"] == pytest.approx(100 * window["duration_s"], rel=0.02, abs=0.05)
        assert window["coverage"] == pytest.approx(1)
    assert summary["joules"] == energy["windows"]["train"]["measured_j"] == float(rows[-1]["joules"])
    assert 100 * summary["seconds"] <= summary["joules"]
    assert float(rows[0]["joules"]) == 0
    assert summary["joules_estimated"] is None
    measured = energy["measured"]
    assert measured["joules_per_epoch"] == pytest.approx(summary["joules"] / summary["epochs"])
    answers = round(summary["test_accuracy"] * 400)
    assert measured["joules_per_correct_prediction"] == pytest.approx(
        100 * energy["inference"]["seconds_per_batch"] / answers, rel=0.1
    )
    if optimizer == "mcmc":
        assert measured["joules_per_accepted_proposal"] == pytest.approx(summary["joules"] / summary["accepted"])
    else:
        assert measured["joules_per_accepted_proposal"] is None
    assert "joules of training" in capsys.readouterr().out
    log = summarize(read_log(path / "energy.jsonl"))
    assert log.total_measured_j >= sum(w["measured_j"] for n, w in energy["windows"].items() if n != "epoch")


def test_an_interrupted_run_adds_up_what_its_parts_used(short, steady):
    settings = short("mcmc", "train.epochs=4", FAST)
    with pytest.raises(InterruptedRunError):
        run(settings, stop=StopAfter(2))
    first = sum(s.end_j for s in trains(settings))
    path = run(settings)
    summary = summary_of(path)
    assert summary["joules"] > first > 0
    assert summary["joules"] == pytest.approx(sum(s.end_j for s in trains(settings)), rel=1e-6)
    assert summary["energy"]["windows"]["epoch"]["count"] == 4
    assert len(read_log(path / "energy.jsonl").segments) == 2


class trains:  # noqa: N801 -- reads like a function
    """Joules of the train windows in a run's log."""

    def __init__(self, settings):
        from experiments.config import folder

        self.log = read_log(folder(resolved(settings)) / "energy.jsonl")

    def __iter__(self):
        for segment in self.log.segments:
            begin = None
            for sample in segment.samples:
                if (sample.mark or {}).get("window") == "train":
                    if sample.mark["edge"] == "begin":
                        begin = sample.uj["steady"]
                    else:
                        yield type("Part", (), {"end_j": (sample.uj["steady"] - begin) / 1e6})


def test_an_estimate_is_called_one_everywhere(short, capsys):
    path = run(short("sgd", "energy=estimated", "energy.cpu_estimate=1000", FAST))
    summary = summary_of(path)
    assert summary["joules_estimated"] >= 0
    assert summary["energy"]["estimated"]["joules"] == summary["joules_estimated"]
    assert summary["energy"]["this_process"]["channels"]["cpu_estimate"]["provenance"] == "estimated"
    assert "joules of training, estimated" in capsys.readouterr().out


def test_without_a_meter_nothing_is_logged(short, capsys):
    path = run(short("sgd", "energy=off"))
    summary = summary_of(path)
    assert summary["joules"] is summary["joules_estimated"] is None
    assert not (path / "energy.jsonl").exists()
    assert "not measured: energy=off" in capsys.readouterr().out


def test_how_energy_is_measured_changes_no_run():
    hashes = {long_hash(resolved(composed(f"energy={how}"))) for how in ("auto", "off", "estimated")}
    assert len(hashes) == 1


@pytest.mark.parametrize("then", ["off", "estimated"])
def test_a_run_that_goes_on_without_its_sensor_is_not_measured(short, steady, monkeypatch, then, capsys):
    settings = short("mcmc", "train.epochs=4", FAST)
    with pytest.raises(InterruptedRunError):
        run(settings, stop=StopAfter(2))
    monkeypatch.setattr(runs_energy, "EnergyMeter", functools.partial(EnergyMeter, ("rapl",), sysfs_root="/nowhere"))
    path = run(short("mcmc", "train.epochs=4", FAST, f"energy={then}", "energy.cpu_estimate=10"))
    summary = summary_of(path)
    assert summary["joules"] is summary["joules_estimated"] is None
    assert summary["energy"]["measured"] is summary["energy"]["estimated"] is None
    assert summary["energy"]["processes"] == 2
    assert "joules of training" not in capsys.readouterr().out


def test_estimates_of_different_watts_are_not_added(short):
    def settings(watts):
        return short("mcmc", "train.epochs=4", FAST, "energy=estimated", f"energy.cpu_estimate={watts}")

    with pytest.raises(InterruptedRunError):
        run(settings(10), stop=StopAfter(2))
    assert summary_of(run(settings(1000)))["joules_estimated"] is None


@pytest.mark.parametrize(
    "setting", ["cpu_estimate=abc", "period_s=0", "idle_seconds=1", "inference_seconds=-1", "idle_seconds=inf"]
)
def test_a_setting_that_makes_no_sense_is_named_before_anything_is_trained(short, setting):
    name = setting.partition("=")[0]
    with pytest.raises(ValueError, match=f"energy.*{name}"):
        run(short("sgd", f"energy.{setting}"))
    assert not list(Path(short("sgd").out).rglob("metrics.csv"))


def test_a_rest_that_cannot_be_measured_leaves_no_thread(short, monkeypatch):
    monkeypatch.setattr("mcmcopt.energy.meter.measure_idle", no_rest)
    monkeypatch.setattr(runs_energy, "EnergyMeter", functools.partial(EnergyMeter, (Steady(time.monotonic),)))
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="no rest"):
        run(short("sgd", "energy.idle_seconds=2"))
    assert threading.active_count() == before


def no_rest(*args):
    raise RuntimeError("no rest")


def test_a_part_of_the_time_is_said_to_be_one():
    found = {"joules": 10.0, "joules_per_epoch": 1.0} | dict.fromkeys(
        ("joules_per_accepted_proposal", "joules_per_correct_prediction")
    )
    energy = {"status": "measured: x", "measured": found, "estimated": None, "coverage": 0.5}
    assert energy_rows({"energy": energy})[0] == ("joules of training", "10 (50 % of the time)")


SETTINGS = {"enabled": True, "cpu_estimate": None, "period_s": 1.0, "idle_seconds": 0, "inference_seconds": 0}


@contextlib.contextmanager
def part(tmp_path, state=None, **settings):
    """A process of a run, going on from another one's state; it has trained."""
    with runs_energy.Energy({**SETTINGS, **settings}, tmp_path / "energy.jsonl") as energy:
        if state is not None:
            energy.load_state_dict(state)
        with energy.window("train"):
            pass
        yield energy


@pytest.mark.parametrize("then", [[], [True]])
def test_sums_of_a_run_that_began_without_a_meter_stay_unknown_whatever_follows(tmp_path, steady, then):
    with part(tmp_path, enabled=False) as energy:
        state = energy.state_dict()
    assert state == runs_energy.NOT_MEASURED
    for _ in (True, *then):
        with part(tmp_path, state) as energy:
            assert energy.joules() == {"joules": None, "joules_estimated": None}
            assert energy.total("train").coverage == 0.0
            assert "a part of this run was made without" in energy.summary(1, 1, 1)["status"]
            state = energy.state_dict()


def test_a_run_that_goes_on_with_its_own_sensors_is_measured_and_with_others_it_is_not(tmp_path, steady, monkeypatch):
    with part(tmp_path) as energy:
        state = energy.state_dict()
    with part(tmp_path, state) as energy:
        assert energy.joules()["joules"] >= 0
        assert energy.total("train").count == 2
    monkeypatch.setattr(runs_energy, "EnergyMeter", functools.partial(EnergyMeter, (Other(time.monotonic),)))
    with part(tmp_path, state) as energy:
        assert energy.measures
        assert energy.joules()["joules"] is None


class Other(Steady):
    """A sensor of another name, as on another machine."""

    def open(self):
        return tuple(replace(channel, id="other") for channel in super().open())

    def read(self, scope="tick"):
        values = super().read(scope)
        return replace(values, uj=dict(zip(("other",), values.uj.values(), strict=False)))


@pytest.mark.parametrize("watts", [None, 10.0])
def test_a_window_that_was_not_opened_used_nothing_of_what_is_known_and_is_unknown_elsewhere(
    tmp_path, monkeypatch, watts
):
    monkeypatch.setattr(runs_energy, "EnergyMeter", functools.partial(EnergyMeter, ("rapl",), sysfs_root="/nowhere"))
    with part(tmp_path, cpu_estimate=watts) as energy:
        total = energy.total("prune")
    assert (total.measured_j, total.estimated_j) == (None, None if watts is None else 0.0)
    monkeypatch.setattr(runs_energy, "EnergyMeter", functools.partial(EnergyMeter, (Steady(time.monotonic),)))
    with part(tmp_path, cpu_estimate=watts) as energy:
        assert energy.total("prune").measured_j == 0.0


def test_the_coverage_of_two_parts_is_that_of_their_seconds():
    parts = WindowTotal(1, 1.0, 50.0, None, 1.0), WindowTotal(2, 3.0, 10.0, None, 0.2)
    for a, b in (parts, parts[::-1]):
        total = runs_energy._added(a, b)
        assert (total.count, total.duration_s, total.measured_j, total.estimated_j) == (3, 4.0, 60.0, None)
        assert total.coverage == pytest.approx(0.4)
    nothing = runs_energy._added(*[WindowTotal(0, 0.0, 0.0, None)] * 2)
    assert (nothing.duration_s, nothing.coverage) == (0.0, 0.0)
