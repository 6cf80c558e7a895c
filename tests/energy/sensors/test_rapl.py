"""RAPL: every zone is found and shown, only disjoint ones are added, and what may not be read says why."""

import errno

import pytest

from mcmcopt.energy import EnergyWarning, SensorUnavailable
from mcmcopt.energy.sensors.rapl import UDEV, Rapl, find_zones, zone_kind
from tests.energy.fakes import FakeMachine, Zone
from tests.energy.rig import ONE, PACKAGE, make_meter, rig, run, uj

COUNTED = {
    "laptop": {"rapl:package-0"},
    "server": {"rapl:package-0", "rapl:package-0/dram", "rapl:package-1", "rapl:package-1/dram"},
    "twodie": {"rapl:package-0-die-0", "rapl:package-0-die-1", "rapl:package-1-die-0", "rapl:package-1-die-1"},
    "amd": {"rapl:package-0-die-0"},
}


@pytest.mark.parametrize("preset", COUNTED)
def test_each_joule_of_a_machine_enters_the_total_once(tmp_path, preset):
    machine, meter = rig(tmp_path, preset)
    with meter:
        run(machine, meter, seconds=10)
    report = meter.report
    assert {name for name, r in report.channels.items() if r.counted} == COUNTED[preset]
    assert len(report.channels) == len(machine.zones)
    assert report.total_measured_j == pytest.approx(machine.true_j(), abs=1e-6)


def test_what_is_added_on_a_laptop_is_no_more_than_psys_while_psys_core_uncore_and_mmio_are_shown(tmp_path):
    machine, meter = rig(tmp_path, "laptop")
    with meter:
        run(machine, meter, seconds=10)
    channels = meter.report.channels
    kinds = {name: r.kind for name, r in channels.items() if not r.counted}
    assert kinds == {
        "rapl:package-0/core": "core",
        "rapl:package-0/uncore": "uncore",
        "rapl:psys": "psys",
        "rapl-mmio:package-0": "cpu_package",
    }
    assert meter.report.total_measured_j <= channels["rapl:psys"].energy_j == 450.0
    assert channels["rapl:package-0/core"].energy_j + channels["rapl:package-0/uncore"].energy_j <= 300.0
    assert "mmio" in channels["rapl-mmio:package-0"].reason
    assert {c.id: c.parent for c in meter.channels}["rapl:package-0/core"] == PACKAGE


def test_mmio_is_counted_where_there_is_no_other_road_to_the_package(tmp_path):
    machine, meter = rig(tmp_path, [Zone("mmio:package-0", 30.0)])
    with meter:
        run(machine, meter, seconds=10)
    assert meter.report.total_measured_j == 300.0


def test_memory_at_the_top_level_is_counted_too(tmp_path):
    machine, meter = rig(tmp_path, [*ONE, Zone("dram", 10.0)])
    with meter:
        run(machine, meter, seconds=10)
    assert (meter.report.cpu_j, meter.report.dram_j, meter.report.total_measured_j) == (1200.0, 100.0, 1300.0)


def test_eleven_packages_have_hexadecimal_folders_and_are_all_read_in_their_order(tmp_path):
    machine, meter = rig(tmp_path, [Zone(f"package-{n}", 10.0 + n) for n in range(17)])
    assert (machine.root / "class/powercap/intel-rapl:a/name").read_text() == "package-10\n"
    assert [z.name for z in find_zones(machine.root)] == [f"package-{n}" for n in range(17)]
    with meter:
        run(machine, meter, seconds=10)
    assert meter.report.total_measured_j == sum(10 * (10 + n) for n in range(17))


def test_zones_of_one_name_keep_channels_of_their_own(tmp_path):
    machine, meter = rig(tmp_path, "laptop")
    machine.write_raw("package-0/uncore", "name", "core\n")
    with meter:
        run(machine, meter, seconds=1)
    assert {"rapl:package-0/core", "rapl:package-0/core@1"} <= meter.report.channels.keys()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("package-12-die-3", "cpu_package"), ("dram", "dram"), ("psys", "psys"), ("npu", "soc"), ("", "soc")],
)
def test_a_zone_of_unknown_name_is_shown_and_never_added(name, kind):
    assert zone_kind(name) == kind


