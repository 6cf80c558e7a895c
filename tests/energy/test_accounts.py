"""Samples folded into totals: which seconds count, and when two counters are one register."""

import pytest

from mcmcopt.energy.accounts import DIE, NEVER_STILL, Accounts
from mcmcopt.energy.sample import DISJOINT, Channel, Sample
from mcmcopt.energy.sensors.rapl import Rapl
from tests.energy.fakes import FakeMachine
from tests.energy.rig import make_meter, run
from tests.energy.stand_ins import Steady

R = 65_532_610_987


def totals(values, *, dt=1.0, kind="cpu_package", **of):
    """Fold a counter's readings, `dt` apart; return its totals after each."""
    accounts = Accounts([Channel("c", kind, "c", "counter", **of)], dt)
    found = []
    for number, raw in enumerate(values):
        accounts.add(Sample(number * dt, 1e9 + number * dt, uj={"c": raw}))
        found.append(accounts.state().totals["c"])
    return found


# Counters that do not move


def test_seconds_in_which_a_slow_counter_had_not_moved_count_when_it_does():
    *before, after = totals([10, 10, 10, 10, 50], resolution_s=5.0)
    assert [(t.waiting_s, t.counted_s, t.lost_s) for t in before] == [(n, 0.0, 0.0) for n in (0.0, 1.0, 2.0, 3.0)]
    assert (after.uj, after.waiting_s, after.counted_s, after.lost_s) == (40, 0.0, 4.0, 0.0)


def test_seconds_that_waited_for_a_counter_are_lost_with_the_step_that_is_not_trusted_and_never_counted():
    found = totals([10, 10, 10, 10, 5, 6, 7], resolution_s=5.0)  # it falls, and nobody knows its range
    assert (found[3].waiting_s, found[3].lost_s) == (3.0, 0.0)
    assert (found[4].waiting_s, found[4].counted_s, found[4].lost_s) == (0.0, 0.0, 4.0)
    assert (found[-1].uj, found[-1].counted_s, found[-1].lost_s) == (2, 2.0, 4.0)


def test_seconds_that_waited_for_a_counter_that_turns_out_frozen_are_lost_and_every_second_is_one_of_the_two():
    found = totals([10, 10, 10, 10, 10, 50, 90], dt=0.5)
    assert "frozen" in found[3].flags
    assert (found[3].waiting_s, found[3].lost_s) == (0.0, 1.5)
    for number, t in enumerate(found):
        assert t.counted_s + t.lost_s + t.waiting_s == 0.5 * number


@pytest.mark.parametrize("kind", DISJOINT)
def test_what_always_draws_power_and_stands_still_is_not_measured(kind):
    assert kind in NEVER_STILL
    last = totals([5, 10, *[15] * 10], kind=kind)[-1]
    assert "frozen" in last.flags
    assert (last.counted_s, last.lost_s) == (2.0, 9.0)


@pytest.mark.parametrize("kind", ["core", "uncore", "psys", "soc"])
def test_what_may_rest_may_stand_still(kind):
    last = totals([5, 10, *[15] * 10], kind=kind)[-1]
    assert (last.flags, last.counted_s) == ({}, 11.0)


def test_a_counter_that_is_updated_every_five_seconds_is_not_frozen_when_it_is_read_every_second():
    last = totals([500 * (second // 5) for second in range(61)], resolution_s=5.0)[-1]
    assert (last.flags, last.uj, last.counted_s, last.lost_s) == ({}, 6000, 60.0, 0.0)
    assert "frozen" in totals([0, 5, *[5] * 12], resolution_s=5.0)[-1].flags


# One register seen twice


def dies(first, second, *, span_s=0.0, max_w=400.0, range_uj=R):
    """Fold two dies' readings, a second apart; return the accounts after each."""
    names = "package-0-die-0", "package-0-die-1"
    assert all(map(DIE.match, names))
    channels = [Channel(n, "cpu_package", n, "counter", None, range_uj, 0.001, max_w) for n in names]
    accounts = Accounts(channels, 1.0)
    for number, raw in enumerate(zip(first, second, strict=True)):
        accounts.add(Sample(float(number), 1e9, uj=dict(zip(names, raw, strict=True)), span_s=span_s))
        yield accounts


def watts(power, seconds, start):
    return [(start + round(power * 1e6) * t) % (R + 1) for t in range(seconds + 1)]


@pytest.mark.parametrize("updated_uj", [0, 40_000])
def test_a_register_that_wraps_between_two_looks_at_it_is_still_one(updated_uj):
    """The second look is a little later: it may already be past the wrap."""
    first = watts(68.0, 20, R - 10 * 68_000_000 - 20_000)
    second = [(raw + updated_uj) % (R + 1) for raw in first]
    assert bool(updated_uj) == any(b < a for a, b in zip(first, second, strict=True))
    *_, accounts = dies(first, second)
    assert accounts.mirrors == {"package-0-die-1"}


def test_counters_that_have_just_begun_are_not_taken_for_one_because_both_show_nothing():
    for accounts in dies([0, 300_000, 600_000], [0, 300_000, 600_000]):
        assert not accounts.mirrors | accounts.suspects
    (accounts,) = dies([0], [900_000_000])
    assert not accounts.suspects


def test_dies_of_different_power_are_never_called_mirrors_however_long_their_reading_takes():
    """As long as they differ by less than the register may have moved between two looks they are open, not decided."""
    seen = set()
    for accounts in dies(watts(50.0, 60, 10**10), watts(40.0, 60, 10**10), span_s=0.2):
        assert not accounts.mirrors
        seen.add(bool(accounts.suspects))
    assert seen == {True, False}
    assert not accounts.suspects


def test_mirrors_are_confirmed_after_three_steps_of_a_joule():
    *_, accounts = dies(watts(0.5, 5, 10**10), watts(0.5, 5, 10**10), max_w=100.0)
    assert accounts.suspects == {"package-0-die-1"}
    assert not accounts.mirrors
    *_, accounts = dies(watts(0.5, 6, 10**10), watts(0.5, 6, 10**10), max_w=100.0)
    assert accounts.mirrors == {"package-0-die-1"}


def test_a_slow_sensor_beside_them_makes_no_mirror_candidate_of_two_dies_of_different_power(tmp_path):
    machine = FakeMachine(tmp_path, "twodie")
    rapl, slow = Rapl(machine.root, machine, machine.clock), Lingering(machine)
    with make_meter(machine, (rapl, slow)) as meter:
        for _ in range(10):
            run(machine, meter, seconds=1)
            dies_read = [r for name, r in meter.read().channels.items() if "die" in name]
            assert len(dies_read) == 4
            assert all(r.counted and r.flags == () for r in dies_read)


class Lingering(Steady):
    """Takes half a second."""

    def __init__(self, machine):
        super().__init__(machine.clock)
        self.machine = machine

    def read(self, scope="tick"):
        self.machine.advance(0.5)
        return super().read(scope)
