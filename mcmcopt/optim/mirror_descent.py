"""Mirror descent (Nemirovski and Yudin 1983; Beck and Teboulle 2003) as a torch optimizer.

    w_{t+1} = argmin_w η⟨g_t, w⟩ + B_Φ(w, w_t),    that is    ∇Φ(w_{t+1}) = ∇Φ(w_t) − η g_t

with B_Φ(a, b) = Φ(a) − Φ(b) − ⟨∇Φ(b), a − b⟩.  The potential Φ says what a small step is: `Euclidean` is gradient
descent, `NegativeEntropy` exponentiated gradient, `ElasticNet` linearised Bregman iterations, sparse from the start.

Momentum and weight decay are those of `torch.optim.SGD`, whatever Φ is: decay adds the gradient of ½·weight_decay·‖w‖²
to the loss's, momentum averages gradients, and their average takes the place of g_t above.  So neither is measured in
Φ's geometry: decay is no pull towards the point of least Φ, and there is no average of weights.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from mcmcopt.chain.blocks import Tiling
from mcmcopt.chain.checks import non_negative
from mcmcopt.chain.random import Purpose, Streams
from mcmcopt.optim import checkpoint
from mcmcopt.optim.potentials import ElasticNet, Euclidean, Potential


class MirrorDescent(Optimizer):
    """Descends the gradient in the geometry of a potential; with `Euclidean()` it is `torch.optim.SGD`, bit for bit.

    Args:
        params: parameters, named parameters or parameter groups.  A group may set its own of what follows, but `seed`.
        lr: the step η ≥ 0, in units of ∇Φ per gradient; a scheduler may change it, 0 holds the weights still.
        potential: Φ; default `Euclidean()`.
        momentum: share of the averaged gradients kept at each step, in [0, 1).
        weight_decay: ≥ 0; its product with the weights is added to the gradient.
        dampening: share of each gradient but the first that the average leaves out, in [0, 1].
        nesterov: look one step of momentum ahead; needs momentum, and no dampening.
        density: for `ElasticNet`, the share of blocks in each sparse parameter that start as they are, drawn uniformly
            and divided by √density so that signals keep their size; all others start at 0 and appear when they earn it
            (Bungert, Roith, Tenbrinck and Burger 2022).  Frozen parameters are left alone.
        seed: of that draw; a non-negative integer below 2**128.

    Where w does not determine ∇Φ (`ElasticNet`), ∇Φ is state, `optimizer.state[param]["dual"]`, and the weights follow
    it: weights that anybody else has changed are refused at the next step.

    Raises:
        ValueError, TypeError: for any argument out of range and any parameter outside of Φ's domain, naming it; before
            a parameter is changed.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        potential: Potential | None = None,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        dampening: float = 0.0,
        nesterov: bool = False,
        density: float = 1.0,
        seed: int = 0,
    ) -> None:
        self._written: dict[Tensor, tuple[int, int]] = {}
        self._restored: dict[Tensor, dict[str, Tensor]] | None = None
        Streams(seed)  # raises
        defaults = {
            "lr": lr,
            "potential": Euclidean() if potential is None else potential,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "dampening": dampening,
            "nesterov": nesterov,
            "density": density,
            "seed": seed,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its weights and their duals are made consistent here."""
        copied = dict(param_group) if isinstance(param_group, dict) else param_group  # the caller may use it again
        super().add_param_group(copied)
        number = len(self.param_groups) - 1
        group = self.param_groups[number]
        try:
            group["seed"] = self.param_groups[0]["seed"]
            _check_group(group)
            names = group.get("param_names") or [f"{number}.{i}" for i in range(len(group["params"]))]
            first = sum(len(other["params"]) for other in self.param_groups[:-1])
            states = {
                param: _initial_state(param, f"parameter {name}", group, first + i)
                for i, (name, param) in enumerate(zip(names, group["params"], strict=True))
            }
        except BaseException:
            self.param_groups.pop()
            raise
        self.state.update(states)
        with torch.no_grad():
            for param, state in states.items():
                if "dual" in state and param.requires_grad:
                    param.copy_(group["potential"].inverse(state["dual"]))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step along the gradients in `param.grad` and return the closure's loss.

        Args:
            closure: evaluates the loss anew, calls `backward()` and returns the loss; None: the gradients are there.

        Raises:
            ValueError: before anything is changed, for sparse gradients or weights that others have changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        todo = [
            (group, param, self.state[param], param.grad)
            for group in self.param_groups
            for param in group["params"]
            if param.grad is not None and param.numel()
        ]
        for group, param, state, grad in todo:
            if grad.layout != torch.strided:
                raise ValueError(
                    f"MirrorDescent needs dense gradients, a parameter of shape {tuple(param.shape)} has one of layout "
                    f"{grad.layout}: build the embedding with sparse=False"
                )
            if "dual" in state:
                self._check_written(param, state["dual"], group["potential"])
        for group, param, state, grad in todo:
            _move(param, _direction(param, grad, state, group), state, group)
            if "dual" in state:
                self._written[param] = _version(param)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return all that resumes training bit for bit: tensors, numbers and strings, for `weights_only` loading."""
        saved = checkpoint.portable(super().state_dict())
        for group in saved["param_groups"]:
            group["potential"] = repr(group["potential"])
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state; the potentials stay this optimizer's own.

        Raises:
            ValueError: before anything is changed, if the state belongs to other potentials or shapes.
        """

        def last_look(_: Optimizer, final: dict[str, Any]) -> None:
            checkpoint.check_same(self.param_groups, final["param_groups"], ("potential",))
            self._restored = checkpoint.exact_state(self.param_groups, final, self.state)

        # Registered last, it sees what other hooks leave, and what torch is about to cast to other dtypes.
        handle = self.register_load_state_dict_pre_hook(last_look)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
            self._restored = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        restored = self.__dict__.get("_restored")
        if restored is not None:  # called by load_state_dict, with the casts that `restored` replaces
            exact = {
                param: {name: t if name == "averaged" else t.to(param.device) for name, t in entry.items()}
                for param, entry in restored.items()
            }
            groups = [
                {**loaded, "potential": kept["potential"]}
                for kept, loaded in zip(self.param_groups, state["param_groups"], strict=True)
            ]
            state = {"state": defaultdict(dict, exact), "param_groups": groups}
        super().__setstate__(state)
        self._written, self._restored = {}, None

    def _check_written(self, param: Tensor, dual: Tensor, potential: Potential) -> None:
        """Raise ValueError if the weights are not those of the dual variable; looks closer at what was written only."""
        if self._written.get(param) == _version(param):
            return
        expected = potential.inverse(dual).to(param.dtype)
        off = (param - expected).abs().max()
        if off > 1e-5 * expected.abs().max():  # another device may add up a block in another order
            raise ValueError(
                f"the weights of a parameter of shape {tuple(param.shape)} are not those of its dual variable, by up "
                f"to {float(off):.3g}: something else has changed them (pruning, clipping, another model's weights), "
                f"and {potential} would undo that. Construct a new optimizer on them, or load the state that belongs "
                "to them"
            )


def _version(param: Tensor) -> tuple[int, int]:
    """Return what changes when a tensor is written, but for writes through `.data`."""
    return param._version, param.data_ptr()


def _check_group(group: dict[str, Any]) -> None:
    """Check the settings of a parameter group and put them into their final form."""
    group["lr"] = group["lr"] if isinstance(group["lr"], Tensor) else non_negative("lr", group["lr"])
    non_negative("lr", float(group["lr"]))
    group["weight_decay"] = non_negative("weight_decay", group["weight_decay"])
    group["momentum"] = non_negative("momentum", group["momentum"])
    if group["momentum"] >= 1:
        raise ValueError(f"momentum must be at least 0 and below 1, got {group['momentum']!r}")
    group["dampening"] = non_negative("dampening", group["dampening"])
    if group["dampening"] > 1:
        raise ValueError(f"dampening must be between 0 and 1, got {group['dampening']!r}")
    if not isinstance(group["nesterov"], bool):
        raise ValueError(f"nesterov must be True or False, got {group['nesterov']!r}")
    if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
        raise ValueError(
            f"nesterov must be False without momentum or with dampening, got momentum={group['momentum']} and "
            f"dampening={group['dampening']}"
        )
    potential, density = group["potential"], non_negative("density", group["density"])
    if not isinstance(potential, Potential):
        raise TypeError(f"potential must be one such as Euclidean() or ElasticNet(mu=0.1), got {potential!r}")
    if not 0 < density <= 1:
        raise ValueError(f"density must be above 0 and at most 1, got {density!r}")
    if density < 1 and not isinstance(potential, ElasticNet):
        raise ValueError(f"density must be 1 with {potential}, which knows no zeros, got {density!r}; see ElasticNet")
    group["density"] = density
    for param in group["params"]:
        if not param.is_floating_point():
            raise TypeError(f"params must be real, got a parameter of {param.dtype} and shape {tuple(param.shape)}")


def _initial_state(param: Tensor, name: str, group: dict[str, Any], number: int) -> dict[str, Tensor]:
    """Return a parameter's state before the first step; complete, as distributed checkpoints want it."""
    potential: Potential = group["potential"]
    w = param.detach()
    potential.check(w, name)
    state = {
        "averaged": torch.zeros((), dtype=torch.int64),  # number of gradients in the average
        "momentum_buffer": torch.zeros_like(w),
    }
    if not potential.differentiable:
        if isinstance(potential, ElasticNet) and potential.is_sparse(w) and param.requires_grad:
            w = _thinned(w, potential, group["density"], Streams(group["seed"]).at(number, Purpose.INITIAL_MASK))
        state["dual"] = potential.mirror(w)
    return state


def _thinned(w: Tensor, potential: ElasticNet, density: float, rng: np.random.Generator) -> Tensor:
    """Return weights of which a share of the blocks is left, at least one, divided by √density."""
    tiling = Tiling(w.shape, potential.blocks)
    active = np.zeros(tiling.count, dtype=np.bool_)
    active[rng.permutation(tiling.count)[: max(1, round(density * tiling.count))]] = True
    return w * tiling.expand(active).to(w.device) / math.sqrt(density)


def _direction(param: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
    """Return what takes the place of the gradient, by the operations of `torch.optim.SGD` in their order."""
    if group["weight_decay"] != 0:
        grad = grad.add(param, alpha=group["weight_decay"])
    if group["momentum"] == 0:
        return grad
    average = state["momentum_buffer"]
    if state["averaged"] == 0:
        average.copy_(grad)  # the first gradient counts in full
    else:
        average.mul_(group["momentum"]).add_(grad, alpha=1 - group["dampening"])
    state["averaged"] += 1
    return grad.add(average, alpha=group["momentum"]) if group["nesterov"] else average


def _move(param: Tensor, direction: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    """Write w⁺ = ∇Φ*(∇Φ(w) − η·direction)."""
    potential: Potential = group["potential"]
    lr = float(group["lr"])
    if "dual" in state:
        param.copy_(potential.inverse(state["dual"].add_(direction, alpha=-lr)))
    elif lr != 0 or isinstance(potential, Euclidean):  # the way there and back rounds: not for a step of 0
        param.copy_(potential.inverse(torch.add(potential.mirror(param), direction, alpha=-lr)))
