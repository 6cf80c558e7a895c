"""What a proposal costs: plain closure, incremental loss, several together, per decision; and how near to the machine.

    python benchmarks/proposals.py [--threads 1 2] [--only cnn mlp lenet vgg digits scaling] [--rounds N] [--quick]

The plain closure writes the change, runs the network in chunks of 256 samples without gradients, takes the loss, and
puts the old values back: the fastest plain form.  Baseline and ours alternate in rounds within one process; times are
medians over rounds, ratios medians of the ratios of the same round, with their range.

    work÷     multiply-adds of a forward over those of the proposal
    MB, MFMA  what the proposal must move and multiply, computed from shapes (benchmarks/costs.py says how)
    limit     the larger of MB / bandwidth and MFMA / peak, both measured in the same run
    share     limit / time; where everything fits into the processor's caches it may exceed what memory allows
    UNSTEADY  rounds differ by more than half, in the baseline or in ours: something else ran, the row says nothing
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cases, chains, machine, rounds, scaling
from benchmarks.machine import Others, seconds
from mcmcopt import IncrementalLoss

PARTS = ("compile", "cnn", "mlp", "lenet", "vgg", "digits", "scaling", "gains")
SIZES = {"cnn": (10_000, 50_000), "mlp": (1_024,), "lenet": (10_000,), "vgg": (256,), "digits": (1_400,)}
QUICK_SIZES = {"cnn": (640,), "mlp": (128,), "lenet": (128,), "vgg": (4,), "digits": (200,)}


def measure(arguments: argparse.Namespace) -> None:
    """Print everything for one number of threads."""
    threads, quick, parts = arguments.threads[0], arguments.quick, arguments.only
    torch.set_num_threads(threads)
    start = time.perf_counter()
    name = f"{threads} thread{'s' * (threads > 1)}"
    print(f"\n===== {name}, torch {torch.__version__}, load before {os.getloadavg()[0]:.1f} =====")
    limits = machine.measure(40, 512, 2_000, 2) if quick else machine.measure()
    print(f"read bandwidth {limits.bandwidth / 1e9:.1f} GB/s by {limits.bandwidth_by}")
    print(f"float32 peak {limits.peak / 1e9:.1f} GFMA/s by {limits.peak_by}", flush=True)
    sizes = QUICK_SIZES if quick else SIZES
    lines: list[str] = []
    for part in (part for part in sizes if part in parts):
        for n in sizes[part]:
            case, others = getattr(cases, part)(n), Others()
            few = {"cnn": 3, "vgg": 2, "lenet": 3}.get(part, arguments.rounds)
            rounds.compare(case, limits, min(few, arguments.rounds))
            if part in ("mlp", "digits"):
                names = ["rows"] if part == "mlp" else ["rows", "default moves"]
                lines += chains.compare(case, names, 20 if quick else 200, arguments.rounds)
            print(f"  {others.text()}")
            del case
            gc.collect()  # objectives and their caches are in cycles
            sys.stdout.flush()
    if "scaling" in parts:
        others = Others()
        scaling.growth(limits, min(3, arguments.rounds), quick)
        print(f"  {others.text()}")
    if "gains" in parts:
        others = Others()
        compared = [cases.cnn(sizes["cnn"][0]), cases.mlp(sizes["mlp"][0]), cases.digits(sizes["digits"][0])]
        scaling.gains(compared, sizes["cnn"][0], limits, min(3, arguments.rounds), lines)
        print(f"  {others.text()}")
    print(f"\n{name}: {time.perf_counter() - start:.0f} s", flush=True)


def probe() -> None:
    """Print the seconds of first and later calls on a tiny batch of the reference CNN."""
    import numpy as np

    torch.set_num_threads(1)
    case, rng = cases.cnn(256), np.random.default_rng(0)
    bound = IncrementalLoss(case.model, nn.CrossEntropyLoss()).bind(case.x, case.y)
    parts = [f"fill {seconds(bound.evaluate):.2f}"]
    for kind in case.kinds:
        changes = [case.draw(kind, rng) for _ in range(2)]
        first, later = (seconds(lambda c=c: rounds.propose_all(bound, [c])) for c in changes)
        parts.append(f"{kind.label} {first:.3f}, then {later:.4f}")
    print("; ".join(parts))


def compile_times() -> None:
    """Print what compiling costs with an empty cache on disk, and loading with a full one."""
    print("compile time, reference CNN, n = 256, s of the first call and of the next:", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("empty cache on disk", "compiled before   "):
            environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
            command = [sys.executable, __file__, "--probe"]
            run = subprocess.run(command, env=environment, capture_output=True, text=True)  # noqa: S603
            print(f"  {name}: {run.stdout.strip() or 'FAILED: ' + run.stderr[-300:]}", flush=True)


class Tee(io.TextIOBase):
    """Writes to the terminal and keeps a copy."""

    def __init__(self, terminal: io.TextIOBase) -> None:
        self._terminal, self.kept = terminal, []

    def write(self, text: str) -> int:
        self.kept.append(text)
        return self._terminal.write(text)

    def flush(self) -> None:
        self._terminal.flush()


@contextlib.contextmanager
def kept(output: Path | None) -> Iterator[None]:
    """Write what is printed within to a file too, under its name once it is complete."""
    tee = Tee(sys.stdout)  # type: ignore[arg-type]
    with contextlib.redirect_stdout(tee):  # type: ignore[type-var]
        yield
    if output is not None:
        temporary = output.with_name(output.name + ".part")
        temporary.write_text("".join(tee.kept), encoding="utf-8")
        temporary.replace(output)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="each in a process of its own")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--rounds", type=int, default=5, help="at most 3 of them, 2 for VGG, where plain forms are slow"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, to see that it runs; the numbers mean nothing"
    )
    parser.add_argument("--output", type=Path, help="a file that receives the text")
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.rounds < 1 or any(threads < 1 for threads in parsed.threads):
        parser.error("--rounds and --threads must be at least 1")
    if parsed.quick:
        parsed.rounds = min(parsed.rounds, 2)
    return parsed


def main(arguments: list[str] | None = None) -> None:
    parsed = parse(arguments)
    if parsed.probe:
        probe()
        return
    with kept(parsed.output):
        if "compile" in parsed.only:
            compile_times()
        parts = [part for part in parsed.only if part != "compile"]
        if parts and len(parsed.threads) == 1:
            parsed.only = parts
            measure(parsed)
        elif parts:
            for threads in parsed.threads:
                command = [sys.executable, "-u", __file__, "--threads", str(threads), "--only", *parts]
                command += ["--rounds", str(parsed.rounds), *(["--quick"] if parsed.quick else [])]
                environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
                with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as run:  # noqa: S603
                    assert run.stdout is not None  # noqa: S101 -- a pipe was asked for
                    for line in run.stdout:
                        print(line, end="", flush=True)
                if run.returncode:
                    sys.exit(f"the run with {threads} threads failed with {run.returncode}")


if __name__ == "__main__":
    main()
