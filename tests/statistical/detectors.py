"""The statistical tests as functions that return a verdict.

The tests assert that they pass on the package; `planted.py` asserts that they fail on the package with an error
planted into it.  All seeds are fixed.  Longer runs come from larger arguments, the criteria stay.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import nn

import mcmcopt
from mcmcopt import BirthDeath, RandomWalk, SignFlip, Swap, Toggle
from mcmcopt.chain.blocks import Tiling
from mcmcopt.chain.layer import Layer
from mcmcopt.chain.priors import log_prior_ratio
from mcmcopt.chain.support import Support
from tests.statistical.exact import (
    Array,
    Density,
    Pattern,
    Regression,
    autocorrelation_time,
    batch_means_error,
    chi_square,
    imbalance,
    mask_proposals,
    metropolis,
    subsets,
)
from tests.statistical.harness import Case, Chain, Proposal, Verdict, inclusion, masks, record, slab, with_moves

GAUSSIAN, LAPLACE, STUDENT_T = Density("gaussian", 0.8), Density("laplace", 0.7), Density("student_t", 0.6, 4.0)
RAGGED = {"shape": (3, 5), "blocks": (2, 3)}  # four blocks, of 6, 4, 3 and 2 weights

CASES = {
    "birth_death": Case((BirthDeath(), RandomWalk(k=1)), GAUSSIAN, Pattern("bernoulli", 0.4)),
    "birth_death_laplace": Case(
        (BirthDeath(0.3, density="laplace"), RandomWalk(k=1, noise="student_t")),
        LAPLACE,
        Pattern("beta_binomial", 1.0, 1.5),
    ),
    "toggle": Case((Toggle(), RandomWalk(k=3, noise="uniform")), STUDENT_T, Pattern("complexity", 0.3, 0.7)),
    "swap": Case((Swap(), BirthDeath(0.6, density="student_t")), LAPLACE, Pattern("alquier_lounici", 0.9)),
    "blocks": Case(
        (BirthDeath(), RandomWalk(), RandomWalk(k=2)), STUDENT_T, Pattern("rigollet_tsybakov"), scale=0.8, **RAGGED
    ),
    "blocks_toggle": Case((Toggle("laplace"), Swap()), GAUSSIAN, Pattern("bernoulli", 0.5), scale=0.5, **RAGGED),
    "flip": Case((SignFlip(k=2), RandomWalk(k=2)), LAPLACE, None),
    "cap": Case((BirthDeath(), RandomWalk(k=1)), GAUSSIAN, Pattern("soft_cap", 0.3, 4.0)),
}


def _bowl(n: int) -> Callable[[Array], float]:
    rng = np.random.default_rng(n)
    A = 0.3 * rng.standard_normal((n, n))
    centre = 0.3 * rng.standard_normal(n)
    return lambda w: float(((w - centre) @ A.T) @ (A @ (w - centre)))


def _records(steps: int, lam: float) -> dict[str, list[Proposal]]:
    runs = {}
    for i, (name, case) in enumerate(CASES.items()):
        loss = _bowl(math.prod(case.shape))
        start = case.draw(np.random.default_rng(i))
        runs[name] = record(Chain(case, loss, lam, start=start, seed=i), steps)
    return runs


# C1: antisymmetry -------------------------------------------------------------------------------------------------


def antisymmetry(draws: int = 4) -> Verdict:
    """log A(x → x') = -log A(x' → x) for every move, at every k, to 1e-10."""
    worst = 0.0
    for number, case in enumerate(CASES.values()):
        rng = np.random.default_rng(number)
        for k in range(len(case.partition) + 1):
            for move in case.moves:
                for _ in range(draws):
                    layer = _layer(case, k, rng)
                    edits = move.draw(layer, case.scale, rng)
                    if edits is None:
                        continue
                    forth = log_prior_ratio(edits) + move.log_q_ratio(edits, case.scale)
                    for edit in edits:
                        layer.values.put_(edit.indices, edit.new)
                        if layer.support is not None and edit.kind.value != "walk":
                            flip = layer.support.activate if edit.kind.value == "birth" else layer.support.deactivate
                            flip(edit.block)
                    back_edits = tuple(edit.reversed() for edit in reversed(edits))
                    back = log_prior_ratio(back_edits) + move.log_q_ratio(back_edits, case.scale)
                    worst = max(worst, abs(forth + back))
    return Verdict(worst <= 1e-10, f"max |log A + log A back| = {worst:.1e}")


def _layer(case: Case, k: int, rng: np.random.Generator) -> Layer:
    tiling = Tiling(case.shape, case.blocks)
    support = None
    w = np.zeros(tiling.numel)
    active = range(tiling.count)
    if case.pattern is not None:
        order = torch.from_numpy(rng.permutation(tiling.count).astype(np.int32))
        support, active = Support(order, torch.tensor(k)), order[:k].tolist()
    for b in active:
        w[case.partition[b]] = case.slab.sample(len(case.partition[b]), rng)
    param = torch.from_numpy(w).reshape(case.shape)
    pattern = None if case.pattern is None else inclusion(case.pattern)
    return Layer("w", param, tiling, slab(case.slab), pattern, support, 1.0)


# C2: proposals, acceptance and transitions ------------------------------------------------------------------------


def acceptance(steps: int = 200) -> Verdict:
    """Reported α = own min(1, A) to 1e-8; decisions have that frequency; the state is old or new, bit for bit."""
    worst, z_worst, torn = 0.0, 0.0, 0
    total = np.zeros(2)
    for name, records in _records(steps, lam=2.0).items():
        case = CASES[name]
        loss = _bowl(math.prod(case.shape))
        surplus: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for r in records:
            torn += not np.array_equal(r.kept, r.proposed if r.accepted else r.before)
            if r.label is None:
                continue
            alpha = case.alpha(r.before, r.proposed, r.label, 2.0, loss)
            worst = max(worst, abs(alpha - r.alpha))
            surplus[r.label].append((r.accepted - alpha, alpha * (1 - alpha)))
        for pairs in surplus.values():
            excess, variance = np.sum(pairs, 0)
            z_worst = max(z_worst, abs(float(excess)) / math.sqrt(variance + 1e-9))
            total += excess, variance
    z_worst = max(z_worst, abs(float(total[0])) / math.sqrt(total[1]))
    detail = f"max |α - own α| = {worst:.1e}, decisions at {z_worst:.1f} SE, {torn} states torn"
    return Verdict(worst <= 1e-8 and z_worst <= 5 and torn == 0, detail)


def proposals(steps: int = 200) -> Verdict:
    """Which move, which block and which value: each as stated, by chi-square and KS; p > 1e-3 after Bonferroni."""
    rng = np.random.default_rng(0)
    p = {}
    ages: dict[str, list[float]] = {"born": [], "died": []}
    for name, records in _records(steps, lam=0.0).items():
        case = CASES[name]
        size = len(case.partition)
        labels: dict[int, list[str | None]] = defaultdict(list)
        uniforms: dict[str, list[float]] = defaultdict(list)
        changed_at = dict.fromkeys(range(size), -1)  # a choice must not depend on when a block last changed sides
        for time, r in enumerate(records):
            before = case.active(r.before)
            labels[len(before)].append(r.label)
            if r.label is None:
                continue
            if r.label.startswith("flip"):
                changed = np.flatnonzero(r.proposed != r.before)
                ok = len(changed) == 2 and np.array_equal(r.proposed[changed], -r.before[changed])
                uniforms["flipped"] += [_position(j, range(len(r.before)), rng) if ok else 0.0 for j in changed]
            elif r.label.startswith("walk"):
                p[f"{name} {r.label} count"] = min(p.get(f"{name} {r.label} count", 1.0), _walks_right(case, r))
                law = _noise(case, r.label)
                moved = r.proposed != r.before
                uniforms[r.label] += law.cdf((r.proposed - r.before)[moved] / case.scale).tolist()
                block = next(b for b in before if moved[case.partition[b]].any())
                if "k=1" in r.label or r.label == "walk":
                    uniforms["walked"].append(_position(block, before, rng))
            else:
                after = case.active(r.proposed)
                for b in set(after) - set(before):
                    inactive = [c for c in range(size) if c not in before]
                    uniforms["born"].append(_position(b, inactive, rng))
                    ages["born"].append(_position(b, inactive, rng, changed_at))
                    law = next(m for m in case.moves if r.label in m.labels).density
                    family = {"normal": "gaussian"}.get(law, law)
                    cdf = Density(family, case.scale).law().cdf
                    uniforms[f"{r.label} value"] += cdf(r.proposed[case.partition[b]]).tolist()
                for b in set(before) - set(after):
                    uniforms["died"].append(_position(b, before, rng))
                    ages["died"].append(_position(b, before, rng, changed_at))
            changed_at.update(dict.fromkeys(set(before) ^ set(case.active(r.kept)), time))
        for k, seen in labels.items():
            p[f"{name} moves at k={k}"] = _label_test(case, k, seen)
        for what, values in uniforms.items():
            p[f"{name} {what}"] = float(stats.kstest(values, "uniform").pvalue)
    p |= {f"age of the {what}": float(stats.kstest(values, "uniform").pvalue) for what, values in ages.items()}
    return _bonferroni(p)


def _position(
    chosen: int, among: Sequence[int], rng: np.random.Generator, age: Mapping[int, int] | None = None
) -> float:
    order = sorted(among, key=lambda b: (age[b] if age else 0, b))
    return (order.index(chosen) + rng.random()) / len(among)


def _noise(case: Case, label: str) -> stats.rv_continuous:
    noise = next(m for m in case.moves if label in m.labels).noise
    return {"normal": stats.norm(), "student_t": stats.t(3), "uniform": stats.uniform(-(3**0.5), 2 * 3**0.5)}[noise]


def _walks_right(case: Case, r: Proposal) -> float:
    move = next(m for m in case.moves if r.label in m.labels)
    moved = np.flatnonzero(r.proposed != r.before)
    touched = [b for b, where in enumerate(case.partition) if np.isin(where, moved).any()]
    active = case.active(r.before)
    if move.k is None:
        ok = len(touched) == 1 and len(moved) == len(case.partition[touched[0]])
    else:
        ok = len(moved) == len(touched) == min(move.k, len(active))
    return float(ok and set(touched) <= set(active))


def _label_test(case: Case, k: int, seen: Sequence[str | None]) -> float:
    size, share = len(case.partition), 1 / len(case.moves)
    expected: dict[str | None, float] = defaultdict(float)
    for move in case.moves:
        if isinstance(move, BirthDeath):
            expected["birth" if k < size else None] += share * move.birth
            expected["death" if k else None] += share * (1 - move.birth)
        elif isinstance(move, Swap):
            expected["swap" if 0 < k < size else None] += share
        elif isinstance(move, Toggle):
            expected["toggle"] += share
        else:
            expected[move.labels[0] if k else None] += share
    names = sorted({*expected, *seen}, key=str)
    observed = np.array([seen.count(name) for name in names], dtype=float)
    return chi_square(observed, len(seen) * np.array([expected[name] for name in names]))


def _bonferroni(p: dict[str, float], level: float = 1e-3) -> Verdict:
    worst = min(p, key=lambda name: p[name])
    adjusted = min(1.0, p[worst] * len(p))
    return Verdict(adjusted > level, f"least p = {adjusted:.1e} of {len(p)} adjusted ({worst})")


def binary_target(lam: float) -> tuple[Array, Array, Callable[[Array], float]]:
    """Return the 8 states of 3 binary weights, their log target and the loss: logistic regression on 5 points."""
    X = np.array([[1.0, 0.5, -0.3], [-0.7, 1.0, 0.4], [0.2, -0.9, 1.1], [0.8, 0.3, 0.6], [-0.5, -0.4, 1.0]])
    t = np.array([1.0, -1.0, 1.0, -1.0, 1.0])

    def loss(w: Array) -> float:
        return float(np.log1p(np.exp(-t * (X @ w))).mean())

    states = 0.7 * np.array([[1 - 2 * (i >> j & 1) for j in range(3)] for i in range(8)])
    return states, np.array([-lam * loss(w) for w in states]), loss


def binary_proposals(k: int) -> Array:
    """Return q over the 8 states of a flip of k signs."""
    return np.array([[(bin(i ^ j).count("1") == k) / math.comb(3, k) for j in range(8)] for i in range(8)])


def transitions_binary(steps: int = 3500, n_proposals: int = 6) -> Verdict:
    """Empirical n-proposal transitions of 3 binary weights within 7 standard errors of the enumerated P^n."""
    lam = 5.0
    states, log_target, loss = binary_target(lam)
    P = 0.5 * metropolis(log_target, binary_proposals(1)) + 0.5 * metropolis(log_target, binary_proposals(2))
    case = Case((SignFlip(k=1), SignFlip(k=2)), GAUSSIAN, None, shape=(1, 3))
    chain = Chain(case, loss, lam, start=states[0], n_proposals=n_proposals, seed=1)
    trace = np.vstack((states[:1], chain.trace(steps)))
    codes = (trace < 0) @ np.array([1, 2, 4])
    return _transition_test(codes, np.linalg.matrix_power(P, n_proposals), imbalance(log_target, P))


def mask_table(size: int) -> dict[tuple[int, ...], float]:
    """Return a loss for each mask."""
    rng = np.random.default_rng(size)
    return {mask: float(rng.uniform(0, 1.5)) for mask in subsets(size)}


def mask_chain(move: str, size: int) -> tuple[Case, Array, Array]:
    """Return the case, log target and P over masks of a chain whose loss sees the mask alone and whose g is the slab.

    Densities of births and slab cancel, so that masks by themselves are a Markov chain.
    """
    pattern = Pattern("beta_binomial", 0.8, 1.3)
    moves, q = {
        "birth_death": ((BirthDeath(0.3),), [mask_proposals(size, birth=0.3)]),
        "toggle": ((Toggle(),), [mask_proposals(size, toggle=True)]),
        "swap": ((Swap(), BirthDeath()), [mask_proposals(size, swap=True), mask_proposals(size, birth=0.5)]),
    }[move]
    case = Case(moves, Density("gaussian", 0.6), pattern, shape=(1, size), scale=0.6)
    table = mask_table(size)
    log_target = np.array([pattern.log(len(m), size) - table[m] for m in subsets(size)])
    return case, log_target, sum(metropolis(log_target, one) for one in q) / len(q)


def transitions_masks(steps: int = 1200, n_proposals: int = 2) -> Verdict:
    """Empirical transitions over the masks of 1 and of 3 weights within 7 standard errors of the enumerated P^n."""
    verdicts = []
    for number, (move, size) in enumerate([("birth_death", 1), ("birth_death", 3), ("toggle", 3), ("swap", 3)]):
        case, log_target, P = mask_chain(move, size)
        table = mask_table(size)
        chain = Chain(case, lambda w, c=case, t=table: t[c.active(w)], 1.0, n_proposals=n_proposals, seed=number)
        trace = np.vstack((np.ones((1, size)), chain.trace(steps)))
        index = {mask: i for i, mask in enumerate(subsets(size))}
        codes = np.array([index[case.active(w)] for w in trace])
        verdicts.append(_transition_test(codes, np.linalg.matrix_power(P, n_proposals), imbalance(log_target, P)))
    return Verdict(all(v.passed for v in verdicts), "; ".join(v.detail for v in verdicts))


def _transition_test(codes: Array, transitions: Array, unbalanced: float) -> Verdict:
    P, n = transitions, len(transitions)
    counts = np.zeros((n, n))
    np.add.at(counts, (codes[:-1], codes[1:]), 1)
    expected = counts.sum(1, keepdims=True) * P
    forbidden = int(counts[P < 1e-12].sum())
    usual = expected * (1 - P) >= 4
    z = np.abs(counts - expected)[usual] / np.sqrt((expected * (1 - P))[usual])
    worst = float(z.max(initial=0.0))
    detail = f"{worst:.1f} SE over {usual.sum()} transitions, {forbidden} impossible, balance {unbalanced:.0e}"
    return Verdict(worst <= 7 and forbidden == 0 and unbalanced <= 1e-8, detail)


# C3: spike-and-slab regression ------------------------------------------------------------------------------------

FEW, BETA = Pattern("bernoulli", 0.3), Pattern("beta_binomial", 1.0, 2.0)
COMPLEXITY = Pattern("complexity", 0.3, 1.0)
UNIT = Density("gaussian", 0.7)
REGRESSIONS = {
    "birth_death": Case((BirthDeath(weight=6), RandomWalk(k=1)), UNIT, FEW, scale=0.6),
    "birth_death_laplace": Case((BirthDeath(0.3, "laplace", weight=6), RandomWalk(k=1)), UNIT, BETA, scale=0.5),
    "toggle": Case((Toggle(weight=6), RandomWalk(k=1)), UNIT, COMPLEXITY, scale=0.6),
    "swap": Case((Swap(), BirthDeath(0.6, weight=6), RandomWalk(k=2)), UNIT, BETA, scale=0.6),
    "blocks": Case((BirthDeath(weight=6), Toggle("student_t"), RandomWalk()), UNIT, FEW, blocks=(1, 2), scale=0.5),
}


class InclusionResult(NamedTuple):
    """Estimates against the closed form: inclusion probabilities, then averaged means."""

    exact: Array
    estimate: Array
    error: Array


def inclusion_run(name: str, steps: int = 900, thin: int = 16, seed: int = 3) -> InclusionResult:
    """Run the chain on a spike-and-slab regression and return inclusion probabilities and averaged means."""
    case = REGRESSIONS[name]
    data = Regression.example(UNIT.scale)
    n = len(data.y)
    G, b, c = data.X.T @ data.X, data.X.T @ data.y, data.y @ data.y
    scale = 2 * data.noise**2 * n  # λ = n, and the loss is the mean negative log-likelihood
    chain = Chain(case, lambda w: float(w @ (G @ w) - 2 * (b @ w) + c) / scale, n, n_proposals=thin, seed=seed)
    trace = chain.trace(steps, burn=max(20, steps // 50))
    assert case.pattern is not None
    values = np.hstack((masks(case, trace), trace))
    exact = np.concatenate(data.average(case.pattern, case.partition))
    return InclusionResult(exact, values.mean(0), batch_means_error(values))


def inclusion_probabilities(name: str, steps: int = 900, precision: float = math.inf) -> Verdict:
    """Inclusion probabilities and means within 4 batch-means standard errors of the sum over all patterns.

    Args:
        name: the configuration.
        steps: steps of 16 proposals.
        precision: what 4 standard errors of the inclusion probabilities must not exceed.
    """
    result = inclusion_run(name, steps)
    z = np.abs(result.estimate - result.exact) / np.maximum(result.error, 1e-12)
    blocks = len(REGRESSIONS[name].partition)
    band = 4 * float(result.error[:blocks].max())
    table = ", ".join(f"{e:.4f} ({x:.4f})" for e, x in zip(result.estimate[:blocks], result.exact, strict=False))
    return Verdict(float(z.max()) <= 4 and band <= precision, f"{table}; {z.max():.1f} SE, 4 SE = {band:.4f}")


# C4: prior recovery -----------------------------------------------------------------------------------------------

BD, WALK = BirthDeath(), RandomWalk(k=1)
PRIORS = {
    "bernoulli": Case((BD, WALK), GAUSSIAN, Pattern("bernoulli", 0.3), shape=(2, 5)),
    "beta_binomial": Case((BirthDeath(0.3), WALK), LAPLACE, Pattern("beta_binomial", 1.0, 2.0), shape=(2, 3)),
    "complexity": Case((BirthDeath(density="laplace"), WALK), STUDENT_T, Pattern("complexity", 0.4, 0.6), shape=(1, 6)),
    "alquier_lounici": Case((Toggle("student_t"), Swap()), LAPLACE, Pattern("alquier_lounici", 0.7), shape=(2, 3)),
    "rigollet_tsybakov": Case((BD, Toggle(), WALK), STUDENT_T, Pattern("rigollet_tsybakov"), shape=(1, 2)),
    "soft_cap": Case((BD, Swap(), WALK), GAUSSIAN, Pattern("soft_cap", 0.3, 20.0), shape=(2, 3)),
    "rows": Case((BD, RandomWalk()), GAUSSIAN, Pattern("beta_binomial"), shape=(5, 2), blocks="row"),
    "ragged": Case(
        (Toggle("laplace"), Swap("laplace"), RandomWalk(k=2)), LAPLACE, Pattern("bernoulli", 0.75), **RAGGED
    ),
    "dense": Case((RandomWalk(k=2), SignFlip(k=1)), STUDENT_T, None, shape=(1, 3), scale=1.2),
}


def prior_recovery(name: str | Case, steps: int = 500, n_proposals: int = 20) -> Verdict:
    """At λ = 0: chi-square on k, KS on the values of active weights, thinned by the autocorrelation time."""
    case = PRIORS[name] if isinstance(name, str) else name
    chain = Chain(case, lambda _: 0.0, 0.0, n_proposals=n_proposals, seed=11)
    trace = chain.trace(steps, burn=25)
    active = masks(case, trace)
    watched = np.column_stack((active.sum(1), np.abs(trace).sum(1), trace.sum(1), active, np.abs(trace)))
    thin = math.ceil(2 * max(autocorrelation_time(column) for column in watched.T * 1.0))
    trace, active = trace[::thin], active[::thin]
    p = {"values": float(stats.kstest(trace[trace != 0], case.slab.law().cdf).pvalue)}
    if case.pattern is not None:
        size = len(case.partition)
        observed = np.bincount(active.sum(1), minlength=size + 1)
        p["k"] = chi_square(observed, len(active) * case.pattern.sizes(size))
        sizes = {len(where) for where in case.partition}
        for m in sizes if len(sizes) > 1 else ():
            of_size = [where for where in case.partition if len(where) == m]
            values = np.concatenate([trace[:, where].ravel() for where in of_size])
            p[f"values of blocks of {m}"] = float(stats.kstest(values[values != 0], case.slab.law().cdf).pvalue)
    worst = min(p, key=lambda key: p[key])
    return Verdict(p[worst] > 1e-3, f"p = {p[worst]:.1e} ({worst}), {len(active)} draws after thinning by {thin}")


def prior_recovery_pooled(steps: int = 600, n_proposals: int = 25) -> Verdict:
    """per="group": k over two layers follows the pooled law, spread uniformly; the bias follows the slab."""
    pattern, density = Pattern("beta_binomial", 1.5, 1.5), GAUSSIAN
    params = [nn.Parameter(torch.ones(s, dtype=torch.float64)) for s in ((1, 3), (2,), (2, 1))]
    prior = mcmcopt.SpikeSlab(inclusion=inclusion(pattern), slab=slab(density), per="group")
    optimizer = mcmcopt.GreedyMCMC(
        params,
        0.0,
        prior=prior,
        moves=[Toggle(), Swap(), WALK],
        lr=0.9,
        adapt=False,
        n_proposals=n_proposals,
        grad=False,
        seed=5,
    )
    trace = np.empty((steps, 7))
    for row in trace:
        optimizer.step(lambda: 0.0)
        row[:] = torch.cat([param.detach().view(-1) for param in params])
    sparse = trace[:, [0, 1, 2, 5, 6]]
    counts = (sparse != 0).astype(float)
    watched = np.column_stack((counts.sum(1), counts, np.abs(trace)))
    thin = math.ceil(2 * max(autocorrelation_time(column) for column in watched.T))
    trace, sparse, counts = trace[::thin], sparse[::thin], counts[::thin]
    n, law = len(trace), density.law()
    first = sum(pattern.sizes(5)[k] * stats.hypergeom(5, 3, k).pmf(np.arange(4)) for k in range(6))
    p = {
        "k": chi_square(np.bincount(counts.sum(1).astype(int), minlength=6), n * pattern.sizes(5)),
        "k of the first layer": chi_square(np.bincount(counts[:, :3].sum(1).astype(int), minlength=4), n * first),
        "values": float(stats.kstest(sparse[sparse != 0], law.cdf).pvalue),
        "bias": float(stats.kstest(trace[:, 3:5].ravel(), law.cdf).pvalue),
    }
    worst = min(p, key=lambda key: p[key])
    return Verdict(p[worst] > 1e-3, f"p = {p[worst]:.1e} ({worst}), {n} draws after thinning by {thin}")


# C5: exact invariance ---------------------------------------------------------------------------------------------

FLAT = Pattern("beta_binomial", 1.0, 1.0)
INVARIANCE = {
    "birth_death": Case((BirthDeath(0.3, "laplace"),), GAUSSIAN, FLAT),
    "toggle": Case((Toggle(),), LAPLACE, FLAT),
    "swap": Case((Swap("student_t"),), GAUSSIAN, FLAT),
    "blocks": Case((BirthDeath(),), LAPLACE, FLAT, scale=0.5, **RAGGED),
    "walk": Case((RandomWalk(k=2),), STUDENT_T, FLAT),
    "walk_block": Case((RandomWalk(noise="uniform"),), GAUSSIAN, FLAT, scale=0.5, **RAGGED),
    "flip": Case((SignFlip(k=1),), GAUSSIAN, None),
    "mixture": Case((BirthDeath(), Swap(), RandomWalk(k=1), SignFlip(k=2)), LAPLACE, Pattern("complexity", 0.3, 0.8)),
}


def invariance(name: str, first: int = 200, alpha: float = 1e-5, rounds: int = 7, growth: int = 2) -> Verdict:
    """Gandy and Scott (2020, Algorithms 2 and 3): ranks of a draw of the joint law within a stretch of chain.

    Draw (θ, γ) from the prior and y given them, put that state at a uniform place M of a stretch of 4 states and run
    the reversible kernel from it to both sides.  Its rank among the four, ties broken at random, is then uniform
    for every statistic, whether the chain mixes or not.  Sequential, total false-alarm rate α.
    """
    beta = alpha / rounds
    gamma = beta ** (1 / rounds)
    rng = np.random.default_rng(17)
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


def _ranks(case: Case, rng: np.random.Generator, length: int = 4, stride: int = 5) -> Array:
    entries = math.prod(case.shape)
    w = case.draw(rng)
    X = rng.standard_normal((3, entries))
    y = X @ w + rng.standard_normal(3)

    def loss(v: Array) -> float:
        residual = y - X @ v
        return 0.5 * float(residual @ residual) / 3

    place = int(rng.integers(length))
    states = [w]
    for steps in (place, length - 1 - place):
        if steps:
            seed = int(rng.integers(2**62))
            states += list(Chain(case, loss, 3.0, start=w, n_proposals=stride, seed=seed).trace(steps))
    values = np.array([_statistics(case, v, loss) for v in states])
    return np.array([_rank(column, rng) for column in values.T])


def _statistics(case: Case, w: Array, loss: Callable[[Array], float]) -> list[float]:
    return [len(case.active(w)), loss(w), np.abs(w).sum(), w @ w, w.sum(), abs(w[0]), np.abs(w).max()]


def _rank(values: Array, rng: np.random.Generator) -> int:
    below, ties = int((values < values[0]).sum()), int((values == values[0]).sum())
    return below + int(rng.integers(ties))


# C6: joint distribution and calibration of a small net ------------------------------------------------------------


class Net:
    """y = v tanh(u·x + b) + c + N(0, 1) on 4 inputs: u (1×2) and v (1×1) under a spike and slab, b and c dense."""

    noise = 1.0
    x = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0], [0.5, -1.0]])
    case = Case((BirthDeath(), RandomWalk(k=1)), Density("gaussian", 1.0), Pattern("bernoulli", 0.6))

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Array:
        """Return (u1, u2, b, v, c) from the prior."""
        w = rng.standard_normal(5)
        w[[0, 1, 3]] *= rng.random(3) < 0.6
        return w

    @classmethod
    def predict(cls, w: Array) -> Array:
        return w[3] * np.tanh(cls.x @ w[:2] + w[2]) + w[4]

    @classmethod
    def data(cls, w: Array, rng: np.random.Generator) -> Array:
        return cls.predict(w) + cls.noise * rng.standard_normal(4)

    def __init__(self, w: Array, n_proposals: int, seed: int) -> None:
        self.params = [nn.Parameter(torch.ones(s, dtype=torch.float64)) for s in ((1, 2), (1,), (1, 1), (1,))]
        self.views = [param.detach().numpy().reshape(-1) for param in self.params]
        self.optimizer = mcmcopt.GreedyMCMC(
            self.params,
            4.0,
            prior=self.case.prior(),
            moves=self.case.moves,
            lr=0.9,
            adapt=False,
            n_proposals=n_proposals,
            grad=False,
            seed=seed,
        )
        saved = self.optimizer.state_dict()
        for i, where in ((0, [0, 1]), (2, [3])):
            order = sorted(range(len(where)), key=lambda j, where=where: w[where[j]] == 0)
            count = int((w[where] != 0).sum())
            saved["state"][i].update(order=torch.tensor(order, dtype=torch.int32), active=torch.tensor(count))
        for view, values in zip(self.views, (w[:2], w[2:3], w[3:4], w[4:]), strict=True):
            view[:] = values
        self.optimizer.load_state_dict(saved)

    def step(self, y: Array) -> Array:
        """Make a step on data y and return the state."""

        def closure() -> float:
            residual = y - self.predict(np.concatenate(self.views))
            return float(residual @ residual) / (2 * self.noise**2) / 4

        self.optimizer.step(closure)
        return np.concatenate(self.views)


def _joint_statistics(w: Array, y: Array) -> list[float]:
    active = w[[0, 1, 3]] != 0
    return [*w, *w**2, *active, active.sum(), y.mean(), y @ y, (w[:4] @ y), active.sum() * (y @ y), np.abs(w).sum()]


def geweke(steps: int = 1200, n_proposals: int = 15) -> Verdict:
    """Geweke (2004): alternating y | θ and a step of the chain reproduces the moments of the joint law."""
    rng = np.random.default_rng(8)
    w = Net.draw(rng)
    net = Net(w, n_proposals, seed=8)
    chain = []
    for _ in range(steps):
        y = Net.data(w, rng)
        w = net.step(y)
        chain.append(_joint_statistics(w, Net.data(w, rng)))
    independent = []
    for _ in range(4 * steps):
        v = Net.draw(rng)
        independent.append(_joint_statistics(v, Net.data(v, rng)))
    a, b = np.array(chain), np.array(independent)
    errors = np.hypot(batch_means_error(a, 30), b.std(0) / math.sqrt(len(b)))
    z = (a.mean(0) - b.mean(0)) / errors
    return _bonferroni({f"statistic {i}": float(2 * stats.t.sf(abs(v), 29)) for i, v in enumerate(z)})


def calibration(replicas: int = 60, draws: int = 6, n_proposals: int = 90) -> Verdict:
    """Talts et al. (2018): the rank of θ among posterior draws of chains started elsewhere is uniform."""
    rng = np.random.default_rng(4)
    ranks = []
    for _ in range(replicas):
        w = Net.draw(rng)
        y = Net.data(w, rng)
        net = Net(Net.draw(rng), n_proposals, seed=int(rng.integers(2**62)))
        net.step(y)
        states = [w, *(net.step(y) for _ in range(draws))]
        values = np.array([[*v, (v[[0, 1, 3]] != 0).sum(), np.abs(v).sum(), Net.predict(v)[0]] for v in states])
        ranks.append([_rank(column, rng) for column in values.T])
    bins = draws + 1
    table = np.array(ranks)
    return _bonferroni(
        {
            f"statistic {i}": chi_square(np.bincount(c, minlength=bins), np.full(bins, replicas / bins))
            for i, c in enumerate(table.T)
        }
    )


# C11: adaptation --------------------------------------------------------------------------------------------------


def adaptation_schedule(steps: int = 250) -> Verdict:
    """Walks: log σ ← log σ + γ_t (decision - α*), γ_t = 2 (t + 16)^-0.6; births: towards weights that deaths draw."""
    worst = 0.0
    for case in (
        with_moves(CASES["birth_death"], (BirthDeath(), RandomWalk(k=1))),
        with_moves(CASES["blocks"], (Toggle(), Swap(), RandomWalk(), RandomWalk(k=1))),
    ):
        records = record(Chain(case, _bowl(math.prod(case.shape)), 3.0, adapt=True, seed=2), steps)
        scale = {repr(move): case.scale for move in case.moves}
        count = dict.fromkeys(scale, 0)
        for r in records:
            move = next((m for m in case.moves if r.label in m.labels), None)
            if move is not None:
                key, target = repr(move), 0.44 if (r.proposed != r.before).sum() == 1 else 0.234
                gain = 2.0 * (count[key] + 16) ** -0.6
                died = set(case.active(r.before)) - set(case.active(r.proposed))
                if r.label is not None and r.label.startswith("walk"):
                    scale[key] *= math.exp(gain * (r.accepted - target))
                    count[key] += 1
                elif died:
                    (block,) = died
                    seen = math.sqrt(float((r.before[case.partition[block]] ** 2).mean()))
                    scale[key] *= (seen / scale[key]) ** min(1.0, gain)
                    count[key] += 1
            worst = max(worst, *(abs(math.log(r.scale[key] / value)) for key, value in scale.items()))
    return Verdict(worst <= 1e-9, f"max |log scale - own| = {worst:.1e}")


def adaptation_frozen(steps: int = 120) -> Verdict:
    """Freezing keeps the scales reached, for good, also through state_dict; constructed frozen they never move."""
    case = CASES["birth_death"]
    loss = _bowl(4)
    chain = Chain(case, loss, 3.0, adapt=True, seed=6)
    reached = record(chain, steps)[-1].scale
    chain.optimizer.freeze_adaptation()
    scales = [r.scale for r in record(chain, steps)]
    again = Chain(case, loss, 3.0, adapt=True, seed=6)
    again.weights[:] = chain.weights
    again.optimizer.load_state_dict(chain.optimizer.state_dict())
    scales += [r.scale for r in record(again, steps)]
    moved = sum(scale != reached for scale in scales)
    never = Chain(case, loss, 3.0, adapt=False, seed=6)
    moved += sum(set(r.scale.values()) != {case.scale} for r in record(never, steps))
    learned = any(abs(math.log(value / case.scale)) > 0.1 for value in reached.values())
    return Verdict(moved == 0 and learned, f"{moved} scales moved after the freeze; learned before: {learned}")


def adaptation_target(learn: int = 150, measure: int = 50, n_proposals: int = 100) -> Verdict:
    """On a Gaussian the frozen scale accepts 0.44 for one coordinate, 0.234 for ten, within 0.03."""
    rates = []
    for k, entries, target in ((1, 1, 0.44), (10, 10, 0.234)):
        case = Case((RandomWalk(k=k),), Density("gaussian", 1.0), None, shape=(1, entries), scale=20.0)
        chain = Chain(case, lambda _: 0.0, 0.0, adapt=True, n_proposals=n_proposals, seed=9)
        chain.trace(learn)
        chain.optimizer.freeze_adaptation()
        total = 0.0
        for _ in range(measure):
            chain.step()
            assert chain.optimizer.info is not None
            (layer,) = chain.optimizer.info.layers.values()
            total += next(iter(layer.moves.values())).acceptance_rate
        rates.append((total / measure, target))
    detail = ", ".join(f"{rate:.3f} for {target}" for rate, target in rates)
    return Verdict(all(abs(rate - target) <= 0.03 for rate, target in rates), detail)


# C13: moments, and losses that are not finite ---------------------------------------------------------------------


def moments(steps: int = 1500, n_proposals: int = 20) -> Verdict:
    """Means and second moments of a dense Gaussian regression within 4 batch-means standard errors."""
    data = Regression.example(UNIT.scale)
    mean, covariance = data.posterior(range(4))
    exact = np.concatenate((mean, (covariance + np.outer(mean, mean))[np.triu_indices(4)]))
    case = Case((RandomWalk(k=1), RandomWalk(k=2, noise="student_t"), SignFlip(k=1)), UNIT, None, scale=0.6)
    n = len(data.y)
    chain = Chain(case, lambda w: data.negative_log_likelihood(w) / n, n, n_proposals=n_proposals, seed=13)
    trace = chain.trace(steps, burn=60)
    products = np.array([np.outer(w, w)[np.triu_indices(4)] for w in trace])
    values = np.hstack((trace, products))
    z = np.abs(values.mean(0) - exact) / batch_means_error(values)
    return Verdict(float(z.max()) <= 4, f"{z.max():.1f} SE over {len(z)} moments")


def not_finite(steps: int = 1200, n_proposals: int = 5) -> Verdict:
    """Where the loss is nan or inf nothing is accepted: the chain follows the law cut off there."""
    case = Case((RandomWalk(k=1),), Density("gaussian", 1.0), None, shape=(1, 2), scale=1.0)

    def loss(w: Array) -> float:
        return math.nan if w[0] > 1.2 else math.inf if w[1] > 1.2 else 0.0

    trace = Chain(case, loss, 1.0, n_proposals=n_proposals, seed=14).trace(steps, burn=40)
    thin = math.ceil(2 * max(autocorrelation_time(column) for column in trace.T))
    outside = int((trace > 1.2).sum())
    p = float(stats.kstest(trace[::thin].ravel(), stats.truncnorm(-math.inf, 1.2).cdf).pvalue)
    return Verdict(outside == 0 and p > 1e-3, f"{outside} states outside, p = {p:.1e}")


DETECTORS: dict[str, Callable[[], Verdict]] = {
    "C1 antisymmetry": antisymmetry,
    "C2 acceptance": acceptance,
    "C2 proposals": proposals,
    "C2 transitions binary": transitions_binary,
    "C2 transitions masks": transitions_masks,
    **{f"C3 inclusion {name}": partial(inclusion_probabilities, name) for name in REGRESSIONS},
    **{f"C4 prior {name}": partial(prior_recovery, name) for name in PRIORS},
    "C4 prior pooled": prior_recovery_pooled,
    **{f"C5 invariance {name}": partial(invariance, name) for name in INVARIANCE},
    "C6 geweke": geweke,
    "C6 calibration": calibration,
    "C11 schedule": adaptation_schedule,
    "C11 frozen": adaptation_frozen,
    "C11 target": adaptation_target,
    "C13 moments": moments,
    "not finite": not_finite,
}
