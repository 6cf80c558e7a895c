"""The weakest-link path: scikit-learn's, and the minimisers that an enumeration of all subtrees finds."""

import itertools

import numpy as np
import pytest
from sklearn import datasets
from sklearn.tree import DecisionTreeClassifier

from experiments import cart

CASES = [("breast_cancer", "gini"), ("iris", "entropy"), ("wine", "gini"), ("digits", "gini")]


def subtrees(left, right, t=0):
    """Yield the sets of leaves of all pruned subtrees below a node."""
    yield (t,)
    if left[t] >= 0:
        for one, two in itertools.product(subtrees(left, right, left[t]), subtrees(left, right, right[t])):
            yield one + two


def tiny(rng, inner=5, coarse=False):
    """Return children and risks of a random binary tree; coarse risks have many equal links."""
    left, right, leaves = [-1], [-1], [0]
    for _ in range(inner):
        t = leaves.pop(rng.integers(len(leaves)))
        left[t], right[t] = len(left), len(left) + 1
        leaves += [left[t], right[t]]
        left += [-1, -1]
        right += [-1, -1]
    risk = np.zeros(len(left))
    for t in range(len(left) - 1, -1, -1):
        own = rng.integers(0, 3) / 16 if coarse else rng.random()
        risk[t] = own + (risk[left[t]] + risk[right[t]] if left[t] >= 0 else 0)
    return np.array(left), np.array(right), risk


def leaf_set(path, left, right, k, t=0):
    """Return the leaves of the k-th subtree below a node."""
    if path.leaf_from[t] <= k:
        return [t]
    return leaf_set(path, left, right, k, left[t]) + leaf_set(path, left, right, k, right[t])


@pytest.mark.parametrize(("name", "criterion"), CASES)
def test_path_is_that_of_scikit_learn(name, criterion):
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    x, y = x[:900], y[:900]
    estimator = DecisionTreeClassifier(criterion=criterion, random_state=0)
    tree = estimator.fit(x, y).tree_
    path = cart.weakest_links(tree.children_left, tree.children_right, cart.node_risk(tree))
    theirs = estimator.cost_complexity_pruning_path(x, y)
    # it cuts links of equal strength one by one, the path all together: the last of a tie is the subtree
    last = np.append(np.diff(theirs.ccp_alphas) > 1e-12, True)
    np.testing.assert_allclose(path.alphas, theirs.ccp_alphas[last], rtol=0, atol=1e-12)
    np.testing.assert_allclose(path.risks, theirs.impurities[last], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["breast_cancer", "iris", "digits"])  # digits: pixels equal to thresholds