@pytest.mark.parametrize("text", [None, "0\n", "", "many\n", "-5\n"])
def test_without_a_sensible_range_counting_is_exact_and_a_wrap_is_a_flagged_loss(tmp_path, text):
    machine, meter = rig(tmp_path, ONE)
    machine.write_raw("package-0", "max_energy_range_uj", text)
    machine.set_counter("package-0", machine.zones["package-0"].range_uj - 300_000_000)
    with meter:
        assert meter.channels[0].range_uj is None
        run(machine, meter, seconds=5)
    reading = meter.report.channels[PACKAGE]
    assert (reading.energy_j, reading.lost_s, reading.flags) == (480.0, 1.0, ("reset",))
    assert reading.coverage == 0.8


@pytest.mark.parametrize(
    ("text", "max_w"), [("205000000\n", 820.0), ("0\n", 1500.0), (None, 1500.0), ("x\n", 1500.0), ("-1\n", 1500.0)]
)
def test_four_times_a_zones_own_limit_is_believed_or_1500_watts(tmp_path, text, max_w):
    machine, _ = rig(tmp_path, ONE)
    machine.write_raw("package-0", "constraint_0_max_power_uw", text)
    sensor = Rapl(machine.root, machine)
    assert sensor.open()[0].max_w == max_w
    sensor.close()


@pytest.mark.parametrize("text", ["", "garbage\n", "12.5\n"])
def test_a_counter_that_shows_no_number_is_a_failed_read_and_nothing_is_lost(tmp_path, text):
    machine, meter = rig(tmp_path, ONE)
    with meter:
        run(machine, meter, seconds=2)
        machine.write_raw("package-0", "energy_uj", text)
        run(machine, meter, seconds=2)
        machine.heal("package-0")
        run(machine, meter, seconds=2)
    reading = meter.report.channels[PACKAGE]
    assert (reading.energy_j, reading.coverage, reading.flags) == (720.0, 1.0, ("read_error",))


def test_a_failed_read_at_a_windows_edge_is_said_and_is_inside_the_stated_uncertainty(tmp_path):
    machine, meter = rig(tmp_path, ONE)
    with meter:
        run(machine, meter, seconds=3)
        machine.advance(0.5)
        machine.fail_next_read("package-0")
        with meter.window("w") as window:
            machine.advance(4.0)
    reading = window.report.channels[PACKAGE]
    assert "unread_edge" in reading.flags
    assert abs(reading.energy_j - 480.0) <= reading.uncertainty_j
    assert meter.report.total_measured_j == 900.0


@pytest.mark.parametrize("remove", [False, True])
def test_when_a_counter_is_gone_for_good_coverage_falls_as_time_passes(tmp_path, remove):
    machine, meter = rig(tmp_path, "server")
    with meter:
        run(machine, meter, seconds=10)
        if remove:
            machine.remove_zone("package-1")
        else:
            machine.fail_always("package-1", errno.EIO)
            machine.fail_always("package-1/dram", errno.EINVAL)
        coverages = []
        for _ in range(3):
            run(machine, meter, seconds=10)
            coverages.append(meter.read().coverage)
    assert coverages == pytest.approx([10 / 20, 10 / 30, 10 / 40])
    gone, there = meter.report.channels["rapl:package-1"], meter.report.channels[PACKAGE]
    assert (gone.energy_j, gone.mean_w) == (1400.0, 140.0)
    assert {"read_error", "unread_edge"} <= set(gone.flags)
    assert (there.energy_j, there.coverage, there.flags) == (6000.0, 1.0, ())


def test_forbidden_counters_are_there_with_path_and_errno_and_no_number(tmp_path):
    machine, meter = rig(tmp_path, "forbidden")
    with pytest.warns(EnergyWarning, match="permission denied"), meter:
        run(machine, meter, seconds=2)
    report = meter.report
    assert (report.total_measured_j, report.cpu_j, report.coverage) == (None, None, 0.0)
    assert len(report.channels) == len(machine.zones)
    for reading in report.channels.values():
        assert (reading.provenance, reading.energy_j, reading.counted) == ("absent", None, False)
        assert "errno 13" in reading.reason
        assert "energy_uj" in reading.reason


