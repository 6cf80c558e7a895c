"""The statistical tests of moves that use the gradient, as functions that return a verdict (see `detectors`)."""

from __future__ import annotations

import copy
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from scipy.special import logsumexp
from torch import Tensor

from mcmcopt import (
    BirthDeath,
    InformedBirthDeath,
    InformedFlip,
    InformedSwap,
    Langevin,
    RandomWalk,
    SignFlip,
)
from mcmcopt.chain.layer import Layer
from mcmcopt.chain.moments import Moments
from mcmcopt.chain.moves import AnyMove, InformedMove
from mcmcopt.chain.point import Point
from mcmcopt.chain.priors import log_prior_ratio
from tests.chain.states import make_layer
from tests.statistical.detectors import (
    GAUSSIAN,
    LAPLACE,
    STUDENT_T,
    UNIT,
    _bonferroni,
    _rank,
    _transition_test,
    binary_target,
)
from tests.statistical.exact import (
    Array,
    Density,
    Pattern,
    Regression,
    autocorrelation_time,
    batch_means_error,
    chi_square,
    imbalance,
)
from tests.statistical.harness import BIRTH_FAMILIES, Verdict, inclusion, slab
from tests.statistical.informed_harness import (
    Case,
    Chain,
    Drawn,
    Loss,
    Told,
    bowl,
    flat,
    least_squares,
    sequence_log_prob,
    weights,
)

TWO = {"shapes": ((1, 4), (2, 2))}
RAGGED = {"shapes": ((3, 5),), "blocks": (2, 3)}  # four blocks, of 6, 4, 3 and 2 weights
CASES = {
    "birth_death": Case((InformedBirthDeath(birth=0.3), RandomWalk(k=1))),
    "two of two layers": Case(
        (
            InformedBirthDeath(2, "group", "snip", 1.5, "laplace"),
            InformedSwap(2, "group", "magnitude"),
            InformedBirthDeath(1, "group", density="normal"),
            RandomWalk(k=2),
        ),
        LAPLACE,
        Pattern("beta_binomial", 1.5, 1.5),
        **TWO,
    ),
    "blocks": Case(
        (
            InformedBirthDeath(saliency="obd"),
            InformedSwap(),
            InformedBirthDeath(2, saliency="adam", temperature=4.0),
            RandomWalk(),
        ),
        STUDENT_T,
        scale=0.4,
        **RAGGED,
    ),
    "swap": Case(
        (
            InformedSwap(2, saliency="snip", temperature=1.0),
            InformedSwap(saliency="obd", density="normal"),
            InformedBirthDeath(weight=0.5, temperature="rank"),
        ),
        shapes=((2, 3),),
    ),
    "flip": Case((InformedFlip(), InformedFlip(2, "group", 2.0), SignFlip(k=1)), Density("laplace", 0.3), None, **TWO),
    "sparse flip": Case((InformedFlip(3), InformedFlip(scope="group", temperature=1.0)), **RAGGED),
    "langevin": Case((Langevin(), Langevin("group", precondition=True), RandomWalk(k=1)), STUDENT_T, None, **TWO),
    "sparse langevin": Case(
        (Langevin(precondition=True), Langevin("group"), InformedBirthDeath()), LAPLACE, scale=0.4, **TWO
    ),
}


# C1: antisymmetry -------------------------------------------------------------------------------------------------


