"""A certified classifier of MNIST: python experiments/certificate.py --data FOLDER prints a bound and its parts.

The training images are cut into two halves by the seed.  SGD trains a network on the prior half; the prior is
π = Π_j [p N(w_j, scale²) + (1 - p) δ_{w_j}] around its weights w, and KLMirrorDescent with `center="initial"` makes the
posterior on the bound half alone, which π has not seen.  Its risk is the share of errors there, of networks drawn from
it; the bound is `mcmcopt.bounds.Certificate`.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

if TYPE_CHECKING:
    from torch import Tensor, nn

    from experiments.data import Split
    from mcmcopt import KLMirrorDescent
    from mcmcopt.bounds import Certificate

DELTA, MONTE_CARLO_DELTA = 0.04, 0.01
CATONI_GRID = (0.5, 1.0, 2.0, 4.0)
"""Fixed before any sample was seen; the bound pays for the four of them."""


@dataclass(frozen=True)
class Settings:
    """How the two laws are made and measured; the posterior's are of mcmcopt.KLMirrorDescent."""

    epochs: int = 10  # of the prior
    posterior_epochs: int = 4
    batch_size: int = 128
    lr: float = 0.1  # of the prior's SGD
    p: float = 0.05
    scale: float = 0.02
    lam_per_sample: float = 1.0  # λ/n
    rate: float = 0.02  # r of KLMirrorDescent; falls to 0 by a cosine
    draws: int = 5000  # of networks, each on its own random subset
    subset: int = 500  # images


@dataclass(frozen=True)
class Outcome:
    """The certificates by bound, and errors on the test set."""

    certificates: dict[str, Certificate]
    test_risk: float
    mean_test_risk: float
    prior_test_risk: float
    prior_bound: float  # of the prior's mean alone, a network that the bound half tests: the kl form with KL = 0
    inclusion: float
    seconds: float


def halves(split: Split, seed: int) -> tuple[Split, Split]:
    """Return two disjoint random halves, the prior's and the bound's."""
    import torch

    from experiments.data import Split

    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    return tuple(Split(split.x[part], split.y[part]) for part in order.tensor_split(2))  # type: ignore[return-value]


def certify(model: nn.Module, train: Split, test: Split, settings: Settings, seed: int) -> Outcome:
    """Train prior and posterior, and return what can be said about the posterior's risk."""
    import torch

    from mcmcopt import Gaussian, KLMirrorDescent, SpikeSlab
    from mcmcopt.bounds import Certificate, kl_bound

    start = time.perf_counter()
    prior_half, bound_half = halves(train, seed)
    sgd = torch.optim.SGD(model.parameters(), settings.lr, momentum=0.9, weight_decay=1e-4)
    _train(model, sgd, prior_half, settings.epochs, settings.batch_size, seed)
    prior_test = risk(model, test.x, test.y)
    alone = kl_bound(risk(model, bound_half.x, bound_half.y), 0.0, len(bound_half), DELTA + MONTE_CARLO_DELTA)
    lam = settings.lam_per_sample * len(bound_half)
    posterior = KLMirrorDescent(
        model.parameters(),
        lam,
        lam * settings.rate / (1 - settings.rate),
        SpikeSlab(settings.p, slab=Gaussian(settings.scale)),
        center="initial",
        init_inclusion=settings.p,
        init_scale=1.0,
        hessian="squared_gradient",
        batch_size=settings.batch_size,
        seed=seed,
    )
    _train(model, posterior, bound_half, settings.posterior_epochs, settings.batch_size, seed + 1)
    parts = {
        "risk": sampled_risk(model, posterior, bound_half, settings.draws, settings.subset, seed),
        "draws": settings.draws,
        "kl": float(posterior.kl()),
        "n": len(bound_half),
        "delta": DELTA,
        "monte_carlo_delta": MONTE_CARLO_DELTA,
    }
    certificates = {bound: Certificate(**parts, bound=bound) for bound in ("kl", "mcallester", "quadratic")}  # type: ignore[arg-type]
    certificates["catoni"] = Certificate(**parts, bound="catoni", C=CATONI_GRID)  # type: ignore[arg-type]
    weights = [param for param in model.parameters() if param.dim() >= 2]
    active = sum(float(posterior.inclusion(weight).sum()) for weight in weights)
    return Outcome(
        certificates,
        sampled_risk(model, posterior, test, 200, len(test), seed),
        risk(model, test.x, test.y),
        prior_test,
        alone,
        active / sum(weight.numel() for weight in weights),
        time.perf_counter() - start,
    )


