"""What part of the energy is this process's: its share of CPU time, tick by tick, an estimate that says so."""

import os
import random
import resource
import subprocess
import sys
import time

import pytest

from mcmcopt.energy.processes import Processes, Usage
from tests.energy.rig import ONE, PACKAGE, StubProcesses, rig, run

TICK = os.sysconf("SC_CLK_TCK")
BURN = "import time\nwhile time.process_time() < 0.06: pass"
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


class FakeProc:
    """A /proc of processes with CPU times in seconds and memory in pages, and the machine's own line."""

    def __init__(self, root):
        self.root, self.machine = root, {}
        self.set_machine()

    def add(self, pid, *, user=0.0, system=0.0, waited=0.0, children=(), pages=10, name="python"):
        folder = self.root / str(pid)
        (folder / "task" / str(pid)).mkdir(parents=True, exist_ok=True)
        ticks = [round(s * TICK) for s in (user, system, waited, 0.0)]
        fields = ["S", *["0"] * 10, *map(str, ticks), *["0"] * 6, str(pages), *["0"] * 20]
        (folder / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")
        (folder / "task" / str(pid) / "children").write_text(" ".join(map(str, children)))

    def set_machine(self, **seconds):
        names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
        line = " ".join(str(round(seconds.get(name, 0.0) * TICK)) for name in names)
        (self.root / "stat").write_text(f"cpu  {line}\ncpu0 {line}\n")

    def look(self, pid=10):
        return Processes(pid, str(self.root)).look()


@pytest.fixture
def proc(tmp_path):
    (tmp_path / "proc").mkdir()
    return FakeProc(tmp_path / "proc")


@linux
def test_the_tree_is_counted_with_what_it_has_waited_for_and_nothing_else(proc):
    proc.add(10, user=1.0, system=0.5, waited=2.0, children=(11, 12))
    proc.add(11, user=0.25, children=(13,))
    proc.add(12, user=0.25, name="a (b) c) d 7 8")
    proc.add(13, system=4.0)
    proc.add(99, user=1000.0)
    proc.set_machine(user=100.0)
    usage = proc.look()
    assert usage.process_s == pytest.approx(8.0)
    assert usage.rss_bytes == 40 * os.sysconf("SC_PAGE_SIZE")


@linux
def test_the_machine_is_busy_when_it_runs_nice_programs_and_interrupts_not_when_it_waits_or_is_robbed(proc):
    proc.add(10)
    proc.set_machine(user=1, nice=2, system=4, irq=8, softirq=16, idle=1e4, iowait=1e4, steal=1e4, guest=1e4)
    assert proc.look().machine_s == pytest.approx(31.0)


@linux
def test_a_child_that_ends_meanwhile_or_whose_list_is_a_circle_is_no_error(proc):
    proc.add(10, user=1.0, children=(11, 404))
    proc.add(11, user=1.0, children=(10,))
    assert proc.look().process_s == pytest.approx(2.0)


@linux
def test_a_number_that_another_process_has_by_now_is_not_taken_for_a_child(proc):
    proc.add(10, user=1.0, children=(11,))
    proc.add(11, user=1.0)
    before = proc.look().process_s
    proc.add(10, user=1.0, waited=1.0)  # 11 has ended and was waited for
    proc.add(11, user=500.0)  # somebody else's
    assert proc.look().process_s == before == pytest.approx(2.0)


@linux
def test_more_than_95_percent_of_the_time_of_short_lived_children_is_found():
    processes = Processes()
    before, spent = processes.look(), -sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    spent -= time.process_time()
    for _ in range(16):
        subprocess.run([sys.executable, "-S", "-E", "-c", BURN], check=True)
    after = processes.look()
    spent += sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) + time.process_time()
    assert spent > 0.9
    found = after.process_s - before.process_s
    assert found > 0.95 * spent
    assert found < spent + 4 / TICK
    assert after.machine_s - before.machine_s > 0.8 * found


@linux
def test_a_zombie_keeps_its_time_until_and_after_it_is_waited_for():
    processes = Processes()
    before = processes.look().process_s
    child = subprocess.Popen([sys.executable, "-S", "-E", "-c", BURN], stdout=subprocess.PIPE)
    child.stdout.read()  # it has closed its files: it ends
    child.stdout.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    zombie = processes.look().process_s
    child.wait()
    waited = processes.look().process_s
    assert zombie - before >= 0.02
    assert waited >= zombie


def test_energy_is_shared_tick_by_tick_and_not_on_the_mean_of_the_run(tmp_path):
    stub = StubProcesses()
    machine, meter = rig(tmp_path, ONE, processes=stub)
    with meter:
        machine.power["package-0"] = 200.0
        stub.use(4.0, 4.0)
        run(machine, meter, seconds=1)
        machine.power["package-0"] = 20.0
        stub.use(0.0, 4.0)
        run(machine, meter, seconds=1)
    process = meter.report.process
    assert (process.energy_j, process.share, process.provenance) == (200.0, 0.5, "estimated")
    assert (process.cpu_s, process.machine_cpu_s) == (4.0, 8.0)


def test_only_packages_are_shared_and_the_estimate_enters_no_total(tmp_path):
    stub = StubProcesses()
    machine, meter = rig(tmp_path, "server", processes=stub)
    with meter:
        stub.use(1.0, 2.0)
        run(machine, meter, seconds=10)
    report = meter.report
    assert (report.process.energy_j, report.total_measured_j) == (1450.0, 3270.0)
    assert report.total_estimated_j is None