@torch.no_grad()
def mismatch(move: InformedMove, layers: Sequence[Layer], rng: np.random.Generator, lam: float = 1.5) -> float | None:
    """Return log A + log A of the way back, relative to their size, of one draw; None where the move is impossible.

    The layers are one group; they are left at the proposed state.
    """
    sizes = [layer.tiling.numel for layer in layers]
    loss = bowl(sum(sizes))
    told = Told([layer.param for layer in layers], loss)
    rng_of_moments = np.random.default_rng(1)
    for layer in layers:
        layer.group = tuple(layers)
        layer.param.requires_grad_()
        v = rng_of_moments.exponential(size=layer.tiling.numel)
        layer.moments = Moments(torch.from_numpy(v), torch.tensor(3))
    owner, scale = layers[0], 0.5

    def at() -> tuple[float, dict[Tensor, Tensor]]:
        value, slopes = told.propose_with_gradient({}, [layer.param for layer in layers])
        return float(value), slopes

    value, slopes = at()
    edits = move.draw(owner, scale, rng, Point(lam, slopes))
    if edits is None:
        return None
    prior = log_prior_ratio(edits)
    before = [copy.deepcopy((layer.param, layer.support)) for layer in layers]
    for edit in edits:
        edit.layer.param.view(-1)[edit.indices] = edit.new
        if edit.layer.support is not None and edit.kind.value != "walk":
            (edit.layer.support.activate if edit.kind.value == "birth" else edit.layer.support.deactivate)(edit.block)
    there, slopes_there = at()
    after = [copy.deepcopy((layer.param, layer.support)) for layer in layers]
    back = tuple(edit.reversed() for edit in reversed(edits))

    def put(states: Sequence[Any]) -> None:
        for layer, (param, support) in zip(layers, states, strict=True):
            layer.param.copy_(param)
            layer.support = support

    put(before)
    ratio = move.log_q_ratio(owner, edits, scale, Point(lam, slopes), Point(lam, slopes_there, edits))
    forth = lam * (value - there) + prior + ratio
    put(after)
    ratio = move.log_q_ratio(owner, back, scale, Point(lam, slopes_there), Point(lam, slopes, back))
    return abs(forth + lam * (there - value) + log_prior_ratio(back) + ratio) / max(1.0, abs(forth))


def antisymmetry(draws: int = 2) -> Verdict:
    """log A(x → x') = -log A(x' → x) for every informed move, at every k, to 1e-10."""
    worst, tried = 0.0, 0
    for number, case in enumerate(CASES.values()):
        rng = np.random.default_rng(number)
        sizes = [len(blocks) for blocks in case.partitions]
        for ks in zip(*(np.linspace(0, size, 5).round().astype(int) for size in sizes), strict=True):
            for move in (move for move in case.moves if isinstance(move, InformedMove)):
                for _ in range(draws):
                    layers = [
                        make_layer(
                            shape, case.blocks, rng.permutation(size)[:k].tolist(), dense=case.pattern is None,
                            slab=slab(case.slab), inclusion=case.pattern and inclusion(case.pattern),
                            seed=int(rng.integers(10**6)),
                        )
                        for shape, size, k in zip(case.shapes, sizes, ks, strict=True)
                    ]  # fmt: skip
                    found = mismatch(move, layers, rng)
                    tried += found is not None
                    worst = max(worst, math.inf if found is not None and math.isnan(found) else found or 0.0)
    return Verdict(worst <= 1e-10 and tried > 50, f"max |log A + log A back| = {worst:.1e} of {tried}")


# C2: acceptance, proposals, transitions ---------------------------------------------------------------------------


def acceptance(steps: int = 8, n_proposals: int = 4) -> Verdict:
    """The α reported by a step of several proposals add up to own min(1, A), from four densities each, to 1e-8."""
    worst, where, lam = 0.0, "", 1.0
    kinds: dict[str, int] = defaultdict(int)
    for seed, (name, case) in enumerate(CASES.items()):
        loss = bowl(case.entries)
        start = case.draw(np.random.default_rng(seed))
        chain = Chain(case, loss, lam, start=start, n_proposals=n_proposals, seed=seed)
        for _ in range(steps):
            own = sum(case.alpha(d.move, d.steps, d.before, lam, loss) for d in chain.step())
            assert chain.optimizer.info is not None
            told = 0.0
            for layer in chain.optimizer.info.layers.values():
                for label, move in layer.moves.items():
                    told += move.probability
                    kinds[label] += move.accepted
            if not abs(own - told) <= worst:
                worst, where = abs(own - told), name
    accepted = sum(kinds.values())
    detail = f"max |Σα - own Σα| = {worst:.1e} ({where}); {accepted} accepted of {len(kinds)} kinds"
    return Verdict(worst <= 1e-8 and accepted > 40 and len(kinds) >= 8, detail)


def proposals(steps: int = 70, n_proposals: int = 3) -> Verdict:
    """Which blocks in which order, and which values: each as the own q has it, by KS; p > 1e-3 after Bonferroni."""
    rng, lam = np.random.default_rng(0), 2.0
    uniforms: dict[str, list[float]] = defaultdict(list)
    for seed, (name, case) in enumerate(CASES.items()):
        loss = bowl(case.entries)
        chain = Chain(case, loss, lam, n_proposals=n_proposals, seed=100 + seed)
        for _ in range(steps):
            for d in chain.step():
                if isinstance(d.move, InformedMove):
                    _positions(case, d, loss.slope(d.before), lam, f"{name} {d.move!r}", uniforms, rng)
    return _bonferroni({what: float(stats.kstest(values, "uniform").pvalue) for what, values in uniforms.items()})


