"""The scenarios as data, and the bench that plays them: one fake machine, one fake clock, any meter.

A meter never sees the scenario.  It says when it wants to be called (`every`), or runs its own loops as they are
(`poller`), and the bench lets time pass from one such moment to the next; so each meter samples at its own pace, and
what it misses on the fake machine it would miss on a real one.  All is in one process and in the same order every time:
no wall clock, no race.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.energy.fakes import FakeBoard, FakeClock, FakeMachine, FakeNvml, to_ns
from tests.energy.fakes.machine import RANGE_61
from tests.energy.fakes.nvml import CONSTANTS

SLOW_S = 15.0
"""codecarbon's default period; our meter gets the same where counters are read, though its own is 1 s."""
LSB_J = 61e-6
"""A counter's unit, by which a wrap may be off: the kernel tells the last value, not the modulus."""

Counts = Literal["package", "package+dram", "gpu"]
Event = tuple[str, str | float]


@dataclass(frozen=True)
class Scenario:
    """What happens, and the joules that it takes.

    Args:
        name: of the table's row.
        preset: of the fake machine.
        truth_j: what a meter should say.
        script: `("pass", seconds)`, `("unreadable", zone)`, `("readable", zone)`, `("reset", zone)`, in this order.
        counts: what is to be measured.
        watts: of zones, where the preset's are not meant.
        counters: µJ at which counters begin.
        gpu: watts, or (from this second on, watts).
        gpu_counter: whether the board has an energy counter.
        exact: whether the arithmetic can be exact; a sampled power cannot.
    """

    name: str
    preset: str
    truth_j: float
    script: tuple[Event, ...]
    counts: Counts = "package"
    watts: Mapping[str, float] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    gpu: Sequence[tuple[float, float]] = ()
    gpu_counter: bool = False

    @property
    def exact(self) -> bool:
        """Whether joules are counted, not integrated."""
        return self.counts != "gpu" or self.gpu_counter


def _bursts(low: float, high: float) -> tuple[tuple[float, float], ...]:
    """Eight of 0.73 s, 4.73 s apart: off the grid of whole and of tenths of seconds."""
    edges = [((4.73 * k + 2.37, high), (4.73 * k + 3.10, low)) for k in range(8)]
    return ((0.0, low), *itertools.chain(*edges))


FLICKER = tuple((k / 10, 249.0 + k % 3) for k in range(420))
SCENARIOS = (
    Scenario("steady laptop, 60 s", "laptop", 1800.0, (("pass", 60.0),)),
    Scenario("steady server, two packages, 60 s", "server", 17_400.0, (("pass", 60.0),)),
    Scenario(
        "packages and DRAM of two sockets, 10 s",
        "server",
        3270.0,
        (("pass", 10.0),),
        "package+dram",
        {"package-0": 180.0, "package-1": 120.0, "package-0/dram": 15.0, "package-1/dram": 12.0},
    ),
    Scenario(
        "wrap half-way through a window of 60 s",
        "laptop",
        1800.0,
        (("pass", 60.0),),
        counters={"package-0": RANGE_61 + 1 - 885_000_000},
    ),
    Scenario(
        "wrap 0.03 s before the window is read",
        "laptop",
        1800.0,
        (("pass", 60.0),),
        counters={"package-0": RANGE_61 + 1 - 1_799_100_000},
    ),
    Scenario(
        "1 failed read of 4, one of two packages",
        "server",
        12_000.0,
        # both packages are read every 15 s; `energy_uj` of one is empty around the second time
        (("pass", 29.95), ("unreadable", "package-0"), ("pass", 0.1), ("readable", "package-0"), ("pass", 29.95)),
        watts={"package-0": 120.0, "package-1": 80.0},
    ),
    Scenario(
        "counter reset after 20 of 45 s",
        "laptop",
        5400.0,
        (("pass", 20.0), ("reset", "package-0"), ("pass", 25.0)),
        watts={"package-0": 120.0, "psys": 140.0},
        counters={"package-0": 50_000_000_000},
    ),
    Scenario("AMD, two dies that show one counter, 30 s", "amd", 2040.0, (("pass", 30.0),)),
    Scenario("GPU without counter: constant, 40 s", "vm", 10_000.0, (("pass", 40.0),), "gpu", gpu=((0.0, 250.0),)),
    Scenario("GPU without counter: 249 to 251 W, 42 s", "vm", 10_500.0, (("pass", 42.0),), "gpu", gpu=FLICKER),
    Scenario(
        "GPU without counter: one step, 40 s",
        "vm",
        7994.0,
        (("pass", 40.0),),
        "gpu",
        gpu=((0.0, 100.0), (20.03, 300.0)),
    ),
    Scenario(
        "GPU without counter: bursts of 0.73 s, 40 s", "vm", 4385.6, (("pass", 40.0),), "gpu", gpu=_bursts(60.0, 400.0)
    ),
    Scenario(
        "GPU with counter: bursts of 0.73 s, 40 s",
        "vm",
        4385.6,
        (("pass", 40.0),),
        "gpu",
        gpu=_bursts(60.0, 400.0),
        gpu_counter=True,
    ),
)


