"""A sensor that does not answer, a handler in the midst of a reading, two threads at once: nobody waits for ever."""

import contextlib
import threading
import time

import pytest

from mcmcopt.energy import EnergyWarning
from mcmcopt.energy import meter as meters
from mcmcopt.energy.sampler import Sampler
from tests.energy.fakes import FakeClock
from tests.energy.rig import StubProcesses
from tests.energy.stand_ins import Interrupted, Steady

LONG_S = 20.0
"""A wait that a test never sees to its end, unless it fails."""


class Gate(Steady):
    """Counts, and holds up the next reading while it is shut."""

    name = "gate"

    def __init__(self, clock):
        super().__init__(clock)
        self.shut, self.waiting, self.let_go = False, threading.Event(), threading.Event()

    def read(self, scope="tick"):
        if self.shut:
            self.shut = False
            self.waiting.set()
            self.let_go.wait(LONG_S)
        return super().read(scope)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def gate(clock):
    return Gate(clock)


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch):
    monkeypatch.setattr(meters, "STOP_S", 0.05)


def make(clock, *sensors, **settings):
    return meters.EnergyMeter(sensors, clock=clock, **{"background": False, "attribute": False, **settings})


@contextlib.contextmanager
def held(gate, call):
    """Another thread calls something, and is held up in a reading for the block."""
    gate.waiting.clear()
    gate.let_go.clear()
    gate.shut = True
    other = threading.Thread(target=call)
    other.start()
    assert gate.waiting.wait(LONG_S)
    try:
        yield other
    finally:
        gate.let_go.set()
        other.join(LONG_S)
        assert not other.is_alive()


def stuck():
    """Return what expects the one warning that a sensor is stuck."""
    return pytest.warns(EnergyWarning, match="not answered")


# A sensor that another thread waits for


def test_edges_at_which_no_sensor_answers_have_their_own_moment(clock, gate):
    with make(clock, gate) as m:
        clock.advance(1)
        m.tick()
        with held(gate, m.tick), stuck():
            clock.advance(2)
            with m.window("w") as window:
                clock.advance(3)
            assert m.read().duration_s == 6.0
        clock.advance(1)
    report = window.report
    assert (report.duration_s, report.flags, report.total_measured_j) == (3.0, ("stuck",), None)
    assert m.report.duration_s == 7.0
    assert m.report.total_measured_j == 700.0  # a counter forgets nothing meanwhile


def test_a_step_at_which_no_sensor_answers_has_its_own_moment(clock, gate):
    with make(clock, gate) as m:
        optimizer = Hooks()
        handle = m.attach(optimizer)
        optimizer.step(clock, 1)
        with held(gate, m.tick), stuck():
            optimizer.step(clock, 2)
            assert (handle.last.duration_s, handle.last.total_measured_j) == (2.0, None)
        optimizer.step(clock, 4)
        assert (handle.last.duration_s, handle.report.duration_s) == (4.0, 7.0)
        assert handle.report.total_measured_j == 700.0


class Hooks:
    """An optimizer, as far as hooks go."""

    def __init__(self):
        self.hooks = []

    def register_step_pre_hook(self, hook):
        self.hooks.append(hook)
        return self

    register_step_post_hook = register_step_pre_hook

    def step(self, clock, seconds):
        before, after = self.hooks
        before()
        clock.advance(seconds)
        after()


def test_sums_and_reports_do_not_wait_for_a_sensor_that_does_not_answer(clock, gate):
    with make(clock, gate) as m:
        with m.window("w"):
            clock.advance(1)
        start = time.monotonic()
        with held(gate, m.tick), stuck():
            assert m.windows["w"].measured_j == 100.0
            assert m.read().total_measured_j == 100.0
            assert time.monotonic() - start < LONG_S / 2


def test_patience_is_back_once_the_sensor_is(clock, gate, monkeypatch):
    with make(clock, gate) as m:
        with held(gate, m.tick), stuck():
            m.read()
        monkeypatch.setattr(meters, "STOP_S", LONG_S)
        m.tick()
        with held(gate, m.tick):
            threading.Timer(0.1, gate.let_go.set).start()
            with m.window("w") as window:  # waits for its turn, as it does where nothing was ever stuck
                clock.advance(1)
    assert (window.report.flags, window.report.total_measured_j) == ((), 100.0)


