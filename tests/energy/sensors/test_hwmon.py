"""Rails of a board: the one that feeds all others is the total."""

import pytest

from mcmcopt.energy import EnergyMeter
from tests.energy.fakes import FakeClock, FakeMachine


@pytest.fixture
def jetson(tmp_path):
    return FakeMachine(tmp_path, "jetson", FakeClock())


def run(machine, steps=300):
    with EnergyMeter("hwmon", background=False, attribute=False, sysfs_root=machine.root, clock=machine.clock) as meter:
        for _ in range(steps):
            machine.advance(0.1)
            meter.tick()
    return meter.report


def test_the_module_is_counted_and_its_rails_are_shown(jetson):
    report = run(jetson)
    assert report.total_measured_j == pytest.approx(12 * 30, rel=0.005)
    assert {name: r.counted for name, r in report.channels.items()} == {
        "hwmon:VDD_IN": True,
        "hwmon:VDD_CPU_GPU_CV": False,
        "hwmon:VDD_SOC": False,
    }
    assert report.channels["hwmon:VDD_CPU_GPU_CV"].energy_j == pytest.approx(6 * 30, rel=0.005)
    assert {r.provenance for r in report.channels.values()} == {"integrated"}


def test_a_gap_is_not_filled(jetson):
    with EnergyMeter("hwmon", background=False, attribute=False, sysfs_root=jetson.root, clock=jetson.clock) as meter:
        jetson.advance(5.0)
        meter.tick()
        for _ in range(50):
            jetson.advance(0.1)
            meter.tick()
    reading = meter.report.channels["hwmon:VDD_IN"]
    assert reading.coverage == pytest.approx(0.5)
    assert reading.energy_j == pytest.approx(60, rel=0.005)
    assert "gap" in reading.flags


def test_without_such_a_board_the_reason_is_said(tmp_path):
    machine = FakeMachine(tmp_path, "vm", FakeClock())
    with pytest.warns(match="INA3221"):
        report = run(machine, 1)
    assert report.total_measured_j is None
