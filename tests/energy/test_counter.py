"""One step of a counter: added exactly, or refused with the reason; never guessed."""

import random

import pytest

from mcmcopt.energy import EnergyMeter
from mcmcopt.energy.counter import SLACK_S, Step, step
from mcmcopt.energy.sampler import Sampler
from tests.energy.fakes import FakeMachine
from tests.energy.rig import ONE, PACKAGE, rig, run

R = 999_999_999
MOST = 100_000_000  # 100 W over 0.99 s and the slack of 0.01 s
DT = 0.99


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (5, 5, Step(0, True)),
        (5, 6, Step(1, True)),
        (0, MOST, Step(MOST, True)),
        (0, MOST + 1, Step(0, False, "implausible")),
        (R, 0, Step(1, True)),
        (R - 9, 90, Step(100, True)),
        (R + 1 - MOST, 0, Step(MOST, True)),
        (R - MOST, 0, Step(0, False, "reset")),
        (MOST, 0, Step(0, False, "reset")),
        (MOST, MOST - 1, Step(0, False, "reset")),
        (2 * R, 0, Step(0, False, "reset")),  # beyond its declared range
    ],
)
def test_each_step_is_added_wrapped_or_refused_also_on_the_boundary(before, now, expected):
    assert step(before, now, DT, R, 100.0) == expected


@pytest.mark.parametrize(
    ("before", "now", "range_uj", "max_w", "expected"),
    [
        (10, 4, None, 100.0, Step(0, False, "reset")),
        (10, 4, None, None, Step(0, False, "reset")),
        (0, 10**15, None, None, Step(10**15, True)),
        (0, 10**15, None, 100.0, Step(0, False, "implausible")),
        (10, 4, R, None, Step(R - 5, True)),
    ],
)
def test_a_counter_of_unknown_range_never_wraps_and_one_of_unknown_limit_is_believed(
    before, now, range_uj, max_w, expected
):
    assert step(before, now, DT, range_uj, max_w) == expected


def test_a_gap_of_exactly_one_range_is_trusted_and_a_longer_one_is_ambiguous_though_its_least_is_added():
    range_s = 10.0  # 100 W fill the range in ten seconds
    assert step(7, 8, range_s, 1_000_000_000, 100.0) == Step(1, True)
    assert step(7, 8, range_s + 1e-6, 1_000_000_000, 100.0) == Step(1, False, "ambiguous_wrap")
    assert step(8, 7, range_s + 1e-6, 1_000_000_000, 100.0) == Step(1_000_000_000, False, "ambiguous_wrap")
    assert step(7, 8, 1e9, 1_000_000_000, None).trusted


def test_a_counter_that_is_updated_rarely_may_hold_the_energy_of_one_more_update():
    assert step(0, MOST, 0.9, R, 100.0, resolution_s=0.1).uj == MOST
    assert step(0, MOST, 0.9, R, 100.0, resolution_s=0.001).flag == "implausible"
    assert step(0, round(100e6 * SLACK_S), 0.0, R, 100.0).trusted
    assert not step(0, round(100e6 * SLACK_S) + 1, 0.0, R, 100.0).trusted


def test_every_believable_energy_is_recovered_to_the_microjoule():
    rng = random.Random(1)
    for _ in range(2000):
        before, energy = rng.randint(0, R), rng.choice((rng.randint(0, MOST), 0, MOST))
        made = step(before, (before + energy) % (R + 1), DT, R, 100.0)
        assert made == Step(energy, True)
        assert type(made.uj) is int


@pytest.mark.parametrize("wraps", [0, 1])
def test_a_window_across_a_wrap_is_exact(tmp_path, wraps):
    machine, meter = rig(tmp_path, ONE)
    machine.set_counter("package-0", machine.zones["package-0"].range_uj - 300_000_000 * wraps)
    with meter, meter.window("w") as window:
        machine.advance(5.0)
    reading = window.report.channels[PACKAGE]
    assert (reading.energy_j, reading.coverage, reading.flags) == (600.0, 1.0, ())


def test_a_gap_that_could_hide_a_wrap_is_flagged_and_not_called_measured(tmp_path):
    machine, meter = rig(tmp_path, ONE)
    with meter:
        run(machine, meter, seconds=10)
        machine.advance(400.0)  # the range lasts 262 kJ / 820 W = 320 s
        meter.tick()
    reading = meter.report.channels[PACKAGE]
    assert "ambiguous_wrap" in reading.flags
    assert reading.lost_s == 400.0
    assert reading.coverage == pytest.approx(10 / 410)


def test_the_guard_reads_a_counter_twice_in_the_shortest_time_that_it_could_wrap_in(tmp_path, monkeypatch):
    periods = []
    monkeypatch.setattr(Sampler, "start", lambda self: periods.append(self._tasks[0][0]))
    monkeypatch.setattr(Sampler, "stop", lambda self, timeout_s: True)
    for name, preset, guard in (("a", ONE, 262143.328850 / (2 * 820)), ("b", "amd", 65532.610987 / (2 * 1500))):
        with EnergyMeter("rapl", period_s=3600.0, sysfs_root=FakeMachine(tmp_path / name, preset).root):
            assert periods.pop() == pytest.approx(guard)


def test_mean_watts_are_joules_of_the_measured_part_over_its_seconds_whatever_was_refused(tmp_path):
    machine, meter = rig(tmp_path, ONE)
    with meter:
        run(machine, meter, seconds=10)
        machine.set_counter("package-0", 200_000_000_000)
        run(machine, meter, seconds=5)
        machine.reset("package-0")
        run(machine, meter, seconds=5)
    reading = meter.report.channels[PACKAGE]
    assert reading.flags == ("implausible", "reset")
    assert (reading.energy_j, reading.lost_s, reading.mean_w, reading.coverage) == (2160.0, 2.0, 120.0, 0.9)


def test_mean_watts_stay_those_of_the_machine_across_an_ambiguous_gap(tmp_path):
    machine, meter = rig(tmp_path, ONE)
    with meter:
        run(machine, meter, seconds=10)
        machine.advance(400.0)
        meter.tick()
    assert meter.report.channels[PACKAGE].mean_w == pytest.approx(120.0)
