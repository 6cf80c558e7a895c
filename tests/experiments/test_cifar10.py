"""CIFAR-10's files, read and refused; runs on made-up images."""

import csv
import hashlib
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from hydra.errors import ConfigCompositionException

from experiments.cifar10 import PARTS, RECORD, cifar10
from experiments.config import folder, left, resolved
from experiments.download import RemoteFile
from experiments.job import InterruptedRunError, run
from mcmcopt.loss.incremental.engine import IncrementalLoss
from mcmcopt.loss.objective import lent

from .conftest import composed
from .mirror import Mirror
from .test_run import StopAfter, assert_same, status, table

N = 12
"""Images in each of the six files."""


def content():
    rng = np.random.default_rng(0)
    return {part: (rng.integers(0, 256, (N, 3072), np.uint8), rng.integers(0, 10, N)) for part in PARTS}


def write_binary(path):
    path.mkdir(parents=True)
    for part, (images, labels) in content().items():
        np.concatenate([labels[:, None].astype(np.uint8), images], 1).tofile(path / f"{part}.bin")
    return path


def write_python(path):
    path.mkdir(parents=True)
    for part, (images, labels) in content().items():
        (path / part).write_bytes(pickle.dumps({b"data": images, b"labels": labels.tolist()}, 2))
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    write_binary(path / "cifar-10-batches-bin")
    return path


@pytest.mark.parametrize(("write", "name"), [(write_binary, "bin"), (write_python, "py")])
@pytest.mark.parametrize("inner", [True, False])
def test_both_layouts_from_the_folder_or_its_parent(tmp_path, write, name, inner):
    path = write(tmp_path / f"cifar-10-batches-{name}")
    data = cifar10(str(path if inner else tmp_path), None, 0, seed=3)
    expected = content()
    x = np.concatenate([expected[part][0] for part in PARTS[:-1]]).reshape(-1, 3, 32, 32)
    y = np.concatenate([expected[part][1] for part in PARTS[:-1]])
    assert data.train.x.dtype == torch.uint8
    assert data.train.y.dtype == torch.int64
    assert torch.equal(data.train.x, torch.from_numpy(x))
    assert torch.equal(data.train.y, torch.from_numpy(y))
    assert torch.equal(data.test.x, torch.from_numpy(expected["test_batch"][0]).view(-1, 3, 32, 32))
    assert (len(data.validation), len(data.test)) == (0, N)


def test_parts_are_disjoint_and_fixed_by_the_seed(root):
    data, again, other = (cifar10(str(root), 40, 20, seed) for seed in (0, 0, 1))
    assert torch.equal(data.train.x, again.train.x)
    assert not torch.equal(data.train.x, other.train.x)
    both = torch.cat([data.train.x, data.validation.x]).flatten(1)
    assert len(both.unique(dim=0)) == 60
    assert torch.equal(data.test.x, other.test.x)


def test_the_draw_is_numpy_s_permutation(root):
    """Results that exist were made with these parts: they must stay what they are."""
    order = np.random.default_rng([7, 60]).permutation(60)
    whole, data = cifar10(str(root), None, 0, 7).train, cifar10(str(root), 30, 20, 7)
    assert torch.equal(data.validation.x, whole.x[order[:20]])
    assert torch.equal(data.train.x, whole.x[order[20:50]])
    assert torch.equal(data.train.y, whole.y[order[20:50]])


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        cifar10(str(tmp_path), None, 0, 0)
    for path in ("data_batch_{1,2,3,4,5}.bin", "cifar-10-batches-bin/test_batch.bin", "cifar-10-batches-py/test_batch"):
        assert str(tmp_path / path) in str(caught.value)
    assert "data.root=" in str(caught.value)


