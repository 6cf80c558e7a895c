"""Train one configuration, or several with -m: python experiments/run.py -m optimizer=sgd,mcmc seed=0,1,2."""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

from experiments import schema as _schema  # noqa: F401 -- registers them before Hydra composes


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(cfg: DictConfig) -> None:
    """Run what the command line describes."""
    from hydra.core.hydra_config import HydraConfig

    from experiments.job import InterruptedRunError, run

    try:
        run(cfg, list(HydraConfig.get().overrides.task))
    except InterruptedRunError:
        sys.exit(130)


if __name__ == "__main__":
    main()