def test_subtrees_are_those_that_scikit_learn_prunes_to(name):
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    fit, held = np.arange(len(y)) % 2 == 0, np.arange(len(y)) % 2 == 1
    tree = DecisionTreeClassifier(random_state=0).fit(x[fit], y[fit]).tree_
    path = cart.weakest_links(tree.children_left, tree.children_right, cart.node_risk(tree))
    between = (path.alphas[:-1] + path.alphas[1:]) / 2
    for k in range(0, len(between), 1 + len(between) // 10):
        alpha = between[k]
        theirs = DecisionTreeClassifier(random_state=0, ccp_alpha=alpha).fit(x[fit], y[fit])
        assert theirs.get_n_leaves() == path.leaves[k]
        np.testing.assert_array_equal(cart.predict(tree, path, path.at(alpha), x[held]), theirs.predict(x[held]))


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_the_smallest_minimiser_among_all_subtrees(seed, coarse):
    left, right, risk = tiny(np.random.default_rng(seed), inner=6, coarse=coarse)
    path = cart.weakest_links(left, right, risk)
    everything = [(sum(risk[t] for t in leaves), len(leaves), sorted(leaves)) for leaves in subtrees(left, right)]
    between = (path.alphas[:-1] + path.alphas[1:]) / 2
    for alpha in [*path.alphas, *between, path.alphas[-1] + 1]:
        costs = [r + alpha * n for r, n, _ in everything]
        minimisers = [own for own, cost in zip(everything, costs, strict=True) if cost <= min(costs) + 1e-9]
        _, size, leaves = min(minimisers, key=lambda own: own[1])
        k = path.at(alpha)
        assert path.leaves[k] == size
        assert path.risks[k] == pytest.approx(sum(risk[t] for t in leaves), abs=1e-12)
        assert sorted(leaf_set(path, left, right, k)) == leaves
        if alpha in between:  # unique there
            assert len(minimisers) == 1


def test_alphas_rise_and_subtrees_are_nested():
    left, right, risk = tiny(np.random.default_rng(5), inner=40, coarse=True)
    path = cart.weakest_links(left, right, risk)
    assert path.alphas[0] == 0
    assert (np.diff(path.alphas) > 0).all()
    assert (np.diff(path.leaves) < 0).all()
    assert path.leaves[-1] == 1
    assert path.risks[-1] == risk[0]
    inner = left >= 0
    for child in (left[inner], right[inner]):
        assert (path.leaf_from[child] <= path.leaf_from[inner]).all()


def test_a_stump_and_a_leaf_alone():
    path = cart.weakest_links(np.array([1, -1, -1]), np.array([2, -1, -1]), np.array([0.5, 0.1, 0.2]))
    np.testing.assert_allclose(path.alphas, [0, 0.2])
    assert path.leaves.tolist() == [2, 1]
    assert cart.weakest_links(np.array([-1]), np.array([-1]), np.array([0.5])).leaves.tolist() == [1]


def test_risk_as_errors_counts_the_training_errors():
    x, y = datasets.load_iris(return_X_y=True)
    tree = DecisionTreeClassifier(random_state=0).fit(x, y).tree_
    path = cart.weakest_links(tree.children_left, tree.children_right, cart.node_risk(tree, "errors"))
    for k, risk in enumerate(path.risks):
        assert (cart.predict(tree, path, k, x) != y).mean() == pytest.approx(risk, abs=1e-12)


def test_choice_is_the_smallest_tree_within_the_standard_errors():
    errors, deviations = np.array([0.2, 0.1, 0.1, 0.12, 0.3]), np.full(5, 0.03)
    assert cart.choose(errors, deviations) == 2
    assert cart.choose(errors, deviations, ses=1.0) == 3


def test_cross_validation_sees_held_out_samples_only():
    x = np.random.default_rng(0).standard_normal((200, 5))
    y = np.arange(200) % 2  # nothing to learn
    tree, path = cart.grown(x, y, 0, "impurity")
    assert (cart.predict(tree, path, 0, x) == y).all()
    errors, deviations = cart.cross_validated(x, y, path, 5, 0, "impurity")
    assert 0.35 < errors[0] < 0.65
    np.testing.assert_allclose(deviations, np.sqrt(errors * (1 - errors) / 200))


@pytest.mark.parametrize(
    ("left", "right", "risk", "message"),
    [
        ([1, -1, -1], [2, -1, -1], [0.2, 0.1, 0.2], "at node 0"),
        ([1, -1, -1], [2, -1, -1], [0.2, 0.1], "one entry per node"),
        ([0, -1, -1], [2, -1, -1], [0.5, 0.1, 0.2], "larger than their parent"),
        ([1, -1, -1], [-1, -1, -1], [0.5, 0.1, 0.2], "larger than their parent"),
    ],
)
def test_what_is_no_tree_is_refused(left, right, risk, message):
    with pytest.raises(ValueError, match=message):
        cart.weakest_links(np.array(left), np.array(right), np.array(risk))


def test_other_bad_arguments_are_refused():
    x, y = datasets.load_iris(return_X_y=True)
    tree, path = cart.grown(x, y, 0, "impurity")
    with pytest.raises(ValueError, match="kind must be"):
        cart.node_risk(tree, "loss")
    with pytest.raises(ValueError, match="alpha must be at least 0"):
        path.at(-0.1)


def test_the_command_prints_a_table(capsys):
    assert cart.main(["--data", "iris", "--folds", "3", "--risk", "errors"]) == 0
    out = capsys.readouterr().out
    rows = [row for row in out.splitlines() if row.startswith("|")]
    assert len(rows) > 3
    assert "least error" in out
    assert "1-SE rule" in out
    with pytest.raises(SystemExit):
        cart.main(["--folds", "1"])