def test_broken_files_are_refused(tmp_path):
    path = write_binary(tmp_path / "bin") / "data_batch_3.bin"
    whole = path.read_bytes()
    for broken in (whole[:-1], b""):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"data_batch_3\.bin has .* bytes"):
            cifar10(str(path.parent), None, 0, 0)
    path.write_bytes(whole[: -RECORD * 2])
    with pytest.raises(ValueError, match=r"same number of images, a broken copy\? .*data_batch_3\.bin 10,"):
        cifar10(str(path.parent), None, 0, 0)
    path.write_bytes(b"<html>moved</html>")
    with pytest.raises(ValueError, match=r"data_batch_3\.bin.*web page"):
        cifar10(str(path.parent), None, 0, 0)
    path.write_bytes(b"\x0a" + whole[1:])
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.9"):
        cifar10(str(path.parent), None, 0, 0)


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


def test_a_pickle_that_asks_for_more_than_arrays_is_refused(tmp_path):
    path = write_python(tmp_path / "py") / "test_batch"
    words = {b"data": np.zeros((1, 3072), np.uint8), b"labels": ["cat"]}
    images = {b"data": np.zeros((2, 3)), b"labels": [1, 2]}
    for bad in (Evil(), images, {b"data": 1}, [1], words, words | {b"labels": 1}):
        path.write_bytes(pickle.dumps(bad))
        with pytest.raises(ValueError, match=r"test_batch.*(asks for|must be uint8|not a file|list of integers)"):
            cifar10(str(path.parent), None, 0, 0)


def test_a_broken_pickle_is_refused_whatever_it_raises(tmp_path):
    path = write_python(tmp_path / "py") / "data_batch_2"
    whole = path.read_bytes()
    messages = []
    for i in range(0, 200, 3):
        path.write_bytes(whole[:i] + b"\xff" + whole[i + 1 :])
        try:
            cifar10(str(path.parent), None, 0, 0)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 20
    assert all("data_batch_2" in message for message in messages)
    path.write_bytes(whole[:-1000])
    with pytest.raises(ValueError, match="data_batch_2 is not a file of CIFAR-10's Python version"):
        cifar10(str(path.parent), None, 0, 0)


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Let a made-up archive be the one to download; return the server that has it."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with tarfile.open(tmp_path / "made.tar.gz", "w:gz") as tar:
        tar.add(write_binary(tmp_path / "made"), "cifar-10-batches-bin")
        for evil in ("../evil.bin", "cifar-10-batches-bin/../../../evil.bin"):
            tar.addfile(tarfile.TarInfo(evil))
    content = (tmp_path / "made.tar.gz").read_bytes()
    with Mirror() as mirror:
        urls = (mirror.url("moved", b"<html>"), mirror.url("cifar", content))
        made_up = RemoteFile("cifar-10-binary.tar.gz", len(content), hashlib.sha256(content).hexdigest(), urls)
        monkeypatch.setattr("experiments.cifar10.ARCHIVE", made_up)
        yield mirror


