"""Real time: a counter file that another thread writes, and whatever this machine has."""

import threading
import time

import pytest

from mcmcopt.energy import EnergyMeter
from tests.energy.fakes import FakeMachine

pytestmark = pytest.mark.slow


def test_a_bursty_load_is_followed_to_half_a_percent(tmp_path):
    machine, end = FakeMachine(tmp_path, "laptop"), threading.Event()

    def write():
        last = time.monotonic()
        while not end.wait(0.002):
            now = time.monotonic()
            machine.power["package-0"] = 200.0 if (now % 0.5) < 0.1 else 20.0
            machine.advance(now - last)
            last = now

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with EnergyMeter("rapl", sysfs_root=machine.root, attribute=False) as meter:
            before = machine.true_j("package-0")
            with meter.window("load") as window:
                time.sleep(3)
            true = machine.true_j("package-0") - before
    finally:
        end.set()
        writer.join()
    assert window.report.cpu_j == pytest.approx(true, rel=0.005)


@pytest.mark.filterwarnings("ignore::mcmcopt.energy.errors.EnergyWarning")  # a machine without sensors: skipped below
def test_what_this_machine_measures_makes_sense():
    with EnergyMeter() as meter:
        with meter.window("rest") as rest:
            time.sleep(2)
        with meter.window("load") as load:
            end = time.monotonic() + 2
            while time.monotonic() < end:
                sum(range(10_000))
    if meter.report.cpu_j is None:
        pytest.skip("no package is measured on this machine")
    assert load.report.cpu_j > rest.report.cpu_j
    readings = meter.report.channels
    for name, reading in readings.items():
        if reading.kind == "core" and reading.energy_j is not None:
            assert reading.energy_j <= readings[name.rpartition("/")[0]].energy_j
        assert "counter_disagrees" not in reading.flags
