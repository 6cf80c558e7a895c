"""The joules to beat, row by row of the table; each run's truth is known to the microjoule."""

import pytest

from mcmcopt.energy import read_log, summarize
from tests.energy.fakes import FakeMachine, Zone
from tests.energy.rig import ONE, PACKAGE, Power, make_meter, rig, run


@pytest.mark.parametrize("preset", ["laptop", "server", "twodie"])
def test_a_steady_machine_has_no_error_on_any_channel(tmp_path, preset):
    machine, meter = rig(tmp_path, preset)
    with meter:
        run(machine, meter, seconds=30)
    for key, true in machine.true_uj.items():
        name = f"rapl:{key}" if machine.zones[key].control == "intel-rapl" else f"rapl-{key}"
        reading = meter.report.channels[name]
        assert round(reading.energy_j * 1e6) == true
        assert (reading.provenance, reading.coverage, reading.flags, reading.lost_s) == ("counter", 1.0, (), 0.0)
    assert meter.report.total_measured_j == pytest.approx(machine.true_j(), abs=1e-6)
    assert meter.report.coverage == 1.0


def test_packages_and_memory_of_two_sockets_are_3270_joules(tmp_path):
    machine, meter = rig(tmp_path, "server")
    with meter:
        run(machine, meter, seconds=10)
    report = meter.report
    assert (report.total_measured_j, report.cpu_j, report.dram_j, report.gpu_j) == (3270.0, 2900.0, 370.0, None)


def test_a_wrap_inside_a_window_that_is_read_at_once_is_1800_joules(tmp_path):
    machine, meter = rig(tmp_path, [Zone("package-0", 60.0, limit_w=205.0)])
    machine.set_counter("package-0", machine.zones["package-0"].range_uj - 500_000_000)
    with meter, meter.window("w") as window:
        machine.advance(30.0)
    assert window.report.total_measured_j == 1800.0


def test_one_failed_read_of_four_is_still_12000_joules(tmp_path):
    machine, meter = rig(tmp_path, [Zone("package-0", 200.0, limit_w=205.0)])
    with meter:
        for number in range(4):
            if number == 1:
                machine.fail_next_read("package-0")
            machine.advance(15.0)
            meter.tick()
    reading = meter.report.channels[PACKAGE]
    assert (reading.energy_j, reading.coverage, reading.lost_s) == (12000.0, 1.0, 0.0)
    assert reading.flags == ("read_error",)


def test_a_counter_reset_counts_3600_of_5400_joules_and_says_that_15_seconds_are_lost(tmp_path):
    machine, meter = rig(tmp_path, ONE)
    with meter:
        for number in range(3):
            machine.advance(15.0)
            if number == 1:
                machine.reset("package-0", to=1_000_000)
            meter.tick()
    reading = meter.report.channels[PACKAGE]
    assert (reading.energy_j, reading.lost_s, reading.flags) == (3600.0, 15.0, ("reset",))
    assert reading.coverage == meter.report.coverage == pytest.approx(2 / 3)
    assert reading.mean_w == 120.0


@pytest.mark.parametrize(("seconds", "dt"), [(30, 1.0), (1, 30.0), (300, 0.1)])
def test_mirrored_dies_are_2040_joules(tmp_path, seconds, dt):
    machine, meter = rig(tmp_path, "amd")
    with meter:
        run(machine, meter, seconds=seconds, dt=dt)
    report = meter.report
    assert report.total_measured_j == pytest.approx(2040.0, abs=1e-6)
    assert report.channels["rapl:package-0-die-1"].energy_j == pytest.approx(2040.0, abs=1e-6)
    assert not report.channels["rapl:package-0-die-1"].counted
    mirror = "mirror" if seconds >= 3 else "mirror_candidate"
    assert mirror in report.channels["rapl:package-0-die-1"].flags


def test_two_dies_that_happen_to_stand_alike_are_both_counted_once_their_steps_differ(tmp_path):
    machine, meter = rig(tmp_path, "twodie")
    for key in machine.zones:
        machine.set_counter(key, 5_000_000_000)
    with meter:
        run(machine, meter, seconds=10)
    assert meter.report.total_measured_j == 1700.0
    assert all(reading.counted for reading in meter.report.channels.values())


