"""What a run costs beyond its optimizer's steps: the loop, rows, checkpoints and the meter, as shares of training.

    python benchmarks/loop_overhead.py

In turns, each case runs as a bare loop (model, data, optimizer, batches, `step`, nothing else), as `experiments/run.py`
runs it, and so once more with its usual rows of metrics.csv in place of a first and a last one.  `loop` is what is left
of the second's training when the bare loop and the next two columns are taken away: batches, counters, progress.
`meter` are its windows, `checkpoint` the share that one checkpoint takes of the 30 s after which it is due.  `rows` is
what the third takes longer: evaluations on all data, as often as the case asks for; not part of the sum.  Medians over
rounds, as shares of the bare loop's time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import Others  # noqa: E402
from experiments import job, outcome, record, schema  # noqa: E402, F401
from experiments.config import build, resolved  # noqa: E402
from experiments.energy import Energy  # noqa: E402
from experiments.optimizers import make_optimizer  # noqa: E402
from experiments.train import Training, cross_entropies  # noqa: E402
from mcmcopt.energy.window import Window  # noqa: E402

WIDE = ("model.sizes=[64,512,256,10]",)
CASES = {
    "digits, mcmc": ("optimizer=mcmc", "train.epochs=20"),
    "digits, mcmc, incremental": ("optimizer=mcmc", "train.epochs=60", "train.incremental=true"),
    "digits, sgd": ("optimizer=sgd", "train.epochs=60"),
    "64-512-256-10, mcmc": ("optimizer=mcmc", "train.epochs=4", "optimizer.n_proposals=20", *WIDE),
    "64-512-256-10, sgd": ("optimizer=sgd", "train.epochs=10", *WIDE),
}
PARTS = {
    "rows": ((outcome, "metrics"), (Training, "layer_rows"), (record.Table, "__init__"), (record.Table, "add")),
    "checkpoint": ((Training, "state_dict"), (Energy, "state_dict"), (record.Table, "sync"), (record, "save")),
    "meter": ((Window, "__enter__"), (Window, "__exit__")),
}
TARGET = 3.0


@dataclass
class Clock:
    """Seconds by part of a run; of parts within parts, each keeps its own."""

    now: Callable[[], float] = time.perf_counter
    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    _inner: list[float] = field(default_factory=list)

    @property
    def whole(self) -> float:
        """Seconds of training with all its parts."""
        return sum(self.seconds.values())

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Time the parts of runs within the block."""
        with contextlib.ExitStack() as stack:
            for part, functions in {**PARTS, "training": ((job, "_train"),)}.items():
                for owner, name in functions:
                    timed = self._timed(part, getattr(owner, name), name)
                    stack.enter_context(mock.patch.object(owner, name, timed))
            yield

    def _timed(self, part: str, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = self.now()
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                took = self.now() - start
                within = self._inner.pop()
                if self._inner or part == "training":  # the meter goes on after training
                    self.seconds[part] = self.seconds.get(part, 0.0) + took - within
                    self.calls[name] = self.calls.get(name, 0) + 1
                if self._inner:
                    self._inner[-1] += took

        return call if part != "training" else lambda *args: _stopped(call(*args))


class TrainedError(job.InterruptedRunError):
    """Ends a run after its training, which is all that is measured."""


def _stopped(_: object) -> None:
    raise TrainedError


def bare(cfg: DictConfig) -> Callable[[], None]:
    """Return a loop over the steps of a run's optimizer, ready to be timed."""
    config = resolved(cfg)
    train = config["train"]
    data = build({k: v for k, v in config["data"].items() if k != "name"}, seed=config["seed"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        model = build(config["model"])
    optimizer = make_optimizer(config["optimizer"], model)
    x, y, size = data.train.x, data.train.y, train["batch_size"]

    def descend() -> None:
        model.train()
        for _ in range(train["epochs"]):
            for index in torch.randperm(len(y)).split(size):
                images, labels = x[index], y[index]

                def closure(images: torch.Tensor = images, labels: torch.Tensor = labels) -> torch.Tensor:
                    optimizer.zero_grad()
                    loss = torch.nn.functional.cross_entropy(model(images), labels)
                    loss.backward()
                    return loss

                optimizer.step(closure)

    def propose() -> None:
        model.eval()
        for _ in range(train["epochs"]):
            optimizer.step(lambda: cross_entropies(model(x), y))

    def propose_incrementally() -> None:
        from mcmcopt import IncrementalLoss

        model.eval()
        objective = IncrementalLoss(model, torch.nn.CrossEntropyLoss())
        for epoch in range(train["epochs"]):
            optimizer.step(objective.bind(x, y))
            if (epoch + 1) % train["refresh_steps"] == 0:
                objective.forget()

    if size is not None:
        return descend
    return propose_incrementally if train["incremental"] else propose


def watched(cfg: DictConfig, now: Callable[[], float]) -> Clock:
    """Return the times of one run."""
    clock = Clock(now)
    silent = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with silent[0], silent[1], clock.watching(), contextlib.suppress(TrainedError):
        job.run(cfg)
    return clock


def measure(overrides: tuple[str, ...], rounds: int, folder: Path, now: Callable[[], float]) -> dict[str, float]:
    """Return the medians over rounds, in seconds for `bare`, in per cent of it for the parts."""
    found: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("config", [*overrides, f"out={folder / str(number)}"])
            few = compose("config", [*overrides, f"out={folder / str(number)}", "train.eval_every=1000000"])
        loop = bare(cfg)
        with job.threads(1):
            start = now()
            loop()
            took = now() - start
        clock, usual = watched(few, now), watched(cfg, now)
        if number == 0:
            continue  # warms up
        due = cfg.progress.checkpoint_seconds
        shares = {
            "bare": took,
            "loop": 100 * (clock.seconds["training"] / took - 1),
            "checkpoint": 100 * clock.seconds["checkpoint"] / clock.calls["save"] / due,
            "meter": 100 * clock.seconds.get("meter", 0.0) / took,
            "rows": 100 * (usual.whole - clock.whole) / took,
        }
        shares["sum"] = shares["loop"] + shares["checkpoint"] + shares["meter"]
        for name, value in shares.items():
            found.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in found.items()}
    return medians | {"low": min(found["sum"]), "high": max(found["sum"])}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--cpu", action="store_true", help="CPU time of the main thread, where others take the cores")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of all runs")
    options = parser.parse_args(arguments)
    now, unit = (time.thread_time, "CPU seconds") if options.cpu else (time.perf_counter, "seconds")
    others = Others()
    print(f"{unit}, 1 thread, {options.rounds} rounds; shares of the bare loop's time in %, target of sum ≤ {TARGET:g}")
    print(f"{'case':<28}{'bare s':>8}{'loop':>8}{'meter':>8}{'checkpoint':>12}{'sum':>8}{'min–max':>16}{'rows':>8}")
    for name, overrides in CASES.items():
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            m = measure((*overrides, *options.set), options.rounds, Path(folder), now)
        spread = f"{m['low']:.2f}–{m['high']:.2f}"
        print(
            f"{name:<28}{m['bare']:>8.3f}{m['loop']:>8.2f}{m['meter']:>8.2f}{m['checkpoint']:>12.4f}"
            f"{m['sum']:>8.2f}{spread:>16}{m['rows']:>8.1f}  {'met' if m['sum'] <= TARGET else 'MISSED'}",
            flush=True,
        )
    print(others.text())


if __name__ == "__main__":
    main()