def test_a_meter_whose_last_run_is_stuck_starts_when_the_sensor_has_answered_and_not_before(clock, gate):
    m = make(clock, gate).start()
    with held(gate, m.tick):
        with stuck():
            clock.advance(1)
            report = m.stop()
        assert (report.flags, report.duration_s, report.total_measured_j) == (("stuck",), 1.0, None)
        with pytest.raises(RuntimeError, match="has not answered yet"):
            m.start()
        assert (gate.opened, gate.closed) == (1, 0)
    assert (gate.opened, gate.closed) == (1, 1)  # by the thread that came back
    with m:
        clock.advance(2)
    assert (m.report.total_measured_j, m.report.flags, gate.closed) == (200.0, (), 2)


def test_a_stop_does_not_wait_a_second_time_for_a_thread_that_has_not_come_back(clock, gate, monkeypatch):
    end = Sampler.stop
    monkeypatch.setattr(Sampler, "stop", lambda self, timeout_s: end(self, LONG_S) and False)
    m = make(clock, gate, background=True, attribute=True, processes=StubProcesses(), period_s=3600.0).start()
    monkeypatch.setattr(meters, "STOP_S", LONG_S)
    with held(gate, m.tick), stuck():
        start = time.monotonic()
        m.stop()
        assert time.monotonic() - start < LONG_S / 2


# Two threads


@pytest.mark.parametrize("patience_s", [0.05, LONG_S])
def test_a_window_that_is_opened_while_another_thread_stops_is_refused_or_closed_and_not_in_the_next_run(
    clock, gate, monkeypatch, patience_s
):
    monkeypatch.setattr(meters, "STOP_S", patience_s)
    m = make(clock, gate).start()
    window, refused = m.window("late"), []

    def enter():
        try:
            window.__enter__()
        except RuntimeError as error:
            refused.append(str(error))

    with held(gate, m.stop):
        other = threading.Thread(target=enter)
        if patience_s < LONG_S:
            with stuck():
                other.start()
                other.join(LONG_S)
        else:
            other.start()
    other.join(LONG_S)
    if patience_s < LONG_S:
        assert {"stuck", "cut_by_stop"} <= set(window.report.flags)
    else:
        assert "does not run" in refused[0]
    with m:
        clock.advance(1)
        if not refused:
            window.__exit__(None, None, None)
        assert not m.windows
    assert not m.report.windows
    assert m.report.total_measured_j == 100.0


# A signal's handler in the midst of a reading


def test_a_handler_that_stops_the_meter_in_the_midst_of_a_reading_breaks_no_sensor_and_its_report_says_stuck(clock):
    sensor = Interrupted(clock)
    m = make(clock, sensor).start()
    clock.advance(2)
    m.tick()

    def handler():
        sensor.handler = None
        assert "stuck" in m.stop().flags
        assert sensor.closed == 0  # it is being read

    sensor.handler = handler
    clock.advance(1)
    m.tick()
    assert sensor.handler is None
    assert (m.report.flags, m.report.duration_s, m.report.total_measured_j) == (("stuck",), 3.0, 200.0)
    assert sensor.closed == 1
    assert m.stop() is m.report
    with m:
        clock.advance(1)
    assert (m.report.flags, m.report.total_measured_j) == ((), 100.0)


def test_a_window_that_a_handler_opens_in_the_midst_of_a_reading_says_stuck(clock):
    sensor = Interrupted(clock)
    with make(clock, sensor) as m:
        window = m.window("w")

        def handler():
            sensor.handler = None
            window.__enter__()

        sensor.handler = handler
        clock.advance(1)
        m.tick()
        clock.advance(2)
        window.__exit__(None, None, None)
    assert window.report.flags == ("stuck",)
    assert window.report.duration_s == 2.0
    assert m.report.flags == ()
    assert m.report.total_measured_j == 300.0
