"""A sensor of boards on a fake driver, with the arithmetic behind it."""

from collections.abc import Sequence

from mcmcopt.energy.accounts import Accounts, State
from mcmcopt.energy.report import Reading
from mcmcopt.energy.sample import Channel, Sample
from mcmcopt.energy.sensors.base import Scope
from mcmcopt.energy.sensors.nvml import Nvml
from mcmcopt.energy.summary import Span, make_report
from tests.energy.fakes.clock import FakeClock
from tests.energy.fakes.nvml import FakeBoard, FakeNvml

A, B = "GPU-aaaaaaaa-0000-0000-0000-000000000000", "GPU-bbbbbbbb-0000-0000-0000-000000000000"
T0 = FakeClock()()


class Bench:
    """Boards, a sensor over them, and the ledger that it fills."""

    def __init__(self, *boards: FakeBoard, nvml: FakeNvml | None = None, period_s: float = 1.0, **environ: str) -> None:
        self.clock = FakeClock() if nvml is None else nvml.clock
        self.nvml = nvml or FakeNvml(self.clock, boards)
        self.sensor = Nvml(self.nvml, environ=environ)
        self.channels = {channel.id: channel for channel in self.sensor.open()}
        self.accounts = Accounts(self.channels.values(), period_s)

    def read(self, scope: Scope = "edge") -> State:
        values = self.sensor.read(scope)
        self.accounts.add(Sample(self.clock(), self.clock.unix(), values.uj, values.w, {}, values.memory, values.flags))
        return self.accounts.state()

    def run(self, duration_s: float, tick_s: float = 1.0) -> dict[str, Reading]:
        """A window with a reading at both edges, powers at 10 Hz and all there is at every tick."""
        begin = self.read()
        for i in range(1, round(duration_s * 10)):
            self.clock.advance(0.1)
            self.read("tick" if i % round(tick_s * 10) == 0 else "powers")
        self.clock.advance(duration_s - (round(duration_s * 10) - 1) * 0.1)
        return self.report(begin, self.read())

    def report(self, begin: State, end: State) -> dict[str, Reading]:
        return dict(make_report("window", [Span(self.accounts, begin, end)]).channels)

    def true_j(self, uuid: str, begin: State, end: State) -> float:
        return self.nvml.true_j(uuid, begin.t_s, end.t_s)


def only(channels: Sequence[Channel]) -> Channel:
    assert len(channels) == 1
    return channels[0]


# Counters
