"""A meter begins, ends and breaks without a trace: threads, files, and other people's exceptions stay as they were."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mcmcopt.energy import EnergyMeter, SensorUnavailable, measure_energy, read_log, summarize
from tests.energy.fakes import FakeClock, FakeMachine
from tests.energy.stand_ins import Broken, Interrupted, Slow, Steady, Stuck


def run(m, clock, seconds):
    with m:
        for _ in range(seconds):
            clock.advance(1)
            m.tick()
    return m


@pytest.fixture
def clock():
    return FakeClock()


def meter(clock, *sensors, **settings):
    return EnergyMeter(sensors or (Steady(clock),), clock=clock, attribute=False, background=False, **settings)


def test_the_bodys_exception_goes_on_and_the_meter_has_stopped(clock):
    def use():
        nonlocal window
        with m, m.window("inner") as window:
            clock.advance(2)
            raise error

    for error in (ZeroDivisionError, KeyboardInterrupt):
        m, window = meter(clock), None
        with pytest.raises(error):
            use()
        assert m.report.total_measured_j == window.report.total_measured_j == 200.0


def test_a_second_stop_returns_the_same_report(clock):
    m = meter(clock).start()
    clock.advance(1)
    first = m.stop()
    clock.advance(1)
    assert m.stop() is first is m.report


def test_a_meter_that_is_started_again_begins_at_zero(clock):
    m = meter(clock)
    for seconds in (1, 3):
        with m:
            clock.advance(seconds)
        assert m.report.total_measured_j == 100.0 * seconds
        clock.advance(10)


def test_a_window_that_outlives_its_meter_is_cut_there_and_says_so(clock):
    m = meter(clock).start()
    with m.window("long") as window:
        clock.advance(1)
        m.stop()
        clock.advance(5)
    assert window.report.total_measured_j == 100.0
    assert window.report.flags == ("cut_by_stop",)
    assert m.report.windows["long"].measured_j == 100.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"period_s": 0}, "period_s"),
        ({"period_s": -1.0}, "period_s"),
        ({"period_s": float("nan")}, "period_s"),
        ({"period_s": True}, "period_s"),
        ({"sources": "rapll"}, "rapll.*rapl, nvml, hwmon"),
        ({"sources": (3,)}, "no sensor"),
        ({"idle_w": -1.0}, "idle_w"),
        ({"require": "cpu_package"}, "sequence"),
        ({"cpu_estimate": 0.0}, "cpu_estimate"),
        ({"cpu_estimate": "tabel"}, "cpu_estimate"),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        EnergyMeter(**settings)


def test_misuse_is_refused(clock):
    m = meter(clock)
    for call in (lambda: m.window("w"), m.read, m.stop, lambda: m.report, lambda: m.calibrate_idle(2)):
        with pytest.raises(RuntimeError, match="start"):
            call()
    with m:
        with pytest.raises(RuntimeError, match="runs already"):
            m.start()
        window = m.window("w")
        with pytest.raises(RuntimeError, match="not closed"):
            window.report  # noqa: B018
        with window, pytest.raises(RuntimeError, match="entered before"), window:
            pass


def test_what_is_required_and_missing_is_named_with_what_would_help(tmp_path):
    machine = FakeMachine(tmp_path, "forbidden", FakeClock())
    with pytest.raises(SensorUnavailable, match=r"(?s)cpu_package.*energy_uj.*errno 13.*udev.*chgrp"):
        EnergyMeter("rapl", require=("cpu_package",), sysfs_root=machine.root, opener=machine)
    machine = FakeMachine(tmp_path / "good", "laptop", FakeClock())
    EnergyMeter("rapl", require=("cpu_package", "rapl:psys"), sysfs_root=machine.root, opener=machine)
    with pytest.raises(SensorUnavailable, match="gpu"):
        EnergyMeter("rapl", require=("gpu",), sysfs_root=machine.root, opener=machine)


def files_open():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("runs", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_runs_leave_no_thread_and_no_file(tmp_path, runs):
    machine = FakeMachine(tmp_path, "laptop", FakeClock())
    m = EnergyMeter("rapl", sysfs_root=machine.root, opener=machine, clock=machine.clock, log=tmp_path / "log.jsonl")
    with m:
        pass
    threads, files = threading.active_count(), files_open()
    for _ in range(runs):
        m.start()
        m.stop()
    assert threading.active_count() == threads
    assert files_open() == files
    assert len(read_log(tmp_path / "log.jsonl").segments) == runs + 1


def test_one_thread_at_most_and_none_where_nothing_would_be_lost(clock):
    before = threading.active_count()
    with EnergyMeter((Steady(clock),), clock=clock, attribute=False):
        assert threading.active_count() == before  # a counter that never wraps, no log, no attribution
    with EnergyMeter((Steady(clock),), clock=clock), EnergyMeter((Steady(clock),), clock=clock):
        assert threading.active_count() == before + 2
    assert threading.active_count() == before


def test_two_meters_at_once_agree(tmp_path):
    machine = FakeMachine(tmp_path, "laptop", FakeClock())
    settings = {"sysfs_root": machine.root, "opener": machine, "clock": machine.clock, "background": False}
    with EnergyMeter("rapl", **settings) as a:
        machine.advance(3)
        with EnergyMeter("rapl", **settings) as b:
            machine.advance(4)
    assert (a.report.total_measured_j, b.report.total_measured_j) == (7 * 30, 4 * 30)


def test_a_sensor_that_breaks_ends_alone(clock):
    m = EnergyMeter((Broken(clock, 3), Renamed(clock)), clock=clock, attribute=False, background=False)
    with pytest.warns(match="broken is not read any more.*driver is gone"):
        run(m, clock, 10)
    broken, good = m.report.channels["steady"], m.report.channels["other"]
    assert (broken.energy_j, broken.coverage, broken.flags) == (200.0, 0.2, ("source_failed", "unread_edge"))
    assert (good.energy_j, good.coverage, good.flags) == (1000.0, 1.0, ())
    assert m.report.total_measured_j == 1200.0
    assert m.report.coverage == 0.2


class Renamed(Steady):
    def open(self):
        return tuple(type(c)(**{**vars(c), "id": "other"}) for c in super().open())

    def read(self, scope="tick"):
        values = super().read(scope)
        return type(values)(uj=dict.fromkeys(("other",), *values.uj.values()))


def test_a_stop_does_not_wait_for_a_sensor_that_never_answers(monkeypatch):
    monkeypatch.setattr("mcmcopt.energy.meter.STOP_S", 0.1)
    sensor = Stuck(time.monotonic, good_reads=1)
    m = EnergyMeter((sensor,), period_s=0.01).start()
    assert sensor.waiting.wait(5)
    start = time.monotonic()
    with pytest.warns(match="not answered"):
        report = m.stop()
    assert time.monotonic() - start < 2
    assert "stuck" in report.flags
    assert report.total_measured_j is None or report.coverage == 0  # nothing was read after the start
    sensor.let_go.set()
    deadline = time.monotonic() + 5
    while not sensor.closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sensor.closed  # by the thread, when it came back


def test_a_stop_waits_for_another_threads_window_and_lets_go_of_everything():
    sensor = Slow(time.monotonic, 0.3)
    m = EnergyMeter((sensor,), attribute=False).start()
    other = threading.Thread(target=m.window("other").__enter__)
    other.start()
    assert sensor.waiting.wait(5)
    report = m.stop()
    other.join()
    assert "stuck" not in report.flags
    assert sensor.closed == sensor.opened == 1


def test_training_goes_on_while_a_sensor_does_not_answer(monkeypatch):
    monkeypatch.setattr("mcmcopt.energy.meter.STOP_S", 0.1)
    sensor = Stuck(time.monotonic, good_reads=1)
    m = EnergyMeter((sensor,), period_s=0.01).start()
    assert sensor.waiting.wait(5)
    optimizer = Hooked()
    steps = m.attach(optimizer)
    start = time.monotonic()

    def train():
        for _ in range(100):
            with m.window("epoch") as window:
                optimizer.step()
        return window

    with pytest.warns(match="not answered"):
        window = train()
    assert time.monotonic() - start < 2  # one wait, not two hundred
    assert "stuck" in window.report.flags
    assert window.report.total_measured_j is None
    assert steps.report.total_measured_j is None
    sensor.let_go.set()
    while sensor.reads < 5:
        time.sleep(0.01)
    with m.window("after") as after:
        time.sleep(0.02)
    assert after.report.flags == ()
    assert after.report.coverage == 1.0
    m.stop()


class Hooked:
    """An optimizer, as far as hooks go."""

    def __init__(self):
        self.before, self.after = [], []

    def register_step_pre_hook(self, hook):
        self.before.append(hook)
        return self

    def register_step_post_hook(self, hook):
        self.after.append(hook)
        return self

    def step(self):
        for hook in (*self.before, *self.after):
            hook(self, (), {})


def test_a_handler_that_asks_in_the_midst_of_a_sample_disturbs_none(clock):
    sensor = Interrupted(clock)
    m = meter(clock, sensor)
    with m:
        sensor.handler = m.read
        for _ in range(5):
            clock.advance(1)
            m.tick()
        sensor.handler = None
    assert m.report.total_measured_j == 500.0
    assert m.report.channels["steady"].flags == ()


def test_a_script_that_never_stops_its_meter_ends_all_the_same(tmp_path):
    log = tmp_path / "log.jsonl"
    code = f"from mcmcopt.energy import EnergyMeter; EnergyMeter(cpu_estimate=5.0, log={str(log)!r}).start()"
    start = time.monotonic()
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=20)
    plain = time.monotonic()
    subprocess.run([sys.executable, "-W", "ignore", "-c", "import mcmcopt.energy.meter"], check=True, timeout=20)
    assert (plain - start) - (time.monotonic() - plain) < 1
    assert len(read_log(log)) == 1


def test_a_log_that_cannot_be_written_raises_at_the_start(tmp_path, clock):
    (tmp_path / "file").write_text("")
    m = meter(clock, log=tmp_path / "file" / "log.jsonl")
    with pytest.raises(OSError, match="file"):
        m.start()
    with pytest.raises(RuntimeError, match="start"):
        m.read()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux shows a full disk there")
def test_a_full_disk_ends_the_log_and_not_the_measurement(clock):
    with pytest.warns(match="log .*No space"):
        m = run(meter(clock, log="/dev/full"), clock, 2)
    assert m.report.total_measured_j == 200.0
    assert m.report.flags == ("log_failed",)


def test_idle_is_measured_and_subtracted_never_below_zero(clock):
    sensor = Steady(clock, 40.0)
    m = EnergyMeter((sensor,), clock=clock, attribute=False, background=False, sleep=clock.advance)
    with m:
        idle = m.calibrate_idle(10)
        assert (idle.w, idle.std_w, idle.duration_s, idle.source) == (
            pytest.approx(40),
            pytest.approx(0),
            10.0,
            "measured",
        )
        with m.window("rest") as rest:
            clock.advance(5)
    assert rest.report.total_measured_j == pytest.approx(200)
    assert rest.report.net_j == pytest.approx(0, abs=1e-6)
    with meter(clock, idle_w=30.0) as given:
        clock.advance(2)
    assert (given.report.net_j, given.report.idle.source) == (140.0, "given")
    with meter(clock, idle_w=300.0) as given:
        clock.advance(2)
    assert given.report.net_j == 0.0


def test_a_decorated_function_is_measured_and_stays_itself(clock):
    reports = []

    @measure_energy("work", callback=reports.append, sources=(Steady(clock),), clock=clock, attribute=False)
    def work(seconds, fail=False):
        """Docs."""
        clock.advance(seconds)
        if fail:
            raise LookupError("inside")
        return seconds

    assert work(3) == 3
    assert work.__doc__ == "Docs."
    assert work.last_report.total_measured_j == reports[0].total_measured_j == 300.0
    with pytest.raises(LookupError, match="inside"):
        work(1, fail=True)
    assert len(reports) == 1
    with pytest.raises(TypeError, match="parentheses"):
        measure_energy(work)


def test_a_decorated_function_can_be_a_window_of_a_running_meter(clock):
    with meter(clock) as m:
        measured = measure_energy(meter=m)(clock.advance)
        measured(2)
        measured(3)
    assert m.report.windows["advance"].count == 2
    assert m.report.windows["advance"].measured_j == 500.0


def test_its_own_thread_loses_nothing_of_a_run(tmp_path):
    log = tmp_path / "log.jsonl"
    with EnergyMeter((Steady(time.monotonic),), period_s=0.02, log=log, attribute=False) as m:
        time.sleep(0.3)
    uncertain_j = m.report.channels["steady"].uncertainty_j
    assert m.report.total_measured_j == pytest.approx(100 * m.report.duration_s, abs=uncertain_j)
    assert 8 <= len(read_log(log)) <= 20
    assert summarize(read_log(log)).total_measured_j == m.report.total_measured_j
