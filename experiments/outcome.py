"""What a run found: rows of its tables, and its summary."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from torch import nn

from experiments import record
from experiments.config import group_hash, long_hash
from experiments.data import Data
from experiments.energy import Energy
from experiments.evaluate import Score, evaluate
from experiments.finetune import finetune
from experiments.reference_form import seconds_per_proposal
from experiments.train import Training
from mcmcopt.sparsity import (
    Criterion,
    Magnitude,
    Random,
    Resistance,
    Scope,
    area,
    count,
    nonzero,
    resistance_curve,
    sparsity_at,
)

SPARSITIES = tuple(i / 10 for i in range(1, 10)) + tuple(i / 100 for i in range(91, 100))
# Shares are compared with ==: each is the float nearest to a decimal number, 0.9 the same as 9/10 and 90/100.


@dataclass(frozen=True)
class Protocol:
    """How a trained network is pruned: what the configuration says under `resistance` (experiments/schema.py).

    Raises:
        ValueError: for a setting that cannot be carried out.
    """

    scopes: list[Scope]
    criteria: list[str]
    block: list[int]
    finetune_epochs: int
    finetune_at: list[float]
    finetune_lr: float
    finetune_batch_size: int

    def __post_init__(self) -> None:
        if self.scopes:  # else there are no curves
            _check_names("scopes", self.scopes, get_args(Scope), "layer")
            _check_names("criteria", self.criteria, ("magnitude", "random"), "magnitude")
        if len(self.block) != 2 or min(self.block) < 1:
            raise ValueError(f"resistance.block must be rows and columns of a tile, at least 1, got {self.block}")
        if self.finetune_epochs < 0:
            raise ValueError(f"resistance.finetune_epochs must be at least 0 (0: none), got {self.finetune_epochs}")
        for share in self.finetune_at:
            if not 0 <= share < 1:
                raise ValueError(f"resistance.finetune_at must be shares from 0 to below 1, got {share}")
        if not 0 < self.finetune_lr < float("inf"):
            raise ValueError(f"resistance.finetune_lr must be larger than 0, got {self.finetune_lr}")
        if self.finetune_batch_size < 1:
            raise ValueError(f"resistance.finetune_batch_size must be at least 1, got {self.finetune_batch_size}")

    @property
    def shares(self) -> tuple[float, ...]:
        """The sparsities of each curve, ascending from 0."""
        return tuple(sorted({0.0, *SPARSITIES, *self.finetune_at}))

    def curves(self, seed: int) -> list[tuple[Criterion, Scope]]:
        """Return the criterion and scope of each curve; random pruning is a control, with scope "layer" alone."""
        found: list[tuple[Criterion, Scope]] = []
        for criterion in self.criteria:
            if criterion == "magnitude":
                found += [(Magnitude(), scope) for scope in self.scopes]
            else:
                found.append((Random(seed), "layer"))
        return found


def scores(training: Training, data: Data, energy: Energy) -> dict[str, Score]:
    """Return what a model is worth on each part of the data; of the training data on the first `eval_train` samples."""
    parts = {"train": data.train.first(training.eval_train), "validation": data.validation, "test": data.test}
    with energy.window("evaluate"):
        return {name: evaluate(training.model, part, training.bfloat16) for name, part in parts.items()}


def metrics(training: Training, data: Data, energy: Energy) -> dict[str, Any]:
    """Return the row of metrics.csv after the step just made.

    Raises:
        ValueError: if the training loss is not finite.
    """
    train, validation, test = scores(training, data, energy).values()
    info = None if training.chain is None else training.chain.info
    counters = training.counters
    if not math.isfinite(train.loss):  # looked at here, not in each step: there a board would have to be waited for
        raise ValueError(
            f"the training loss is {train.loss} at step {counters.step}: training has diverged. A smaller optimizer.lr "
            "helps, as a rule"
        )
    return {
        "step": counters.step,
        "epoch": counters.epoch,
        "batch": len(data.train) if training.batches.size is None else training.batches.size,
        "lam": None if info is None else info.lam,
        "batch_loss": None if info is None else info.loss,
        "fresh_loss": training.fresh_losses[-1] if training.fresh_losses else None,
        "loss": train.loss,
        "log_target": None if info is None else info.log_target,
        "train_accuracy": train.accuracy,
        "validation_accuracy": validation.accuracy,
        "validation_loss": validation.loss,
        "test_accuracy": test.accuracy,
        "test_loss": test.loss,
        "proposals": counters.proposals,
        "accepted": counters.accepted,
        "share_active": nonzero(training.model) / count(training.model),
        "evaluations": counters.evaluations,
        "gradients": counters.gradients,
        "samples": counters.samples,
        "forwards": counters.forwards,
        "seconds": round(counters.seconds, 4),
        **energy.joules(),
    }


def resistance(model: nn.Module, data: Data, seed: int, protocol: Protocol) -> list[dict[str, Any]]:
    """Return the rows of resistance.csv: pruning of all weights and of the remaining, by criterion and scope."""

    if not protocol.scopes:
        return []
    whole = nonzero(model)
    unpruned = evaluate(model, data.validation), evaluate(model, data.test)

    def scored(pruned: nn.Module) -> tuple[Score, Score]:
        return evaluate(pruned, data.validation), evaluate(pruned, data.test)

    def scored_if_pruned(pruned: nn.Module) -> tuple[Score, Score]:
        return unpruned if nonzero(pruned) == whole else scored(pruned)  # a sparse network is not changed at first

    def finetuned(pruned: nn.Module) -> tuple[Score, Score]:
        p = protocol
        finetune(pruned, data.train, p.finetune_epochs, p.finetune_lr, p.finetune_batch_size, seed)
        return scored(pruned)

    at = protocol.finetune_at if protocol.finetune_epochs else []
    after = {_place(point): point.outcome for point in resistance_curve(model, finetuned, Magnitude(), "layer", at)}
    rows = []
    for criterion, scope in protocol.curves(seed):
        for remaining in (False, True):
            block = (protocol.block[0], protocol.block[1])
            for point in resistance_curve(model, scored_if_pruned, criterion, scope, protocol.shares, remaining, block):
                (validation, test), trained = point.outcome, after.get(_place(point))
                rows.append(
                    {
                        "criterion": point.criterion,
                        "scope": point.scope,
                        "basis": point.basis,
                        "requested": point.requested,
                        "reached": point.reached,
                        "weights_kept": point.weights_kept,
                        "validation_accuracy": validation.accuracy,
                        "test_accuracy": test.accuracy,
                        "test_loss": test.loss,
                        "validation_accuracy_finetuned": trained and trained[0].accuracy,
                        "test_accuracy_finetuned": trained and trained[1].accuracy,
                    }
                )
    return rows


def summary(
    config: dict[str, Any], training: Training, data: Data, curve: list[dict[str, Any]], path: Path, energy: Energy
) -> dict[str, Any]:
    """Return what summary.json says; to be called while the meter runs."""
    last = scores(training, data, energy)
    energy.measure_inference(training.model, data.test)
    correct = round(last["test"].accuracy * len(data.test)) if len(data.test) else 0
    c = training.counters
    return {
        "data": config["data"]["name"],
        "name": config["name"],
        "seed": config["seed"],
        "hash": long_hash(config),
        "group": group_hash(config),
        **{f"{name}_accuracy": score.accuracy for name, score in last.items()},
        **{f"{name}_loss": score.loss for name, score in last.items()},
        "weights": count(training.model),
        "parameters": count(training.model, weights_only=False),
        "weights_kept": nonzero(training.model),
        "share_active": nonzero(training.model) / count(training.model),
        **pruned(curve),
        "acceptance": _acceptance(path / "layers.csv"),
        "steps": c.step,
        "epochs": c.epoch,
        "steps_per_epoch": training.batches.per_epoch,
        "evaluations": c.evaluations,
        "gradients": c.gradients,
        "samples": c.samples,
        "forwards": c.forwards,
        "proposals": c.proposals,
        "accepted": c.accepted,
        "seconds": c.seconds,
        "pruning_seconds": c.pruning_seconds,
        **energy.joules(),
        "energy": energy.summary(c.epoch, c.accepted, correct),
    }


def pruned(curve: list[dict[str, Any]]) -> dict[str, float | None]:
    """Return what a summary says of pruning by magnitude in each layer, from the rows of `resistance`, if any."""
    found: dict[str, float | None] = {}
    if not curve:
        return found
    for basis, name, percents in (("all", "", (90, 95, 98)), ("remaining", "_remaining", (50, 90))):
        rows = [r for r in curve if (r["criterion"], r["scope"], r["basis"]) == ("magnitude", "layer", basis)]
        accuracy = {row["requested"]: row["test_accuracy"] for row in rows}
        for percent in percents:
            found[f"test_accuracy_at_{percent}{name}"] = accuracy[percent / 100]
            found[f"points_lost_at_{percent}{name}"] = 100 * (accuracy[0.0] - accuracy[percent / 100])
        found[f"area_{basis}"] = area(list(accuracy), list(accuracy.values()))
        found[f"sparsity_at_minus_1_{basis}"] = sparsity_at(list(accuracy), list(accuracy.values()), points=1.0)
        if basis == "all":
            finetuned = {row["requested"]: row["test_accuracy_finetuned"] for row in rows}
            found |= {f"test_accuracy_finetuned_at_{p}": finetuned.get(p / 100) for p in percents}
    return found


def reference_seconds(n: int, training: Training) -> float | None:
    """Return what a chain's proposals would have taken in the reference form; None where that is not measured."""
    if n < 1 or training.chain is None:
        return None
    training.model.eval()
    x, y = training.split.x, training.split.y
    return seconds_per_proposal(training.chain, training.model, x, y, n) * training.counters.proposals


def _acceptance(path: Path) -> dict[str, dict[str, float]]:
    """Return accepted/proposed over the whole run by layer and move."""
    sums: dict[str, dict[str, list[int]]] = {}
    for row in record.read_csv(path):
        if row["move"]:
            total = sums.setdefault(row["layer"], {}).setdefault(row["move"], [0, 0])
            total[0] += int(row["accepted"])
            total[1] += int(row["proposed"])
    return {layer: {move: a / n for move, (a, n) in moves.items()} for layer, moves in sums.items()}


def _place(point: Resistance[Any]) -> tuple[str, str, str, float]:
    return point.criterion, point.scope, point.basis, point.requested


def _check_names(setting: str, names: list[Any], known: tuple[str, ...], needed: str) -> None:
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"resistance.{setting} must be of {', '.join(known)}, got {unknown[0]!r}")
    if needed not in names or len(set(names)) < len(names):
        raise ValueError(
            f"resistance.{setting} must have {needed!r}, of which the summary tells, and none twice: {names}"
        )