class Bench:
    """A scenario's machine, ready to begin.

    Args:
        scenario: to be played.
        folder: empty; receives the fake sysfs.
    """

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario, self.clock = scenario, FakeClock()
        self.machine = FakeMachine(folder, scenario.preset, self.clock)
        self.powercap = self.machine.root / "class" / "powercap"
        self.machine.power.update(scenario.watts)
        for zone, uj in scenario.counters.items():
            self.machine.set_counter(zone, uj)
        self.begun_s = self.clock()
        boards = []
        if scenario.gpu:
            power_w = [(self.begun_s + second, watts) for second, watts in scenario.gpu]
            arch = "HOPPER" if scenario.gpu_counter else "PASCAL"
            name = "NVIDIA H100 80GB HBM3" if scenario.gpu_counter else "Tesla P100-PCIE-16GB"
            boards.append(
                FakeBoard(
                    name=name,
                    arch=CONSTANTS[f"NVML_DEVICE_ARCH_{arch}"],
                    power_w=power_w,
                    has_counter=scenario.gpu_counter,
                )
            )
        self.nvml = FakeNvml(self.clock, boards)
        self._alarms: list[tuple[int, float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._pollers: list[Poller] = []

    def play(self) -> None:
        """Let happen what the scenario says."""
        for verb, what in self.scenario.script:
            if verb == "pass":
                self._pass(float(what))
            elif verb == "unreadable":  # an empty file, for whoever reads it by whatever way
                self.machine.write_raw(str(what), "energy_uj", "")
            elif verb == "readable":
                self.machine.heal(str(what))
            elif verb == "reset":
                self.machine.reset(str(what))
            else:
                raise ValueError(f"a script knows no {verb!r}")

    @property
    def true_j(self) -> float:
        """What really passed since the beginning."""
        if self.scenario.counts == "gpu":
            return sum(self.nvml.true_j(uuid, self.begun_s, self.clock()) for uuid in self.nvml.boards)
        keys = [key for key, zone in self.machine.zones.items() if zone.disjoint]
        if self.scenario.counts == "package":
            keys = [key for key in keys if "dram" not in key]
        return self.machine.true_j(*keys)

    def every(self, period_s: float, call: Callable[[], object]) -> None:
        """Call something periodically, first after one period; not at the very end, where meters read by themselves."""

        def again() -> None:
            call()
            self.every(period_s, call)

        self._at(period_s, again)

    def poller(self, target: Callable[..., object], *args: Any, **kwargs: Any) -> Poller:
        """Return a thread for a loop that sleeps by `sleep`; it is started by its owner."""
        poller = Poller(self, target, args, kwargs)
        self._pollers.append(poller)
        return poller

    def sleep(self, seconds: float) -> None:
        """Let a poller's thread sleep until the fake clock has gone on so far."""
        poller = threading.current_thread()
        assert isinstance(poller, Poller)
        poller.doze(seconds)

    def close(self) -> None:
        """End all pollers.

        Raises:
            RuntimeError: if one has failed though the script breaks nothing: then the bench is at fault, not the peer.
        """
        for poller in self._pollers:
            poller.terminate()
        failed = [poller.error for poller in self._pollers if poller.error is not None]
        if failed and not any(verb == "unreadable" for verb, _ in self.scenario.script):
            raise RuntimeError("a peer's loop does not run on the bench") from failed[0]

    def _at(self, delay_s: float, call: Callable[[], None]) -> None:
        # at one moment, what comes more often comes first: a sample belongs to the interval that ends with it
        heapq.heappush(self._alarms, (self.clock.ns + to_ns(delay_s), delay_s, next(self._numbers), call))

    def _pass(self, seconds: float) -> None:
        end = self.clock.ns + to_ns(seconds)
        while self._alarms and self._alarms[0][0] < end:
            due, _, _, call = heapq.heappop(self._alarms)
            self.machine.advance((due - self.clock.ns) / 1e9)
            call()
        self.machine.advance((end - self.clock.ns) / 1e9)


class Poller(threading.Thread):
    """A peer's helper process as a thread: the peer's own loop, awake only while the bench waits for it.

    It has the methods of a `multiprocessing.Process` that peers call.
    """

    def __init__(self, bench: Bench, target: Callable[..., object], args: Sequence[Any], kwargs: Mapping[str, Any]):
        super().__init__(daemon=True)
        self._bench, self._work = bench, (target, args, kwargs)
        self._may_run, self._rests = threading.Semaphore(0), threading.Semaphore(0)
        self._ended = False
        self.error: Exception | None = None

    def start(self) -> None:
        super().start()
        self._rests.acquire()

    def run(self) -> None:
        target, args, kwargs = self._work
        try:
            target(*args, **kwargs)
        except KeyboardInterrupt:
            pass
        except Exception as error:  # as in a process: it dies alone
            self.error = error
        finally:
            self._ended = True
            self._rests.release()

    def doze(self, seconds: float) -> None:
        self._bench._at(seconds, self._wake)
        self._rests.release()
        self._may_run.acquire()
        if self._ended:
            raise KeyboardInterrupt

    def _wake(self) -> None:
        if self.is_alive() and not self._ended:
            self._may_run.release()
            self._rests.acquire()

    def terminate(self) -> None:
        if self.is_alive():
            self._ended = True
            self._may_run.release()
            super().join()

    kill = terminate

    def join(self, timeout: float | None = None) -> None:
        self.terminate()
