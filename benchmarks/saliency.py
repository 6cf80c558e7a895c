"""What scoring a network costs, by criterion: seconds, gradients' worth, memory beyond the model.

    python benchmarks/saliency.py --threads 2

VGG-D of 15,239,872 weights by default, 95 % pruned over all layers on one batch of 128 images of noise, in a process of
its own for each criterion.  The baseline is one gradient of the same batch, forward and backward, timed in the same
process; seconds are medians, memory is the peak of the resident set above what it was with the model built.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

from experiments import models
from mcmcopt.sparsity import OBD, SNIP, GraSP, Magnitude, Random, Skeletonization, SynFlow, count, prune

CRITERIA = {
    "magnitude": Magnitude(),
    "random": Random(),
    "snip": SNIP(),
    "grasp": GraSP(),
    "synflow": SynFlow(),
    "skeletonization": Skeletonization(),
    "obd": OBD(),
}
SHAPES = {"vgg_d": (3, 32, 32), "lenet5_caffe": (1, 28, 28)}


def measured(name: str, model_name: str, batch: int, repeats: int, threads: int) -> tuple[float, float, float, int]:
    """Return seconds of scoring with selection, seconds of one gradient, bytes beyond the model, and weights kept."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = getattr(models, model_name)()
    x = torch.randint(0, 256, (batch, *SHAPES[model_name]), dtype=torch.uint8)
    y = torch.randint(10, (batch,))
    before = _peak()
    kept = 0
    scope = "global-unit" if name == "skeletonization" else "global"

    def score() -> None:
        nonlocal kept
        masks = prune(model, CRITERIA[name], 0.95, cross_entropy, [(x, y)], scope=scope)
        kept = sum(int(mask.count_nonzero()) for mask in masks.values())

    seconds = _median(score, repeats)
    used = _peak() - before  # before the gradient, whose memory would count as the criterion's

    def gradient() -> None:
        model.zero_grad()
        cross_entropy(model(x), y).backward()

    gradient()
    return seconds, _median(gradient, max(repeats, 3)), used, kept


def _median(call: Callable[[], None], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _peak() -> float:
    """Return the largest resident set so far, in bytes; Linux counts it in units of 1,024."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each criterion."""
    parser = argparse.ArgumentParser(description="What scoring a network costs, by criterion.")
    parser.add_argument("--model", choices=sorted(SHAPES), default="vgg_d")
    parser.add_argument("--criteria", default="magnitude,random,snip,grasp,synflow,skeletonization", metavar="NAME,…")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    names = options.criteria.split(",")
    if unknown := [name for name in names if name not in CRITERIA]:
        parser.error(f"--criteria must be of {', '.join(CRITERIA)}, got {unknown[0]!r}")
    for number in ("batch", "repeats", "threads"):
        if getattr(options, number) < 1:
            parser.error(f"--{number} must be at least 1, got {getattr(options, number)}")
    print(f"{options.model}: {count(getattr(models, options.model)()):,} weights, 95 % pruned, one batch of")
    print(f"{options.batch}, {options.threads} threads, medians of {options.repeats}\n")
    print("| criterion | seconds | one gradient, s | ratio | MB beyond the model | kept |")
    print("|---|---|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    for name in names:
        with context.Pool(1) as pool:
            arguments = (name, options.model, options.batch, options.repeats, options.threads)
            seconds, gradient, used, kept = pool.apply(measured, arguments)
        ratio = seconds / gradient
        print(f"| {name} | {seconds:.2f} | {gradient:.2f} | {ratio:.1f} | {used / 1e6:,.0f} | {kept:,} |", flush=True)


if __name__ == "__main__":
    main()
