"""What all criteria have in common: the model and the world are as before; and the control, shuffled masks."""

import math
import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mcmcopt import GreedyMCMC, KLMirrorDescent, SpikeSlab
from mcmcopt.sparsity import (
    OBD,
    SNIP,
    AcceptanceCounts,
    GraSP,
    Inclusion,
    Magnitude,
    Random,
    Skeletonization,
    SynFlow,
    keep_masks,
    prune,
    shuffled,
    weights,
)

from .test_saliency import images, normalised, tiny

CHAIN = partial(GreedyMCMC, lam=7.0, prior=SpikeSlab(0.5), n_proposals=5)
CRITERIA = {
    "magnitude": Magnitude(),
    "random": Random(1),
    "snip": SNIP(),
    "grasp": GraSP(),
    "synflow": SynFlow(),
    "skeletonization": Skeletonization(),
    "obd": OBD(),
    "inclusion": Inclusion(CHAIN),
    "mean field": Inclusion(partial(KLMirrorDescent, lam=7.0, lr=1.0)),
    "acceptance": AcceptanceCounts(CHAIN),
}
LOOKS = [name for name in CRITERIA if name not in ("magnitude", "random", "synflow")]
"""Those that evaluate the loss."""


def snapshot(model):
    """Return all that a criterion might leave a trace in."""
    return {
        "tensors": {k: v.detach().clone() for k, v in (*model.named_parameters(), *model.named_buffers())},
        "objects": [id(v) for v in (*model.parameters(), *model.buffers())],
        "gradients": {k: (id(p.grad), None if p.grad is None else p.grad.clone()) for k, p in model.named_parameters()},
        "flags": [p.requires_grad for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "random": (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()),  # noqa: NPY002
    }


def changed(model, before):
    """Return the names of what is not, bit for bit, as it was."""
    return [name for name, value in snapshot(model).items() if not same(value, before[name])]


def same(one, two):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


def used(dropout=0.0):
    """Return a network in the midst of training: gradients on some parameters, one layer in eval mode, one frozen."""
    model = normalised()
    if dropout:
        model.add_module("drop", nn.Dropout(dropout))
    cross_entropy(model(images()[0][0]), images()[0][1]).backward()
    model.fc1.weight.grad = None
    model.bn1.eval()
    model.fc2.weight.requires_grad_(False)
    return model


WHOLE = ("inclusion", "mean field", "acceptance")
"""Criteria of whole networks."""


@pytest.mark.parametrize("name", WHOLE)
def test_posteriors_refuse_masks_with_anything_off(name):
    model = used()
    on = {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights(model).items()}
    CRITERIA[name](model, cross_entropy, images(), on)
    on["fc2.weight"][0, 0] = False
    with pytest.raises(ValueError, match="keep has weights that are off"):
        CRITERIA[name](model, cross_entropy, images(), on)


@pytest.mark.parametrize("structure", ["unit", "filter", "block"])
def test_random_structures_are_equally_likely_whatever_their_size(structure):
    model = torch.nn.Sequential(torch.nn.Linear(4, 60), torch.nn.ReLU(), torch.nn.Linear(60, 4))
    kept = torch.zeros(2)
    for seed in range(60):
        masks = prune(model, Random(seed, structure, (2, 3)), 0.5, scope=f"global-{structure}", block=(2, 3))
        kept += torch.tensor([float(mask.float().mean()) for mask in masks.values()])
    assert (kept / 60 - 0.5).abs().max() < 0.1  # by means of one uniform per weight the small ones would stay or go
    assert "structure" in repr(Random(0, structure))
    with pytest.raises(ValueError, match="structure must be"):
        Random(0, "layer")


def test_structures_are_shuffled_whole():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 3))
    keep = prune(model, Random(0, "unit"), 0.5, scope="global-unit")
    seen = set()
    for seed in range(30):
        mixed = shuffled(keep, seed, "global-unit")
        for name, mask in mixed.items():
            units = mask.transpose(0, 1).flatten(1)
            assert (units.all(1) | ~units.any(1)).all()
            assert mask.sum() == keep[name].sum()
        seen.add(tuple(mixed["1.weight"][0, :, 0, 0].tolist()))
    assert len(seen) > 5
    with pytest.raises(ValueError, match="cuts through structures"):
        shuffled(keep_masks(Random(0)(model), 0.5), 0, "filter")


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("name", CRITERIA)
def test_the_model_and_the_world_are_as_before(name, dropout):
    model = used(dropout)
    before = snapshot(model)
    keep = None if name in WHOLE else keep_masks(Random(0)(model), 0.2)
    scores = CRITERIA[name](model, cross_entropy, images(), keep)
    assert changed(model, before) == []
    assert {n: s.shape for n, s in scores.items()} == {n: w.shape for n, w in weights(model).items()}
    assert all(not s.requires_grad and s.isnan().sum() == 0 for s in scores.values())


