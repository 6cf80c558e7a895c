"""train.binary: what it makes of a model, and that it stays so while an optimizer trains."""

import pytest
import torch
from torch import nn

from experiments import models
from experiments.binary import keep_binary, make_binary
from mcmcopt import BinaryConv2d, BinaryLinear, GreedyMCMC, RandomWalk, SignFlip
from mcmcopt.binary import DoReFa, LatentLinear

from .conftest import composed

LAYERS = {"_target_": "mcmcopt.binary.binary_layers", "scale": "learnt"}
LATENT = {"_target_": "mcmcopt.binary.latent_layers"}


def test_a_node_replaces_layers_a_number_sets_magnitudes_and_null_does_nothing():
    model = models.cnn60k()
    make_binary(model, LAYERS)
    assert isinstance(model.conv1, BinaryConv2d)
    assert isinstance(model.fc, BinaryLinear)
    model = models.mlp()
    make_binary(model, LATENT | {"quantizer": {"_target_": "mcmcopt.binary.DoReFa", "bits": 2}})
    assert isinstance(model.fc1, LatentLinear)
    assert model.fc1.quantizer == DoReFa(2)
    model = models.mlp()
    before = model.fc1.weight.detach().clone()
    make_binary(model, None)
    assert torch.equal(model.fc1.weight, before)
    make_binary(model, 2)
    assert len(model.fc1.weight.detach().abs().unique()) == 1


@pytest.mark.parametrize("wrong", ["yes", True, [1.0]])
def test_anything_else_is_refused(wrong):
    with pytest.raises(ValueError, match=r"train\.binary must be null, a positive number or a node"):
        make_binary(models.mlp(), wrong)


def test_the_runs_files_make_what_they_say():
    for name, kind in (("binary_connect", "BinaryConnect()"), ("xnor", "XNOR()"), ("dorefa", "DoReFa(bits=1)")):
        model = models.cnn60k()
        make_binary(model, dict(composed(f"optimizer={name}", "model=cnn60k", "data=digits").train.binary))
        assert repr(model.conv1.quantizer) == repr(model.fc.quantizer) == kind
        assert model.conv1.scale.shape == (64,)


def test_latent_weights_are_clipped_after_each_step():
    model = models.mlp()
    make_binary(model, LATENT | {"quantizer": {"_target_": "mcmcopt.binary.BinaryConnect"}})
    optimizer = torch.optim.SGD(model.parameters(), lr=100.0)
    keep_binary(optimizer, model, LATENT)
    model(torch.randn(8, 1, 8, 8)).square().sum().backward()
    optimizer.step()
    assert float(model.fc1.weight.detach().abs().max()) == 1.0
    assert float(model.fc1.bias.detach().abs().max()) > 1.0


def test_a_chain_that_walks_on_binary_weights_is_stopped_and_one_that_flips_is_not():
    x = torch.randn(20, 1, 8, 8)
    for move in (SignFlip(), RandomWalk(k=1)):
        model = models.mlp()
        make_binary(model, LAYERS)
        optimizer = GreedyMCMC([model.fc1.weight], lam=1.0, n_proposals=20, moves=[move])
        keep_binary(optimizer, model, LAYERS)
        if isinstance(move, SignFlip):
            optimizer.step(lambda model=model: model(x).square().mean(1))
        else:
            with pytest.raises(ValueError, match=r"fc1\.weight must be -1 or \+1"):
                optimizer.step(lambda model=model: model(x).square().mean(1))


def test_magnitudes_are_for_chains():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"train\.binary=1\.0 is for chains"):
        keep_binary(torch.optim.SGD(model.parameters(), lr=0.1), model, 1.0)
    keep_binary(torch.optim.SGD(model.parameters(), lr=0.1), model, None)
