"""Sensors of the tests' own."""

from __future__ import annotations

import threading
import time

from mcmcopt.energy.sample import Channel, Values


class Steady:
    """Counts so many watts of a clock, in whole microjoules."""

    name = "steady"

    def __init__(self, clock, watts=100.0):
        self.clock, self.watts, self.opened, self.closed, self.forgotten, self.reads = clock, watts, 0, 0, 0, 0

    def open(self):
        self.opened += 1
        return (Channel("steady", "cpu_package", "steady", "counter", resolution_s=0.001, max_w=1e4),)

    def read(self, scope="tick"):
        self.reads += 1
        return Values() if scope == "powers" else Values(uj={"steady": round(self.clock() * self.watts * 1e6)})

    def close(self):
        self.closed += 1

    def forget(self):
        self.forgotten += 1


class Stuck(Steady):
    """Answers at first, and then, from a given reading on, not before it is let go."""

    name = "stuck"

    def __init__(self, clock, good_reads=1):
        super().__init__(clock)
        self.good_reads, self.let_go, self.waiting = good_reads, threading.Event(), threading.Event()

    def read(self, scope="tick"):
        if self.reads >= self.good_reads:
            self.waiting.set()
            self.let_go.wait(20)
        return super().read(scope)


class Broken(Steady):
    """Raises from a given reading on."""

    name = "broken"

    def __init__(self, clock, good_reads=1):
        super().__init__(clock)
        self.good_reads = good_reads

    def read(self, scope="tick"):
        if self.reads >= self.good_reads:
            raise RuntimeError("the driver is gone")
        return super().read(scope)


class Slow(Steady):
    """Takes its time at a window's edge."""

    name = "slow"

    def __init__(self, clock, seconds):
        super().__init__(clock)
        self.seconds, self.waiting = seconds, threading.Event()

    def read(self, scope="tick"):
        if scope == "edge":
            self.waiting.set()
            time.sleep(self.seconds)
        return super().read(scope)


class Interrupted(Steady):
    """Calls something in the midst of each reading, as a signal's handler may."""

    name = "interrupted"

    def __init__(self, clock):
        super().__init__(clock)
        self.handler = None

    def read(self, scope="tick"):
        values = super().read(scope)
        if self.handler is not None:
            self.handler()
        return values
