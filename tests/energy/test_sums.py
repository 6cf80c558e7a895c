"""Totals of a report and sums of windows: what they hold, what they lack, and that they say so."""

import pytest

from mcmcopt.energy import EnergyMeter
from tests.energy.fakes import FakeMachine
from tests.energy.rig import make_meter, rig, run
from tests.energy.stand_ins import Steady


def test_a_total_that_lacks_a_socket_beside_a_measured_one_says_so(tmp_path):
    machine = FakeMachine(tmp_path, "server")
    machine.forbidden.add("package-1")
    with make_meter(machine) as meter, meter.window("w") as window:
        run(machine, meter, seconds=3)
    assert meter.report.flags == window.report.flags == ("partly_absent",)
    assert meter.report.cpu_j == 450.0


@pytest.mark.parametrize("forbidden", [(), ("package-0/dram", "package-1/dram")])
def test_a_total_that_lacks_no_device_of_a_measured_kind_is_not_called_partial(tmp_path, forbidden):
    machine = FakeMachine(tmp_path, "server")
    machine.forbidden.update(forbidden)
    with make_meter(machine) as meter:
        run(machine, meter, seconds=3)
    assert meter.report.flags == ()


def half(tmp_path, **settings):
    """Ten seconds of two sockets, of which one is measured for five."""
    machine, meter = rig(tmp_path, "server", **settings)
    with meter:
        for number in range(10):
            if number == 5:
                machine.fail_always("package-1")
            with meter.window("w"):
                machine.advance(1.0)
    return meter.report


def test_what_is_above_rest_is_not_known_where_channels_were_measured_for_different_times(tmp_path):
    report = half(tmp_path, idle_w=100.0)
    assert (report.total_measured_j, report.coverage) == (3270.0 - 700.0, 0.5)
    assert report.idle.w == 100.0
    assert report.net_j is None


def test_a_sum_of_windows_covers_what_its_least_measured_channel_does(tmp_path):
    report = half(tmp_path)
    assert report.windows["w"].coverage == pytest.approx(0.5)
    assert report.windows["w"].measured_j == 3270.0 - 700.0


def test_a_sum_of_windows_holds_a_mirrored_register_once(tmp_path):
    machine, meter = rig(tmp_path, "amd")
    with meter:
        for _ in range(10):
            with meter.window("w"):
                machine.advance(1.0)
        assert meter.windows["w"].measured_j == 680.0
    assert meter.report.windows["w"].measured_j == meter.report.total_measured_j == 680.0


def test_a_sum_of_windows_holds_no_channel_that_another_contains(tmp_path):
    machine, meter = rig(tmp_path, "laptop")
    with meter, meter.window("w"):
        machine.advance(2.0)
    assert meter.report.channels["rapl:psys"].energy_j == 90.0
    assert meter.report.windows["w"].measured_j == 60.0


def test_a_window_that_the_stop_has_cut_stays_as_it_was_cut_when_it_is_left(tmp_path):
    machine, meter = rig(tmp_path, "server")
    meter.start()
    with meter.window("long") as window:
        machine.advance(1.0)
        meter.stop()
        cut = window.report
        machine.advance(5.0)
    assert window.report is cut
    assert (cut.duration_s, cut.coverage, cut.flags) == (1.0, 1.0, ("cut_by_stop",))
    assert window.session.report().windows["long"].count == 1


def test_a_rest_that_was_measured_for_a_part_of_the_time_is_refused_and_not_used(tmp_path):
    machine, naps = FakeMachine(tmp_path, "server"), []

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            machine.fail_always("package-1")
        machine.advance(seconds)

    with make_meter(machine, sleep=sleep) as meter, pytest.raises(RuntimeError, match="20 % of the time only"):
        meter.calibrate_idle(10)
    assert len(naps) == 10
    assert meter.report.idle is meter.report.net_j is None


def test_the_rest_of_a_machine_that_is_measured_throughout_is_that_of_all_channels(tmp_path):
    machine = FakeMachine(tmp_path, "server")
    with EnergyMeter(
        ("rapl", Steady(machine.clock, 1.0)),
        background=False,
        attribute=False,
        sysfs_root=machine.root,
        opener=machine,
        clock=machine.clock,
        sleep=machine.advance,
    ) as meter:
        assert meter.calibrate_idle(4).w == pytest.approx(328.0)
