"""What the energy meter costs, and that its joules are right: the budget's table with the measured column.

    python benchmarks/energy_overhead.py

Counters are real files of a fake machine (four RAPL zones: two packages, each with its memory), read by the
system's own calls; a real register takes longer.  Times are medians; the thread's share is CPU time of a process that
sleeps, with the meter and without.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a script sees its own folder only

from mcmcopt.energy import EnergyMeter, EnergyWarning  # noqa: E402
from mcmcopt.energy.processes import Processes  # noqa: E402
from tests.energy.fakes import FakeMachine  # noqa: E402
from tests.peers.ours import measure  # noqa: E402
from tests.peers.scripts import SCENARIOS  # noqa: E402

IMPORT = """
import time, psutil
start = time.perf_counter()
from mcmcopt.energy import EnergyMeter
print(time.perf_counter() - start)
"""
RESIDENT = """
import json, sys, threading, time
from mcmcopt.energy import EnergyMeter
import mcmcopt.energy.outputs.text

def look():
    status = open("/proc/self/status").read()
    children = open(f"/proc/self/task/{threading.main_thread().native_id}/children").read().split()
    return int(status.split("VmRSS:")[1].split()[0]), threading.active_count(), len(children)

before = look()
meter = EnergyMeter("rapl", sysfs_root=sys.argv[1], period_s=0.1).start()
time.sleep(3)
after = look()
meter.stop()
print(json.dumps([b - a for a, b in zip(before, after)]))
"""
SLEEPS = """
import sys, time
from mcmcopt.energy import EnergyMeter
import mcmcopt.energy.outputs.text
seconds, period = float(sys.argv[2]), float(sys.argv[3])
meter = EnergyMeter("rapl", sysfs_root=sys.argv[1], period_s=period)
meter.start()
start = time.process_time()
time.sleep(seconds)
print(time.process_time() - start)
meter.stop()
"""
WAITS = """
import sys, threading, time
end, seconds, period = threading.Event(), float(sys.argv[2]), float(sys.argv[3])

def wait():
    while not end.wait(period):
        pass

thread = threading.Thread(target=wait)
if period:
    thread.start()
start = time.process_time()
time.sleep(seconds)
print(time.process_time() - start)
end.set()
"""
CHILDREN = (
    "import subprocess, sys\nfor _ in range(60): subprocess.run([sys.executable, '-S', '-c', 'sum(range(2000000))'])"
)


def child(code: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout  # noqa: S603


def median_of(n: int, work: Callable[[], Any]) -> float:
    """Return the median of so many times, in seconds."""
    found = []
    for _ in range(n):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def timings(root: Path, seconds: float, rounds: int) -> list[tuple[str, str, str]]:
    """Return the rows of times: what, target, measured."""
    make = functools.partial(EnergyMeter, "rapl", sysfs_root=root)
    imports = statistics.median(float(child(IMPORT)) for _ in range(rounds))
    meters = [make() for _ in range(5 * rounds)]
    starts = [median_of(1, meter.start) for meter in meters]
    stops = [median_of(1, meter.stop) for meter in meters]
    rows = [
        ("import of EnergyMeter beyond psutil", "< 25 ms", f"{1e3 * imports:.1f} ms"),
        (
            "start / stop",
            "< 20 / < 20 ms",
            f"{1e3 * statistics.median(starts):.2f} / {1e3 * statistics.median(stops):.2f} ms",
        ),
    ]
    for label, settings in (
        ("tick, 4 zones", {"attribute": False}),
        ("tick, 4 zones, with CPU time and memory of the process tree", {}),
        ("tick, 4 zones, with both and a log", {"log": root.parent / "bench.jsonl"}),
    ):
        with make(background=False, **settings) as meter:
            tick = median_of(200 * rounds, meter.tick)
        rows.append((label, "< 50 µs" if label[-5:] == "zones" else "–", f"{1e6 * tick:.1f} µs"))
    with make(background=False) as meter:

        def window() -> None:
            with meter.window("w"):
                pass

        both = median_of(100 * rounds, window)
    rows.append(("both edges of a window, and its report", "–", f"{1e6 * both:.0f} µs"))
    base = float(child(WAITS, "", str(seconds), "0"))
    for rate, target in ((1, "< 0.1 %"), (10, "< 0.3 %")):
        found = []
        for code in (SLEEPS, WAITS):
            used = float(child(code, str(root), str(seconds), str(1 / rate))) - base
            found.append(f"{100 * used / seconds:.3f} %")
        label = f"thread's CPU time at {rate} Hz, over {seconds:g} s (of a thread that only waits)"
        rows.append((label, target, f"{found[0]} ({found[1]})"))
    resident, threads, processes = json.loads(child(RESIDENT, str(root)))
    extra = f"{processes} / {threads} / {resident / 1024:.2f} MiB"
    rows.append(("extra processes / threads / resident memory", "0 / 1 / < 2 MiB", extra))
    return rows


def of_children() -> float:
    """Return the CPU seconds that the system has charged to children that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def short_children() -> tuple[str, str, str]:
    """Return the row of CPU time that children used who lived shorter than a sampling period."""
    processes, true = Processes(), of_children()
    before = processes.look().process_s
    subprocess.run([sys.executable, "-c", CHILDREN], check=True)  # noqa: S603
    seen, true = processes.look().process_s - before, of_children() - true
    return "short-lived children's CPU time that is seen", "> 95 %", f"{100 * seen / true:.1f} % of {true:.2f} s"


def joules() -> list[tuple[str, str, str]]:
    """Return the rows of joules: what, truth, reported."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, scenario in enumerate(SCENARIOS):
            found = measure(scenario, Path(folder) / str(number))
            said = "–" if found is None else f"{found:,.3f} J ({100 * (found / scenario.truth_j - 1):+.3f} %)"
            rows.append((scenario.name, f"{scenario.truth_j:,.1f} J", said))
    return rows


def table(heads: tuple[str, str, str], rows: list[tuple[str, str, str]]) -> str:
    lines = [heads, ("---", "---", "---"), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="for which the thread's CPU time is watched")
    parser.add_argument("--rounds", type=int, default=11, help="of everything that is repeated")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", EnergyWarning)
    with tempfile.TemporaryDirectory() as folder:
        machine = FakeMachine(Path(folder), "server")
        rows = timings(machine.root, options.seconds, options.rounds)
    print(table(("what it costs", "target", "measured"), [*rows, short_children()]))
    print()
    print(table(("joules, exact on a fake machine", "truth", "reported"), joules()))


if __name__ == "__main__":
    main()
