"""A sweep as a whole: its folder, and signals, which must reach the processes of a parallel one.

In one process (Hydra's own launcher) the runs take the signals themselves.  In several (hydra/launcher=joblib) the
first process only waits: it takes away a file that the others look for, each of which then writes the checkpoint of its
run and refuses the runs that are left.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from experiments.stop import SIGNALS, SWEEP, tell


class Sweep(Callback):
    """What Hydra lets happen before the first job of a sweep (conf/config.yaml)."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse a folder that cannot be made, in one line; lead the processes of a parallel sweep."""
        try:
            Path(config.out).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            tell(f"out={config.out}: {error}")
            sys.exit(1)
        if not config.hydra.launcher._target_.endswith("BasicLauncher"):
            number, name = tempfile.mkstemp(prefix="sweep-")
            os.close(number)
            os.environ[SWEEP] = name
            for number in SIGNALS:
                signal.signal(number, stop_all)


def stop_all(number: int, frame: FrameType | None) -> None:
    """Let the processes of a parallel sweep stop; told again, end them at once."""
    if stopped():
        raise KeyboardInterrupt
    end()
    tell("stopping all runs; once more to stop at once without new checkpoints")


def stopped() -> bool:
    """Return whether this process leads a parallel sweep that was told to stop."""
    return SWEEP in os.environ and not Path(os.environ[SWEEP]).exists()


def end() -> None:
    """Take away the file by which processes know that a parallel sweep is to go on."""
    if SWEEP in os.environ:
        Path(os.environ[SWEEP]).unlink(missing_ok=True)
