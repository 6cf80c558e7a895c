"""A forked child leaves its parent's meter alone."""

import multiprocessing
import os
import threading
import time
import warnings

import pytest

from mcmcopt.energy import EnergyMeter, EnergyMeterForkedError, read_log
from tests.energy.stand_ins import Steady, Stuck

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def forked(function):
    """Return the exit code of a forked child that calls a function and leaves at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks beside threads: that is the test
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = function()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_child_is_refused_and_writes_nothing(tmp_path):
    log, sensor = tmp_path / "log.jsonl", Steady(time.monotonic)
    with EnergyMeter((sensor,), log=log, period_s=0.01) as m:

        def child():
            refused = 0
            for call in (m.read, m.stop, m.start, lambda: m.window("w"), m.tick):
                try:
                    call()
                except EnergyMeterForkedError:
                    refused += 1
            time.sleep(0.1)  # its copy of the thread, were there one, would write now
            with EnergyMeter((Steady(time.monotonic),), attribute=False):  # one of its own works
                pass
            return 10 + refused if sensor.forgotten == 1 else 2

        size = log.stat().st_size
        assert forked(child) == 15
        with m.window("after"):
            pass
    assert log.stat().st_size > size
    lines = log.read_text().splitlines()
    assert len({line for line in lines if '"type":"header"' in line}) == 1
    times = [sample.t_s for sample in read_log(log)]
    assert times == sorted(times)
    assert m.report.coverage == 1.0
    assert sensor.forgotten == 0


def test_a_child_forked_while_the_meter_reads_does_not_hang():
    sensor = Steady(time.monotonic)
    with EnergyMeter((sensor,), period_s=0.001) as m:
        codes = {forked(lambda: 0 if m._forked else 1) for _ in range(30)}
    assert codes == {0}


def test_a_child_forked_while_another_thread_is_stuck_in_a_sensor_waits_for_no_lock(monkeypatch):
    monkeypatch.setattr("mcmcopt.energy.meter.STOP_S", 20.0)
    sensor = Stuck(time.monotonic, good_reads=1)
    m = EnergyMeter((sensor,), attribute=False, background=False).start()
    other = threading.Thread(target=m.tick)
    other.start()
    assert sensor.waiting.wait(20)

    def child():
        start = time.monotonic()
        for call in (m.start, m.stop, m.tick):
            try:
                call()
            except EnergyMeterForkedError:
                continue
            return 2
        return 0 if time.monotonic() - start < 10 else 3

    code = forked(child)
    sensor.let_go.set()
    other.join(20)
    m.stop()
    assert code == 0
    assert sensor.closed == 1


def test_workers_of_a_data_loader_leave_the_log_alone(tmp_path):
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("no fork here")
    log = tmp_path / "log.jsonl"
    data = TensorDataset(torch.arange(8.0))
    with EnergyMeter((Steady(time.monotonic),), log=log, period_s=0.01) as m, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loader = DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context="fork")
        with m.window("epoch") as window:
            assert sum(float(x.sum()) for (x,) in loader) == 28.0
    segments = read_log(log).segments
    assert len(segments) == 1
    assert window.report.coverage == 1.0
