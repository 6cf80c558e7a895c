"""What is made of a configuration: a hash, a folder, objects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

ALLOWED = ("mcmcopt", "torch.optim", "experiments")
"""Modules that a `_target_` may come from."""

WITHOUT_EFFECT = ("out", "progress", "energy", "logger", "data.root", "data.download")
"""Keys that change nothing in a run's results; all others enter its hash."""

SEEDS = (
    "seed",
    "optimizer.seed",
    "optimizer.optimizers.seed",
    "train.pruning.seed",
    "train.pruning.shuffle",
    "train.pruning.criterion.seed",
    "train.pruning.criterion.sampler.seed",
)
"""Keys that repeat the seed: runs that differ in them alone are one group."""


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain containers with all interpolations replaced.

    Raises:
        omegaconf.MissingMandatoryValue: naming the key that has no value.
    """
    container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)  # noqa: S101 -- the root of a configuration is a mapping
    return {str(key): value for key, value in container.items()}


def long_hash(config: dict[str, Any], without: tuple[str, ...] = WITHOUT_EFFECT) -> str:
    """Return the SHA-256 of a resolved configuration, some keys left out."""
    return hashlib.sha256(json.dumps(left(config, without), sort_keys=True).encode()).hexdigest()


def group_hash(config: dict[str, Any]) -> str:
    """Return the hash that runs share which differ in the seed only, also where the optimizer repeats it."""
    return long_hash(config, (*WITHOUT_EFFECT, *SEEDS))


def left(config: dict[str, Any], without: tuple[str, ...] = WITHOUT_EFFECT, prefix: str = "") -> dict[str, Any]:
    """Return a configuration without some dotted keys; those of the parts of a list are the list's."""

    def cut(path: str, value: Any) -> Any:
        if isinstance(value, dict):
            return left(value, without, f"{path}.")
        return [cut(path, part) for part in value] if isinstance(value, list) else value

    return {key: cut(f"{prefix}{key}", value) for key, value in config.items() if f"{prefix}{key}" not in without}


def folder(config: dict[str, Any]) -> Path:
    """Return a run's folder: out/data/name/seed-N-hash."""
    return (
        Path(config["out"]) / config["data"]["name"] / config["name"] / f"seed-{config['seed']}-{long_hash(config)[:6]}"
    )


def build(node: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Return what a node's `_target_` makes of its other keys, which reach it as plain Python containers.

    Raises:
        ValueError: if a `_target_` in the node, at any depth, does not belong to one of the allowed modules.
    """
    from hydra.utils import get_object, instantiate

    for target in _targets(node):
        if not target.startswith(tuple(f"{module}." for module in ALLOWED)):
            raise ValueError(f"_target_ must start with one of {', '.join(ALLOWED)}, got {target!r}")
        # `experiments.data.os.system` would pass the test on the name: where the object comes from is what counts
        home = getattr(get_object(target), "__module__", "")
        if not f"{home}.".startswith(tuple(f"{module}." for module in ALLOWED)):
            raise ValueError(f"_target_ must be defined in one of {', '.join(ALLOWED)}, {target!r} is from {home!r}")
    return instantiate(node, *args, _convert_="all", **kwargs)


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _targets(value)
