"""No joule appears and none is lost: random trajectories, nested windows, eight threads, all in whole microjoules."""

import random
import threading

import pytest

from tests.energy.fakes import FakeMachine, Zone
from tests.energy.rig import ONE, PACKAGE, make_meter, rig, run, uj

SMALL = (  # wraps about every ten seconds at full power
    Zone("package-0", 10.0, 30_000_000_000, 200.0),
    Zone("package-0/dram", 10.0, 20_000_000_000, 100.0),
    Zone("package-1", 10.0, 30_000_000_000),
)


def limit_w(zone):
    """More is not believed; 480 W are enough for a trajectory."""
    return min(480.0, 4 * zone.limit_w if zone.limit_w else 480.0, 400.0 if zone.name == "dram" else 480.0)


def ids(machine):
    return {key: f"rapl:{key}" for key, zone in machine.zones.items() if zone.control == "intel-rapl"}


def trajectory(machine, rng):
    """One run of a meter; returns how many microjoules it reported beside the true ones, and how many wraps it saw."""
    keys = ids(machine)
    for key, zone in machine.zones.items():
        if zone.mirrors is None and rng.random() < 0.5:
            machine.set_counter(key, zone.range_uj - rng.randint(0, 2_000_000_000))
    counters = {key: machine._registers[key].counter for key in keys}
    start, wraps, seen = machine.true_uj, 0, dict.fromkeys(keys, 0)
    with make_meter(machine, attribute=False) as meter:
        for _ in range(rng.randint(1, 10)):
            for key in machine.power:
                machine.power[key] = rng.choice((0.01, rng.uniform(1, 60), rng.uniform(1, limit_w(machine.zones[key]))))
            if rng.random() < 0.3:
                machine.fail_next_read(rng.choice(list(keys)), times=rng.randint(1, 2))
            machine.advance(rng.choice((1e-4, rng.uniform(0, 1), rng.uniform(0, 5))))
            now = {key: machine._registers[key].counter for key in keys}
            wraps += sum(now[key] < counters[key] for key in keys)
            counters = now
            report = meter.read()
            for key, name in keys.items():
                if report.channels[name].energy_j is not None:
                    assert uj(report, name) >= seen[key] >= 0
                    seen[key] = uj(report, name)
        for key in keys:
            machine.heal(key)
    end = machine.true_uj
    off = [uj(meter.report, name) - (end[key] - start[key]) for key, name in keys.items()]
    disjoint = sum(end[key] - start[key] for key in keys if machine.zones[key].disjoint)
    if not any(zone.mirrors for key, zone in machine.zones.items() if key in keys):
        assert round(meter.report.total_measured_j * 1e6) == disjoint
    assert all(r.lost_s == 0 and r.coverage > 0.999999 for r in meter.report.channels.values())
    return off, wraps


def test_reported_and_true_microjoules_are_the_same_in_500_random_runs_with_wraps_and_failed_reads(tmp_path):
    rng, wraps = random.Random(20), 0
    machines = [FakeMachine(tmp_path / str(n), p) for n, p in enumerate(("laptop", "server", "twodie", "amd", SMALL))]
    for number in range(500):
        off, wrapped = trajectory(machines[number % 5], rng)
        assert not any(off)
        wraps += wrapped
    assert wraps > 200


def test_windows_and_the_gaps_between_them_add_up_to_their_parent_exactly(tmp_path):
    rng = random.Random(3)
    machine, meter = rig(tmp_path, SMALL)
    with meter, meter.window("parent") as parent:
        parts = []
        for number in range(60):
            with meter.window("child" if number % 2 else "gap") as part:
                for key in machine.power:
                    machine.power[key] = rng.uniform(0, 300)
                machine.advance(rng.uniform(0, 0.5))
                with meter.window("inner"):
                    machine.advance(rng.uniform(0, 0.5))
                if rng.random() < 0.5:
                    meter.tick()
            parts.append(part.report)
    for channel in parent.report.channels:
        assert sum(uj(part, channel) for part in parts) == uj(parent.report, channel)
        assert uj(parent.report, channel) == uj(meter.report, channel)
    assert sum(t.count for t in meter.report.windows.values()) == 121
    sums = meter.report.windows
    assert sums["child"].measured_j + sums["gap"].measured_j == pytest.approx(sums["parent"].measured_j, rel=1e-12)
    assert parent.report.duration_s == pytest.approx(sum(part.duration_s for part in parts))


def test_overlapping_windows_of_one_name_each_have_their_own_joules(tmp_path):
    machine, meter = rig(tmp_path, ONE)
    with meter:
        a, b = meter.window("w"), meter.window("w")
        a.__enter__()
        machine.advance(1)
        b.__enter__()
        machine.advance(1)
        a.__exit__(None, None, None)
        machine.advance(1)
        b.__exit__(None, None, None)
    assert (uj(a.report), uj(b.report), uj(meter.report)) == (240_000_000, 240_000_000, 360_000_000)
    assert meter.report.windows["w"].measured_j == 480.0


def in_threads(number, work):
    """Start threads that meet their starter at a barrier; what they raise is kept."""
    errors, barrier = [], threading.Barrier(number + 1, timeout=20)

    def guarded(index):
        try:
            work(index, barrier)
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=guarded, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    return barrier, threads, errors


