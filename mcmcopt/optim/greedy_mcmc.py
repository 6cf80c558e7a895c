"""Greedy layer-wise reversible-jump MCMC as a torch optimizer.

One step on a batch with loss ℓ: `n_proposals` times, draw a layer, a move and a proposal (w', γ'), and accept it
with probability

    min{1, exp[-λ(ℓ' - ℓ)] · π(w', γ')/π(w, γ) · q(back)/q(forth)}          (Green 1995, with Jacobian 1)

With one batch, a constant λ and adaptation frozen this is a Markov chain with stationary law
exp(-λℓ) π(w, γ) / Z.  With batches that change, an annealed λ, or parameter groups of different λ, it is greedy
optimisation by the same steps: no law is known to be left invariant.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from mcmcopt.chain.accept import Rule, rounding
from mcmcopt.chain.blocks import BlockSpec
from mcmcopt.chain.checks import non_negative
from mcmcopt.chain.kernel import Kernel
from mcmcopt.chain.layer import Layer
from mcmcopt.chain.moves import AnyMove
from mcmcopt.chain.priors import Prior, log_prior
from mcmcopt.chain.random import Streams
from mcmcopt.loss.guards import guarded
from mcmcopt.loss.objective import Closure, ClosureObjective, Objective
from mcmcopt.optim import checkpoint, setup
from mcmcopt.optim.info import LayerTally, StepInfo, report
from mcmcopt.optim.selection import Candidate, modules, probabilities
from mcmcopt.optim.speculation import AutoWindow, Speculate, check_speculate
from mcmcopt.optim.sweep import Sweep, Turn

Lam: TypeAlias = float | Callable[[int], float]


class GreedyMCMC(Optimizer):
    """Trains by proposing changes and keeping them with the Metropolis-Hastings-Green probability; needs no gradient.

    Args:
        params: parameters, named parameters or parameter groups.  A group may set its own `lam`, `lr`, `prior`,
            `moves`, `blocks` and `selection_weight`.
        lam: inverse temperature λ ≥ 0, which multiplies the closure's mean loss, or a callable of the step.
            λ = n is the posterior given n samples; larger is colder and greedier; 0 is the prior.
        n_proposals: proposals per step.
        prior: a slab such as `Gaussian(1.0)`, the default, keeps all weights; `SpikeSlab` makes them sparse.
        moves: each is chosen in proportion to its `weight` among those that apply; default `default_moves(prior)`.
        blocks: `"scalar"`, `"row"`, `"filter"` or a tile `(r, c)`: what lives and dies together.  Parameters of
            fewer than two dimensions (biases, norms) are never sparse.
        lr: proposal scale relative to each layer's initial root-mean-square; a scheduler may change it.
        selection_weight: how often a module of the group is drawn, relative to those of other groups.
        init: `"dense"` keeps all weights active; `"prior"` draws the mask from the prior, here and now.
        rule: `"metropolis"` samples; `"improve"` accepts exactly what raises the log target: a hill climb, not a
            sampler.
        adapt: whether proposal scales are adapted.
        grad: whether the closure calls `backward()`; None finds out during the first step.  Say True for a closure
            that differentiates in other ways (`torch.autograd.grad` with respect to its inputs).
        speculate: how many proposals are scored together from one state, if the objective has `propose_many` (a
            closure has not); the chain is the same whatever it is. `"auto"` finds out by the clock which is fastest,
            each process by its own: say a number where evaluations communicate between processes.
        seed: key of the chain's own random streams.

    Raises:
        ValueError, TypeError: for any argument out of range, naming it.
    """

    def __init__(
        self,
        params: ParamsT,
        lam: Lam,
        *,
        n_proposals: int = 200,
        prior: Prior | None = None,
        moves: AnyMove | Sequence[AnyMove] | None = None,
        blocks: BlockSpec = "scalar",
        lr: float = 1.0,
        selection_weight: float = 1.0,
        init: Literal["dense", "prior"] = "dense",
        rule: Rule = "metropolis",
        adapt: bool = True,
        grad: bool | None = None,
        speculate: Speculate = 1,
        seed: int = 0,
    ) -> None:
        if init not in ("dense", "prior"):
            raise ValueError(f'init must be "dense" or "prior", got {init!r}')
        if rule not in ("metropolis", "improve"):
            raise ValueError(f'rule must be "metropolis" or "improve", got {rule!r}')
        if isinstance(n_proposals, bool) or not isinstance(n_proposals, int) or n_proposals < 1:
            raise ValueError(f"n_proposals must be an integer of at least 1, got {n_proposals!r}")
        if grad is not None and not isinstance(grad, bool):
            raise ValueError(f"grad must be True, False or None, got {grad!r}")
        self.n_proposals = n_proposals
        self.rule: Rule = rule
        self.grad = grad
        self.speculate: Speculate = check_speculate(speculate)
        self._auto = AutoWindow()  # not in the state dict: no decision depends on it
        self.info: StepInfo | None = None
        self._init = init
        self._warned = False
        self._streams = Streams(seed)
        self._kernels: dict[Tensor, Kernel] = {}
        self._restored: dict[Tensor, dict[str, Tensor]] | None = None
        defaults = {
            "lam": lam,
            "lr": lr,
            "prior": prior,
            "moves": moves,
            "blocks": blocks,
            "selection_weight": selection_weight,
            "adapt": adapt,
            "seed": seed,
            "step": 0,
            "proposal": 0,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its parameters join the chain at its present step."""
        copied = dict(param_group) if isinstance(param_group, dict) else param_group  # the caller may use it again
        super().add_param_group(copied)
        group = self.param_groups[-1]
        try:
            group.update({key: self.param_groups[0][key] for key in ("seed", "step", "proposal")})
            setup.check_group(group)
            first = sum(len(other["params"]) for other in self.param_groups[:-1])
            self.state.update(setup.initial_states(group, self._init, self._streams, first))
            self._bind()
        except BaseException:
            self.param_groups.pop()
            for param in group["params"]:
                self.state.pop(param, None)
            raise

    def mask(self, param: Tensor) -> Tensor:
        """Return the boolean tensor of a parameter's shape, on its device, True where it is active."""
        if param not in self._kernels:
            raise ValueError(f"a tensor of shape {tuple(param.shape)} is none of this optimizer's parameters")
        return self._kernels[param].layer.mask().to(param.device)

    def log_prior(self) -> float:
        """Return log π(w, γ) of the present state, in float64; costs a pass over all parameters."""
        layers = self._layers()
        for layer in layers:
            layer.refresh()
        return log_prior(layers)

    def freeze_adaptation(self) -> None:
        """Stop adapting proposal scales, also after a reload and in groups added later: the kernel is a fixed one."""
        for settings in (self.defaults, *self.param_groups):
            settings["adapt"] = False

    @torch.no_grad()
    def observe_gradients(self) -> None:
        """Let the `.grad` of parameters enter the running moments that preconditioners and `saliency="obd"` go by.

        For a chain that works beside a gradient method, whose gradients are there anyway.  Nothing happens for
        parameters without `.grad`, without such a move, or with adaptation frozen.
        """
        for group in self.param_groups:
            for param in group["params"]:
                moments = self._kernels[param].layer.moments
                if group["adapt"] and moments is not None and param.grad is not None:
                    moments.see(param.grad)

    @torch.no_grad()
    def step(self, closure: Closure | Objective | None = None) -> Tensor:  # type: ignore[override]
        """Make `n_proposals` proposals on one batch and return the loss of the state that remains.

        Args:
            closure: returns the batch's loss at the present parameters: a scalar, or one loss per sample, of which
                the mean counts and is returned.  Or an `Objective`.

        Raises:
            TypeError: without a closure, or if it returns no loss.
            ValueError: if the loss is not finite at the present parameters, or a setting is out of range.
            ClosureError: if the loss is random or evaluating it changes buffers.

        Whatever is raised in here, parameters and the chain are as they were before the step.  Gradients are so in
        any case: a closure may call `backward()`, the chain has no use for it (of tensors that the optimizer does
        not hold, `.grad` is the closure's own affair).
        """
        if closure is None:
            raise TypeError(
                "GreedyMCMC.step needs a closure that returns the loss: optimizer.step(lambda: loss_fn(model(x), y)). "
                "Under torch.amp put autocast inside the closure and leave GradScaler out"
            )
        turns = self._turns()
        objective = closure if isinstance(closure, Objective) else ClosureObjective(closure, self._kernels, self.grad)
        loss, evaluations = self._present_loss(objective)
        sweep = Sweep(
            objective, turns, self._streams, self.rule, self._auto if self.speculate == "auto" else self.speculate
        )
        try:
            current = sweep.run(loss, self.param_groups[0]["proposal"], self.n_proposals)
        except BaseException:
            sweep.undo()
            raise
        for group in self.param_groups:
            group["step"] += 1
            group["proposal"] += self.n_proposals
        for layer in self._layers():
            layer.mark_written()
        sweep.counts.evaluations += evaluations
        tallies = {turn.kernel.layer.param: turn.tally for turn in turns}
        self.info = report(self.param_groups, self._kernels, tallies, float(current.mean()), sweep.counts)
        return current.mean().to(loss.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Return all that resumes the chain bit for bit: tensors, numbers and strings, for `weights_only` loading."""
        return checkpoint.portable(super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the saved chain; prior, moves, blocks and a schedule of λ stay this optimizer's own.

        Raises:
            ValueError: before anything is changed, if the state belongs to another prior, moves, blocks or shapes.
        """

        def last_look(_: Optimizer, final: dict[str, Any]) -> None:
            checkpoint.check_same(self.param_groups, final["param_groups"])
            self._restored = checkpoint.exact_state(self.param_groups, final, self.state)

        # Registered last, it sees what other hooks leave, and what torch is about to cast to other dtypes.
        handle = self.register_load_state_dict_pre_hook(last_look)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
            self._restored = None

    def __getstate__(self) -> dict[str, Any]:
        names = ("n_proposals", "rule", "grad", "speculate", "info", "_auto", "_init", "_warned", "_restored")
        own = {name: getattr(self, name) for name in names}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        restored = self.__dict__.get("_restored")
        if restored is not None:  # called by load_state_dict, with the casts that `restored` replaces
            keys = [*self.defaults, checkpoint.OWN]  # torch adds a default that is in no group
            own = [{key: group[key] for key in keys if key in group} for group in self.param_groups]
            groups = [
                {**kept, **loaded, **{key: kept[key] for key in (*checkpoint.OBJECTS, checkpoint.OWN)}}
                for kept, loaded in zip(own, state["param_groups"], strict=True)
            ]
            state = {"state": defaultdict(dict, restored), "param_groups": groups}
        super().__setstate__(state)
        self._bind()

    def _bind(self) -> None:
        """Build the chain's objects over the groups and the state tensors, which they share."""
        self._streams = Streams(self.param_groups[0]["seed"])
        bound = [setup.bind_group(number, group, self.state) for number, group in enumerate(self.param_groups)]
        self._kernels = {param: kernel for kernels in bound for param, kernel in kernels.items()}
        taken = Counter(layer.name for layer in self._layers())
        for number, kernels in enumerate(bound):
            for kernel in kernels.values():
                if taken[kernel.layer.name] > 1:  # two models in two groups
                    kernel.layer.name = f"{number}.{kernel.layer.name}"

    def _layers(self) -> list[Layer]:
        return [kernel.layer for kernel in self._kernels.values()]

    def _turns(self) -> list[Turn]:
        """Return the layers that can be drawn in this step, with the settings that hold for it."""
        for group in self.param_groups:
            setup.update_lam(group)
            non_negative("lr", float(group["lr"]))
            for layer in (self._kernels[param].layer for param in group["params"]):
                if layer.inclusion is not None:
                    layer.inclusion = group["prior"].inclusion.at(group["step"])
        numbered = [(i, group, param) for i, group in enumerate(self.param_groups) for param in group["params"]]
        candidates = [
            Candidate(
                number,
                self._kernels[param].layer.name if "param_names" in group else None,
                param.dim(),
                self._kernels[param].layer.tiling.count,
                float(group["selection_weight"]),
            )
            for number, group, param in numbered
        ]
        homes = modules(candidates)
        eligible = [
            i
            for i, (_, _, param) in enumerate(numbered)
            if param.requires_grad and candidates[i].blocks and candidates[i].weight and self._kernels[param].choices
        ]
        if not eligible:
            raise ValueError(
                "no parameter can be proposed: all are frozen (requires_grad=False), empty, in groups of "
                "selection_weight 0, or have no move that applies to them (births and deaths need a SpikeSlab prior)"
            )
        shares = probabilities([candidates[i] for i in eligible], [homes[i] for i in eligible])
        turns = []
        for i, share in zip(eligible, shares, strict=True):
            _, group, param = numbered[i]
            kernel = self._kernels[param]
            kernel.layer.refresh()
            turns.append(Turn(kernel, share, group["lam"], float(group["lr"]), bool(group["adapt"]), LayerTally()))
        return turns

    def _present_loss(self, objective: Objective) -> tuple[Tensor, int]:
        """Return the loss at the present parameters, past all guards, and how many evaluations that took."""
        evaluations = 0

        def evaluate() -> Tensor:
            nonlocal evaluations
            evaluations += 1
            return objective.evaluate()

        loss = guarded(evaluate, twice=self.param_groups[0]["step"] == 0)
        if isinstance(objective, ClosureObjective):
            self.grad = objective.grad
        self._check(loss)
        return loss, evaluations

    def _check(self, loss: Tensor) -> None:
        mean = float(loss.double().mean())
        if not math.isfinite(mean):
            raise ValueError(
                f"the loss at the present parameters is {mean}: the chain needs a finite one to start from. Check the "
                "batch and the model's initialisation"
            )
        lam = max(group["lam"] for group in self.param_groups)
        error = rounding(loss, lam)
        if error > 0.1 and not self._warned:
            self._warned = True
            warnings.warn(
                f"lam={lam:g} times the rounding of a {loss.dtype} loss of {mean:.3g} is {error:.2g}: decisions are "
                "blurred by that much in log units. Return one loss per sample (reduction='none'), or a wider dtype",
                stacklevel=6,  # past _present_loss and torch's two wrappers of step
            )
