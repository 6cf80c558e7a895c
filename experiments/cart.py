"""Cost-complexity pruning of a tree (Breiman, Friedman, Olshen, Stone 1984, ch. 3): python experiments/cart.py

The oldest pruning of all: among the subtrees T of a grown tree that have the same root,

    minimise R_α(T) = R(T) + α |leaves of T|,      R(T) = Σ over leaves R(t),

for every α at once.  Cutting the branch T_t below a node t raises R by R(t) - R(T_t) and saves |T_t| - 1 leaves, so
that it pays from

    α = g(t) = (R(t) - R(T_t)) / (|T_t| - 1)

on.  Cut the weakest link, the t of least g, all of them where several share it, and again: the subtrees are nested, and
the k-th is the smallest minimiser for α_k ≤ α < α_{k+1}.

To pruning of networks: g(t) is a saliency, the increase of the error per leaf removed, as criteria estimate it per
weight; of a tree it is exact, and removing greedily is optimal at every α, neither of which holds of a network.

R is the impurity by which the tree was grown (as in scikit-learn) or the share of errors (as in the book).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

TIE = 1e-12
"""Of the root's risk: links whose g differ by less are cut together."""
DATA = ("breast_cancer", "digits", "iris", "wine")


@dataclass(frozen=True)
class Subtrees:
    """Nested subtrees by growing α; the last is the root alone.

    Args:
        alphas: (k,) the least α of each, rising, the first 0.
        risks: (k,) R(T).
        leaves: (k,) numbers of leaves.
        leaf_from: (nodes,) the number of the first subtree of which a node is a leaf, or of which it is no part.
    """

    alphas: np.ndarray
    risks: np.ndarray
    leaves: np.ndarray
    leaf_from: np.ndarray

    def at(self, alpha: float) -> int:
        """Return the number of the subtree that is the smallest minimiser of R_α.

        Raises:
            ValueError: for a negative α.
        """
        if not alpha >= 0:
            raise ValueError(f"alpha must be at least 0, got {alpha}")
        return int(np.searchsorted(self.alphas, alpha, side="right")) - 1


def node_risk(tree: Any, kind: str = "impurity") -> np.ndarray:
    """Return R(t) (nodes,), each node's part of the risk if it were a leaf, from scikit-learn's `tree_` of one output.

    Args:
        tree: `DecisionTreeClassifier.tree_`.
        kind: `"impurity"`, or `"errors"`, the share of training samples that are not of the node's commonest class.

    Raises:
        ValueError: for another kind.
    """
    if kind not in ("impurity", "errors"):
        raise ValueError(f'kind must be "impurity" or "errors", got {kind!r}')
    share = tree.weighted_n_node_samples / tree.weighted_n_node_samples[0]
    if kind == "impurity":
        return share * tree.impurity
    value = tree.value[:, 0]
    return share * (1 - value.max(1) / value.sum(1))


def weakest_links(left: np.ndarray, right: np.ndarray, risk: np.ndarray) -> Subtrees:
    """Return the subtrees that minimise R_α, for all α ≥ 0.

    Args:
        left, right: (nodes,) children, -1 at leaves, larger than their parent; the root is node 0.
        risk: (nodes,) R(t), at no node smaller than at its children together.

    Raises:
        ValueError: if lengths differ, a child does not come after its parent, or a split raises the risk.
    """
    left, right, risk = np.asarray(left), np.asarray(right), np.asarray(risk, dtype=float)
    nodes = np.arange(len(risk))
    if not len(left) == len(right) == len(risk) > 0:
        raise ValueError(
            f"left, right and risk must have one entry per node, got {len(left)}, {len(right)}, {len(risk)}"
        )
    inner = left >= 0
    if ((right >= 0) != inner).any() or (np.minimum(left, right)[inner] <= nodes[inner]).any():
        raise ValueError("left and right must both be -1, or larger than their parent's number")
    tie = TIE * max(abs(risk[0]), 1e-300)
    if (worse := risk[inner] < risk[left[inner]] + risk[right[inner]] - 1e3 * tie).any():
        raise ValueError(f"risk must not rise by a split, at node {nodes[inner][worse][0]} it does")
    leaf_from = np.where(inner, -1, 0)
    alphas, risks, leaves = [0.0], [], []
    while True:
        below, size = risk.copy(), np.ones(len(risk))  # R(T_t) and |T_t|, children first
        for t in nodes[::-1]:
            if leaf_from[t] < 0:
                below[t] = below[left[t]] + below[right[t]]
                size[t] = size[left[t]] + size[right[t]]
        g = np.where(leaf_from < 0, (risk - below) / np.maximum(size - 1, 1), np.inf)
        if g.min() <= alphas[-1] + tie:  # more links of the same strength, or splits that gained nothing
            _cut(leaf_from, left, right, g <= alphas[-1] + tie, len(alphas) - 1)
            continue
        risks.append(below[0])
        leaves.append(int(size[0]))
        if leaf_from[0] >= 0:
            return Subtrees(np.array(alphas), np.array(risks), np.array(leaves), leaf_from)
        alphas.append(float(g.min()))


