"""Where a run computes.  No board is needed: torch's device "meta" has shapes, and refuses most mixtures."""

import json

import pytest
import torch

from experiments import device
from experiments.batches import Batches
from experiments.config import folder, resolved
from experiments.data import Data, Split
from experiments.finetune import finetune
from experiments.job import run
from experiments.models import cnn60k
from experiments.train import Training

META = torch.device("meta")


def split(n):
    return Split(torch.zeros(n, 3, 32, 32, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64))


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "meta", "mps", ""])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=r'device must be "cpu", "cuda"'):
        device.chosen(name)


@pytest.mark.parametrize(("built", "why"), [(None, "without CUDA"), ("12.8", "no driver")])
def test_a_board_that_is_not_there_is_refused_with_the_reason(monkeypatch, built, why):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    with pytest.raises(ValueError, match=rf"device=cuda:1: torch .* {why}.*device=cpu"):
        device.chosen("cuda:1")


def test_a_board_beyond_the_last_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.chosen("cuda:1") == torch.device("cuda:1")
    assert device.chosen("cuda") == torch.device("cuda")
    with pytest.raises(ValueError, match="device=cuda:2: there are 2 boards"):
        device.chosen("cuda:2")


def test_all_data_move_and_what_is_there_is_not_copied():
    data = Data(split(5), split(0), split(3))
    there = device.moved(data, META)
    for name in ("train", "validation", "test"):
        before, after = getattr(data, name), getattr(there, name)
        assert after.x.device == after.y.device == META
        assert (after.x.shape, after.x.dtype, len(after)) == (before.x.shape, before.x.dtype, len(before))
        assert getattr(device.moved(data, torch.device("cpu")), name).x is before.x


@pytest.mark.parametrize("size", [None, 4])
def test_steps_and_fine_tuning_mix_no_devices(size):
    """Index batches stay with the processor, all else is elsewhere; most operations refuse what is in a wrong place."""
    data, model = device.moved(Data(split(10), split(2), split(2)), META), cnn60k().to(META)
    sgd = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    training = Training(model, sgd, data.train, Batches(10, size, 0), steps=4, decay="cosine")
    assert len(list(training.run())) == 4
    finetune(model, data.train, epochs=1, lr=0.1, batch_size=4, seed=0)
    assert {p.device for p in (*model.parameters(), *model.buffers())} == {META}


def test_a_run_computes_where_it_is_told_and_says_where(short, monkeypatch):
    path = run(short("sgd"))
    assert json.loads((path / "env.json").read_text())["device"] == "cpu"
    other = short("sgd", "device=cuda")
    assert folder(resolved(other)) != path
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device=cuda"):
        run(other)
    seen = []
    monkeypatch.setattr(device, "chosen", lambda name: torch.device("meta" if name == "cuda" else name))
    monkeypatch.setattr("experiments.job._train", lambda *args: seen.append(args[4]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(other)
    [training] = seen
    tensors = (*training.model.parameters(), training.split.x, training.split.y)
    assert {t.device for t in tensors} == {META}
    assert {id(p) for p in training.model.parameters()} == {
        id(p) for group in training.optimizer.param_groups for p in group["params"]
    }
