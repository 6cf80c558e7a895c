"""Train one configuration, or several with -m: python experiments/run.py -m optimizer=sgd,mcmc seed=0,1,2."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

from experiments import schema as _schema  # noqa: F401 -- registers them before Hydra composes
from experiments import stop, sweep

# Hydra copies the whole store once for each group that --help lists, 0.4 s; what it takes from there it copies anyway.
ConfigStore.__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(cfg: DictConfig) -> None:
    """Run what the command line describes; a run that fails has said so, and ends a sweep only when all are done."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import CompactHydraException
    from hydra.types import RunMode

    told = stop.of_this_process()  # before all that takes its time
    from experiments.job import InterruptedRunError, reason, run

    try:
        if told.asked:
            raise InterruptedRunError("not begun")
        run(cfg, list(HydraConfig.get().overrides.task), told)
    except InterruptedRunError as error:
        if not stop.follows():
            sys.exit(130)
        raise CompactHydraException(f"interrupted: {error}") from None
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        if HydraConfig.get().mode == RunMode.RUN:
            sys.exit(1)
        # in one line, and in a form that any process can read
        raise CompactHydraException(reason(error)) from None


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as error:
        sys.exit(130 if sweep.stopped() else error.code)
    finally:
        sweep.end()