def _cut(leaf_from: np.ndarray, left: np.ndarray, right: np.ndarray, links: np.ndarray, step: int) -> None:
    """Make leaves of these nodes, and take what is below them out, in place."""
    gone = links.copy()
    for t in range(len(gone)):  # parents first
        if gone[t] and left[t] >= 0:
            gone[[left[t], right[t]]] = True
    leaf_from[gone & (leaf_from < 0)] = step


def predict(tree: Any, path: Subtrees, k: int, x: np.ndarray) -> np.ndarray:
    """Return the class numbers (n,) that the k-th subtree gives to samples (n, features)."""
    x = np.asarray(x, dtype=np.float32)  # as scikit-learn compares
    node = np.zeros(len(x), dtype=int)
    while (on := path.leaf_from[node] > k).any():
        t = node[on]
        goes_left = x[on, tree.feature[t]] <= tree.threshold[t]
        node[on] = np.where(goes_left, tree.children_left[t], tree.children_right[t])
    return tree.value[node, 0].argmax(1)


def grown(x: np.ndarray, y: np.ndarray, seed: int, kind: str) -> tuple[Any, Subtrees]:
    """Return a full tree on data with labels 0, 1, … and its path."""
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(random_state=seed).fit(x, y).tree_
    return tree, weakest_links(tree.children_left, tree.children_right, node_risk(tree, kind))


def cross_validated(
    x: np.ndarray, y: np.ndarray, path: Subtrees, folds: int, seed: int, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the error (k,) of each α on held-out folds, and its standard error over the samples.

    α stands for its interval by the geometric mean of its ends, as in the book (section 3.4.1).
    """
    from sklearn.model_selection import StratifiedKFold

    with np.errstate(invalid="ignore"):
        inner = np.sqrt(path.alphas * np.append(path.alphas[1:], np.inf))
    inner[0] = 0.0  # also of a tree that is its root alone, where the product is 0 times infinity
    wrong = np.empty((len(path.alphas), len(y)), dtype=bool)
    for fit, held in StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y):
        tree, own = grown(x[fit], y[fit], seed, kind)
        for k, alpha in enumerate(inner):
            wrong[k, held] = predict(tree, own, own.at(alpha), x[held]) != y[held]
    errors = wrong.mean(1)
    return errors, np.sqrt(errors * (1 - errors) / len(y))


def choose(errors: np.ndarray, deviations: np.ndarray, ses: float = 0.0) -> int:
    """Return the smallest subtree whose error is within so many standard errors of the least (section 3.4.3)."""
    best = int(errors.argmin())
    return int(np.flatnonzero(errors <= errors[best] + ses * deviations[best] + 1e-12)[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Cost-complexity pruning of a tree.")
    parser.add_argument("--data", choices=DATA, default=DATA[0], help="(default: %(default)s)")
    parser.add_argument("--risk", choices=("impurity", "errors"), default="impurity", help="(default: %(default)s)")
    parser.add_argument("--folds", type=int, default=10, help="of cross-validation (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of split, tree and folds (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=20, help="at most, spread evenly (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.folds < 2 or options.rows < 2 or options.seed < 0:
        parser.error("--folds and --rows must be at least 2, --seed at least 0")
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    x, y = getattr(datasets, f"load_{options.data}")(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.3, stratify=y, random_state=options.seed)
    tree, path = grown(x, y, options.seed, options.risk)
    errors, deviations = cross_validated(x, y, path, options.folds, options.seed, options.risk)
    best, simple = choose(errors, deviations), choose(errors, deviations, ses=1.0)
    n = len(path.alphas)
    shown = {*np.linspace(0, n - 1, min(n, options.rows)).round().astype(int).tolist(), best, simple}
    print(f"{options.data}: {len(y)} training and {len(y_test)} test samples, {n} subtrees, R: {options.risk}")
    print("g(t), the weakest link's α, is a saliency: the increase of the error per leaf removed.")
    print()
    print("| α | leaves | R(T) | training accuracy, % | cross-validated, % | test accuracy, % | |")
    print("|---|---|---|---|---|---|---|")
    for k in sorted(shown):
        accuracy = [100 * (predict(tree, path, k, a) == b).mean() for a, b in ((x, y), (x_test, y_test))]
        marks = [name for name, own in (("least error", best), ("1-SE rule", simple)) if own == k]
        print(
            f"| {path.alphas[k]:.5f} | {path.leaves[k]} | {path.risks[k]:.4f} | {accuracy[0]:.2f} | "
            f"{100 * (1 - errors[k]):.2f} | {accuracy[1]:.2f} | {', '.join(marks)} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
