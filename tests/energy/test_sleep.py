"""A machine that slept: its sleep is in no duration, and nothing that it used around it is in a sum."""

import pytest

from mcmcopt.energy import read_log, summarize
from mcmcopt.energy.accounts import Accounts
from mcmcopt.energy.sample import Channel, Sample
from tests.energy.fakes import FakeMachine
from tests.energy.rig import ONE, PACKAGE, Power, make_meter, rig, run


def use_asleep(machine, joules, seconds=3600.0, zone="package-0"):
    """Suspend the machine; its counter goes on from where it stands."""
    machine.clock.suspend(seconds)
    machine.set_counter(zone, int(machine.path(zone).read_text()) + joules * 1_000_000)


@pytest.mark.parametrize("used_asleep_j", [0, 300, 100_000])
@pytest.mark.parametrize("failed", [0, 1])
def test_time_asleep_is_in_no_duration_and_its_joules_in_no_sum(tmp_path, used_asleep_j, failed):
    """Nor is what was used awake in that gap: nobody can tell the two apart."""
    machine, meter = rig(tmp_path, ONE)
    with meter, meter.window("w") as window:
        run(machine, meter, seconds=3)
        use_asleep(machine, used_asleep_j)
        if failed:
            machine.fail_next_read("package-0")
        run(machine, meter, seconds=3)
    for report in (window.report, meter.report):
        reading = report.channels[PACKAGE]
        assert report.duration_s == 6.0
        assert (report.total_measured_j, reading.mean_w, reading.lost_s) == (120.0 * (5 - failed), 120.0, 1.0 + failed)
        assert reading.coverage == (5 - failed) / 6
        assert "suspended" in report.flags
        # none of it was refused for another reason, which would hide whether sleep alone is enough
        assert not {"reset", "implausible"} & set(reading.flags) or used_asleep_j == 100_000


def test_what_was_used_asleep_is_kept_out_however_many_readings_fail_after_it_live_and_from_the_log(tmp_path):
    machine, meter = rig(tmp_path, ONE, log=tmp_path / "log")
    with meter:
        run(machine, meter, seconds=3)
        use_asleep(machine, 300)
        machine.fail_next_read("package-0", times=4)
        run(machine, meter, seconds=7)
    for report in (meter.report, summarize(read_log(tmp_path / "log"))):
        reading = report.channels[PACKAGE]
        assert (report.total_measured_j, reading.lost_s, reading.coverage) == (5 * 120.0, 5.0, 0.5)


def test_a_sleep_before_a_counters_first_reading_costs_no_later_joule():
    accounts = Accounts([Channel(PACKAGE, "cpu_package", "package-0", "counter", max_w=820.0)], 1.0)
    for second, raw in enumerate((None, None, 0, 120_000_000, 240_000_000)):
        flags = {"": ("suspended",)} if second == 1 else {}
        accounts.add(Sample(float(second), 1e9, uj={} if raw is None else {PACKAGE: raw}, flags=flags))
    totals = accounts.state().totals[PACKAGE]
    assert (totals.uj, totals.counted_s, totals.lost_s) == (240_000_000, 2.0, 0.0)


def test_no_power_is_drawn_in_a_straight_line_over_a_sleep(tmp_path):
    machine, power = FakeMachine(tmp_path, "vm"), Power(100.0)
    with make_meter(machine, [power]) as meter:
        run(machine, meter, seconds=5, dt=0.1)
        machine.clock.suspend(3600.0)
        power.watts = 300.0
        run(machine, meter, seconds=5, dt=0.1)
    reading = meter.report.channels["power"]
    assert reading.energy_j == pytest.approx(0.5 * 100.0 + 0.4 * 300.0)
    assert reading.coverage == pytest.approx(0.9)


def test_a_short_sleep_is_not_flagged(tmp_path):
    machine, meter = rig(tmp_path, ONE)
    with meter:
        machine.clock.suspend(1.0)
        run(machine, meter, seconds=2)
    assert meter.report.flags == ()


@pytest.mark.parametrize("failed", ["package-0-die-0", "package-0-die-1", None])
@pytest.mark.parametrize("fault", ["sleep", "reset"])
def test_mirrored_dies_are_one_register_after_a_sleep_or_a_reset_that_one_of_them_missed(tmp_path, fault, failed):
    machine, meter = rig(tmp_path, "amd")
    with meter:
        run(machine, meter, seconds=60)
        if fault == "sleep":
            use_asleep(machine, 300, zone="package-0-die-0")
        else:
            machine.reset("package-0-die-0", to=50_000_000)
        if failed:
            machine.fail_next_read(failed)
        run(machine, meter, seconds=60)
    lost = 2 if failed == "package-0-die-0" else 1
    report = meter.report
    assert report.total_measured_j == 68.0 * (120 - lost)
    assert "mirror" in report.channels["rapl:package-0-die-1"].flags
    assert not report.channels["rapl:package-0-die-1"].counted
