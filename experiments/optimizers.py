"""An optimizer from its configuration, with settings of their own for some parameters."""

from __future__ import annotations

import re
from typing import Any

from torch import nn
from torch.optim import Optimizer

from experiments.config import build


def make_optimizer(node: dict[str, Any], model: nn.Module) -> Optimizer:
    """Return the optimizer that a node describes, over a model's named parameters.

    `groups` in the node maps a regular expression to settings; a parameter belongs to the first one that matches the
    start of its name, else to a group with the node's own settings.

    Raises:
        ValueError: if an expression matches no parameter that is left.
    """
    settings = {key: value for key, value in node.items() if key != "groups"}
    rest = list(model.named_parameters())
    groups = []
    for pattern, own in (node.get("groups") or {}).items():
        chosen = [(name, param) for name, param in rest if re.match(pattern, name)]
        if not chosen:
            raise ValueError(f"optimizer.groups: {pattern!r} matches none of {', '.join(name for name, _ in rest)}")
        rest = [(name, param) for name, param in rest if not re.match(pattern, name)]
        groups.append({"params": chosen, **build({"_target_": "experiments.optimizers.options", **own})})
    optimizer: Optimizer = build(settings, [*([{"params": rest}] if rest else []), *groups])
    return optimizer


def options(**settings: Any) -> dict[str, Any]:
    """Return its arguments: a node without a class of its own, whose parts are built."""
    return settings
