"""Every file of conf/experiment runs two steps, every optimizer is built for every model that it is tuned to.

Both are found in the folders: a new file is tested as soon as it is there.  The data are made up.
"""

import itertools
import json
import re

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from experiments import outcome
from experiments.config import build, resolved
from experiments.data import Data, Split
from experiments.job import _training, run

from . import test_cifar10, test_idx
from .conftest import ROOT, composed


def stems(group):
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


def swept(experiment):
    """Return what each job adds that an experiment sweeps by itself; of settings and seeds the first value will do."""
    written = OmegaConf.load(ROOT / "conf" / "experiment" / f"{experiment}.yaml")
    choices = []
    for key, values in (OmegaConf.select(written, "hydra.sweeper.params") or {}).items():
        override = OverridesParser.create().parse_override(f"{key}={values}")
        each = list(override.sweep_string_iterator()) if override.is_sweep_override() else [values]
        is_group = (ROOT / "conf" / key).is_dir()
        choices.append([f"{key}={value}" for value in (each if is_group else each[:1])])
    return [(f"experiment={experiment}", *job) for job in itertools.product(*choices)]


JOBS = [job for experiment in stems("experiment") for job in swept(experiment)]
PAIRS = [(optimizer, model) for optimizer in stems("optimizer") for model in stems("model")]
PAIRS = [(o, m) for o, m in PAIRS if m == "mlp" or f"{o}_{m}" in stems("tuned")]


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Return folders with a few images, by the function that reads them."""
    place = tmp_path_factory.mktemp("data")
    test_cifar10.write_binary(place / "cifar-10-batches-bin")
    raw = test_idx.write(place / "MNIST" / "raw")
    return {"cifar10": place, "mnist": raw, "fashion_mnist": raw}


def shorten(cfg, roots):
    """Make a run one of two steps on a few images; all else stays."""
    OmegaConf.set_struct(cfg, False)
    data, train = cfg.data, cfg.train
    reader = data._target_.rpartition(".")[2]
    if reader in roots:
        data.root, data.n_train, data.n_validation = str(roots[reader]), 20, min(10, data.n_validation)
    elif reader == "digits":
        data.n_train, data.n_validation, data.n_test = 40, 20, 20
    train.epochs, train.steps, train.max_seconds, train.eval_seconds, train.eval_every = None, 2, None, None, 1
    if train.stream is not None:  # two chunks, and a step after each
        train.epochs, train.steps, train.stream.steps, train.stream.hindsight_epochs = 1, None, 1, 1
        train.stream.chunk, train.stream.memory = 20, 30
    if train.batch_size is not None:
        train.batch_size = 10
    if train.growth is not None:
        train.growth.start = 10
    if train.chain_batch_size is not None:
        train.chain_batch_size, cfg.optimizer.every = 10, [1, 1]
    if train.eval_train is not None:
        train.eval_train = 10
    if train.pruning is not None:
        if "every" in train.pruning:
            train.pruning.every = 1
        for key in ("rounds", "n_batches", "batch_size"):  # what criteria look at, and how often
            if key in train.pruning:
                train.pruning[key] = min(train.pruning[key], 2)
        if "sampler" in (train.pruning.get("criterion") or {}):
            train.pruning.criterion.repeats = 1
    if "n_proposals" in cfg.optimizer:
        cfg.optimizer.n_proposals = 10
    cfg.resistance.scopes, cfg.resistance.criteria, cfg.resistance.finetune_at = ["layer"], ["magnitude"], []
    cfg.progress.reference_proposals = 0
    cfg.device = "cpu"


@pytest.mark.parametrize("job", JOBS, ids=" ".join)
def test_two_steps_of_every_experiment(tmp_path, roots, monkeypatch, job):
    cfg = composed(*job, f"out={tmp_path}", "energy=off", "logger=csv")
    outcome.Protocol(**OmegaConf.to_container(cfg.resistance))
    shorten(cfg, roots)
    monkeypatch.setattr(outcome, "SPARSITIES", (0.5, 0.9, 0.95, 0.98))  # those of which the summary tells
    folder = run(cfg)
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["steps"], summary["name"]) == (2, cfg.name)
    assert summary["evaluations"] >= 2
    asked = [w.partition("=")[2] for kind in ("pruning=", "optimizer=") for w in job if w.startswith(kind)] or [
        cfg.name
    ]
    assert cfg.name == asked[0]  # a method's results lie under the name by which it was asked for


@pytest.mark.parametrize("experiment", stems("experiment"))
def test_commands_in_the_head_of_an_experiment_are_composed(experiment):
    text = (ROOT / "conf" / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8")
    head = "".join(line.removeprefix("#") for line in text.splitlines() if line.startswith("#")).replace(" \\", "")
    commands = re.findall(r"experiments/run\.py -m ((?:\S+=\S+\s*)+)", head)
    for command in commands:
        words = [f"{word.partition('=')[0]}={word.partition('=')[2].split(',')[0]}" for word in command.split()]
        assert composed(*words).train


@pytest.mark.parametrize("pruning", stems("pruning"))
def test_every_way_of_pruning_keeps_the_share_that_it_is_asked_for(tmp_path, roots, pruning):
    cfg = composed("optimizer=sgd", f"pruning={pruning}", "density=0.2", f"out={tmp_path}", "energy=off", "logger=csv")
    shorten(cfg, roots)
    cfg.resistance.scopes = []
    summary = json.loads((run(cfg) / "summary.json").read_text())
    assert summary["name"] == ("sgd" if pruning == "none" else pruning)
    assert "test_accuracy_at_90" not in summary
    kept, whole = summary["weights_kept"], summary["weights"]
    if pruning in ("dense", "none"):
        assert kept == whole
    elif pruning.startswith(("soft_deepr", "skeletonization")):  # the share is of no weights
        assert kept < whole
    elif pruning == "deepr":  # a connection that was just born is active and zero
        assert 0.19 * whole < kept <= 0.2 * whole + 1
    else:
        assert abs(kept - 0.2 * whole) <= 1  # a rounding in each of two layers


def test_settings_for_an_experiment_belong_to_one_and_reach_it():
    found = {f"{e}_{o}": (e, o) for e in stems("experiment") for o in stems("optimizer")}
    for name in stems("tuned/experiment"):
        experiment, optimizer = found[name]
        cfg = composed(f"experiment={experiment}", f"optimizer={optimizer}")
        written = OmegaConf.load(ROOT / "conf" / "tuned" / "experiment" / f"{name}.yaml")
        assert OmegaConf.merge(cfg, written) == cfg
        assert OmegaConf.merge(composed(f"optimizer={optimizer}"), written) != composed(f"optimizer={optimizer}")


@pytest.mark.parametrize(("optimizer", "model"), PAIRS)
def test_every_optimizer_is_built_for_every_model_that_it_is_tuned_to(optimizer, model):
    config = resolved(composed(f"optimizer={optimizer}", f"model={model}"))
    channels = len(config["model"].get("mean", ()))
    shape = {0: (1, 8, 8), 1: (1, 28, 28), 3: (3, 32, 32)}[channels]
    # as many images as there are, of one byte in all
    train = Split(torch.zeros((), dtype=torch.uint8).expand(50_000, *shape), torch.zeros((), dtype=int).expand(50_000))
    training = _training(config, build(config["model"]), Data(train, train, train))
    names = {name for name, _ in training.model.named_parameters()}
    held = set()
    for part in getattr(training.optimizer, "optimizers", [training.optimizer]):  # those of a hybrid may share
        own = [id(p) for group in part.param_groups for p in group["params"]]
        assert len(own) == len(set(own))
        held.update(own)
    assert len(held) == len(names)
    assert training.total_steps > 1
