"""What a run found: rows of its tables, and its summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from experiments import record
from experiments.config import group_hash, long_hash
from experiments.data import Data
from experiments.energy import Energy
from experiments.evaluate import Score, evaluate
from experiments.reference_form import seconds_per_proposal
from experiments.train import Training
from mcmcopt.sparsity import Criterion, Magnitude, Random, count, nonzero, resistance_curve

SPARSITIES = tuple(i / 10 for i in range(1, 10)) + tuple(i / 100 for i in range(91, 100))


def scores(model: nn.Module, data: Data, energy: Energy) -> dict[str, Score]:
    """Return what a model is worth on each part of the data."""
    with energy.window("evaluate"):
        return {name: evaluate(model, getattr(data, name)) for name in ("train", "validation", "test")}


def metrics(training: Training, data: Data, energy: Energy) -> dict[str, Any]:
    """Return the row of metrics.csv after the step just made."""
    train, validation, test = scores(training.model, data, energy).values()
    info = None if training.chain is None else training.chain.info
    counters = training.counters
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
        "seconds": round(counters.seconds, 4),
        **energy.joules(),
    }


def resistance(model: nn.Module, data: Data, seed: int) -> list[dict[str, Any]]:
    """Return the rows of resistance.csv: pruning by layer, by magnitude and at random, of all and of the rest."""
    criteria: tuple[Criterion, ...] = (Magnitude(), Random(seed))
    rows = []
    for criterion in criteria:
        for remaining in (False, True):
            for point in resistance_curve(
                model,
                lambda pruned: (evaluate(pruned, data.validation), evaluate(pruned, data.test)),
                criterion,
                "layer",
                (0.0, *SPARSITIES),
                remaining,
            ):
                validation, test = point.outcome
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
                    }
                )
    return rows


def summary(
    config: dict[str, Any], training: Training, data: Data, curve: list[dict[str, Any]], path: Path, energy: Energy
) -> dict[str, Any]:
    """Return what summary.json says; to be called while the meter runs."""
    last = scores(training.model, data, energy)
    energy.measure_inference(training.model, data.test)
    correct = round(last["test"].accuracy * len(data.test)) if len(data.test) else 0
    at_90 = {
        row["basis"]: row["test_accuracy"]
        for row in curve
        if row["criterion"] == "magnitude" and row["requested"] == 0.9
    }
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
        "test_accuracy_at_90": at_90["all"],
        "points_lost_at_90": 100 * (last["test"].accuracy - at_90["all"]),
        "test_accuracy_at_90_remaining": at_90["remaining"],
        "points_lost_at_90_remaining": 100 * (last["test"].accuracy - at_90["remaining"]),
        "acceptance": _acceptance(path / "layers.csv"),
        "steps": c.step,
        "epochs": c.epoch,
        "evaluations": c.evaluations,
        "gradients": c.gradients,
        "samples": c.samples,
        "proposals": c.proposals,
        "accepted": c.accepted,
        "seconds": c.seconds,
        **energy.joules(),
        "energy": energy.summary(c.epoch, c.accepted, correct),
    }


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
