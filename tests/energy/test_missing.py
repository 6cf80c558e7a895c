"""A machine without sensors: no number, a reason for each, one warning, and the work goes on."""

import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from mcmcopt.energy import EnergyMeter, EnergyWarning, read_log, summarize
from tests.energy.fakes import FakeMachine, FakeNvml, Zone
from tests.energy.rig import Power, StubProcesses, make_meter, rig, run

ROOT = Path(__file__).parents[2]


def nothing_but_reasons(report):
    for name in ("cpu_j", "dram_j", "gpu_j", "total_measured_j", "total_estimated_j", "net_j"):
        assert getattr(report, name) is None
    assert report.coverage == 0.0
    assert report.channels
    for reading in report.channels.values():
        assert (reading.provenance, reading.energy_j, reading.mean_w) == ("absent", None, None)
        assert (reading.coverage, reading.uncertainty_j, reading.counted) == (0.0, None, False)
        assert len(reading.reason) > 10
    return True


def test_a_virtual_machine_gives_reasons_and_no_number_live_and_from_the_log(tmp_path):
    machine = FakeMachine(tmp_path, "vm")
    nvml = FakeNvml(machine.clock)
    nvml.init_error = 9
    meter = make_meter(machine, "auto", nvml=nvml, idle_w=10.0, log=tmp_path / "log")
    with pytest.warns(EnergyWarning, match="doctor"), meter, meter.window("w") as window:
        run(machine, meter, seconds=3)
    assert nothing_but_reasons(meter.report)
    assert nothing_but_reasons(window.report)
    assert nothing_but_reasons(summarize(read_log(tmp_path / "log")))
    assert {r.kind for r in meter.report.channels.values()} == {"cpu_package", "gpu", "board"}
    assert meter.report.duration_s == 3.0
    assert meter.report.process is not None
    assert meter.report.windows["w"].measured_j is None


def test_powercap_may_be_missing_empty_or_full_of_other_things(tmp_path):
    for number, names in enumerate(([], ["dtpm", "intel-rapl", "intel-rapl:", "intel-rapl:g", "xintel-rapl:0"])):
        machine = FakeMachine(tmp_path / str(number), "vm")
        folder = machine.root / "class" / "powercap"
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).mkdir()
            (folder / name / "name").write_text("package-0\n")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EnergyWarning)
            with make_meter(machine) as meter:
                run(machine, meter, seconds=1)
        assert nothing_but_reasons(meter.report)
        assert "no intel-rapl zone" in meter.report.channels["rapl"].reason


def test_one_warning_for_one_cause_however_many_meters(tmp_path):
    machine = FakeMachine(tmp_path, "vm")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(5):
            with make_meter(machine) as meter:
                run(machine, meter, seconds=1)
    assert [w.category for w in caught] == [EnergyWarning]


def test_a_script_on_such_a_machine_ends_well_with_one_warning(tmp_path):
    script = (
        "from mcmcopt.energy import EnergyMeter\n"
        "for _ in range(3):\n"
        "    with EnergyMeter('rapl', sysfs_root='nowhere') as m: pass\n"
        "assert m.report.total_measured_j is None\n"
        "print('done')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert done.stderr.count("EnergyWarning") == 1


def test_an_estimate_is_asked_for_and_stays_out_of_what_is_measured(tmp_path):
    machine = FakeMachine(tmp_path, "vm")
    with pytest.warns(EnergyWarning), make_meter(machine, cpu_estimate=10.0) as meter:
        run(machine, meter, seconds=2)
    report = meter.report
    assert (report.total_measured_j, report.cpu_j, report.coverage) == (None, None, 0.0)
    assert report.total_estimated_j >= 0.0
    assert report.channels["cpu_estimate"].provenance == "estimated"
    assert "as given" in report.channels["cpu_estimate"].reason
    assert report.process.energy_j is None


def test_beside_a_counter_an_estimate_changes_no_measured_joule(tmp_path):
    machine, meter = rig(tmp_path, "laptop", cpu_estimate=1e6)
    with meter:
        sum(range(200_000))
        run(machine, meter, seconds=10)
    assert (meter.report.total_measured_j, meter.report.cpu_j) == (300.0, 300.0)
    assert meter.report.channels["cpu_estimate"].provenance == "estimated"


@pytest.mark.parametrize(("rank", "measured"), [(None, 300.0), ("0", 300.0), ("1", None)])
def test_of_several_ranks_one_measures_the_host(tmp_path, monkeypatch, rank, measured):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    machine = FakeMachine(tmp_path, "laptop")
    nvml = FakeNvml(machine.clock)
    meter = make_meter(machine, "auto", nvml=nvml)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EnergyWarning)
        with meter:
            run(machine, meter, seconds=10)
    assert meter.report.total_measured_j == measured
    if measured is None:
        assert "rank 0 measures the host" in meter.report.channels["rapl"].reason


def test_no_source_at_all_is_a_report_without_numbers(tmp_path):
    with pytest.warns(EnergyWarning, match="no source"), EnergyMeter((), background=False) as meter:
        pass
    assert (meter.report.channels, meter.report.total_measured_j, meter.report.coverage) == ({}, None, 0.0)


def test_what_is_above_idle_is_that_of_the_measured_seconds(tmp_path):
    machine, meter = rig(tmp_path, [Zone("package-0", 100.0)], idle_w=50.0)
    with meter:
        run(machine, meter, seconds=5)
        machine.fail_always("package-0")
        run(machine, meter, seconds=5)
    assert (meter.report.total_measured_j, meter.report.coverage) == (500.0, 0.5)
    assert meter.report.net_j in (None, 250.0)


def test_a_power_that_is_no_number_is_a_failed_reading_and_ends_nothing(tmp_path):
    machine, power = FakeMachine(tmp_path, "vm"), Power(100.0)
    with make_meter(machine, [power], log=tmp_path / "log") as meter:
        for watts in (100.0, float("nan"), 100.0, 100.0):
            power.watts = watts
            machine.advance(0.1)
            meter.tick()
    assert meter.report.total_measured_j == pytest.approx(40.0)


def test_where_warnings_are_errors_a_start_that_raises_leaves_no_thread(tmp_path):
    machine, threads = FakeMachine(tmp_path, "vm"), threading.active_count()
    meter = EnergyMeter("rapl", sysfs_root=machine.root, processes=StubProcesses())
    with warnings.catch_warnings():
        warnings.simplefilter("error", EnergyWarning)
        with pytest.raises(EnergyWarning):
            meter.start()
    left = threading.active_count() - threads
    if left:
        meter.stop()
    assert left == 0