def test_windows_of_eight_threads_each_hold_exactly_what_passed_between_their_edges(tmp_path):
    rounds, count = 25, 8
    machine, meter = rig(tmp_path, SMALL)
    passed, made = [0], []  # true microjoules at each round; (first round, last round, report)

    def work(index, barrier):
        rng, windows = random.Random(index), []
        for number in range(rounds):
            if windows and rng.random() < 0.5:
                first, window = windows.pop()
                window.__exit__(None, None, None)
                made.append((first, number, window))
            if rng.random() < 0.7:
                window = meter.window(f"thread {index}")
                window.__enter__()
                windows.append((number, window))
            barrier.wait()
            barrier.wait()
        for first, window in windows:
            window.__exit__(None, None, None)
            made.append((first, rounds, window))

    with meter:
        barrier, threads, errors = in_threads(count, work)
        for number in range(rounds):
            barrier.wait()
            machine.power["package-0"] = 10.0 + number
            machine.advance(0.25)
            passed.append(machine.true_uj["package-0"])
            meter.tick()
            barrier.wait()
        for thread in threads:
            thread.join()
    assert not errors
    assert len(made) > 80
    for first, last, window in made:
        assert (uj(window.report) if last > first else 0) == passed[last] - passed[first]
    assert uj(meter.report) == passed[-1]


def test_eight_threads_at_once_lose_nothing_while_time_passes(tmp_path):
    machine, meter = rig(tmp_path, [Zone("package-0", 120.0, 10**15, 1e6)])  # time passes in the midst of readings

    def work(index, barrier):
        barrier.wait()
        for _ in range(20):
            with meter.window(f"thread {index}") as outer, meter.window("inner") as inner:
                meter.tick()
            joules = [w.report.channels[PACKAGE].energy_j for w in (outer, inner)]
            if None not in joules:  # all of the time can pass within one reading: then the next ones stand still
                assert joules[0] >= joules[1] >= 0

    with meter:
        barrier, threads, errors = in_threads(8, work)
        barrier.wait()
        for number in range(200):
            machine.advance(0.01)
            if number % 20 == 0:
                meter.tick()
        for thread in threads:
            thread.join()
    assert not errors
    assert uj(meter.report) == machine.true_uj["package-0"] == 240_000_000
    assert meter.report.windows["inner"].count == 160


def test_what_is_read_while_the_meter_runs_never_falls(tmp_path):
    machine, meter = rig(tmp_path, ONE)
    machine.set_counter("package-0", machine.zones["package-0"].range_uj - 500_000_000)
    totals = []
    with meter:
        for number in range(20):
            if number == 12:
                machine.reset("package-0")
            run(machine, meter, seconds=1)
            totals.append(meter.read().total_measured_j)
    assert totals == sorted(totals)
    assert totals[-1] == 19 * 120.0
    assert meter.report.channels[PACKAGE].lost_s == 1.0


def held_up(machine):
    """Hold the next reading up for 0.2 s each time the list that is returned is made true."""
    pread, late = machine.pread, [False]

    def read(fd, n):
        if late[0]:
            late[0] = False
            machine.advance(0.2)
        return pread(fd, n)

    machine.pread = read
    return late


def test_a_reading_that_was_held_up_between_clock_and_counter_loses_nothing(tmp_path):
    """A thread waits for the interpreter's lock, or for its turn, before it gets to the counter: 0.2 s here."""
    machine, meter = rig(tmp_path, ONE)
    late = held_up(machine)
    with meter:
        for number in range(50):
            with meter.window("step"):
                machine.advance(0.005)
                late[0] = number % 10 == 0
    assert meter.report.total_measured_j == pytest.approx(machine.true_j(), abs=1e-6)


def test_windows_add_up_to_the_run_also_while_it_is_open_whether_a_die_is_a_mirror(tmp_path):
    machine, meter = rig(tmp_path, "twodie")
    for key in machine.zones:
        machine.set_counter(key, 5_000_000_000)
    with meter:
        for _ in range(5):
            with meter.window("w"):
                machine.advance(0.15)
    assert meter.report.windows["w"].measured_j == pytest.approx(meter.report.total_measured_j)


def test_the_sum_of_windows_keeps_the_joules_that_they_have_or_is_none(tmp_path):
    machine, meter = rig(tmp_path, "server")
    with meter:
        for number in range(10):
            if number == 4:
                machine.fail_next_read("package-1", times=2)
            with meter.window("epoch"):
                machine.advance(1.0)
    assert meter.report.total_measured_j == 3270.0
    assert meter.report.windows["epoch"].measured_j == 3270.0 - 140.0  # one window of one package
    assert meter.report.windows["epoch"].coverage == pytest.approx(0.9)


def test_how_late_an_edge_was_read_is_inside_the_stated_uncertainty(tmp_path):
    machine, meter = rig(tmp_path, ONE)
    late = held_up(machine)
    with meter:
        run(machine, meter, seconds=5)
        with meter.window("step") as window:
            machine.advance(0.05)
            late[0] = True
    reading = window.report.channels[PACKAGE]
    assert abs(reading.energy_j - 120.0 * window.report.duration_s) <= reading.uncertainty_j