def test_of_mirrored_dies_one_is_shared(tmp_path):
    stub = StubProcesses()
    machine, meter = rig(tmp_path, "amd", processes=stub)
    with meter:
        for _ in range(10):
            stub.use(1.0, 1.0)
            run(machine, meter, seconds=1)
    assert meter.report.process.energy_j == pytest.approx(680.0)


@pytest.mark.parametrize(("used", "busy", "share"), [(5.0, 4.0, 1.0), (-3.0, 4.0, 0.0), (0.0, 1.0, 0.0)])
def test_a_share_is_between_0_and_1_also_when_a_descendant_takes_its_time_along(tmp_path, used, busy, share):
    stub = StubProcesses()
    machine, meter = rig(tmp_path, ONE, processes=stub)
    with meter:
        stub.use(used, busy)
        run(machine, meter, seconds=2)
    assert meter.report.process.share == share
    assert meter.report.process.energy_j == share * 240.0


def test_a_machine_that_did_next_to_nothing_gives_no_share(tmp_path):
    stub = StubProcesses()
    machine, meter = rig(tmp_path, ONE, processes=stub)
    with meter:
        stub.use(0.04, 0.04)
        run(machine, meter, seconds=2)
    assert (meter.report.process.share, meter.report.process.energy_j) == (None, None)


def test_too_little_in_one_period_is_kept_for_the_next(tmp_path):
    stub = StubProcesses()
    machine, meter = rig(tmp_path, ONE, processes=stub)
    with meter:
        for _ in range(10):
            stub.use(0.01, 0.02)
            run(machine, meter, seconds=1)
    assert meter.report.process.share == pytest.approx(0.5)
    assert meter.report.process.energy_j == pytest.approx(600.0)


def test_without_a_package_there_is_a_share_and_no_energy(tmp_path):
    stub = StubProcesses()
    machine, meter = rig(tmp_path, ONE, processes=stub)
    machine.fail_always("package-0")
    with meter:
        stub.use(1.0, 2.0)
        run(machine, meter, seconds=2)
    assert (meter.report.process.share, meter.report.process.energy_j) == (0.5, None)


def test_nothing_is_looked_at_when_nothing_is_to_be_attributed(tmp_path):
    stub = StubProcesses()
    machine, meter = rig(tmp_path, ONE, processes=stub, attribute=False)
    with meter, meter.window("w"):
        run(machine, meter, seconds=2)
    assert stub.looks == 0
    assert meter.report.process is meter.report.memory is None


def test_processes_that_can_no_longer_be_read_end_the_attribution_and_not_the_measurement(tmp_path):
    from mcmcopt.energy import EnergyWarning

    class Gone(StubProcesses):
        def look(self):
            if self.looks > 2:
                raise OSError("no /proc")
            return super().look()

    machine, meter = rig(tmp_path, ONE, processes=Gone())
    with pytest.warns(EnergyWarning, match="no /proc"), meter:
        run(machine, meter, seconds=5)
    assert meter.report.total_measured_j == 600.0


def test_back_to_back_windows_share_out_what_the_run_has(tmp_path):
    stub, rng = StubProcesses(), random.Random(4)
    machine, meter = rig(tmp_path, ONE, processes=stub)
    parts = []
    with meter:
        for _ in range(20):
            with meter.window("w") as window:
                machine.power["package-0"] = rng.uniform(10, 200)
                seconds = rng.uniform(0.2, 2)
                machine.advance(seconds)
                stub.use(rng.uniform(0, seconds), seconds)
            parts.append(window.report.process.energy_j)
            assert 0 <= parts[-1] <= window.report.cpu_j
    assert sum(parts) == pytest.approx(meter.report.process.energy_j)


def test_a_short_window_is_never_given_more_than_it_measured(tmp_path):
    stub = StubProcesses()
    machine, meter = rig(tmp_path, [*ONE], processes=stub)
    with meter:
        machine.advance(1.0)
        stub.use(0.0, 1.0)
        meter.tick()
        machine.advance(0.09)
        stub.use(0.09, 0.09)
        with meter.window("short") as window:
            machine.advance(0.02)
            stub.use(0.02, 0.02)
    report = window.report
    assert report.channels[PACKAGE].energy_j == pytest.approx(2.4)
    assert report.process.energy_j <= report.cpu_j


def test_a_usage_is_what_a_look_gives():
    assert Usage(1.0, 2.0, 3)._fields == ("process_s", "machine_s", "rss_bytes")
    assert Processes().look().process_s > 0


@pytest.mark.parametrize(
    ("looks", "said"), [([1001.0, 401.0, 1002.0], 1002.0), ([1001.0, 401.0, 401.0, 401.0, 401.0], 401.0)]
)
def test_a_descendant_that_is_missing_for_a_moment_is_looked_for_again(monkeypatch, looks, said):
    """One that stays away was lost sight of, and is not counted again when others go on."""
    processes = Processes()
    left = iter(looks)
    monkeypatch.setattr(processes, "_once", lambda: Usage(next(left), 1e4, 1))
    assert processes.look().process_s == 1001.0
    assert processes.look().process_s == said
