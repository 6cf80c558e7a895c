"""The flaws of AIPowerMeter (fc099d1), one regression test each, by their numbers in the list of flaws."""

import inspect
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

import mcmcopt.energy
from mcmcopt.energy import EnergyMeter, EnergyWarning, SensorUnavailable, read_log, summarize
from mcmcopt.energy.processes import Processes
from tests.energy.fakes import FakeBoard, FakeMachine, FakeNvml, Zone
from tests.energy.rig import ONE, PACKAGE, StubProcesses, make_meter, rig, run
from tests.energy.stand_ins import Broken, Steady
from tests.energy.test_attribution import FakeProc

ROOT = Path(__file__).parents[2]


def boards(*watts):
    return [FakeBoard(f"GPU-{n}", power_w=w) for n, w in enumerate(watts)]


def test_a01_what_happens_between_samples_and_before_the_first_and_after_the_last_is_counted(tmp_path):
    machine, meter = rig(tmp_path, ONE, log=tmp_path / "log")
    with meter:
        for _ in range(3):
            machine.advance(0.2)
            meter.tick()
            machine.power["package-0"] = 300.0
            machine.advance(0.6)  # a burst that no sample sees the power of
            machine.power["package-0"] = 20.0
            machine.advance(0.2)
            meter.tick()
            machine.power["package-0"] = 120.0
        machine.advance(0.7)
    assert meter.report.total_measured_j == pytest.approx(machine.true_j(), abs=1e-6)
    assert summarize(read_log(tmp_path / "log")).total_measured_j == meter.report.total_measured_j


def test_a02_a_result_that_is_read_right_after_the_end_is_whole_and_no_thread_is_left(tmp_path):
    machine = FakeMachine(tmp_path, ONE)
    threads = threading.active_count()
    meter = EnergyMeter("rapl", sysfs_root=machine.root, opener=machine, clock=machine.clock, log=tmp_path / "log")
    meter.start()
    machine.advance(1.5)
    assert meter.stop().total_measured_j == 180.0
    assert threading.active_count() == threads
    assert summarize(read_log(tmp_path / "log")).total_measured_j == 180.0


