"""The schema of the configuration: it catches a wrong key or type when the configuration is composed.

A file of conf/ names its schema in its defaults list.  One without a schema works as well: keys that it does not have
are refused all the same, types are then its function's affair.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class Train:
    """How long an optimizer trains, on what batches."""

    epochs: int | None = MISSING  # passes over the training data; with the full batch, one step each
    steps: int | None = None  # instead of epochs, which is null then
    max_seconds: float | None = None  # of training: ends the run early
    batch_size: int | None = None  # null: the full batch
    growth: Any = None  # a chain's batch that grows up to the full one: arguments of experiments.growth.Growth
    steps_per_batch: int = 1  # before the next one is drawn
    eval_every: int = 1  # epochs (steps where these are given) between two rows of metrics.csv
    eval_seconds: float | None = None  # of training between two rows; takes the place of eval_every
    incremental: bool = False  # score a chain's proposals for what they change alone
    refresh_steps: int = 10  # steps after which all is computed afresh then; checkpoints are taken there
    prune_density: float | None = None  # share of weights kept by magnitude after `epochs`; null: no pruning
    prune_scope: str = "layer"  # or "global": where that share is counted
    finetune_epochs: int = 0  # epochs after pruning, with the zeros held


@dataclass
class GreedyMCMC:
    """Arguments of mcmcopt.GreedyMCMC."""

    _target_: str = "mcmcopt.GreedyMCMC"
    lam: Any = MISSING  # a number, or a schedule with a _target_
    n_proposals: int = 200
    prior: Any = None
    moves: Any = None
    blocks: Any = "scalar"
    lr: float = 1.0
    selection_weight: float = 1.0
    init: str = "dense"
    rule: str = "metropolis"
    adapt: bool = True
    seed: int = 0
    groups: Any = None  # by a regular expression at the start of parameters' names: settings of their own


@dataclass
class SGD:
    """Arguments of torch.optim.SGD."""

    _target_: str = "torch.optim.SGD"
    lr: float = MISSING
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False


@dataclass
class Adam:
    """Arguments of torch.optim.Adam."""

    _target_: str = "torch.optim.Adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0


@dataclass
class MLP:
    """Arguments of experiments.models.mlp."""

    _target_: str = "experiments.models.mlp"
    sizes: list[int] = field(default_factory=lambda: [64, 32, 10])


@dataclass
class CNN60k:
    """Arguments of experiments.models.cnn60k."""

    _target_: str = "experiments.models.cnn60k"
    mean: list[float] = field(default_factory=lambda: [125.3, 123.0, 113.9])
    std: list[float] = field(default_factory=lambda: [63.0, 62.1, 66.7])


@dataclass
class Cifar10:
    """Arguments of experiments.cifar10.cifar10, and the name of the folder."""

    _target_: str = "experiments.cifar10.cifar10"
    name: str = "cifar10"
    root: str = MISSING  # where the files are
    n_train: int | None = None  # null: all that validation leaves
    n_validation: int = 0


@dataclass
class Digits:
    """Arguments of experiments.data.digits, and the name of the folder."""

    _target_: str = "experiments.data.digits"
    name: str = "digits"
    n_train: int = 1200
    n_validation: int = 197
    n_test: int = 400
    stratified: bool = True


@dataclass
class Progress:
    """What a run says and saves while it works; nothing here changes its results."""

    seconds: float = 5.0  # between two plain lines, where there is no terminal
    checkpoint_seconds: float = 30.0
    reference_proposals: int = 0  # timed after training as whole forwards, for comparison; 0: none


@dataclass
class Energy:
    """How energy is measured; nothing here changes a run's results."""

    enabled: bool = True
    cpu_estimate: Any = None  # watts per core, or "table", where no sensor measures the processor; null: no estimate
    period_s: float = 1.0  # between two samples
    inference_seconds: float = 2.0  # to repeat the inference of the test set for, where anything is measured; 0: not
    idle_seconds: float = 0.0  # to measure the machine at rest for, before each run


@dataclass
class Config:
    """One run."""

    name: str = MISSING  # of the method, in folders, tables and figures
    seed: int = 0  # of the split, the initial weights, the order of batches and the chain
    out: str = "outputs"  # where run folders go
    threads: int = 1
    train: Train = field(default_factory=Train)
    progress: Progress = field(default_factory=Progress)
    energy: Any = MISSING
    optimizer: Any = MISSING
    model: Any = MISSING
    data: Any = MISSING


def register() -> None:
    """Put the schemas where the files of conf/ find them."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for name, node in (("greedy_mcmc", GreedyMCMC), ("sgd", SGD), ("adam", Adam)):
        store.store(group="schema/optimizer", name=name, node=node)
    for name, node in (("mlp", MLP), ("cnn60k", CNN60k)):
        store.store(group="schema/model", name=name, node=node)
    store.store(group="schema/energy", name="meter", node=Energy)
    for name, node in (("digits", Digits), ("cifar10", Cifar10)):
        store.store(group="schema/data", name=name, node=node)


register()
