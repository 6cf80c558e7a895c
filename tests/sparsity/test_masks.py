"""Masks: exact counts, ties, what is a weight."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mcmcopt.sparsity import Magnitude, Random, apply_masks, count, keep_masks, nonzero, weights


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4 * 4, 5))


@st.composite
def scores(draw):
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    values = [draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)) for n in sizes]  # few values: many ties
    return {f"w{i}": torch.tensor(v, dtype=torch.float32) for i, v in enumerate(values)}


def expected(values, candidates, share):
    """Prune one by one, by sorting pairs (score, index), in plain Python."""
    pruned = sorted(candidates, key=lambda i: (values[i], i))[: round(share * len(candidates))]
    return [i in set(candidates) - set(pruned) for i in range(len(values))]


@given(scores(), st.floats(0, 1))
def test_layer_scope_prunes_exactly_and_lower_indices_first(scored, share):
    for name, mask in keep_masks(scored, share, "layer").items():
        values = scored[name].tolist()
        assert mask.tolist() == expected(values, range(len(values)), share)


@given(scores(), st.floats(0, 1))
def test_global_scope_is_one_layer_end_to_end(scored, share):
    together = torch.cat(list(scored.values())).tolist()
    masks = keep_masks(scored, share, "global")
    assert torch.cat(list(masks.values())).tolist() == expected(together, range(len(together)), share)


@given(scores(), st.floats(0, 1), st.sampled_from(["layer", "global"]))
def test_among_is_the_basis_and_the_rest_stays_out(scored, share, scope):
    among = {name: score > 0 for name, score in scored.items()}
    masks = keep_masks(scored, share, scope, among)
    for name, mask in masks.items():
        assert not (mask & ~among[name]).any()
    if scope == "layer":
        for name, score in scored.items():
            candidates = [i for i, value in enumerate(score.tolist()) if value > 0]
            assert masks[name].tolist() == expected(score.tolist(), candidates, share)
    else:
        n = sum(int(a.sum()) for a in among.values())
        assert sum(int(m.sum()) for m in masks.values()) == n - round(share * n)


@given(scores(), st.floats(0, 1), st.floats(0, 1))
def test_masks_are_nested(scored, one, two):
    few, many = (keep_masks(scored, share, "global") for share in (max(one, two), min(one, two)))
    assert all((few[name] <= many[name]).all() for name in scored)


def test_count_of_known_architectures():
    model = network()
    assert list(weights(model)) == ["0.weight", "4.weight"]
    assert count(model) == 2 * 3 * 9 + 48 * 5
    assert count(model, weights_only=False) == count(model) + 3 + 5 + 6
    reference = nn.Sequential(nn.Conv2d(3, 64, 11, 3), nn.Flatten(), nn.Linear(4096, 10))
    assert count(reference) == 23_232 + 40_960
    assert count(reference, weights_only=False) == 64_266


def test_shared_weights_count_once():
    layer = nn.Linear(4, 4)
    assert count(nn.Sequential(layer, nn.ReLU(), layer)) == 16
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    assert count(tied) == 16


def test_apply_touches_weights_only():
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    apply_masks(model, keep_masks(Magnitude()(model), 0.7))
    assert nonzero(model) == (54 - round(0.7 * 54)) + (240 - round(0.7 * 240))
    for name, tensor in model.state_dict().items():
        if name not in weights(model):
            assert torch.equal(tensor, before[name])
    kept = model[4].weight.detach() != 0
    assert torch.equal(model[4].weight.detach()[kept], before["4.weight"][kept])


def test_random_scores_depend_on_the_seed_alone():
    model = network()
    state = torch.get_rng_state()
    one = Random(3)(model)
    with torch.no_grad():
        model[4].weight.zero_()
    again, other = Random(3)(model), Random(4)(model)
    assert torch.equal(one["4.weight"], again["4.weight"])
    assert not torch.equal(one["4.weight"], other["4.weight"])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), True, "half"])
def test_wrong_share_is_named(share):
    with pytest.raises(ValueError, match="sparsity must be a share from 0 to 1"):
        keep_masks({"w": torch.ones(3)}, share)


def test_wrong_scope_scores_and_masks_are_named():
    with pytest.raises(ValueError, match="'local'"):
        keep_masks({"w": torch.ones(3)}, 0.5, "local")
    with pytest.raises(ValueError, match="those of w contain nan"):
        keep_masks({"w": torch.tensor([1.0, float("nan")])}, 0.5)
    with pytest.raises(ValueError, match="'bias'"):
        apply_masks(network(), {"bias": torch.ones(5, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"\(5, 48\)"):
        apply_masks(network(), {"4.weight": torch.ones(5, dtype=torch.bool)})
    with pytest.raises(ValueError, match="seed"):
        Random(-1)
