"""What a run leaves on disk: whole files under a temporary name first, rows appended whole, one run per folder."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mcmcopt.files import replacing as replacing

METRICS = (
    "step", "epoch", "batch", "lam", "batch_loss", "fresh_loss", "loss", "log_target", "train_accuracy",
    "validation_accuracy", "validation_loss", "test_accuracy", "test_loss", "proposals", "accepted", "share_active",
    "evaluations", "gradients", "samples", "forwards", "seconds", "joules", "joules_estimated",
)  # fmt: skip
LAYERS = ("step", "layer", "move", "proposed", "accepted", "acceptance", "active", "size")
STREAM = ("seen", "loss", "errors", "hindsight_loss", "hindsight_errors")
RESISTANCE = (
    "criterion", "scope", "basis", "requested", "reached", "weights_kept", "validation_accuracy", "test_accuracy",
    "test_loss", "validation_accuracy_finetuned", "test_accuracy_finetuned",
)  # fmt: skip


class FolderBusyError(RuntimeError):
    """Another process works in a run's folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for one process; the system lets go of it when the process ends, however it ends.

    Raises:
        FolderBusyError: if another process holds it.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FolderBusyError(
                f"another process is running in {folder}: wait for it, or change a setting or out=…"
            ) from None
        yield


def write_text(path: Path, text: str) -> None:
    """Write a file so that readers see the old one or the new one, never a part."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON; nan becomes null."""
    write_text(path, json.dumps(_no_nan(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return a JSON file's value, None where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table; None and nan become empty cells."""
    write_text(path, ",".join(columns) + "\n" + _lines(columns, rows))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return a table's rows, cells as text."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:  # a kill may cut a letter in two
        return list(csv.DictReader(file))


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint that `torch.load(weights_only=True)` reads.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    import torch

    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's own writer hides what the system said
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load(path: Path) -> dict[str, Any] | None:
    """Return a checkpoint; None where there is none, or one that is cut short, which is put aside."""
    import pickle

    import torch

    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except (EOFError, RuntimeError, pickle.UnpicklingError):
        path.replace(path.with_name("checkpoint.broken.pt"))
        return None
    return state


class Table:
    """A CSV file that grows by whole rows: what a full disk lets through of one is taken back.

    Args:
        path: the file.
        columns: of the table.
        rows: how many rows of an existing file to keep; 0 starts a new one.

    Raises:
        ValueError: if the file has fewer rows than are to be kept.
    """

    def __init__(self, path: Path, columns: Sequence[str], rows: int = 0) -> None:
        self.path, self.columns, self.rows = path, columns, rows
        kept = read_csv(path)[:rows] if rows else []
        if len(kept) != rows:
            raise ValueError(f"{path} has {len(kept)} rows, the checkpoint was written after {rows}: delete the folder")
        write_csv(path, columns, kept)

    def add(self, *rows: Mapping[str, Any]) -> None:
        """Append rows."""
        size = self.path.stat().st_size
        try:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(_lines(self.columns, rows))
        except OSError as error:
            os.truncate(self.path, size)
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self.rows += len(rows)

    def sync(self) -> None:
        """Wait until all rows are on the disk, before a checkpoint counts on them."""
        with self.path.open("r+b") as file:
            os.fsync(file.fileno())


def environment(threads: int) -> dict[str, Any]:
    """Return versions, processor and commit; nothing that names the machine, its user or its folders."""
    packages = {}
    for name in ("mcmcopt", "torch", "numpy", "scikit-learn", "hydra-core", "matplotlib"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "python": platform.python_version(),
        "packages": packages,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": None if (status := _git("status", "--porcelain")) is None else bool(status),
    }


def _processor() -> str | None:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def _git(*command: str) -> str | None:
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603, S607
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _lines(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writerows({key: _no_nan(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _no_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {key: _no_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_no_nan(item) for item in value]
    return value
