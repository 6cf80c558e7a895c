"""A log, summed up, says what the live meter said: one arithmetic for both, also of a part and across faults."""

import dataclasses
import itertools
import random

import pytest

from mcmcopt.energy import read_log, summarize
from mcmcopt.energy.log import LogWriter
from mcmcopt.energy.sample import Channel, Sample
from tests.energy.fakes import FakeMachine
from tests.energy.rig import ONE, PACKAGE, Power, StubProcesses, make_meter, rig, run, uj


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log"


def bare(report):
    return dataclasses.replace(report, windows={}, meta={})


def faulty_run(machine, meter, stub, rng):
    with meter:
        for number in range(20):
            for key in machine.power:
                machine.power[key] = rng.uniform(1, 100)
            if number % 5 == 1:
                machine.fail_next_read(rng.choice(list(machine.zones)))
            if number == 8:
                machine.reset(next(iter(machine.zones)))
            if number == 12:
                machine.clock.suspend(100)
            machine.advance(rng.uniform(0.01, 3))
            stub.use(rng.uniform(0, 1), rng.uniform(0, 2))
            if number % 3:
                meter.tick()
            else:
                with meter.window("w"):
                    machine.advance(0.2)


@pytest.mark.parametrize("preset", ["laptop", "server", "twodie", "amd"])
@pytest.mark.parametrize("idle_w", [None, 12.5])
def test_the_summary_of_a_log_equals_the_live_report_apart_from_windows_and_meta(tmp_path, path, preset, idle_w):
    stub = StubProcesses()
    machine, meter = rig(tmp_path, preset, log=path, idle_w=idle_w, processes=stub)
    faulty_run(machine, meter, stub, random.Random(5))
    assert meter.report.windows
    assert "suspended" in meter.report.flags
    assert bare(summarize(read_log(path))) == bare(meter.report)


def test_a_power_without_counter_sums_up_offline_as_live_across_holes(tmp_path, path):
    machine, power, rng = FakeMachine(tmp_path, "vm"), Power(averaging_s=1.0), random.Random(2)
    with make_meter(machine, [power], log=path) as meter:
        for number in range(50):
            power.watts = rng.uniform(0, 300)
            power.broken = 20 <= number < 28
            machine.advance(0.1)
            meter.tick()
    reading = meter.report.channels["power"]
    assert {"gap", "read_error"} <= set(reading.flags)
    assert reading.coverage == pytest.approx(41 / 50)
    assert bare(summarize(read_log(path))) == bare(meter.report)


def test_parts_of_a_log_add_up_to_the_whole_wherever_it_is_cut(tmp_path, path):
    machine, meter = rig(tmp_path, "server", log=path)
    machine.set_counter("package-0", machine.zones["package-0"].range_uj - 1_000_000_000)
    with meter:
        run(machine, meter, seconds=20)
    log = read_log(path)
    begin, end, whole = log[0].t_s, log[-1].t_s, summarize(log)
    rng = random.Random(1)
    cuts = sorted([begin, *(rng.uniform(begin, end) for _ in range(10)), begin + 7, end])
    parts = [summarize(log, a, b) for a, b in itertools.pairwise(cuts)]
    for channel in whole.channels:
        off = sum(uj(part, channel) for part in parts) - uj(whole, channel)
        assert abs(off) <= len(parts)  # each cut is rounded to a microjoule
    assert sum(part.duration_s for part in parts) == pytest.approx(whole.duration_s)
    assert all(part.channels[PACKAGE].mean_w == pytest.approx(150.0) for part in parts)


def test_a_moment_between_two_samples_is_read_off_a_straight_line_also_across_a_wrap(tmp_path, path):
    machine, meter = rig(tmp_path, ONE, log=path)
    machine.set_counter("package-0", machine.zones["package-0"].range_uj - 60_000_000)
    with meter:
        machine.advance(2.0)
    log = read_log(path)
    for a, b, joules in ((0.0, 0.25, 30.0), (0.25, 0.75, 60.0), (0.75, 2.0, 150.0)):
        assert summarize(log, log[0].t_s + a, log[0].t_s + b).total_measured_j == joules


