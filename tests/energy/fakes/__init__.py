"""Stand-ins for the clock, for sysfs and for NVML: they know the true joules, and nothing in them sleeps."""

from tests.energy.fakes.clock import FakeClock, to_ns
from tests.energy.fakes.machine import PRESETS, FakeMachine, Rail, Zone
from tests.energy.fakes.nvml import FakeBoard, FakeHandle, FakeNvml, NVMLError

__all__ = ["PRESETS", "FakeBoard", "FakeClock", "FakeHandle", "FakeMachine", "FakeNvml", "NVMLError", "Rail", "Zone"]
__all__ += ["to_ns"]
