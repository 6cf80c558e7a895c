"""State dicts that restore a chain bit for bit, and say so when they belong to another one.

`torch.optim.Optimizer.load_state_dict` casts state to the parameter's dtype, which turns index tensors into floats
(into bfloat16 even) and loses them; it replaces groups, so that objects in them cannot be saved with
`weights_only=True`.  So tensors are restored from what was really saved, and of objects a fingerprint is saved.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mcmcopt.chain.support import Support

OBJECTS = ("prior", "moves", "blocks")
"""Group settings that are objects: saved as their `repr`, kept on load, compared."""

OWN = "lam_schedule"
"""A setting that is saved as None (flattened distributed state dicts ask for every key) and kept on load."""


def portable(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return a state dict of tensors (copied), numbers and strings only."""
    groups = [
        {key: repr(value) if key in OBJECTS else None if key == OWN else value for key, value in group.items()}
        for group in state_dict["param_groups"]
    ]
    state = {
        key: {name: value.clone() if isinstance(value, Tensor) else value for name, value in entry.items()}
        for key, entry in state_dict["state"].items()
    }
    return {**state_dict, "state": state, "param_groups": groups}


def check_same(groups: list[dict[str, Any]], saved: list[dict[str, Any]], objects: tuple[str, ...] = OBJECTS) -> None:
    """Raise ValueError, naming both, if saved groups differ in their sizes or in one of these settings."""
    sizes, others = ([len(group["params"]) for group in each] for each in (groups, saved))
    if sizes != others:
        raise ValueError(f"the saved state has parameter groups of sizes {others}, this optimizer of sizes {sizes}")
    for number, (group, other) in enumerate(zip(groups, saved, strict=True)):
        for key in objects:
            if repr(group[key]) != other.get(key):
                raise ValueError(
                    f"the saved state of parameter group {number} has {key}={other.get(key)}, this optimizer has "
                    f"{key}={group[key]!r}: construct it with the same {key}"
                )


def exact_state(
    groups: list[dict[str, Any]], saved: dict[str, Any], current: dict[Tensor, dict[str, Tensor]]
) -> dict[Tensor, dict[str, Tensor]]:
    """Return the saved state by parameter, with the dtypes it was saved in, on the CPU.

    A frozen parameter that the saved state lacks (distributed checkpoints leave those out) keeps its present state.

    Raises:
        ValueError: if tensors are missing, of the wrong shape, or no set of active blocks.
    """
    keys = [key for group in saved["param_groups"] for key in group["params"]]
    params = [param for group in groups for param in group["params"]]
    restored: dict[Tensor, dict[str, Tensor]] = {}
    for number, (key, param) in enumerate(zip(keys, params, strict=True)):
        entry, present = saved["state"].get(key), current[param]
        if entry is None and not param.requires_grad:
            restored[param] = present
            continue
        restored[param] = {}
        for name, tensor in present.items():
            value = None if entry is None else entry.get(name)
            if not isinstance(value, Tensor) or value.shape != tensor.shape:
                what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
                raise ValueError(
                    f"the saved state of parameter {number} has {name!r} as {what}, expected a tensor of "
                    f"{tensor.dtype} and shape {tuple(tensor.shape)}"
                )
            restored[param][name] = value.detach().to("cpu", tensor.dtype, copy=True)
        if "order" in present:
            Support(restored[param]["order"], restored[param]["active"])  # raises here, before anything is changed
    return restored