def test_a_window_is_found_in_the_log_by_its_marks(tmp_path, path):
    machine, meter = rig(tmp_path, ONE, log=path)
    with meter:
        run(machine, meter, seconds=2)
        with meter.window("epoch") as window:
            run(machine, meter, seconds=3, dt=0.7)
        run(machine, meter, seconds=2)
    log = read_log(path)
    begin, end = (s.t_s for s in log if s.mark)
    part = summarize(log, begin, end, name="epoch")
    assert (part.total_measured_j, part.duration_s) == (window.report.total_measured_j, window.report.duration_s)


def test_a_moment_in_an_untrusted_gap_is_an_unread_edge(tmp_path, path):
    machine, meter = rig(tmp_path, ONE, log=path)
    with meter:
        run(machine, meter, seconds=2)
        machine.reset("package-0")
        run(machine, meter, seconds=2)
    log = read_log(path)
    reading = summarize(log, log[0].t_s + 2.5).channels[PACKAGE]
    assert "unread_edge" in reading.flags
    assert reading.energy_j == 120.0


def test_the_share_of_a_part_is_that_part_s_own(tmp_path, path):
    stub = StubProcesses()
    machine, meter = rig(tmp_path, ONE, log=path, processes=stub)
    with meter:
        for share in (1.0, 0.0, 0.5, 0.25):
            machine.advance(4.0)
            stub.use(share * 4, 4.0)
            meter.tick()
    log = read_log(path)
    begin = log[0].t_s
    assert [summarize(log, begin + a, begin + a + 4).process.share for a in (0, 4, 8, 12)] == [1.0, 0.0, 0.5, 0.25]
    assert summarize(log, begin + 2, begin + 6).process.energy_j == pytest.approx(240.0)
    assert summarize(log).process.energy_j == pytest.approx(meter.report.process.energy_j)


@pytest.mark.parametrize(
    ("start", "end", "words"), [(2.0, 1.0, "end"), (0.0, 1.0, "no samples"), (10.0**9, None, "no samples")]
)
def test_moments_that_make_no_sense_are_refused(tmp_path, path, start, end, words):
    machine, meter = rig(tmp_path, ONE, log=path)
    with meter:
        machine.advance(1.0)
    with pytest.raises(ValueError, match=words):
        summarize(read_log(path), start, end)


def test_a_plain_list_of_samples_is_refused_because_it_names_no_channels():
    with pytest.raises(ValueError, match="read_log"):
        summarize([Sample(0.0, 0.0)])


def test_a_channel_of_one_segment_alone_is_covered_for_that_part(tmp_path, path):
    machine = FakeMachine(tmp_path, "server")
    with make_meter(machine, log=path) as meter:
        run(machine, meter, seconds=5)
    machine.forbidden.add("package-1")
    with make_meter(machine, log=path) as meter:
        run(machine, meter, seconds=5)
    report = summarize(read_log(path))
    reading = report.channels["rapl:package-1"]
    assert (reading.energy_j, reading.coverage, reading.mean_w) == (700.0, 0.5, 140.0)
    assert report.coverage == 0.5


def test_a_hole_in_a_power_is_a_hole_wherever_the_log_is_cut(path):
    writer = LogWriter(path)
    writer.header((Channel("power", "board", "p", "integrated", resolution_s=0.1),), 1.0, {})
    for t_s in (0.0, 0.1, 0.2, 0.7, 0.8):  # half a second without a value: more than three periods
        writer.sample(Sample(t_s, t_s, w={"power": 100.0}))
    writer.close()
    log = read_log(path)
    assert summarize(log).channels["power"].coverage == pytest.approx(0.3 / 0.8)
    assert summarize(log, 0.45).channels["power"].coverage == pytest.approx(0.1 / 0.35)


