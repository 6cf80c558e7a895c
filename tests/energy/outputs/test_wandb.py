"""Weights & Biases: figures go along with the user's own next log, into a run that is there, and never make one."""

import sys
from types import SimpleNamespace

import pytest

from mcmcopt.energy import EnergyWarning
from tests.energy.rig import StubProcesses, rig, run


class Run:
    def __init__(self):
        self.logged, self.metrics = [], []

    def log(self, values, **settings):
        self.logged.append((values, settings))

    def define_metric(self, name, **settings):
        self.metrics.append((name, settings))


@pytest.fixture
def no_wandb(monkeypatch):
    monkeypatch.delitem(sys.modules, "wandb", raising=False)


def wandb_with(run):
    def init(*args, **kwargs):
        raise AssertionError("a run was made")

    return SimpleNamespace(run=run, init=init)


def test_joules_so_far_are_logged_by_name_and_never_committed(tmp_path):
    stub, target = StubProcesses(), Run()
    machine, meter = rig(tmp_path, "server", processes=stub, idle_w=100.0)
    with meter:
        stub.use(1.0, 2.0)
        run(machine, meter, seconds=10)
        meter.log_wandb(target)
    values, settings = target.logged[0]
    assert settings == {"commit": False}
    assert values == {
        "energy/t_s": 10.0,
        "energy/measured_j": 3270.0,
        "energy/cpu_j": 2900.0,
        "energy/dram_j": 370.0,
        "energy/net_j": 2270.0,
        "energy/process_estimated_j": 1450.0,
        "energy/coverage": 1.0,
        "energy/rapl:package-0": 1500.0,
        "energy/rapl:package-0/dram": 200.0,
        "energy/rapl:package-1": 1400.0,
        "energy/rapl:package-1/dram": 170.0,
    }


def test_the_metrics_are_defined_once_over_the_meters_time(tmp_path):
    target = Run()
    machine, meter = rig(tmp_path)
    with meter:
        for _ in range(3):
            run(machine, meter, seconds=1)
            meter.log_wandb(target, prefix="power/")
    meter.log_wandb(target, prefix="power/")
    assert target.metrics == [("power/*", {"step_metric": "power/t_s"})]
    assert [values["power/t_s"] for values, _ in target.logged] == [1.0, 2.0, 3.0, 3.0]


def test_what_is_not_measured_is_left_out(tmp_path):
    target = Run()
    machine, meter = rig(tmp_path, "vm")
    with pytest.warns(EnergyWarning, match="not measured"):
        meter.start()
    run(machine, meter, seconds=2)
    meter.log_wandb(target)
    meter.stop()
    assert target.logged[0][0] == {"energy/t_s": 2.0, "energy/coverage": 0.0}


def test_the_active_run_is_found_and_none_is_made(tmp_path, monkeypatch):
    target = Run()
    monkeypatch.setitem(sys.modules, "wandb", wandb_with(target))
    machine, meter = rig(tmp_path)
    with meter:
        run(machine, meter, seconds=1)
        meter.log_wandb()
    assert target.logged[0][0]["energy/measured_j"] == 30.0


def test_without_an_active_run_it_says_so_and_wandb_is_not_imported(tmp_path, no_wandb, monkeypatch):
    _, meter = rig(tmp_path)
    with meter, pytest.raises(RuntimeError, match="no wandb run"):
        meter.log_wandb()
    assert "wandb" not in sys.modules
    monkeypatch.setitem(sys.modules, "wandb", wandb_with(None))
    with pytest.raises(RuntimeError, match="no wandb run"):
        meter.log_wandb()


def test_each_prefix_has_its_own_time(tmp_path):
    target = Run()
    machine, meter = rig(tmp_path)
    with meter:
        run(machine, meter, seconds=1)
        for prefix in ("train/", "test/"):
            meter.log_wandb(target, prefix=prefix)
    assert [name for name, _ in target.metrics] == ["train/*", "test/*"]
