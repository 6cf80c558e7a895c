"""An optimizer from its configuration, with settings of their own for some parameters."""

from __future__ import annotations

import re
from typing import Any

from torch import nn
from torch.optim import Optimizer

from experiments.config import build


def make_optimizer(node: dict[str, Any], model: nn.Module) -> Optimizer:
    """Return the optimizer that a node describes, over a model's named parameters.

    A node with `optimizers` is a hybrid of them; each is over all parameters, or over those at the start of whose names
    its regular expression `only` matches.  `groups` in the node maps a regular expression to settings; a parameter
    belongs to the first one that matches the start of its name, else to a group with the node's own settings.

    Raises:
        ValueError: if an expression matches no parameter that is left.
    """
    if "optimizers" in node:
        parts = [make_optimizer(part, model) for part in node["optimizers"]]
        held = {id(p) for part in parts for group in part.param_groups for p in group["params"]}
        left = [name for name, param in model.named_parameters() if param.requires_grad and id(param) not in held]
        if left:
            raise ValueError(f"optimizer.optimizers: no part holds {', '.join(left)}; see their `only`")
        settings = {key: value for key, value in node.items() if key != "optimizers"}
        hybrid: Optimizer = build(settings, parts)
        return hybrid
    settings = {key: value for key, value in node.items() if key not in ("groups", "only")}
    rest = list(model.named_parameters())
    if node.get("only") is not None:
        named, rest = rest, [(name, param) for name, param in rest if re.match(node["only"], name)]
        if not rest:
            raise ValueError(f"only: {node['only']!r} matches none of {', '.join(name for name, _ in named)}")
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