@pytest.mark.parametrize("name", LOOKS)
def test_the_model_is_as_before_after_a_failure(name):
    model = used()
    before, calls = snapshot(model), []

    def fails(z, y):
        calls.append(len(y))
        if len(calls) > 1:
            raise RuntimeError("no power")
        return cross_entropy(z, y)

    with pytest.raises(RuntimeError, match="no power"):
        CRITERIA[name](model, fails, images())
    assert changed(model, before) == []


def test_synflow_leaves_the_model_as_before_after_a_failure():
    model = used()
    before = snapshot(model)
    with pytest.raises(RuntimeError):
        SynFlow()(model, None, [(images()[0][0][:, :, :3], None)])
    assert changed(model, before) == []


@pytest.mark.parametrize("name", CRITERIA)
def test_scores_are_the_same_again_and_where_gradients_are_off(name):
    model = used()
    one = CRITERIA[name](model, cross_entropy, images())
    with torch.no_grad():
        two = CRITERIA[name](model, cross_entropy, images())
    assert same(one, two)


@pytest.mark.parametrize("name", LOOKS)
def test_without_a_loss_or_batches_the_lack_is_named(name):
    with pytest.raises(ValueError, match="needs loss_fn"):
        CRITERIA[name](normalised(), None, images())
    with pytest.raises(ValueError, match="needs batches"):
        CRITERIA[name](normalised(), cross_entropy, [])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="batches"):
        SynFlow()(tiny())
    for temperature in (0, -1.0, math.inf, math.nan, True):
        with pytest.raises(ValueError, match="temperature"):
            GraSP(temperature)
    for criterion in (SNIP(), GraSP(), SynFlow(), Skeletonization()):
        with pytest.raises(ValueError, match="no linear or convolutional layer"):
            criterion(nn.ReLU(), cross_entropy, [(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))])


def test_a_shuffle_keeps_the_number_of_each_layer_and_moves_the_rest():
    model = tiny()
    keep = prune(model, Magnitude(), 0.7, scope="global")
    before = {n: m.clone() for n, m in keep.items()}
    control = shuffled(keep, 1)
    assert {n: (int(m.sum()), m.shape, m.dtype) for n, m in control.items()} == {
        n: (int(m.sum()), m.shape, m.dtype) for n, m in keep.items()
    }
    assert all(torch.equal(keep[n], before[n]) for n in keep)
    assert all(not torch.equal(keep[n], control[n]) for n in keep)
    again, other = shuffled(keep, 1), shuffled(keep, 2)
    assert all(torch.equal(control[n], again[n]) for n in keep)
    assert any(not torch.equal(control[n], other[n]) for n in keep)


def test_layers_of_one_shape_are_shuffled_each_in_its_own_order():
    mask = torch.arange(64).view(8, 8) < 32
    both = shuffled({"a": mask, "b": mask})
    assert not torch.equal(both["a"], both["b"])


def test_shuffles_are_uniform():
    mask = torch.tensor([[True, True, False], [False, False, False]])
    found = [tuple(shuffled({"w": mask}, seed)["w"].flatten().nonzero().flatten().tolist()) for seed in range(1500)]
    expected = 1500 / 15  # pairs among six
    chi = sum((found.count(pair) - expected) ** 2 / expected for pair in set(found))
    assert len(set(found)) == 15
    assert chi < 36.1  # 14 degrees of freedom: one in a thousand


def test_bad_seeds_are_named():
    for seed in (-1, True, 0.5):
        with pytest.raises(ValueError, match="seed"):
            shuffled({}, seed)
