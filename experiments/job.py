"""One run from configuration to summary: skipped if done, resumed if begun, recorded if it fails."""

from __future__ import annotations

import copy
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from torch import nn

from experiments import device, outcome, record
from experiments.batches import Batches, Draws
from experiments.binary import keep_binary, make_binary
from experiments.config import build, folder, long_hash, resolved
from experiments.data import Data
from experiments.due import Checkpoints, Rows
from experiments.energy import NOT_MEASURED, Energy
from experiments.growth import Growth
from experiments.loggers import Log
from experiments.models import initialise
from experiments.optimizers import make_optimizer
from experiments.stop import SIGNALS, STEP, Stop
from experiments.stream import StreamBatches, changed, chosen, totals, with_hindsight
from experiments.terminal import Reporter, closing_table, say
from experiments.train import Training
from mcmcopt.optim.greedy_mcmc import GreedyMCMC

CHAIN_ORDER = 1_000_000
"""Added to the seed for the batches of a hybrid's chain, whose order must not be that of the gradient steps."""

SCORING_ORDER = 2_000_000
"""The same for the batches of pruning criteria."""


class InterruptedRunError(Exception):
    """A run was stopped from outside; its checkpoint is written."""


def run(cfg: DictConfig, overrides: Sequence[str] = (), stop: Stop | None = None) -> Path:
    """Make, resume or skip the run that a configuration describes, and return its folder; say what goes wrong.

    Raises:
        InterruptedRunError: if it was asked to stop.
        FolderBusyError: if another process is at the same run.
    """
    try:
        config = resolved(cfg)
    except MissingMandatoryValue as error:
        say(f"{error.full_key} has no value: give {error.full_key}=…", error=True)
        raise
    path = folder(config)
    label = f"{config['data']['name']} / {config['name']} / seed {config['seed']}"
    with telling(label), record.locked(path):
        status = record.read_json(path / "status.json") or {}
        before = path / ".hydra" / "config.yaml"
        if before.exists() and long_hash(resolved(OmegaConf.load(before))) != long_hash(config):
            raise ValueError(f"{path} holds a run of another configuration, see {before}: choose another out=…")
        if status.get("status") == "ok" and (path / "summary.json").exists():
            say(f"{label}: done before, in {path}")
            Reporter(label, 1, 0).console.print(closing_table(record.read_json(path / "summary.json")))
            return path
        for left_over in path.glob(".*.tmp*"):  # by a process that was killed while it wrote
            left_over.unlink(missing_ok=True)
        try:
            (path / ".hydra").mkdir(exist_ok=True)
            record.write_text(path / ".hydra" / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
            record.write_text(path / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(list(overrides)))
            _write_status(path, config, "running")
            with (
                stopped_by_signal(stop or Stop()) as stop,
                threads(config["threads"]),
                build(config["logger"]).open(config, path) as log,
            ):
                summary = _work(config, path, label, stop, log)
                _write_status(path, config, "ok")  # before a logger may wait for a network
                log.end(summary)
        except (InterruptedRunError, KeyboardInterrupt) as error:
            _write_status(path, config, "interrupted")
            say(f"{label}: interrupted; the same command resumes it. Folder: {path}", error=True)
            raise error if isinstance(error, InterruptedRunError) else InterruptedRunError(label) from error
        except Exception as error:
            trace = traceback.format_exc()
            try:
                _write_status(path, config, "failed", trace)
            except OSError as again:  # the disk is full, say: what happened must not be lost with it
                error.add_note(f"{again}; the traceback instead:\n{trace}")
            else:
                error.add_note(f"traceback: {path / 'status.json'}")
            raise
        Reporter(label, 1, 0).console.print(closing_table(summary))
        say(f"written to {path}")
        if stop.asked:  # too late for this run, not for a sweep
            raise InterruptedRunError(label)
    return path


@contextmanager
def telling(label: str) -> Iterator[None]:
    """Say at once and plainly why a run fails, with the notes of the error."""
    try:
        yield
    except InterruptedRunError:
        raise
    except Exception as error:
        say("\n  ".join((f"{label}: failed with {reason(error)}", *getattr(error, "__notes__", ()))), error=True)
        raise


def reason(error: Exception) -> str:
    """Return an error's type and message; Hydra wraps what a function raised in the call's name."""
    cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
    return f"{type(cause).__name__}: {cause}"


def _work(config: dict[str, Any], path: Path, label: str, stop: Stop, log: Log) -> dict[str, Any]:
    protocol = outcome.Protocol(**config["resistance"])  # refused now, not after hours of training
    stream = chosen(config["train"])
    place = device.chosen(config["device"])
    with Energy(config["energy"], path / "energy.jsonl") as energy:
        environment = record.environment(config["threads"]) | {"device": device.described(place)}
        record.write_json(path / "env.json", environment)
        with energy.window("setup"):
            data: Data = build({k: v for k, v in config["data"].items() if k != "name"}, seed=config["seed"])
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config["seed"])
                model: nn.Module = build(config["model"])
                initialise(model, config["init"])
            if stream is not None:
                data = changed(data, stream)
            data, model = device.moved(data, place), model.to(place)  # before the optimizer takes hold of parameters
            initial = None if stream is None else copy.deepcopy(model)
            training = _training(config, model, data)
        refresh = f"the next refresh (every {training.refresh_steps} steps: train.refresh_steps)"
        stop.after = refresh if training.incremental else STEP
        _train(config, path, label, stop, training, data, energy, log)
        reference = outcome.reference_seconds(config["progress"]["reference_proposals"], training)
        with energy.window("prune"):
            curve = outcome.resistance(model, data, config["seed"], protocol)
        record.write_csv(path / "resistance.csv", record.RESISTANCE, curve)
        told: dict[str, Any] = {"reference_seconds": reference}
        if stream is not None and initial is not None:
            rows = with_hindsight(training.arrivals, initial, data.train, stream, config["seed"])
            record.write_csv(path / "stream.csv", record.STREAM, rows)
            told |= totals(rows)
        summary = outcome.summary(config, training, data, curve, path, energy) | told
    record.write_json(path / "summary.json", summary)
    return summary


