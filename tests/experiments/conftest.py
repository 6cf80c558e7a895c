"""Runs of two steps, composed as the command line composes them."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from experiments import schema as _schema  # noqa: F401 -- registers them

ROOT = Path(__file__).resolve().parents[2]


def composed(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", list(overrides))


SHORT = {
    "mcmc": ("train.epochs=2", "optimizer.n_proposals=20", "train.eval_every=1", "train.refresh_steps=1"),
    "mcmc_published": ("train.epochs=2", "optimizer.n_proposals=20", "train.eval_every=1", "train.refresh_steps=1"),
    "mcmc_dense": ("train.epochs=2", "optimizer.n_proposals=20", "train.eval_every=1"),
    "mcmc_block": ("train.epochs=2", "optimizer.n_proposals=20", "train.eval_every=1"),
    "mcmc_binary": ("train.epochs=2", "optimizer.n_proposals=20", "train.eval_every=1"),
    "mcmc_flips": ("train.epochs=2", "optimizer.n_proposals=20", "train.eval_every=1"),
    "binary_connect": ("train.epochs=2", "train.batch_size=600", "train.eval_every=1"),
    "xnor": ("train.epochs=2", "train.batch_size=600", "train.eval_every=1"),
    "dorefa": ("train.epochs=2", "train.batch_size=600", "train.eval_every=1"),
    "bop": ("train.epochs=2", "train.batch_size=600", "train.eval_every=1"),
    "hybrid": ("train.epochs=3", "train.batch_size=600", "optimizer.every=[1,2]", "train.eval_every=1"),
    "hybrid_sparse": ("train.epochs=3", "train.batch_size=600", "optimizer.every=[1,2]", "train.eval_every=1"),
    "hybrid_flips": (
        "train.epochs=3",
        "train.batch_size=600",
        "optimizer.every=[1,2]",
        "train.refresh_steps=1",
        "train.eval_every=1",
    ),
    "hybrid_dense": ("train.epochs=3", "train.batch_size=600", "optimizer.every=[1,2]", "train.eval_every=1"),
    "sgd": ("train.epochs=2", "train.batch_size=600", "train.eval_every=1"),
    "sgd_plain": ("train.epochs=2", "train.batch_size=600", "train.eval_every=1"),
    "kl_mirror": ("train.epochs=2", "train.batch_size=600", "train.eval_every=1"),
    "adam": ("train.epochs=2", "train.batch_size=600", "train.eval_every=1"),
    "mirror": ("train.epochs=2", "train.batch_size=600", "train.eval_every=1"),
    "hypentropy": ("train.epochs=2", "train.batch_size=600", "train.eval_every=1"),
    "sgd_pruned": ("train.epochs=3", "train.pruning.at=0.34", "train.batch_size=600", "train.eval_every=1"),
    "sgd_random": ("train.epochs=3", "train.pruning.at=0.34", "train.batch_size=600", "train.eval_every=1"),
    "sgd_gradual": ("train.epochs=3", "train.pruning.every=1", "train.batch_size=600", "train.eval_every=1"),
    "sgd_gradual_long": ("train.epochs=3", "train.pruning.every=1", "train.batch_size=600", "train.eval_every=1"),
    "sgd_gradual_rate": ("train.epochs=3", "train.pruning.every=1", "train.batch_size=600", "train.eval_every=1"),
    "rigl_long": ("train.epochs=3", "train.pruning.every=1", "train.batch_size=600", "train.eval_every=1"),
    "rigl": ("train.epochs=3", "train.pruning.every=1", "train.batch_size=600", "train.eval_every=1"),
}


@pytest.fixture
def short(tmp_path):
    """Return a function that composes a short run of an optimizer, its folder under tmp_path."""

    def make(optimizer, *overrides):
        return composed(f"optimizer={optimizer}", f"out={tmp_path}", *SHORT[optimizer], *overrides)

    return make
