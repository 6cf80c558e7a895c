"""Who gets a run's figures as they come, beside its folder: nobody, or Weights & Biases.

The run folder is the source of truth and lacks nothing with either.  What Weights & Biases gets is made of the folder's
tables and its summary: no code, no console, no state of the machine, no path; it is told the versions of Python and of
itself, and the platform, which cannot be switched off.

    history     the rows of metrics.csv at their optimizer steps
    layers      a table: by layer and move over the whole run, and what is active at the end
    resistance  a table; in the summary, by curve its area and its accuracies at some sparsities
    summary     the numbers of summary.json, energy among them

A run that cannot begin there is refused before it trains: nothing is lost then.  What fails later is said once, and
training goes on without it.  Offline, each start of a run leaves a file of its own; the last one is whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.config import group_hash, left, long_hash
from experiments.logged import LAYERS, by_layer, curves, known, numbers, sent, value
from experiments.record import read_csv
from experiments.terminal import say


class Log:
    """What a run tells while it goes; this one listens to nothing."""

    def add(self, *rows: Mapping[str, Any]) -> None:
        """Take rows of metrics.csv; after a resumption those of before come again."""

    def end(self, summary: Mapping[str, Any]) -> None:
        """Take the summary of a run whose tables are all written."""


@dataclass
class Csv:
    """The run folder alone."""

    @contextmanager
    def open(self, config: Mapping[str, Any], path: Path) -> Iterator[Log]:
        """Return a log of one run for the time of a block."""
        yield Log()


@dataclass
class Wandb:
    """A run at Weights & Biases for each run here, of the same identity when it is resumed.

    Args:
        mode: `"offline"` writes into the run's folder, to be sent by `wandb sync`; `"online"` sends as well.
        project: of the run.
        entity: user or team; None: the user's own.
        group: of runs that belong together; None: those that differ in the seed only.
        tags: of the run.
        artifacts: whether the tables and the summary are kept there as files too.

    Raises:
        ValueError: if the mode is neither.
    """

    mode: str = "offline"
    project: str = "mcmcopt"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    artifacts: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("offline", "online"):
            raise ValueError(f'logger.mode must be "offline" or "online", got {self.mode!r}')

    @contextmanager
    def open(self, config: Mapping[str, Any], path: Path) -> Iterator[Log]:
        """Return a log of one run for the time of a block, which an exception marks as failed.

        Raises:
            ModuleNotFoundError: if wandb is not installed.
            RuntimeError: if it does not begin a run.
        """
        log = WandbLog(self._begin(dict(config), path), path, self.artifacts)
        failed = True
        try:
            yield log
            failed = False
        finally:
            log.close(failed)

    def _begin(self, config: dict[str, Any], path: Path) -> Any:
        # it would report its own errors over the network, offline too; read when its service starts
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            from wandb import Settings, init, setup  # a mere folder named wandb has none of them
        except ImportError as error:
            raise ModuleNotFoundError(
                f'logger=wandb: wandb cannot be imported ({error}): pip install "mcmcopt[wandb]", or logger=csv'
            ) from error
        try:
            settings = Settings(**SETTINGS)
            setup(settings)  # what it says outside of a run
            return init(
                mode=self.mode,
                project=self.project,
                entity=self.entity,
                group=self.group or f"{config['data']['name']}-{config['name']}-{group_hash(config)[:6]}",
                name=f"{config['data']['name']}/{config['name']}/{path.name}",
                tags=self.tags,
                id=long_hash(config)[:16],
                resume="allow",
                reinit="create_new",  # a run of somebody else in this process is left alone
                dir=str(path),
                config=sent(config),
                settings=settings,
            )
        except Exception as error:
            raise RuntimeError(
                f"logger=wandb: no run was begun: {type(error).__name__}: {error}; logger=csv does without, "
                "logger.mode=offline without a connection"
            ) from error


SETTINGS = {
    "silent": True,
    "console": "off",
    "host": "",
    "save_code": False,
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "label_disable": True,  # it would read the program's text
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}


class WandbLog(Log):
    """A run of wandb that may fail at any call without harm to the caller.

    Args:
        run: of wandb.
        path: the run's folder.
        artifacts: whether its tables and summary are kept as files.
    """

    def __init__(self, run: Any, path: Path, artifacts: bool = False) -> None:
        self._run, self._path, self._artifacts = run, path, artifacts

    def add(self, *rows: Mapping[str, Any]) -> None:
        for row in rows:
            told = known(row)
            # a step that it has already, from before a resumption, it ignores
            self._tell(lambda run, told=told: run.log(told, step=told["step"], commit=True))

    def end(self, summary: Mapping[str, Any]) -> None:
        self._tell(lambda run: self._end(run, summary))

    def close(self, failed: bool) -> None:
        """Finish the run, and say where it is."""

        def finish(run: Any) -> None:
            where = f"to send it: wandb sync {Path(run.dir).parent}" if run.offline else run.url
            run.finish(exit_code=int(failed))
            say(f"wandb: {where}")

        self._tell(finish)

    def _end(self, run: Any, summary: Mapping[str, Any]) -> None:
        from wandb import Table

        rows = read_csv(self._path / "resistance.csv")
        resistance = [{key: value(cell) for key, cell in row.items()} for row in rows]
        layers = by_layer(read_csv(self._path / "layers.csv"))
        columns = {"layers": LAYERS, "resistance": tuple(resistance[0]) if resistance else ()}
        tables = {"layers": layers, "resistance": resistance}
        # this process's part stays in summary.json: its channels may bear a device's serial number
        told = left(dict(summary), ("energy.this_process",))
        run.summary.update(dict(numbers(told)) | curves(resistance))
        with _staged(self._path / "wandb"):
            run.log({name: Table(list(columns[name]), [list(row.values()) for row in tables[name]]) for name in tables})
            if self._artifacts:
                from wandb import Artifact

                artifact = Artifact(f"{run.id}-tables", type="tables")
                for file in (*sorted(self._path.glob("*.csv")), self._path / "summary.json", self._path / "env.json"):
                    artifact.add_file(str(file))
                run.log_artifact(artifact)

    def _tell(self, call: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:
            run, self._run = self._run, None
            say(
                f"wandb: failed with {type(error).__name__}: {error}; it gets nothing more of this run, which goes on "
                f"and is whole in {self._path}",
                error=True,
            )
            try:
                run.finish(exit_code=1)
            except Exception:
                from wandb import teardown

                with suppress(Exception):
                    teardown()  # the next run of a sweep gets a service that lives


@contextmanager
def _staged(folder: Path) -> Iterator[None]:
    """Let files that are to be sent wait in a folder, not in the user's home, unless the user has chosen one."""
    name = "WANDB_DATA_DIR"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(folder.resolve())
    try:
        yield
    finally:
        del os.environ[name]