def test_download_only_when_asked_and_only_once(archive, tmp_path):
    place = tmp_path / "a" / "b"
    with pytest.raises(FileNotFoundError, match=r"data=cifar10 data\.download=true"):
        cifar10(str(place), None, 0, 0)
    assert not place.exists()
    for _ in range(2):
        data = cifar10(str(place), None, 0, 0, download=True)
        assert archive.asked == ["moved", "cifar"]
    assert torch.equal(data.test.y, torch.from_numpy(content()["test_batch"][1]))
    assert {path.name for path in place.rglob("[!.]*")} == {
        *(f"{part}.bin" for part in PARTS),
        "cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
    }
    assert not list(tmp_path.rglob("evil.bin"))
    # the archive is still there: what is lost is unpacked again; what is somebody's own is not written over
    (place / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    cifar10(str(place), None, 0, 0, download=True)
    (place / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    (place / "cifar-10-batches-bin" / "data_batch_1.bin").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"data_batch_1\.bin is there with another content"):
        cifar10(str(place), None, 0, 0, download=True)
    assert (place / "cifar-10-batches-bin" / "data_batch_1.bin").read_bytes() == b"mine"
    assert archive.asked == ["moved", "cifar"]


def test_the_re_encoded_images_cannot_be_downloaded():
    with pytest.raises(ConfigCompositionException, match="download"):
        composed("data=cifar10_jpeg", "data.root=x", "data.download=true")
    one, two = (resolved(composed("data=cifar10", "data.root=x", f"data.download={how}")) for how in ("true", "false"))
    assert folder(one) == folder(two)


@pytest.mark.parametrize(("n_train", "n_validation"), [(None, 60), (0, 0), (41, 20), (None, -1)])
def test_sizes_that_do_not_fit_are_named(root, n_train, n_validation):
    with pytest.raises(ValueError, match="n_validation"):
        cifar10(str(root), n_train, n_validation, 0)


COMMON = ("data=cifar10_jpeg", "model=cnn60k", "threads=1")
CHAIN = (
    *("optimizer=mcmc", "train.growth={start: 20, patience: 2, threshold: 0.99}", "train.steps=10"),
    *("train.max_seconds=null", "progress.reference_proposals=0"),
    "optimizer.lam={_target_: mcmcopt.GeometricAnnealing, start: 5.0e4, end: 1.0e7, steps: 400}",
    *("train.eval_seconds=null", "train.eval_every=1", "optimizer.n_proposals=3", "train.incremental=false"),
)


def test_chain_on_a_growing_batch_up_to_the_full_set(root, tmp_path):
    path = run(composed(*COMMON, *CHAIN, f"data.root={root}", f"out={tmp_path}"))
    rows = table(path / "metrics.csv")
    assert path.relative_to(tmp_path).parts[:2] == ("cifar10_jpeg", "mcmc")
    # patience 2: growth after four fresh batches each, none gaining 99 %
    assert [int(row["batch"]) for row in rows[1:]] == [20] * 4 + [40] * 4 + [60] * 2
    assert [row["fresh_loss"] != "" for row in rows[1:]] == [True] * 8 + [False] * 2
    lams = [float(row["lam"]) for row in rows[1:]]
    assert lams == sorted(lams)
    assert lams[0] == 5e4
    # a full batch is where the batch's loss and the training set's are one
    assert float(rows[-1]["batch_loss"]) == pytest.approx(float(rows[-1]["loss"]), rel=1e-5)
    assert float(rows[5]["batch_loss"]) != pytest.approx(float(rows[5]["loss"]), rel=1e-5)
    assert {row["validation_accuracy"] for row in rows} == {""}
    summary = json.loads((path / "summary.json").read_text())
    assert summary["validation_accuracy"] is None
    assert float(rows[-1]["test_accuracy"]) == summary["test_accuracy"]
    assert int(rows[-1]["evaluations"]) == 8 + 1 + 10 + summary["proposals"]  # fresh losses, the look twice, steps


def test_gradient_method_on_the_same_data(root, tmp_path):
    path = run(
        composed(
            *COMMON,
            "optimizer=sgd",
            f"data.root={root}",
            f"out={tmp_path}",
            "train.epochs=2",
            "train.batch_size=30",
            "train.eval_every=1",
        )
    )
    assert [int(row["epoch"]) for row in table(path / "metrics.csv")] == [0, 1, 2]


def test_time_ends_a_run_and_makes_rows(root, tmp_path):
    longest = ("train.steps=100000", "train.max_seconds=0.2", "train.eval_seconds=0.05")
    path = run(composed(*COMMON, *CHAIN, *longest, f"data.root={root}", f"out={tmp_path}"))
    with (path / "metrics.csv").open() as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    assert 0.2 <= seconds[-1] < 5
    assert 3 <= len(seconds) <= 6
    assert status(path)["status"] == "ok"


class Drifting:
    """An incremental objective whose caches are off by what has passed through them since they were last dropped."""

    def __init__(self, model, loss_fn):
        self.model, self.loss_fn, self.age, self.x = model, loss_fn, 0, None

    def bind(self, x, y):
        if self.x is not x:
            self.age = 0
        self.x, self.y = x, y
        return self

    def forget(self):
        self.age = 0

    def evaluate(self):
        with torch.no_grad():
            return self.loss_fn(self.model(self.x), self.y).double() + 1e-3 * self.age

    __call__ = evaluate

    def propose(self, change):
        with lent(change):
            return self.evaluate()

    def commit(self):
        self.age += 1

    def rollback(self):
        pass


@pytest.mark.parametrize(
    ("objective", "stops", "cut_at"),
    [(None, (1, 5, 9), (1, 5, 9)), (Drifting, (1, 4, 10), (3, 6, 12)), (IncrementalLoss, (1, 4, 10), (3, 6, 12))],
)
@pytest.mark.parametrize("repeats", [1, 2])
def test_resumed_run_is_the_same_run(root, tmp_path, monkeypatch, objective, stops, cut_at, repeats):
    """With an incremental objective a stop waits for the next refresh: its caches are in no checkpoint."""
    monkeypatch.setattr("mcmcopt.IncrementalLoss", objective, raising=False)
    settings = (*COMMON, *CHAIN, f"data.root={root}", "train.steps=14", f"train.steps_per_batch={repeats}")
    settings += (f"train.incremental={objective is not None}", "train.refresh_steps=3")
    settings += ("optimizer.lam={start: 100, end: 1000, steps: 14}",)
    whole = run(composed(*settings, f"out={tmp_path}/whole"))
    cfg = composed(*settings, f"out={tmp_path}/cut")
    path = folder(resolved(cfg))
    done = 0
    for stop, expected in zip(stops, cut_at, strict=True):
        with pytest.raises(InterruptedRunError):
            run(cfg, stop=StopAfter(stop - done))
        done = expected
        assert torch.load(path / "checkpoint.pt", weights_only=True)["training"]["counters"]["step"] == done
    cut = run(cfg)
    for name in ("metrics.csv", "layers.csv", "resistance.csv"):
        assert table(whole / name) == table(cut / name), name
    states = [torch.load(p / "checkpoint.pt", weights_only=True)["training"] for p in (whole, cut)]
    for state in states:
        del state["counters"]["seconds"], state["counters"]["row_seconds"]
    assert_same(*states)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("optimizer=mcmc", "train.epochs=3"), "exactly one of train.epochs and train.steps"),
        (("optimizer=mcmc", "train.steps=null"), "exactly one of train.epochs and train.steps"),
        (("optimizer=mcmc", "train.steps=0"), "train.steps must be at least 1"),
        (("optimizer=mcmc", "train.max_seconds=0"), "max_seconds"),
        (("optimizer=mcmc", "train.eval_seconds=0"), "eval_seconds"),
        (("optimizer=mcmc", "train.refresh_steps=0"), "refresh_steps"),
        (("optimizer=mcmc", "train.steps_per_batch=0"), "steps_per_batch"),
        (("optimizer=mcmc", "train.batch_size=5"), "train.batch_size=5 must be null"),
        (("optimizer=mcmc", "train.growth={start: 61}"), r"train.growth.start must lie in 1..60"),
        (("optimizer=mcmc", "train.growth={start: 20, factor: 1}"), "factor"),
        (("optimizer=sgd", "train.batch_size=5", "train.incremental=true"), "train.incremental and train.growth"),
        (("optimizer=sgd", "train.batch_size=5", "train.decay=cosine", "train.max_seconds=1"), "max_seconds"),
    ],
)
def test_settings_that_do_not_fit_are_named(root, tmp_path, monkeypatch, overrides, named):
    monkeypatch.setattr("mcmcopt.IncrementalLoss", Drifting, raising=False)
    small = () if "growth" in overrides[1] or overrides[0] == "optimizer=sgd" else ("train.growth={start: 20}",)
    with pytest.raises(ValueError, match=named):
        run(composed(*COMMON, *small, f"data.root={root}", f"out={tmp_path}", *overrides))


def test_where_the_data_are_changes_no_hash():
    one, two = (resolved(composed(*COMMON, "optimizer=sgd", f"data.root={root}")) for root in "ab")
    assert folder(one) == folder(two)
    assert "root" not in left(one)["data"]