def _train(
    config: dict[str, Any], path: Path, label: str, stop: Stop, training: Training, data: Data, energy: Energy, log: Log
) -> None:
    """Train to the end, or to where the run is asked to stop, from the checkpoint if there is one."""
    kept = {"metrics": 0, "layers": 0}
    begun = (path / "checkpoint.pt").exists()
    if (state := record.load(path / "checkpoint.pt")) is not None:
        training.load_state_dict(state["training"])
        energy.load_state_dict(state.get("energy", NOT_MEASURED))  # a checkpoint from before there was a meter
        kept = state["rows"]
        say(f"{label}: resumed at step {training.counters.step}")
    elif begun:
        say(f"{label}: checkpoint.pt is cut short, kept as checkpoint.broken.pt; starts again from step 0", error=True)
    metrics = record.Table(path / "metrics.csv", record.METRICS, kept["metrics"])
    log.add(*record.read_csv(metrics.path))
    layers = record.Table(path / "layers.csv", record.LAYERS, kept["layers"])

    progress = config["progress"]
    checkpoints = Checkpoints(progress["checkpoint_steps"], progress["checkpoint_seconds"], training.counters.step)

    def checkpoint() -> None:
        energy.pause()
        metrics.sync()
        layers.sync()
        rows = {"metrics": metrics.rows, "layers": layers.rows}
        state = {"training": training.state_dict(), "energy": energy.state_dict(), "rows": rows}
        record.save(path / "checkpoint.pt", state)
        checkpoints.taken(training.counters.step)

    rows = Rows(config["train"]["eval_every"], config["train"]["eval_seconds"])
    part = "validation" if len(data.validation) else "test"

    def report() -> None:
        state = f"loss {row['loss']:.4f}, {part} {100 * row[f'{part}_accuracy']:.1f} % at step {row['step']}"
        if training.max_seconds is not None:
            state += f"; {training.counters.seconds:.0f} of {training.max_seconds:g} s"
        reporter.update(training.counters.step, state)

    with Reporter(label, training.total_steps, progress["seconds"]) as reporter:
        row = outcome.metrics(training, data, energy)
        report()  # a first step may take long: kernels are compiled in it
        if not metrics.rows:
            metrics.add(row)
            log.add(row)
        for epoch_done in energy.steps(training):
            if rows.due(training, epoch_done):
                energy.pause()
                row = outcome.metrics(training, data, energy)
                metrics.add(row)
                log.add(row)
                training.counters.row_seconds = training.counters.seconds
                layers.add(*training.layer_rows())
            asked = stop.asked  # once: a signal between two looks would stop the run without its checkpoint
            if (asked or checkpoints.due(training.counters.step)) and training.resumable:
                checkpoint()
                if asked:
                    raise InterruptedRunError(label)
            if reporter.due:
                report()
    checkpoint()


def _training(config: dict[str, Any], model: nn.Module, data: Data) -> Training:
    n, settings = len(data.train), {k: v for k, v in config["train"].items() if not k.startswith("eval_")}
    size, growth, repeats = (settings.pop(name) for name in ("batch_size", "growth", "steps_per_batch"))
    pruning, binary, chain_size = (settings.pop(name) for name in ("pruning", "binary", "chain_batch_size"))
    stream = chosen(config["train"])
    del settings["stream"]
    make_binary(model, binary)
    settings["pruning"] = None if pruning is None else build(pruning)
    name = "train.batch_size"
    if growth is not None:
        if size is not None:
            raise ValueError(f"train.growth sets the batch's size: train.batch_size={size} must be null")
        growth = Growth(**growth)
        size, name = None if growth.start == n else growth.start, "train.growth.start"
    batches = Batches(n, size, config["seed"], repeats, name)
    if stream is not None:
        batches = StreamBatches(stream, n, size, config["seed"])
    optimizer = make_optimizer(config["optimizer"], model)
    keep_binary(optimizer, model, binary)
    settings["source"] = Draws(data.train, SCORING_ORDER + config["seed"])
    settings["augment"] = config["seed"] if settings["augment"] else None
    if settings.pop("channels_last"):
        if isinstance(optimizer, GreedyMCMC):
            raise ValueError("train.channels_last is for gradient methods: leave it false for a chain")
        model.to(memory_format=torch.channels_last)
    settings["chain_batches"] = None
    if chain_size is not None:
        settings["chain_batches"] = Batches(n, chain_size, CHAIN_ORDER + config["seed"], name="train.chain_batch_size")
    return Training(model, optimizer, data.train, batches, growth=growth, **settings)


def _write_status(path: Path, config: dict[str, Any], status: str, trace: str | None = None) -> None:
    record.write_json(path / "status.json", {"status": status, "hash": long_hash(config), "traceback": trace})


@contextmanager
def stopped_by_signal(stop: Stop) -> Iterator[Stop]:
    """Let Ctrl-C and SIGTERM ask a run to stop; elsewhere than in the main thread, signals stay as they are."""
    try:
        before = {number: signal.signal(number, stop) for number in SIGNALS}
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