def test_a_moment_of_one_boot_is_not_looked_for_in_another(path):
    writer = LogWriter(path)
    for boot, watts in (("a", 100), ("b", 50)):
        writer.header((Channel(PACKAGE, "cpu_package", "p", "counter"),), 1.0, {"boot_id": boot})
        for number in range(11):
            writer.sample(Sample(float(number), 1e9 + number, uj={PACKAGE: number * watts * 1_000_000}))
    writer.close()
    try:
        report = summarize(read_log(path), 2.0, 4.0)
    except ValueError:
        return  # refused as ambiguous
    assert report.duration_s == 2.0


def test_a_run_that_was_killed_after_its_first_sample_has_not_measured_zero_joules(tmp_path, path):
    machine, meter = rig(tmp_path, ONE, log=path)
    machine.fail_always("package-0")
    meter.start()
    report = summarize(read_log(path))
    meter.stop()
    assert report.total_measured_j is None
    assert report.coverage == 0.0


def test_each_run_has_its_own_power_at_rest(tmp_path, path):
    machine, nets = FakeMachine(tmp_path, ONE), []
    for idle_w in (100.0, 20.0):
        with make_meter(machine, log=path, idle_w=idle_w) as meter:
            run(machine, meter, seconds=10)
        nets.append(meter.report.net_j)
    assert nets == [200.0, 1000.0]
    assert summarize(read_log(path)).net_j == 1200.0
    with make_meter(machine, log=path) as meter:
        run(machine, meter, seconds=10)
    assert summarize(read_log(path)).net_j is None


@pytest.mark.parametrize(("rests", "said"), [((100.0, 100.0), 100.0), ((100.0, 20.0), None), ((100.0, None), None)])
def test_a_power_at_rest_is_said_of_several_runs_only_where_all_have_the_same(tmp_path, path, rests, said):
    machine = FakeMachine(tmp_path, ONE)
    for idle_w in rests:
        with make_meter(machine, log=path, idle_w=idle_w) as meter:
            run(machine, meter, seconds=3)
    idle = summarize(read_log(path)).idle
    assert (None if idle is None else idle.w) == said


def held_up(path, late_uj):
    """Write a log whose last sample took a second longer than its time says."""
    writer = LogWriter(path)
    writer.header((Channel(PACKAGE, "cpu_package", "p", "counter", resolution_s=0.001, max_w=100.0),), 1.0, {})
    writer.sample(Sample(0.0, 1e9, uj={PACKAGE: 0}))
    writer.sample(Sample(1.0, 1e9 + 1, uj={PACKAGE: 100_000_000}))
    writer.sample(Sample(2.0, 1e9 + 2, uj={PACKAGE: 100_000_000 + late_uj}, late_s=1.0))
    writer.close()
    return read_log(path)


def test_a_moment_before_a_sample_that_took_long_is_read_off_a_straight_line_too(path):
    """Its values may be of later than its time: what would be too much for the gap alone is believed."""
    log = held_up(path, 105_000_000)
    assert summarize(log).total_measured_j == 205.0
    first, second = summarize(log, 0.0, 1.1).channels[PACKAGE], summarize(log, 1.1, 2.0).channels[PACKAGE]
    assert (first.energy_j, second.energy_j) == (110.5, 94.5)
    assert "unread_edge" not in first.flags + second.flags


def test_parts_of_a_log_add_up_to_the_whole_also_where_a_sample_took_long(path):
    log = held_up(path, 200_000_000)
    assert summarize(log).total_measured_j == 300.0
    assert summarize(log, 0.0, 1.5).total_measured_j + summarize(log, 1.5, 2.0).total_measured_j == 300.0


def test_runs_of_two_boots_add_up_though_their_clocks_began_at_the_same_moment(path):
    for boot, watts in (("a", 100), ("b", 50)):
        writer = LogWriter(path)  # each process has its own
        writer.header((Channel(PACKAGE, "cpu_package", "p", "counter"),), 1.0, {"boot_id": boot})
        for number in range(11):
            writer.sample(Sample(float(number), 1e9 + number, uj={PACKAGE: number * watts * 1_000_000}))
        writer.close()
    report = summarize(read_log(path))
    assert (report.total_measured_j, report.duration_s) == (1500.0, 20.0)
