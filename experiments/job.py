"""One run from configuration to summary: skipped if done, resumed if begun, recorded if it fails."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from experiments import outcome, record
from experiments.batches import Batches
from experiments.config import build, folder, long_hash, resolved
from experiments.data import Data
from experiments.energy import NOT_MEASURED, Energy
from experiments.growth import Growth
from experiments.optimizers import make_optimizer
from experiments.terminal import Reporter, closing_table, say
from experiments.train import Training


class InterruptedRunError(Exception):
    """A run was stopped from outside; its checkpoint is written."""


@dataclass
class Stop:
    """Whether the user has asked the run to stop; looked at between steps, so that no step is cut in two."""

    asked: bool = False
    after: str = "this step"

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt  # asked twice: at once
        self.asked = True
        say(f"stopping after {self.after}; once more to stop at once without a new checkpoint", error=True)


def run(cfg: DictConfig, overrides: Sequence[str] = (), stop: Stop | None = None) -> Path:
    """Make, resume or skip the run that a configuration describes, and return its folder.

    Raises:
        InterruptedRunError: if it was asked to stop.
        FolderBusyError: if another process is at the same run.
    """
    config = resolved(cfg)
    path = folder(config)
    label = f"{config['data']['name']} / {config['name']} / seed {config['seed']}"
    with record.locked(path):
        status = record.read_json(path / "status.json") or {}
        before = path / ".hydra" / "config.yaml"
        if before.exists() and long_hash(resolved(OmegaConf.load(before))) != long_hash(config):
            raise ValueError(f"{path} holds a run of another configuration, see {before}: choose another out=…")
        if status.get("status") == "ok":
            say(f"{label}: done before, in {path}")
            Reporter(label, 1, 0).console.print(closing_table(record.read_json(path / "summary.json")))
            return path
        (path / ".hydra").mkdir(exist_ok=True)
        record.write_text(path / ".hydra" / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        record.write_text(path / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(list(overrides)))
        _write_status(path, config, "running")
        try:
            with stopped_by_signal(stop or Stop()) as stop, threads(config["threads"]):
                summary = _work(config, path, label, stop)
        except (InterruptedRunError, KeyboardInterrupt) as error:
            _write_status(path, config, "interrupted")
            say(f"{label}: interrupted; the same command resumes it. Folder: {path}", error=True)
            raise error if isinstance(error, InterruptedRunError) else InterruptedRunError(label) from error
        except Exception as error:
            _write_status(path, config, "failed", traceback.format_exc())
            say(
                f"{label}: failed with {type(error).__name__}: {error}\n  traceback: {path / 'status.json'}", error=True
            )
            raise
        _write_status(path, config, "ok")
        Reporter(label, 1, 0).console.print(closing_table(summary))
        say(f"written to {path}")
        if stop.asked:  # too late for this run, not for a sweep
            raise InterruptedRunError(label)
    return path


def _work(config: dict[str, Any], path: Path, label: str, stop: Stop) -> dict[str, Any]:
    with Energy(config["energy"], path / "energy.jsonl") as energy:
        record.write_json(path / "env.json", record.environment(config["threads"]))
        with energy.window("setup"):
            data: Data = build({k: v for k, v in config["data"].items() if k != "name"}, seed=config["seed"])
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config["seed"])
                model: nn.Module = build(config["model"])
            training = _training(config, model, data)
        if training.incremental:
            stop.after = f"the next refresh (every {training.refresh_steps} steps: train.refresh_steps)"
        _train(config, path, label, stop, training, data, energy)
        reference = outcome.reference_seconds(config["progress"]["reference_proposals"], training)
        with energy.window("prune"):
            curve = outcome.resistance(model, data, config["seed"])
        record.write_csv(path / "resistance.csv", record.RESISTANCE, curve)
        summary = outcome.summary(config, training, data, curve, path, energy) | {"reference_seconds": reference}
    record.write_json(path / "summary.json", summary)
    return summary


def _train(
    config: dict[str, Any], path: Path, label: str, stop: Stop, training: Training, data: Data, energy: Energy
) -> None:
    """Train to the end, or to where the run is asked to stop, from the checkpoint if there is one."""
    kept = {"metrics": 0, "layers": 0}
    if (path / "checkpoint.pt").exists():
        state = torch.load(path / "checkpoint.pt", weights_only=True)
        training.load_state_dict(state["training"])
        energy.load_state_dict(state.get("energy", NOT_MEASURED))  # a checkpoint from before there was a meter
        kept = state["rows"]
        say(f"{label}: resumed at step {training.counters.step}")
    metrics = record.Table(path / "metrics.csv", record.METRICS, kept["metrics"])
    layers = record.Table(path / "layers.csv", record.LAYERS, kept["layers"])

    def checkpoint() -> None:
        energy.pause()
        rows = {"metrics": metrics.rows, "layers": layers.rows}
        state = {"training": training.state_dict(), "energy": energy.state_dict(), "rows": rows}
        record.save(path / "checkpoint.pt", state)

    rows, saved = Rows(config["train"]["eval_every"], config["train"]["eval_seconds"]), time.monotonic()
    part = "validation" if len(data.validation) else "test"
    with Reporter(label, training.total_steps, config["progress"]["seconds"]) as reporter:
        row = outcome.metrics(training, data, energy)
        if not metrics.rows:
            metrics.add(row)
        for epoch_done in energy.steps(training):
            if rows.due(training, epoch_done):
                energy.pause()
                row = outcome.metrics(training, data, energy)
                metrics.add(row)
                training.counters.row_seconds = training.counters.seconds
                layers.add(*training.layer_rows())
            asked = stop.asked  # once: a signal between two looks would stop the run without its checkpoint
            wanted = asked or time.monotonic() - saved > config["progress"]["checkpoint_seconds"]
            if wanted and training.resumable:
                checkpoint()
                saved = time.monotonic()
            if asked and training.resumable:
                raise InterruptedRunError(label)
            state = f"loss {row['loss']:.4f}, {part} {100 * row[f'{part}_accuracy']:.1f} % at step {row['step']}"
            if training.max_seconds is not None:
                state += f"; {training.counters.seconds:.0f} of {training.max_seconds:g} s"
            reporter.update(training.counters.step, state)
    checkpoint()


def _training(config: dict[str, Any], model: nn.Module, data: Data) -> Training:
    n, settings = len(data.train), {k: v for k, v in config["train"].items() if not k.startswith("eval_")}
    size, growth, repeats = (settings.pop(name) for name in ("batch_size", "growth", "steps_per_batch"))
    name = "train.batch_size"
    if growth is not None:
        if size is not None:
            raise ValueError(f"train.growth sets the batch's size: train.batch_size={size} must be null")
        growth = Growth(**growth)
        size, name = None if growth.start == n else growth.start, "train.growth.start"
    batches = Batches(n, size, config["seed"], repeats, name)
    return Training(model, make_optimizer(config["optimizer"], model), data.train, batches, growth=growth, **settings)


@dataclass
class Rows:
    """Says after which steps metrics.csv gets a row.

    Args:
        every: epochs between two rows, or steps where a run's length is given in steps.
        seconds: of training between two rows instead; None: `every` counts.
    """

    every: int
    seconds: float | None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"train.eval_every must be at least 1, got {self.every}")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"train.eval_seconds must be larger than 0, or null, got {self.seconds}")

    def due(self, training: Training, epoch_done: bool) -> bool:
        """Return whether a row is due after the step just made."""
        counters = training.counters
        if training.done or (epoch_done and counters.epoch == training.epochs):
            return True
        if self.seconds is not None:
            return counters.seconds - counters.row_seconds >= self.seconds
        if training.steps is not None:
            return counters.step % self.every == 0
        return epoch_done and counters.epoch % self.every == 0


def _write_status(path: Path, config: dict[str, Any], status: str, trace: str | None = None) -> None:
    record.write_json(path / "status.json", {"status": status, "hash": long_hash(config), "traceback": trace})


@contextmanager
def stopped_by_signal(stop: Stop) -> Iterator[Stop]:
    """Let Ctrl-C and SIGTERM ask a run to stop; elsewhere than in the main thread, signals stay as they are."""
    try:
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Give torch a number of threads for the time of a block."""
    if number < 1:
        raise ValueError(f"threads must be at least 1, got {number}")
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