def _positions(
    case: Case,
    d: Drawn,
    g: Array,
    lam: float,
    name: str,
    uniforms: dict[str, list[float]],
    rng: np.random.Generator,
) -> None:
    if isinstance(d.move, Langevin):
        for step in d.steps:
            mean, sd = case.langevin(d.move, step, d.before, g, lam)
            u = stats.norm(mean, sd).cdf(step.new)
            uniforms[name] += u.tolist()
            uniforms["spread of langevin"] += np.abs(2 * u - 1).tolist()
        return
    for kind in ("death", "birth", "walk"):
        own = [step for step in d.steps if step.kind == kind]
        if own:
            chosen, logs = case.candidates(d.move, kind, d.before, g, lam, own[0].layer)
            left = np.argsort(-logs).tolist()  # from the likeliest to the least likely, so that errors add up
            for number, step in enumerate(own):
                j = chosen.index((step.layer, step.block))
                p = np.exp(logs[left] - logsumexp(logs[left]))
                place = left.index(j)
                u = float(p[:place].sum() + rng.random() * p[place])
                uniforms[f"{name} {kind}"].append(u)
                uniforms[f"draw {number} of {len(own)}"].append(u)
                left.remove(j)
    for step in (step for step in d.steps if step.kind == "birth"):
        u = case.unit[step.where]
        centre = -u * np.clip(lam * u * g[step.where], -1, 1)
        law = Density(BIRTH_FAMILIES[d.move.density], float(u[0])).law()
        downhill = -np.sign(g[step.where])  # the side that the drift is on, so that errors add up
        cdf = law.cdf((step.new - centre) * downhill).tolist()
        uniforms[f"{name} values"] += cdf
        uniforms["values of births"] += cdf


class Tell(NamedTuple):
    """Transitions of informed flips of binary weights, by enumeration over ordered sequences."""

    log_target: Array
    P: Array


def informed_flips(k: int, temperature: float | str = "auto", lam: float = 6.0) -> Tell:
    """Return log π and P of an informed flip of k of 3 binary weights: Σ over sequences of q(sequence) α(sequence)."""
    states, log_target, _ = binary_target(lam)
    n, size = len(states), states.shape[1]
    slope = binary_slope()
    logs = []
    for w in states:
        logs.append(weights(2 * lam * w * slope(w), k, temperature))
    P = np.zeros((n, n))
    for i, order in itertools.product(range(n), itertools.permutations(range(size), k)):
        j = i ^ sum(1 << b for b in order)
        forth, back = sequence_log_prob(logs[i], order), sequence_log_prob(logs[j], order[::-1])
        P[i, j] += math.exp(forth + min(0.0, log_target[j] - log_target[i] + back - forth))
    P[np.diag_indices(n)] += 1 - P.sum(1)
    return Tell(log_target, P)


def binary_slope() -> Callable[[Array], Array]:
    """Return the gradient of `binary_target`'s loss."""
    X = np.array([[1.0, 0.5, -0.3], [-0.7, 1.0, 0.4], [0.2, -0.9, 1.1], [0.8, 0.3, 0.6], [-0.5, -0.4, 1.0]])
    t = np.array([1.0, -1.0, 1.0, -1.0, 1.0])
    return lambda w: -(X * (t / (1 + np.exp(t * (X @ w))))[:, None]).mean(0)


FLIPS: dict[str, tuple[tuple[AnyMove, ...], tuple[tuple[int, int], ...], list[tuple[int, float | str]]]] = {
    "one": ((InformedFlip(1, temperature=1.0),), ((1, 3),), [(1, 1.0)]),
    "two of two layers": ((InformedFlip(2, "group"),), ((1, 2), (1, 1)), [(2, "auto")]),
    "two and three": ((InformedFlip(2, temperature=1.5), InformedFlip(3)), ((1, 3),), [(2, 1.5), (3, "auto")]),
    "two by rank": ((InformedFlip(2, temperature="rank"),), ((1, 3),), [(2, "rank")]),
    "one and a blind one": ((InformedFlip(1), SignFlip(k=1)), ((1, 3),), [(1, "auto"), (0, 0.0)]),
}