def risk(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of wrong classes."""
    import torch

    from experiments.data import portions

    with torch.no_grad():
        return sum(int((model(a).argmax(1) != b).sum()) for a, b in portions(x, y)) / len(y)


def sampled_risk(
    model: nn.Module, posterior: KLMirrorDescent, split: Split, draws: int, subset: int, seed: int
) -> float:
    """Return the mean over networks drawn from ρ of the share of errors, each on its own random subset of the images.

    These shares are independent, in [0, 1], and their expectation is ρ's risk on all images.
    """
    import torch

    generator, total = torch.Generator().manual_seed(seed + 2), 0.0
    for _ in range(draws):
        chosen = torch.randperm(len(split), generator=generator)[:subset] if subset < len(split) else slice(None)
        with posterior.sample():
            total += risk(model, split.x[chosen], split.y[chosen])
    return total / draws


def _train(model: nn.Module, optimizer: object, split: Split, epochs: int, batch_size: int, seed: int) -> None:
    """Train with batches in a random order; the learning rate falls to 0 by a cosine."""
    import torch
    from torch.nn.functional import cross_entropy

    assert isinstance(optimizer, torch.optim.Optimizer)  # noqa: S101 -- said to the type checker
    generator = torch.Generator().manual_seed(seed)
    per_epoch = len(split) // batch_size
    rates = [group["lr"] for group in optimizer.param_groups]
    for epoch in range(epochs):
        order = torch.randperm(len(split), generator=generator)[: per_epoch * batch_size]
        for i, batch in enumerate(order.split(batch_size)):
            share = (epoch * per_epoch + i) / (epochs * per_epoch)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * share))
            x, y = split.x[batch], split.y[batch]

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                optimizer.zero_grad()
                loss = cross_entropy(model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)  # type: ignore[arg-type]


def describe(outcome: Outcome) -> str:
    """Return the certificates and their parts as lines of text."""
    best = outcome.certificates["kl"]
    lines = [
        f"prior: error of its mean on the test set {100 * outcome.prior_test_risk:.2f} %, at most "
        f"{100 * outcome.prior_bound:.3f} % by the kl form (KL = 0, delta = {best.delta + best.monte_carlo_delta:.2f})",
        f"posterior: inclusion {100 * outcome.inclusion:.2f} % of the weights, KL(rho||pi) {best.kl:.1f} nats",
        f"risk on the bound half (n = {best.n}): {100 * best.risk:.3f} % over {best.draws} draws, "
        f"at most {100 * best.corrected_risk:.3f} % with delta' = {best.monte_carlo_delta}",
        f"bounds on the risk of the randomised classifier, delta = {best.delta}, all with probability "
        f"{best.confidence:.2f}, each by itself:",
        *(f"  {name:10s} {100 * one.value:.3f} %" for name, one in outcome.certificates.items()),
        f"test error of the randomised classifier {100 * outcome.test_risk:.2f} %, of the posterior's mean "
        f"{100 * outcome.mean_test_risk:.2f} %",
        f"{outcome.seconds:.0f} s",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Certify a randomised LeNet-300-100 on MNIST by PAC-Bayes.")
    parser.add_argument("--data", required=True, type=Path, help="folder with MNIST's idx files")
    parser.add_argument("--seed", type=int, default=0, help="of the halves, the networks and the draws")
    own = {"epochs": "of the prior", "posterior-epochs": "of the posterior", "draws": "networks drawn for the risk"}
    for name, text in own.items():
        default = getattr(Settings, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default: %(default)s)")
    for name in ("p", "scale", "lam-per-sample", "rate"):
        default = getattr(Settings, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=float, default=default, help="(default: %(default)s)")
    options = vars(parser.parse_args(arguments))
    folder, seed = options.pop("data"), options.pop("seed")
    import torch

    from experiments.idx import mnist
    from experiments.models import lenet300

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    try:
        data = mnist(str(folder), None, 0, False, seed)
    except (FileNotFoundError, ValueError) as error:
        print(f"certificate.py: {error}", file=sys.stderr)
        return 1
    print(describe(certify(lenet300(), data.train, data.test, Settings(**options), seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
