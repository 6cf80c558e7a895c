"""Several optimizers as one: gradient steps here, accept/reject there, or both on the same weights by turns.

Parts may hold different parameters (real layers by gradient, binary ones by sign flips), or the same ones in turn: a
gradient method moves the active weights, a chain decides which are active.  Then the chain's mask γ holds for all,

    g ← γ ⊙ g,    w ← γ ⊙ step(w, g),    γ, w ← chain(γ, w) every T steps,

and a gradient method's memory of a weight (momentum, moments) starts from zero when the weight is born.  Each turn of
the chain targets its own law; with gradient steps between them the whole is an optimizer, not a sampler.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mcmcopt.loss.objective import Closure, Objective
from mcmcopt.optim.greedy_mcmc import GreedyMCMC

STEP = "hybrid_step"
"""The number of steps made, in the first group, where every state dict takes it along."""


class Hybrid(Optimizer):
    """Steps several optimizers by one closure.

    Args:
        optimizers: the parts, stepped in this order: gradient methods (those that call the closure themselves last),
            then chains.  A chain (`GreedyMCMC`) may share parameters with a gradient method; two chains, or two other
            parts, may not, nor may a part that computes weights from a state of its own (`KLMirrorDescent`, a
            potential with a dual variable).
        every: of each part, the number of steps between two of its turns; default 1 for all.  A chain's schedules (of
            λ, of a cap) count its turns.

    `param_groups` are those of all parts, so that schedulers see them; a group keeps its own settings.  A new one is
    added with `add_param_group({"params": …, "part": number})`.

    Raises:
        ValueError, TypeError: for no parts, a part that is no optimizer, or parameters that two parts hold both.
    """

    def __init__(self, optimizers: Sequence[Optimizer], every: Sequence[int] | None = None) -> None:
        self.optimizers = list(optimizers)
        if not self.optimizers:
            raise ValueError("optimizers must name at least one part, got none")
        for part in self.optimizers:
            if not isinstance(part, Optimizer) or isinstance(part, Hybrid):
                raise TypeError(f"optimizers must be torch optimizers other than Hybrid, got {part!r}")
        self.every = [1] * len(self.optimizers) if every is None else list(every)
        valid = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in self.every)
        if len(self.every) != len(self.optimizers) or not valid:
            raise ValueError(f"every must give an integer of at least 1 for each of the parts, got {every!r}")
        params = list(
            dict.fromkeys(p for part in self.optimizers for group in part.param_groups for p in group["params"])
        )
        super().__init__([{"params": params}], {})
        self._check_shared()
        self._check_owned()
        self._gather()
        self.param_groups[0].setdefault(STEP, 0)

    @property
    def chains(self) -> list[GreedyMCMC]:
        """The parts that are chains."""
        return [part for part in self.optimizers if isinstance(part, GreedyMCMC)]

    @property
    def turns(self) -> list[Optimizer]:
        """The parts that have their turn in the next step."""
        next_step = int(self.param_groups[0][STEP]) + 1
        return [part for part, every in zip(self.optimizers, self.every, strict=True) if next_step % every == 0]

    @torch.no_grad()
    def step(self, closure: Closure | None = None, objective: Closure | Objective | None = None) -> Tensor:  # type: ignore[override]
        """Make one step of every part whose turn it is, and return the loss.

        Args:
            closure: clears gradients, evaluates the loss and calls `backward()`; it is evaluated once for all gradient
                methods (a part with `needs_closure = True` calls it itself).
            objective: what chains score their proposals with, a closure without `backward()`, an `Objective`, or
                None for the closure itself.  It may see another, larger batch.

        Returns:
            The closure's loss before the step; that of the last chain where no gradient method had a turn.

        Raises:
            TypeError: without a closure.
        """
        if closure is None:
            raise TypeError("Hybrid.step needs a closure that clears gradients, returns the loss and calls backward()")
        self._gather()
        turns = self.turns
        gradient = [part for part in turns if not isinstance(part, GreedyMCMC)]
        loss: Any = None
        if any(not getattr(part, "needs_closure", False) for part in gradient):
            with torch.enable_grad():
                loss = closure()
            for chain in self.chains:
                chain.observe_gradients()
        if gradient:
            held = self._held(gradient)
            for param, mask in held:
                if param.grad is not None:
                    param.grad.mul_(mask)
            for part in sorted(gradient, key=lambda p: bool(getattr(p, "needs_closure", False))):
                if getattr(part, "needs_closure", False):  # last, because its own evaluations overwrite `.grad`
                    own = part.step(closure)  # type: ignore[arg-type]
                    loss = own if loss is None else loss
                else:
                    part.step()
            for param, mask in held:
                param.mul_(mask)
        for part in turns:
            if isinstance(part, GreedyMCMC):
                before = dict(self._held(self.optimizers))
                after = part.step(closure if objective is None else objective)
                loss = after if loss is None else loss
                self._forget(part, before)
        self.param_groups[0][STEP] += 1
        if isinstance(loss, Tensor):
            return loss.detach()
        return torch.tensor(float("nan") if loss is None else float(loss))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the part that its key `"part"` names.

        Raises:
            ValueError: without that key, or if another part holds one of its parameters already.
        """
        if not self.param_groups:  # by the constructor
            super().add_param_group(param_group)
            return
        group = dict(param_group)
        part = group.pop("part", None)
        if not isinstance(part, int) or not 0 <= part < len(self.optimizers):
            raise ValueError(
                f'a group for Hybrid must say "part", the number of one of its {len(self.optimizers)} parts, '
                f"got part={part!r}"
            )
        chosen = self.optimizers[part]
        others = [
            o
            for o in self.optimizers
            if o is not chosen and isinstance(o, GreedyMCMC) is isinstance(chosen, GreedyMCMC)
        ]
        params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        group["params"] = params
        given = {id(p[1] if isinstance(p, tuple) else p) for p in params}
        if any(id(p) in given for other in others for g in other.param_groups for p in g["params"]):
            raise ValueError("a parameter of the new group belongs to another part of the same kind already")
        chosen.add_param_group(group)
        try:
            self._check_owned()
        except ValueError:
            for param in chosen.param_groups.pop()["params"]:
                chosen.state.pop(param, None)
            raise
        finally:
            self._gather()

    def state_dict(self) -> dict[str, Any]:
        """Return one state dict of torch's usual form; parameters that two parts hold have two entries."""
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        self._gather()
        state: dict[int, Any] = {}
        groups: list[dict[str, Any]] = []
        offset = 0
        for part in self.optimizers:
            own = part.state_dict()
            state |= {offset + index: entry for index, entry in own["state"].items()}
            groups += [{**g, "params": [offset + index for index in g["params"]]} for g in own["param_groups"]]
            offset += _size(part)
        result: dict[str, Any] = {"state": state, "param_groups": groups}
        for after in self._optimizer_state_dict_post_hooks.values():
            replaced = after(self, result)
            result = result if replaced is None else replaced
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give each part its share of a saved state.

        Raises:
            ValueError: if the groups have other sizes, or a part refuses its share; nothing is changed then.
        """
        state_dict = dict(state_dict)
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = hook(self, state_dict)
            state_dict = state_dict if replaced is None else replaced
        saved, shares = list(state_dict["param_groups"]), []
        sizes = [[len(g["params"]) for g in part.param_groups] for part in self.optimizers]
        if [len(g["params"]) for g in saved] != [n for own in sizes for n in own]:
            raise ValueError(
                f"the saved state has parameter groups of sizes {[len(g['params']) for g in saved]}, the parts of this "
                f"optimizer have groups of sizes {sizes}: build it of the same parts in the same order"
            )
        for own in sizes:
            groups = [saved.pop(0) for _ in own]
            keys = [key for g in groups for key in g["params"]]
            number = {key: position for position, key in enumerate(keys)}
            entries = {number[key]: entry for key, entry in state_dict["state"].items() if key in number}
            groups = [{**g, "params": [number[key] for key in g["params"]]} for g in groups]
            shares.append({"state": entries, "param_groups": groups})
        before = [part.state_dict() for part in self.optimizers]
        try:
            for part, share in zip(self.optimizers, shares, strict=True):
                part.load_state_dict(share)
        except BaseException:
            for part, old in zip(self.optimizers, before, strict=True):
                part.load_state_dict(old)
            raise
        self._gather()
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "optimizers": self.optimizers, "every": self.every}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._gather()

    def __repr__(self) -> str:
        parts = ",\n".join(f"every {n}: {part!r}" for n, part in zip(self.every, self.optimizers, strict=True))
        return f"Hybrid (\n{parts}\n)"

    def _gather(self) -> None:
        """Look at the parts' groups and state, which loading and adding replace."""
        self.param_groups = [group for part in self.optimizers for group in part.param_groups]
        merged: defaultdict[Tensor, Any] = defaultdict(dict)
        for part in self.optimizers:
            for param, entry in part.state.items():
                merged[param] = {**merged.get(param, {}), **entry}
        self.state = merged

    def _check_shared(self) -> None:
        for chains in (True, False):
            seen: set[int] = set()
            for number, part in enumerate(self.optimizers):
                if isinstance(part, GreedyMCMC) is chains:
                    own = {id(p) for group in part.param_groups for p in group["params"]}
                    if own & seen:
                        kind = "chains" if chains else "parts that are no chains"
                        raise ValueError(f"part {number} holds parameters of an earlier one: two {kind} may not share")
                    seen |= own

    def _check_owned(self) -> None:
        held = {id(p) for chain in self.chains for group in chain.param_groups for p in group["params"]}
        for number, part in enumerate(self.optimizers):
            if isinstance(part, GreedyMCMC):
                continue
            own = [p for group in part.param_groups for p in group["params"] if id(p) in held]
            if own and (getattr(part, "needs_closure", False) or any("dual" in part.state.get(p, {}) for p in own)):
                raise ValueError(
                    f"part {number}, {type(part).__name__}, computes weights from a state of its own: no chain may "
                    "share them. Give the chain other parameters"
                )

    def _held(self, parts: Sequence[Optimizer]) -> list[tuple[Tensor, Tensor]]:
        """Return the parameters of these parts that a chain keeps sparse, with their masks."""
        own = {id(p) for part in parts for group in part.param_groups for p in group["params"]}
        return [(param, mask) for chain in self.chains for param, mask in _sparse(chain) if id(param) in own]

    def _forget(self, chain: GreedyMCMC, before: dict[Tensor, Tensor]) -> None:
        """Set the gradient methods' memory of weights that were just born to zero."""
        for param, mask in _sparse(chain):
            born = mask & ~before[param]
            for part in self.optimizers:
                if part is chain or isinstance(part, GreedyMCMC):
                    continue
                for value in part.state.get(param, {}).values():
                    if isinstance(value, Tensor) and value.shape == param.shape:
                        value.masked_fill_(born, 0)


def _sparse(chain: GreedyMCMC) -> Iterator[tuple[Tensor, Tensor]]:
    for group in chain.param_groups:
        for param in group["params"]:
            if "order" in chain.state[param]:
                yield param, chain.mask(param)


def _size(part: Optimizer) -> int:
    return sum(len(group["params"]) for group in part.param_groups)