def transitions(name: str, steps: int = 1200, n_proposals: int = 2, lam: float = 6.0) -> Verdict:
    """Empirical n-proposal transitions of 3 binary weights against the enumerated P^n.

    Each within 7 standard errors, and all together by chi-square at p > 1e-5.
    """
    moves, shapes, parts = FLIPS[name]
    states, log_target, loss = binary_target(lam)
    blind = np.array([[(bin(i ^ j).count("1") == 1) / 3 for j in range(8)] for i in range(8)])
    kernels = []
    for k, temperature in parts:
        if k:
            kernels.append(informed_flips(k, temperature, lam).P)
        else:
            P = blind * np.minimum(1, np.exp(log_target[None] - log_target[:, None]))
            kernels.append(P + np.diag(1 - P.sum(1)))
    P = sum(kernels) / len(kernels)
    case = Case(moves, GAUSSIAN, None, shapes)
    told = Loss(loss, binary_slope())
    chain = Chain(case, told, lam, start=states[0], n_proposals=n_proposals, seed=2)
    trace = np.vstack((states[:1], chain.trace(steps)))
    codes = (trace < 0) @ np.array([1, 2, 4])
    P_n = np.linalg.matrix_power(P, n_proposals)
    cells = _transition_test(codes, P_n, imbalance(log_target, P))
    p = _chi_square_of_rows(codes, P_n)
    return Verdict(cells.passed and p > 1e-5, f"{cells.detail}; p = {p:.1e}")


def _chi_square_of_rows(codes: Array, transitions: Array) -> float:
    counts = np.zeros(transitions.shape)
    np.add.at(counts, (codes[:-1], codes[1:]), 1)
    total, freedom = 0.0, 0
    for observed, share in zip(counts, transitions, strict=True):
        expected = observed.sum() * share
        often = expected >= 5
        if often.sum() + (expected[~often].sum() >= 5) >= 2:
            o, e = (np.append(x[often], x[~often].sum()) for x in (observed, expected))
            o, e = (o, e) if e[-1] >= 5 else (np.append(o[:-2], o[-2:].sum()), np.append(e[:-2], e[-2:].sum()))
            total, freedom = total + float(((o - e) ** 2 / e).sum()), freedom + len(e) - 1
    return float(stats.chi2.sf(total, freedom))


# C3: spike-and-slab regression ------------------------------------------------------------------------------------

FEW = Pattern("bernoulli", 0.3)
REGRESSIONS = {
    "one": Case((InformedBirthDeath(weight=3), Langevin()), UNIT, FEW, scale=0.5),
    "two and swaps": Case(
        (InformedBirthDeath(2, saliency="snip", weight=2), InformedBirthDeath(weight=2), InformedSwap(), Langevin()),
        UNIT,
        Pattern("beta_binomial", 1.0, 2.0),
        scale=0.5,
    ),
    "blocks": Case(
        (InformedBirthDeath(weight=3), InformedSwap(temperature=2.0), Langevin(precondition=True)),
        UNIT,
        FEW,
        blocks=(1, 2),
        scale=0.4,
    ),
}


