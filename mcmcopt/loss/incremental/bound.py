"""The loss of one batch: cached activations, proposals waiting for their decision, and what invalidates them.

Rules (see `rules`) see it as their `State`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from mcmcopt.loss.guards import ClosureError, random_states
from mcmcopt.loss.incremental.fill import fill
from mcmcopt.loss.incremental.graph import Node, check_modes, modes
from mcmcopt.loss.incremental.layout import Codes, Full, Major, Patch, Rows
from mcmcopt.loss.incremental.losses import AnyLoss, make_head
from mcmcopt.loss.incremental.rules import Alias, Rule
from mcmcopt.loss.incremental.tiles import Tiles
from mcmcopt.loss.objective import Change, gradients_of, lent

if TYPE_CHECKING:
    from mcmcopt.loss.incremental.engine import IncrementalLoss


GRADIENT_SAMPLES = 2048
"""In one forward and backward pass: activations of more would leave the processor's cache."""


class Scored(NamedTuple):
    """A proposal that waits for its decision: what it makes of the nodes, of the loss and of the loss's state."""

    overlay: dict[int, Patch]
    change: Change
    loss: Tensor
    state: Any


class Bound:
    """The loss of a model on one batch; implements `SpeculativeObjective`.

    Args:
        owner: the engine.
        x, y: the batch.
    """

    def __init__(self, owner: IncrementalLoss, x: Tensor, y: Any) -> None:
        self._owner, self._x, self._y = owner, x, y
        self._batch = _versions([x, y])
        self._filled = False
        self._overlays: list[Scored] = []
        self._values: list[Any] = []
        self._loss_state: Any = None
        self._commits = 0
        self._reach_of: dict[frozenset[int], list[tuple[Node, Rule]]] = {}
        self._set_up()

    def __call__(self) -> Tensor:
        """Return the loss at the present parameters, as a plain closure would."""
        return self.evaluate()

    @property
    def lower_bound(self) -> float:
        """What the loss never lies below."""
        return self._head.lower_bound

    @property
    def bytes(self) -> int:
        """What the cached activations take."""
        return self._plan.bytes

    def is_of(self, x: Tensor, y: Any) -> bool:
        """Whether these are the batch's tensors, unchanged."""
        return x is self._x and y is self._y and self._batch == _versions([x, y])

    def is_current(self) -> bool:
        """Whether the model is as it was when it was traced: modes, modules, parameters, buffers."""
        return self._graph.modes == modes(self._owner.model)

    def evaluate(self) -> Tensor:
        """Return the loss at the present parameters, from the cache while that is known to be right.

        All is computed afresh after `refresh_every` commits, and whenever parameters, buffers, the batch or train and
        eval modes were changed by others.
        """
        check_modes(self._owner.model)
        if not self.is_current() or self._batch != _versions([self._x, self._y]):
            self._filled = False
            if self._owner._trace(self._x) is None:
                raise ClosureError("the model can no longer be traced as it is now: bind the batch again")
            self._batch = _versions([self._x, self._y])
            self._set_up()
        self._discard()
        if not self._filled or self._commits >= self._owner.refresh_every or self._written != self._present():
            self._fill()
        return self._loss.clone()

    def propose(self, change: Change) -> Tensor:
        """Return the loss that a change would give; nothing that others see is touched."""
        return self.propose_many([change])[0]

    def propose_many(self, changes: Sequence[Change]) -> list[Tensor]:
        """Return the losses that several changes would give, each from the present state."""
        if not self._filled:
            self._fill()
        self._discard()
        try:
            with torch.no_grad():
                for change in changes:
                    self._overlays.append(self._score(change))
        except BaseException:
            self._discard()
            raise
        return [scored.loss for scored in self._overlays]

    def propose_with_gradient(self, change: Change, params: Sequence[Tensor]) -> tuple[Tensor, dict[Tensor, Tensor]]:
        """Return the loss that a change would give, from the cache, and its mean's gradient, by autograd on the model.

        The gradient costs a whole forward and backward pass, in portions of `GRADIENT_SAMPLES`.
        """
        loss = self.propose(change) if change else self.evaluate()
        with self.lent(change):
            return loss, self._gradient(params)

    def commit(self, number: int = 0) -> None:
        """Move what proposal `number` changed into the cache; the optimizer has written the parameters."""
        overlay, change, loss, state = self._overlays.pop(number)
        for index, patch in overlay.items():
            if patch is None or isinstance(self._rules[index], Alias):
                continue
            if isinstance(patch, Full):
                old, self._values[index] = self._values[index], patch.data
                self.backend.buffers.give(old)
            else:
                self.backend.put(self._values[index], patch)
                self.backend.buffers.give(patch.data)
        if state is not self._loss_state:
            self._give_state(self._loss_state)
        self._loss, self._loss_state = loss, state
        self._commits += 1
        for param in change:
            if param in self._written:  # not another model's
                self._written[param] = (param._version, param.data_ptr())
        self._discard()

    def rollback(self) -> None:
        """Forget the proposals made last."""
        self._discard()

    def drop(self) -> None:
        """Forget the cached activations; they are computed again, in the same memory, when needed."""
        self._discard()
        self._filled = False

    def inherit(self, other: Bound) -> None:
        """Take over the memory of a binding of as many samples that is no longer used."""
        if (
            other.nodes is self.nodes
            and type(other.backend) is type(self.backend)
            and other.backend.n == self.backend.n
        ):
            self._values, self.backend.buffers = other._values, other.backend.buffers
        other._values, other._filled = [None] * len(other.nodes), False
        other.backend.buffers = type(other.backend.buffers)()

    # what rules see

    def cached(self, index: int) -> Tensor:
        """Return a node's cached activation in the backend's layout."""
        value = self._values[self._roots[index]]
        assert isinstance(value, Tensor)  # noqa: S101 -- planned to be stored
        return value

    def codes(self, index: int) -> Codes | None:
        """Return a node's activation as integer codes, if it is kept so."""
        value = self._values[index]
        return value if isinstance(value, Codes) else None

    def value(self, index: int) -> Any:
        """Return a node's present value, patched, as torch would compute it."""
        if index in self._majors:
            return self._majors[index]
        node, patch = self.nodes[index], self._overlay.get(index)
        if node.shape is None:
            return self._values[index] if patch is None else patch.data
        if isinstance(patch, Full):
            data = patch.data
        elif isinstance(patch, Rows):
            data = self.backend.merged(self.cached(index), patch)
        elif (codes := self.codes(index)) is not None:
            scale, shift = (v.view(-1, *[1] * (len(node.shape) - 1)) for v in (codes.scale, codes.shift))
            return self._x * scale + shift
        else:
            data = self.cached(index)
        value = self.backend.major(data, node.shape)
        self._majors[index] = value
        return value

    @contextmanager
    def lent(self, edits: Change) -> Iterator[None]:
        """Write edits for the duration of a block, which `evaluate` need not take for the writes of others."""
        known = [param for param in edits if self._written.get(param) == (param._version, param.data_ptr())]
        try:
            with lent(edits):
                yield
        finally:
            for param in known:
                self._written[param] = (param._version, param.data_ptr())

    def _gradient(self, params: Sequence[Tensor]) -> dict[Tensor, Tensor]:
        """Return the gradient of the mean loss as a plain closure would have it."""
        n, owner = len(self._x), self._owner
        total = {param: torch.zeros_like(param) for param in params}
        known = not isinstance(self._head, AnyLoss)  # others need not be means over the samples
        whole = not known or not isinstance(self._y, Tensor) or n <= GRADIENT_SAMPLES
        for start in range(0, n, n if whole else GRADIENT_SAMPLES):
            part = slice(None) if whole else slice(start, start + GRADIENT_SAMPLES)
            y = self._y if whole else self._y[part]
            with torch.enable_grad():
                found = gradients_of(owner.loss_fn(owner.model(self._x[part]), y), params)
            for param, gradient in found.items():
                total[param] += gradient * (1.0 if whole else len(y) / n)
        return total

    def _set_up(self) -> None:
        graph = self._owner._graph
        assert graph is not None  # noqa: S101 -- bind has traced
        n = len(self._x)
        self._graph, self.nodes, self._rules = graph, graph.nodes, self._owner._rules
        self._plan = self._owner._plan(n)
        budget = self._owner.memory_budget
        if budget is not None and self._plan.bytes > budget:
            fits = max(0, int(n * budget / self._plan.bytes) // 64 * 64)
            raise ValueError(
                f"the activations of {n} samples take {self._plan.bytes} bytes and memory_budget is {budget}: bind at "
                f"most about {fits} samples at a time, or raise the budget"
            )
        output = graph.nodes[graph.output]
        dtype = output.dtype
        assert dtype is not None  # noqa: S101 -- trace has looked
        assert output.shape is not None  # noqa: S101
        self.backend: Major
        if self._plan.tiled and dtype in (torch.float32, torch.float64):
            self.backend = Tiles(n, dtype)
        else:
            self.backend = Major(n, dtype, self._x.device)
        self._roots = _roots(self.nodes, self._rules)
        self._head = make_head(self._owner.loss_fn, self.backend, output.shape, self._y)
        self._values = [None] * len(self.nodes)
        self._overlay: dict[int, Patch] = {}
        self._majors: dict[int, Any] = {}
        self._commits, self._loss_state = 0, None
        self._written: dict[Tensor, tuple[int, int]] = {}
        users: dict[Tensor, set[int]] = {}
        for node in self.nodes:
            for param in node.params:
                users.setdefault(param, set()).add(node.index)
        self._users = users
        self._reach_of = {}

    def _reach(self, params: Iterable[Tensor]) -> list[tuple[Node, Rule]]:
        """Return the nodes that a change of these parameters reaches, in order."""
        key = frozenset(id(param) for param in params)
        if key not in self._reach_of:
            hit: set[int] = set().union(*(self._users.get(param, set()) for param in params))
            for node in self.nodes:
                if any(i in hit for i in node.inputs):
                    hit.add(node.index)
            self._reach_of[key] = [(self.nodes[i], self._rules[i]) for i in sorted(hit)]
        return self._reach_of[key]

    def _score(self, change: Change) -> Scored:
        overlay: dict[int, Patch] = {}
        self._overlay, self._majors = overlay, {}
        for node, rule in self._reach(change):
            patches = [overlay.get(i) for i in node.inputs]
            edits = {param: change[param] for param in node.params if param in change} if node.params else {}
            if not edits and not any(patches):
                continue
            overlay[node.index] = rule.patch(self, patches, edits)
        output = self._graph.output
        patch = overlay.get(output)
        if patch is None:
            result = (self._loss, self._loss_state)
        elif isinstance(patch, Full):
            result = self._head.whole(patch.data)
        else:
            result = self._head.rows(self.cached(output), patch, self._loss_state)
        self._overlay, self._majors = {}, {}
        return Scored(overlay, change, *result)

    def _discard(self) -> None:
        give = self.backend.buffers.give
        for scored in self._overlays:
            for patch in scored.overlay.values():
                if patch is not None and isinstance(patch.data, Tensor):
                    give(patch.data)
            if scored.state is not self._loss_state:
                self._give_state(scored.state)
        self._overlays.clear()

    def _give_state(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else ():
            self.backend.buffers.give(part)

    @torch.no_grad()
    def _fill(self) -> None:
        """Compute all activations that are needed."""
        self._values = fill(self.nodes, self._plan, self.backend, self._x, self._values)
        before = random_states()
        self._loss, self._loss_state = self._head.whole(self.cached(self._graph.output))
        if any(not torch.equal(a, b) for a, b in zip(before, random_states(), strict=True)):
            raise ClosureError("loss_fn draws random numbers, so the loss is not a function of the parameters")
        self._commits, self._filled = 0, True
        self._written = self._present()

    def _present(self) -> dict[Tensor, tuple[int, int]]:
        model, loss = self._owner.model, self._owner.loss_fn
        buffers = loss.buffers() if isinstance(loss, nn.Module) else ()
        return {t: (t._version, t.data_ptr()) for t in (*model.parameters(), *model.buffers(), *buffers)}


def _roots(nodes: Sequence[Node], rules: Sequence[Rule]) -> list[int]:
    """Return for each node the one whose memory it shares."""
    roots: list[int] = []
    for node, rule in zip(nodes, rules, strict=True):
        roots.append(roots[node.inputs[0]] if isinstance(rule, Alias) else node.index)
    return roots


def _versions(values: Sequence[Any]) -> list[tuple[int, int] | None]:
    return [(v._version, v.data_ptr()) if isinstance(v, Tensor) else None for v in values]
