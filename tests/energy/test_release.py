"""Whatever breaks, a meter lets go of its sensors, its log, its lock and its thread."""

import contextlib
import os
import threading
import warnings
from pathlib import Path

import pytest

from mcmcopt.energy import EnergyMeter, EnergyWarning, read_log
from mcmcopt.energy.sample import Channel, Values
from tests.energy.fakes import FakeClock
from tests.energy.stand_ins import Steady


@pytest.fixture
def clock():
    return FakeClock()


def descriptors(path):
    """How many descriptors of this process are open on a file."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of the listing itself
            found += entry.readlink() == path
    return found


def free(meter):
    """Whether another thread can have the meter's lock."""
    got = []

    def take():
        got.append(meter._lock.acquire(timeout=5))
        if got[0]:
            meter._lock.release()

    other = threading.Thread(target=take)
    other.start()
    other.join(20)
    return got == [True]


class Clinging(Steady):
    """Cannot be closed."""

    name = "clinging"

    def open(self):
        self.opened += 1
        return ()

    def read(self, scope="tick"):
        return Values()

    def close(self):
        super().close()
        raise RuntimeError("the driver is gone")


def test_a_sensor_that_cannot_be_closed_keeps_neither_the_others_nor_the_log_nor_the_lock(tmp_path, clock):
    log, good = tmp_path / "log", Steady(clock)
    m = EnergyMeter((Clinging(clock), good), clock=clock, attribute=False, background=False, log=log)
    with pytest.warns(EnergyWarning, match="clinging could not be closed.*driver is gone"), m:
        clock.advance(1)
    assert m.report.total_measured_j == 100.0
    assert good.closed == 1
    assert descriptors(log) == 0
    assert free(m)
    with m:  # again, and once is warned enough
        clock.advance(2)
    assert m.report.total_measured_j == 200.0
    assert len(read_log(log).segments) == 2


class Impatient(Steady):
    """Is interrupted by Ctrl-C while it is closed, once."""

    name = "impatient"

    def close(self):
        super().close()
        if self.closed == 1:
            raise KeyboardInterrupt


def test_ctrl_c_while_a_sensor_is_closed_goes_on_after_the_report_and_keeps_no_lock(clock):
    m = EnergyMeter((Impatient(clock),), clock=clock, attribute=False, background=False).start()
    clock.advance(1)
    with pytest.raises(KeyboardInterrupt):
        m.stop()
    assert m.report.total_measured_j == 100.0
    assert free(m)


def test_ctrl_c_while_a_sensor_is_closed_leaves_neither_the_others_nor_the_log_open(tmp_path, clock):
    log, good = tmp_path / "log", Steady(clock)
    sensors = Impatient(clock), good
    m = EnergyMeter(sensors, clock=clock, attribute=False, period_s=3600.0, background=False, log=log).start()
    with pytest.raises(KeyboardInterrupt):
        m.stop()
    closed, still_open = good.closed, descriptors(log)
    m._session.recorder.release()
    assert (closed, still_open) == (1, 0)


class Interrupting(Steady):
    """Raises Ctrl-C's exception when it is told to."""

    name = "interrupting"
    now = False

    def read(self, scope="tick"):
        if self.now:
            self.now = False
            raise KeyboardInterrupt
        return super().read(scope)


def test_ctrl_c_in_the_last_reading_goes_on_after_the_report_and_leaves_nothing_open(tmp_path, clock):
    log, sensor, threads = tmp_path / "log", Interrupting(clock), threading.active_count()
    m = EnergyMeter((sensor,), clock=clock, attribute=False, period_s=3600.0, log=log).start()
    assert threading.active_count() == threads + 1
    with m.window("w"):
        clock.advance(2)
    clock.advance(1)
    sensor.now = True
    with pytest.raises(KeyboardInterrupt):
        m.stop()
    report = m.report
    assert (report.flags, report.duration_s, report.total_measured_j) == (("stuck",), 3.0, 200.0)
    assert report.windows["w"].measured_j == 200.0
    assert m.stop() is report
    assert sensor.closed == 1
    assert descriptors(log) == 0
    assert threading.active_count() == threads
    assert free(m)
    assert '"type":"report"' in log.read_text().splitlines()[-1]


def test_a_thread_that_cannot_be_had_leaves_nothing_open_and_a_later_start_works(tmp_path, clock, monkeypatch):
    log, sensor = tmp_path / "log", Steady(clock)
    m = EnergyMeter((sensor,), clock=clock, attribute=False, period_s=3600.0, log=log)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            m.start()
    assert sensor.opened == sensor.closed == 1
    assert descriptors(log) == 0
    with pytest.raises(RuntimeError, match="not run"):
        m.read()
    assert free(m)
    with m:
        clock.advance(1)
    assert m.report.total_measured_j == 100.0
    assert sensor.opened == sensor.closed == 2
    assert descriptors(log) == 0


def refuse(thread):
    raise RuntimeError("can't start new thread")


class Missing(Steady):
    """Has a file open and nothing to say."""

    name = "missing"
    fd = -1

    def open(self):
        super().open()
        self.fd = os.open(os.devnull, os.O_RDONLY)
        return (Channel("missing", "cpu_package", "none", "absent", reason="it is not there"),)

    def read(self, scope="tick"):
        return Values()

    def close(self):
        super().close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def test_where_warnings_are_errors_a_start_that_raises_leaves_nothing_open_and_a_later_one_works(tmp_path, clock):
    log, sensor = tmp_path / "log", Missing(clock)
    m = EnergyMeter((sensor,), clock=clock, attribute=False, period_s=3600.0, log=log)
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208 -- counts alone
    with warnings.catch_warnings():
        warnings.simplefilter("error", EnergyWarning)
        with pytest.raises(EnergyWarning, match="it is not there"):
            m.start()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert sensor.opened == sensor.closed == 1
    assert threading.active_count() == threads
    assert free(m)
    with m:  # it has been said
        pass
    assert m.report.total_measured_j is None