def inclusion_probabilities(name: str, steps: int = 180, thin: int = 8, precision: float = math.inf) -> Verdict:
    """Inclusion probabilities and means within 4 batch-means standard errors of the sum over all patterns."""
    case = REGRESSIONS[name]
    data = Regression.example(UNIT.scale)
    chain = Chain(case, least_squares(data.X, data.y, data.noise), len(data.y), n_proposals=thin, seed=4)
    trace = chain.trace(steps, burn=max(10, steps // 50))
    blocks = case.partitions[0]
    values = np.hstack([np.stack([(trace[:, where] != 0).any(1) for where in blocks], 1), trace])
    assert case.pattern is not None
    exact = np.concatenate(data.average(case.pattern, blocks))
    error = batch_means_error(values, 30)
    z = np.abs(values.mean(0) - exact) / np.maximum(error, 1e-12)
    band = 4 * float(error[: len(blocks)].max())
    detail = ", ".join(f"{e:.3f} ({x:.3f})" for e, x in zip(values.mean(0)[: len(blocks)], exact, strict=False))
    return Verdict(float(z.max()) <= 4 and band <= precision, f"{detail}; {z.max():.1f} SE, 4 SE = {band:.3f}")


# C4: prior recovery -----------------------------------------------------------------------------------------------

PRIORS = {
    "birth_death": Case((InformedBirthDeath(), RandomWalk(k=1)), GAUSSIAN, Pattern("bernoulli", 0.4), ((1, 4),)),
    "two and swaps": Case(
        (InformedBirthDeath(2, temperature="rank", saliency="magnitude"), BirthDeath(), InformedSwap(saliency="snip")),
        LAPLACE,
        Pattern("beta_binomial", 1.0, 1.5),
        ((2, 2),),
    ),
    "two of two layers": Case(
        (InformedBirthDeath(2, "group"), InformedSwap(1, "group", "obd"), BirthDeath()),
        STUDENT_T,
        Pattern("complexity", 0.2, 0.7),
        ((1, 3), (2, 1)),
    ),
    "flip and langevin": Case((InformedFlip(2), Langevin()), STUDENT_T, None, ((1, 3),), scale=0.9),
}


def prior_recovery(name: str, steps: int = 300, n_proposals: int = 16, lam: float = 1.5) -> Verdict:
    """With a loss of zero and a slope that is made up, the prior: chi-square on k, KS on the values of active weights.

    At lam = 0 gains by the gradient vanish, and blocks are chosen uniformly or by magnitude.
    """
    case = PRIORS[name]
    trace = Chain(case, flat(case.entries), lam, n_proposals=n_proposals, seed=21).trace(steps, burn=15)
    counts = np.stack([np.sum([(trace[:, where] != 0).any(1) for where in blocks], 0) for blocks in case.partitions], 1)
    watched = np.column_stack((counts, np.abs(trace).sum(1), trace.sum(1), np.abs(trace), trace != 0))
    thin = math.ceil(2 * max(autocorrelation_time(column) for column in watched.T * 1.0))
    trace, counts = trace[::thin], counts[::thin]
    p = {"values": float(stats.kstest(trace[trace != 0], case.slab.law().cdf).pvalue)}
    if case.pattern is not None:
        for layer, blocks in enumerate(case.partitions):
            observed = np.bincount(counts[:, layer], minlength=len(blocks) + 1)
            p[f"k of layer {layer}"] = chi_square(observed, len(trace) * case.pattern.sizes(len(blocks)))
    worst = min(p, key=lambda key: p[key])
    enough = len(trace) >= 25  # a chain that wanders off is thinned until no test has power
    return Verdict(
        enough and p[worst] * len(p) > 1e-3, f"p = {p[worst]:.1e} ({worst}), {len(trace)} draws thinned by {thin}"
    )


# C5: exact invariance ---------------------------------------------------------------------------------------------

EVEN = Pattern("beta_binomial", 1.0, 1.0)
INVARIANCE = {
    "birth_death": Case((InformedBirthDeath(birth=0.4),), GAUSSIAN, EVEN),
    "two births": Case((InformedBirthDeath(2, saliency="snip", temperature=1.5),), LAPLACE, EVEN),
    "magnitude": Case((InformedBirthDeath(saliency="magnitude"),), GAUSSIAN, EVEN, scale=0.4, **RAGGED),
    "rank": Case((InformedBirthDeath(2, "group", temperature="rank"),), GAUSSIAN, EVEN, **TWO),
    "swap": Case((InformedSwap(density="laplace"),), GAUSSIAN, EVEN),
    "swap over layers": Case((InformedSwap(2, "group", "obd", 1.0),), STUDENT_T, EVEN, **TWO),
    "flip": Case((InformedFlip(2),), GAUSSIAN, None),
    "langevin": Case((Langevin(),), STUDENT_T, None),
    "preconditioned": Case((Langevin("group", precondition=True),), GAUSSIAN, EVEN, **TWO),
    "mixture": Case(
        (InformedBirthDeath(), InformedSwap(saliency="magnitude"), RandomWalk(k=1), BirthDeath(), InformedFlip()),
        LAPLACE,
        Pattern("complexity", 0.3, 0.8),
    ),
}


def invariance(name: str, first: int = 90, alpha: float = 1e-5, rounds: int = 7, growth: int = 2) -> Verdict:
    """Gandy and Scott (2020): ranks of a draw of the joint law within a stretch of chain (see `detectors`)."""
    beta = alpha / rounds
    gamma = beta ** (1 / rounds)
    rng = np.random.default_rng(19)
    n = first
    for round_ in range(1, rounds + 1):
        ranks = np.array([_ranks(INVARIANCE[name], rng) for _ in range(n)])
        p = [chi_square(np.bincount(column, minlength=4), np.full(4, n / 4)) for column in ranks.T]
        least = min(1.0, min(p) * len(p))
        if least <= beta or least > gamma + beta:
            return Verdict(least > beta, f"p = {least:.1e} (statistic {int(np.argmin(p))}), round {round_}, n = {n}")
        beta /= gamma
        n *= growth if round_ == 1 else 1
    return Verdict(True, f"passed all {rounds} rounds")


def _ranks(case: Case, rng: np.random.Generator, length: int = 4, stride: int = 3) -> Array:
    w = case.draw(rng)
    X = rng.standard_normal((3, case.entries))
    y = X @ w + rng.standard_normal(3)
    loss = least_squares(X, y)
    place = int(rng.integers(length))
    states = [w]
    for steps in (place, length - 1 - place):
        if steps:
            seed = int(rng.integers(2**62))
            states += list(Chain(case, loss, 3.0, start=w, n_proposals=stride, seed=seed).trace(steps))
    values = np.array(
        [[(v != 0).sum(), loss.value(v), np.abs(v).sum(), v @ v, v.sum(), abs(v[0]), np.abs(v).max()] for v in states]
    )
    return np.array([_rank(column, rng) for column in values.T])


# C11, C13: Langevin steps -----------------------------------------------------------------------------------------


def adaptation_target(learn: int = 60, measure: int = 0, n_proposals: int = 50) -> Verdict:
    """On a Gaussian Langevin steps are accepted 0.574 of the time within 0.03, with and without preconditioner.

    Args:
        learn: steps with adaptation.
        measure: steps with the scale frozen, over which the mean is taken; with 0 over the later half of those before.
            A scale frozen early is one draw of a noisy sequence.
        n_proposals: proposals per step.
    """
    rates = []
    for move in (Langevin(), Langevin(precondition=True)):
        case = Case((move,), Density("gaussian", 1.0), None, ((1, 10),), scale=8.0)
        chain = Chain(case, Loss(lambda _: 0.0, np.zeros_like), 0.0, adapt=True, n_proposals=n_proposals, seed=9)
        chain.trace(learn if measure else learn // 2)
        if measure:
            chain.optimizer.freeze_adaptation()
        accepted = []
        for _ in range(measure or learn - learn // 2):
            chain.step()
            assert chain.optimizer.info is not None
            (layer,) = chain.optimizer.info.layers.values()
            accepted.append(next(iter(layer.moves.values())).acceptance_rate)
        rates.append(float(np.mean(accepted)))
    return Verdict(all(abs(rate - 0.574) <= 0.03 for rate in rates), f"accepted {rates[0]:.3f} and {rates[1]:.3f}")


def moments(precondition: bool, steps: int = 260, n_proposals: int = 6) -> Verdict:
    """Means and second moments of a dense Gaussian regression by Langevin alone, within 4 standard errors."""
    data = Regression.example(UNIT.scale)
    mean, covariance = data.posterior(range(4))
    exact = np.concatenate((mean, (covariance + np.outer(mean, mean))[np.triu_indices(4)]))
    case = Case((Langevin(precondition=precondition),), UNIT, None, ((1, 4),), scale=0.35)
    loss = least_squares(data.X, data.y, data.noise)
    trace = Chain(case, loss, len(data.y), n_proposals=n_proposals, seed=13).trace(steps, burn=20)
    values = np.hstack((trace, np.array([np.outer(w, w)[np.triu_indices(4)] for w in trace])))
    z = np.abs(values.mean(0) - exact) / batch_means_error(values, 30)
    return Verdict(float(z.max()) <= 4, f"{z.max():.1f} SE over {len(z)} moments")


DETECTORS: dict[str, Callable[[], Verdict]] = {
    "C1 antisymmetry": antisymmetry,
    "C2 acceptance": acceptance,
    "C2 proposals": proposals,
    **{f"C2 transitions {name}": partial(transitions, name) for name in FLIPS},
    **{f"C3 inclusion {name}": partial(inclusion_probabilities, name) for name in REGRESSIONS},
    **{f"C4 prior {name}": partial(prior_recovery, name) for name in PRIORS},
    **{f"C5 invariance {name}": partial(invariance, name) for name in INVARIANCE},
    "C11 target": adaptation_target,
    "C13 moments": partial(moments, False),
    "C13 moments preconditioned": partial(moments, True),
}