def test_a03_no_sentinel_is_integrated_for_a_psys_that_is_not_there(tmp_path):
    machine, meter = rig(tmp_path, "laptop", log=tmp_path / "log")
    machine.forbidden.add("psys")
    with meter:
        run(machine, meter, seconds=5)
    psys = meter.report.channels["rapl:psys"]
    assert (psys.energy_j, psys.mean_w, psys.provenance) == (None, None, "absent")
    assert psys.reason
    assert not re.search(r":-\d", (tmp_path / "log").read_text())
    assert all("rapl:psys" not in sample.uj for sample in read_log(tmp_path / "log"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a04_a_nice_process_has_a_share_of_at_most_one(tmp_path):
    (tmp_path / "proc").mkdir()
    proc = FakeProc(tmp_path / "proc")
    proc.add(10, user=1.0)
    machine, meter = rig(tmp_path, ONE, processes=Processes(10, str(proc.root)))
    proc.set_machine(user=50.0, nice=20.0)
    with meter:
        proc.add(10, user=101.0)  # all of it niced
        proc.set_machine(user=50.5, nice=120.0)
        run(machine, meter, seconds=10)
    assert meter.report.process.share == pytest.approx(100 / 100.5)
    assert meter.report.process.energy_j <= meter.report.cpu_j


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a05_children_that_lived_between_two_looks_keep_their_time(tmp_path):
    (tmp_path / "proc").mkdir()
    proc = FakeProc(tmp_path / "proc")
    proc.add(10, user=1.0)
    machine, meter = rig(tmp_path, ONE, processes=Processes(10, str(proc.root)))
    proc.set_machine(user=10.0)
    with meter:
        proc.add(10, user=1.1, waited=6.0)  # hundreds of children came and went
        proc.set_machine(user=16.1)
        run(machine, meter, seconds=10)
    assert meter.report.process.cpu_s == pytest.approx(6.1)
    assert meter.report.process.share == pytest.approx(1.0)


def test_a06_nothing_is_ever_deleted_or_written_over(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metadata.json").write_text('{"description": "mine"}')
    (folder / "energy.jsonl").write_text("")
    monkeypatch.chdir(folder)
    machine = FakeMachine(tmp_path, ONE)
    kept = b""
    for path in ("energy.jsonl", "./energy.jsonl", folder / "energy.jsonl"):
        with make_meter(machine, log=path) as meter:
            run(machine, meter, seconds=2)
        summarize(read_log(path))
        assert (folder / "energy.jsonl").read_bytes().startswith(kept)
        kept = (folder / "energy.jsonl").read_bytes()
    assert len(read_log("energy.jsonl").segments) == 3
    assert sorted(path.name for path in folder.iterdir()) == ["energy.jsonl", "metadata.json"]
    assert (folder / "metadata.json").read_text() == '{"description": "mine"}'
    source = "".join(path.read_text() for path in Path(mcmcopt.energy.__file__).parent.rglob("*.py"))
    assert not re.search(r"rmtree|os\.remove|truncate|O_TRUNC", source)


def test_a07_a_script_that_raises_before_it_stops_its_meter_ends_with_its_own_error(tmp_path):
    FakeMachine(tmp_path, ONE)
    script = (
        f"from mcmcopt.energy import EnergyMeter\n"
        f"EnergyMeter('rapl', sysfs_root={str(tmp_path / 'sys')!r}, period_s=0.05, log='log').start()\n"
        f"raise SystemExit(7)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, timeout=20, capture_output=True
    )
    assert done.returncode == 7
    assert not done.stderr
    assert len(read_log(tmp_path / "log")) >= 1


def test_a08_a_wrap_is_exact_to_the_last_unit_and_a_reset_or_several_wraps_are_said(tmp_path):
    machine, meter = rig(tmp_path, ONE)
    machine.set_counter("package-0", machine.zones["package-0"].range_uj)
    with meter:
        run(machine, meter, seconds=1)
        assert meter.read().channels[PACKAGE].energy_j == 120.0
        assert meter.channels[0].range_uj == machine.zones["package-0"].range_uj
        machine.reset("package-0")
        run(machine, meter, seconds=1)
        assert "reset" not in meter.read().channels[PACKAGE].flags  # 0 again is more than the 119 J it stood at
        machine.set_counter("package-0", 200_000_000_000)
        run(machine, meter, seconds=1)
        assert "implausible" in meter.read().channels[PACKAGE].flags
        machine.reset("package-0")
        run(machine, meter, seconds=1)
        assert "reset" in meter.read().channels[PACKAGE].flags
        machine.advance(5000.0)
        meter.tick()
    assert "ambiguous_wrap" in meter.report.channels[PACKAGE].flags
    assert meter.report.channels[PACKAGE].coverage < 0.01


def test_a09_the_period_that_is_asked_for_is_the_one_that_samples_are_taken_at():
    class Counting(Steady):
        def read(self, scope="tick"):
            if self.reads == 30:
                enough.set()
            return super().read(scope)

    import time

    enough = threading.Event()
    sensor = Counting(time.monotonic)
    with EnergyMeter([sensor], period_s=0.01, attribute=True, processes=StubProcesses()):
        assert enough.wait(10)  # with the default period they would take 30 s
    sensor = Counting(time.monotonic)
    with EnergyMeter([sensor], period_s=1000.0, attribute=True, processes=StubProcesses()):
        pass
    assert sensor.reads == 2
    for period in (0, -1, float("nan"), float("inf"), True):
        with pytest.raises(ValueError, match="period_s"):
            EnergyMeter("rapl", period_s=period)


def test_a09_what_it_needs_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any(need.startswith("psutil") for need in project["dependencies"])
    assert any(need.startswith("nvidia-ml-py") for need in project["optional-dependencies"]["gpu-energy"])


def test_a10_every_figure_is_a_number_under_its_own_name_with_its_unit_and_of_all_boards(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine = FakeMachine(tmp_path, "laptop")
    nvml = FakeNvml(machine.clock, boards(200.0, 100.0))
    meter = make_meter(machine, ("rapl", "nvml"), nvml=nvml, log=tmp_path / "log")
    with meter:
        run(machine, meter, seconds=20)
    report = meter.report
    assert report.gpu_j == pytest.approx(6000.0, rel=0.01)  # and not the last board's
    assert report.total_measured_j == pytest.approx(600.0 + report.gpu_j)
    entry = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()][-1]
    assert type(entry["channels"]["rapl:package-0/uncore"]["energy_j"]) is float
    units = ("_j", "_s", "_w", "_bytes")
    for values in (entry, *entry["channels"].values(), entry["process"], entry["memory"]):
        for name, value in values.items():
            if isinstance(value, float):
                assert name.endswith(units) or name in ("coverage", "share"), name
    assert summarize(read_log(tmp_path / "log")).gpu_j == report.gpu_j


def test_a11_no_program_is_run_an_unknown_zone_is_no_error_and_a_broken_driver_ends_alone(tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError("a program was run")

    for name in ("Popen", "run", "check_output"):
        monkeypatch.setattr(subprocess, name, refused)
    monkeypatch.setattr(os, "system", refused)
    monkeypatch.setenv("PATH", "")
    machine = FakeMachine(tmp_path, [*ONE, Zone("npu", 5.0)])
    meter = make_meter(machine, ["rapl", Broken(machine.clock, good_reads=3)])
    with pytest.warns(EnergyWarning, match="the driver is gone"), meter:
        run(machine, meter, seconds=10)
    channels = meter.report.channels
    assert channels[PACKAGE].energy_j == 1200.0
    assert (channels["rapl:npu"].kind, channels["rapl:npu"].energy_j, channels["rapl:npu"].counted) == (
        "soc",
        50.0,
        False,
    )
    assert "source_failed" in channels["steady"].flags
    assert channels["steady"].coverage < 1


def test_a11_only_boards_that_this_process_uses_are_summed(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    machine = FakeMachine(tmp_path, "vm")
    meter = make_meter(machine, "nvml", nvml=FakeNvml(machine.clock, boards(200.0, 100.0)))
    with meter:
        run(machine, meter, seconds=20)
    assert meter.report.gpu_j == pytest.approx(2000.0, rel=0.01)


def test_a12_no_advice_opens_the_counters_to_everybody_or_adds_what_contains_each_other(tmp_path):
    machine = FakeMachine(tmp_path, "forbidden")
    with pytest.raises(SensorUnavailable) as caught:
        make_meter(machine, require=("cpu_package",))
    folder = Path(inspect.getfile(mcmcopt.energy)).parent
    texts = [str(caught.value), *(path.read_text() for path in folder.rglob("*.py"))]
    open_to_all = re.compile(r"chmod[^\n]*?(\b[0-7]?[0-7][0-7][4-7]\b|[ao]\+r| \+r)")
    assert not any(open_to_all.search(text) for text in texts)
    assert open_to_all.search("chmod -R 755 /sys/class/powercap/intel-rapl")
    assert "udev" in texts[0]
    machine, meter = rig(tmp_path / "laptop", "laptop")
    with meter:
        run(machine, meter, seconds=10)
    assert meter.report.total_measured_j == meter.report.channels[PACKAGE].energy_j == 300.0
