"""A meter on a fake machine: nothing runs in the background, time passes only in `advance`."""

from __future__ import annotations

from mcmcopt.energy import EnergyMeter
from mcmcopt.energy.processes import Usage
from mcmcopt.energy.sample import Channel, Values
from tests.energy.fakes import FakeMachine, Zone

ONE = (Zone("package-0", 120.0, limit_w=205.0),)
PACKAGE = "rapl:package-0"


class StubProcesses:
    """CPU seconds that a test sets."""

    def __init__(self, process_s=100.0, machine_s=1000.0, rss_bytes=10**8):
        self.process_s, self.machine_s, self.rss_bytes, self.looks = process_s, machine_s, rss_bytes, 0

    def use(self, process_s, machine_s):
        self.process_s += process_s
        self.machine_s += machine_s

    def look(self):
        self.looks += 1
        return Usage(self.process_s, self.machine_s, self.rss_bytes)


class Power:
    """A board that has a power in watts, and no counter."""

    name = "power"

    def __init__(self, watts=100.0, averaging_s=0.0, kind="board"):
        self.watts, self.averaging_s, self.kind, self.broken = watts, averaging_s, kind, False

    def open(self):
        return (Channel("power", self.kind, "p", "integrated", resolution_s=0.1, averaging_s=self.averaging_s),)

    def read(self, scope="tick"):
        return Values(flags={"power": ("read_error",)}) if self.broken else Values(w={"power": self.watts})

    def close(self):
        pass

    def forget(self):
        pass


def make_meter(machine, sources="rapl", **settings):
    settings = {"processes": StubProcesses(), **settings}
    return EnergyMeter(
        sources, background=False, sysfs_root=machine.root, opener=machine, clock=machine.clock, **settings
    )


def rig(tmp_path, preset="laptop", **settings):
    machine = FakeMachine(tmp_path, preset)
    return machine, make_meter(machine, **settings)


def run(machine, meter, *, seconds=10, dt=1.0):
    """Tick every `dt` for so many steps; the meter must run."""
    for _ in range(seconds):
        machine.advance(dt)
        meter.tick()


def uj(report, channel=PACKAGE):
    """Whole microjoules of a channel."""
    return round(report.channels[channel].energy_j * 1e6)
