"""C9 through `torch.distributed.checkpoint`, without a process group."""

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from tests.optim.problems import CONFIGS, chain, make

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:torch.distributed"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("disk", [False, True])
@pytest.mark.filterwarnings("ignore:lam=")
def test_a_chain_resumes_bitwise_through_distributed_state_dicts(config, dtype, disk, tmp_path):
    model, optimizer, closure = make(config, dtype=dtype)
    for _ in range(2):
        optimizer.step(closure)
    saved = {"model": get_model_state_dict(model), "optimizer": get_optimizer_state_dict(model, optimizer)}
    if disk:
        dcp.save(saved, checkpoint_id=tmp_path, no_dist=True)
    else:
        saved["model"] = {name: tensor.clone() for name, tensor in saved["model"].items()}
    for _ in range(2):
        optimizer.step(closure)

    resumed, second, other = make(config, seed=99, dtype=dtype)
    if disk:
        saved = {"model": get_model_state_dict(resumed), "optimizer": get_optimizer_state_dict(resumed, second)}
        dcp.load(saved, checkpoint_id=tmp_path, no_dist=True)
    set_model_state_dict(resumed, saved["model"])
    set_optimizer_state_dict(resumed, second, saved["optimizer"])
    for _ in range(2):
        second.step(other)
    ours, theirs = chain(model, optimizer), chain(resumed, second)
    for record in (ours, theirs):  # torch adds the names of parameters to the groups that it loads
        record["groups"] = [{k: v for k, v in g.items() if k != "param_names"} for g in record["groups"]]
    assert theirs == ours


@pytest.mark.parametrize("flatten", [False, True])
def test_frozen_parameters_which_distributed_checkpoints_leave_out_keep_their_state(flatten):
    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    model, optimizer, closure = make("scalar")
    resumed, second, other = make("scalar", seed=99)
    for net in (model, resumed):
        net.first.requires_grad_(False)
    optimizer.step(closure)
    set_model_state_dict(resumed, get_model_state_dict(model))
    state = get_optimizer_state_dict(model, optimizer, options=options)
    frozen = second.mask(resumed.first.weight)
    with torch.no_grad():
        resumed.first.weight.mul_(frozen)
    set_optimizer_state_dict(resumed, second, state, options=options)
    assert torch.equal(second.mask(resumed.first.weight), frozen)
    assert torch.equal(second.mask(resumed.second.weight), optimizer.mask(model.second.weight))
    second.step(other)