def test_one_forbidden_zone_does_not_take_the_others_with_it(tmp_path):
    machine, meter = rig(tmp_path, "server")
    machine.forbidden.add("package-1")
    with meter:
        run(machine, meter, seconds=10)
    assert meter.report.total_measured_j == 1500.0 + 200.0 + 170.0
    assert meter.report.channels["rapl:package-1"].energy_j is None


def test_what_is_required_and_forbidden_names_path_errno_and_a_grant_to_a_group_alone(tmp_path):
    machine = FakeMachine(tmp_path, "forbidden")
    with pytest.raises(SensorUnavailable, match=r"energy_uj.*errno 13") as caught:
        make_meter(machine, require=("cpu_package",))
    assert UDEV in str(caught.value)
    assert "g+r" in UDEV
    assert make_meter(FakeMachine(tmp_path / "ok", "laptop"), require=("cpu_package", PACKAGE))


def test_what_is_required_and_fails_at_every_read_is_refused(tmp_path):
    machine = FakeMachine(tmp_path, ONE)
    machine.fail_always("package-0", errno.EIO)
    with pytest.raises(SensorUnavailable):
        make_meter(machine, require=("cpu_package",))


def test_a_frozen_counter_is_not_called_measured(tmp_path):
    machine, meter = rig(tmp_path, ONE)
    with meter:
        run(machine, meter, seconds=5)
        machine.freeze("package-0")
        run(machine, meter, seconds=5)
    reading = meter.report.channels[PACKAGE]
    assert (reading.energy_j, reading.mean_w, reading.coverage, reading.lost_s) == (600.0, 120.0, 0.5, 5.0)
    assert "frozen" in reading.flags


def test_a_counter_that_always_stands_at_zero_gives_no_joules_instead_of_zero(tmp_path):
    machine, meter = rig(tmp_path, [Zone("package-0", 0.0), Zone("psys", 0.0)])
    machine.set_counter("package-0", 0)
    with meter:
        run(machine, meter, seconds=5)
    assert meter.report.channels[PACKAGE].energy_j is None
    assert meter.report.total_measured_j is None


def test_a_counter_that_can_first_be_read_later_counts_from_then_on(tmp_path):
    machine, meter = rig(tmp_path, ONE)
    machine.fail_next_read("package-0", times=4)
    with meter:
        run(machine, meter, seconds=10)
    reading = meter.report.channels[PACKAGE]
    assert uj(meter.report) == 120_000_000 * round(10 * reading.coverage)
    assert 0 < reading.coverage < 1
    assert "read_error" in reading.flags


def test_a_window_shorter_than_the_counters_update_is_not_zero_joules_without_uncertainty(tmp_path):
    machine, meter = rig(tmp_path, ONE)
    with meter:
        run(machine, meter, seconds=5)
        machine.freeze("package-0")  # until its next update
        with meter.window("short") as window:
            machine.clock.advance(0.0005)
        machine.thaw("package-0")
        run(machine, meter, seconds=1)
    reading = window.report.channels[PACKAGE]
    assert reading.energy_j == 0.0
    assert reading.flags or reading.uncertainty_j >= 120.0 * 0.001


def test_a_counter_that_has_never_moved_is_not_0_joules_however_short_the_run(tmp_path):
    machine, meter = rig(tmp_path, ONE)
    machine.freeze("package-0")
    with meter:
        with meter.window("short") as short:
            machine.advance(0.5)
        assert short.report.total_measured_j is None
        machine.advance(0.3)
        machine.thaw("package-0")
        machine.advance(1)
    assert meter.report.total_measured_j == 120.0
    assert meter.report.coverage == 1.0  # it has moved: what it said before was 0 J


def test_a_small_processor_may_draw_more_than_four_times_what_it_declares(tmp_path):
    machine, meter = rig(tmp_path, [Zone("package-0", 64.0, limit_w=15.0)])
    with meter:
        run(machine, meter, seconds=5)
    assert meter.report.total_measured_j == 320.0