def test_two_dies_of_nearly_one_power_that_stand_alike_are_told_apart_as_they_drift(tmp_path):
    machine, meter = rig(tmp_path, "twodie")
    for key in machine.zones:
        machine.set_counter(key, 5_000_000_000)
    machine.power = dict(zip(machine.power, (50.0, 49.0, 45.0, 35.0), strict=True))
    with meter:
        run(machine, meter, seconds=60)
    assert meter.report.total_measured_j == 60 * 179.0


def test_one_register_read_on_both_sides_of_its_update_stays_one_register(tmp_path):
    machine, meter = rig(tmp_path, "amd")
    pread, update_uj = machine.pread, 68_000  # 68 W for the millisecond of an update

    def straddling(fd, n):
        value = pread(fd, n)
        if machine._fds[fd] == "package-0-die-1" and machine.clock() == 1010.0:
            machine.clock.advance(1e-5)  # what a read takes
            return str(int(value) + update_uj).encode()
        return value

    machine.pread = straddling
    with meter:
        run(machine, meter, seconds=30)
    assert meter.report.total_measured_j == pytest.approx(2040.0, rel=1e-3)


def script(machine, meter, *phases, period_s=1.0):
    """AIPowerMeter's live runs on the fake clock: (seconds, watts) one after the other, a tick every period."""
    start, due = machine.clock(), period_s
    for seconds, watts in phases:
        machine.power["package-0"] = watts
        end = machine.clock() + seconds
        while machine.clock() < end - 1e-9:
            machine.advance(min(end, start + due) - machine.clock())
            if machine.clock() >= start + due - 1e-9:
                meter.tick()
                due += period_s


@pytest.mark.parametrize(
    ("phases", "period_s", "true_j"),
    [
        pytest.param([(5, 120)], 1.0, 600.0, id="5 s"),
        pytest.param([(1.5, 120)], 1.0, 180.0, id="1.5 s"),
        pytest.param([(9, 120)], 2.0, 1080.0, id="9 s, period 2"),
        pytest.param([(9, 20), (1, 300)], 1.0, 480.0, id="burst at the end"),
        pytest.param([(0.9, 120)], 1.0, 108.0, id="read right after, no tick"),
    ],
)
def test_the_live_runs_of_aipowermeter_are_exact_live_and_from_the_log(tmp_path, phases, period_s, true_j):
    machine, meter = rig(tmp_path, ONE, period_s=period_s, log=tmp_path / "log")
    with meter:
        script(machine, meter, *phases, period_s=period_s)
    assert meter.report.total_measured_j == pytest.approx(true_j, abs=2e-6)
    assert meter.report.total_measured_j == pytest.approx(machine.true_j(), abs=1e-6)
    assert summarize(read_log(tmp_path / "log")).total_measured_j == meter.report.total_measured_j


@pytest.mark.parametrize(
    "phases",
    [[(10.0, 100)], [(5.03, 50), (4.97, 150)], [(4.03, 20), (1.0, 300), (4.97, 20)]],
    ids=["constant", "step", "burst"],
)
def test_a_power_without_a_counter_is_integrated_to_half_a_percent(tmp_path, phases):
    machine = FakeMachine(tmp_path, "vm")
    sensor = Power()
    true_j, now = 0.0, 0.0
    edges = [(sum(s for s, _ in phases[: n + 1]), watts) for n, (_, watts) in enumerate(phases)]
    with make_meter(machine, [sensor]) as meter:
        for number in range(1, 101):
            now = number / 10
            machine.advance(0.1)
            sensor.watts = next(watts for end, watts in edges if now <= end + 1e-9)
            if number == 1:
                sensor.watts = phases[0][1]
            meter.tick()
    true_j = sum(s * watts for s, watts in phases)
    reading = meter.report.channels["power"]
    assert reading.provenance == "integrated"
    # the sensor's own first value, 100 W, stands before the first tenth of a second
    first = (100.0 - phases[0][1]) * 0.05
    assert reading.energy_j - first == pytest.approx(true_j, rel=0.005)
    assert reading.coverage == pytest.approx(1.0)
