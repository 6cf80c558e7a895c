"""MNIST's and Fashion-MNIST's files, read, refused and downloaded."""

import gzip
import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.errors import ConfigCompositionException
from omegaconf import MissingMandatoryValue

from experiments import idx
from experiments.config import build, folder, left, resolved
from experiments.idx import NAMES, fashion_mnist, mnist

from .conftest import ROOT, composed
from .mirror import Mirror

N = {"train": 30, "t10k": 12}
SHARED = ROOT.parent / "shared" / "data"


def encoded(array):
    """Return an array of bytes as an idx file, packed by arithmetic of its own."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def content(seed=0):
    rng = np.random.default_rng(seed)
    arrays = {}
    for name in NAMES:
        n = N[name.partition("-")[0]]
        arrays[name] = rng.integers(0, 256, (n, 28, 28), np.uint8) if "images" in name else rng.integers(0, 10, n)
    return {name: array.astype(np.uint8) for name, array in arrays.items()}


def write(path, seed=0, dot=False, packed=False):
    path.mkdir(parents=True, exist_ok=True)
    for name, array in content(seed).items():
        name = (name.replace("-idx", ".idx") if dot else name) + ".gz" * packed
        (path / name).write_bytes(gzip.compress(encoded(array)) if packed else encoded(array))
    return path


@pytest.fixture
def no_package(monkeypatch, tmp_path):
    """Let Debian's package be absent wherever the tests run."""
    monkeypatch.setattr(idx, "DEBIAN", str(tmp_path / "usr"))
    return tmp_path / "usr"


@pytest.mark.parametrize("dot", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("load", "inner"), [(mnist, ""), (mnist, "raw"), (mnist, "MNIST/raw"), (fashion_mnist, "FashionMNIST/raw")]
)
def test_every_layout(tmp_path, no_package, load, inner, packed, dot):
    write(tmp_path / inner, dot=dot, packed=packed)
    data, expected = load(str(tmp_path), None, 0, seed=3), content()
    for split, images, labels in ((data.train, *NAMES[:2]), (data.test, *NAMES[2:])):
        assert (split.x.dtype, split.y.dtype) == (torch.uint8, torch.int64)
        assert torch.equal(split.x, torch.from_numpy(expected[images]).view(-1, 1, 28, 28))
        assert torch.equal(split.y, torch.from_numpy(expected[labels]).long())
    assert len(data.validation) == 0


def test_one_folder_gives_all_four_files(tmp_path, no_package):
    """The two sets' files have the same names: half of one and half of the other would go unnoticed."""
    write(tmp_path / "MNIST" / "raw", seed=1)
    (tmp_path / "MNIST" / "raw" / NAMES[0]).unlink()
    write(tmp_path, seed=2)
    assert torch.equal(mnist(str(tmp_path), None, 0, 0).test.y, torch.from_numpy(content(2)[NAMES[3]]).long())


@pytest.mark.parametrize("inner", ["MNIST/raw", ""])
def test_of_both_sets_below_one_root_each_finds_its_own(tmp_path, no_package, inner):
    write(tmp_path / inner, seed=1)
    write(tmp_path / "FashionMNIST" / "raw", seed=2)
    for load, seed in ((mnist, 1), (fashion_mnist, 2)):
        labels = load(str(tmp_path), None, 0, 0).train.y
        assert torch.equal(labels, torch.from_numpy(content(seed)[NAMES[1]]).long())


def test_the_package_is_found_without_a_root_or_behind_it(tmp_path, no_package):
    write(no_package, packed=True)
    for root in (None, str(tmp_path / "empty")):
        assert len(fashion_mnist(root, None, 0, 0).train) == N["train"]


def test_parts_are_a_draw_that_the_seed_fixes(tmp_path):
    write(tmp_path)
    data, again, other = (mnist(str(tmp_path), 15, 10, seed) for seed in (0, 0, 1))
    assert torch.equal(data.train.x, again.train.x)
    assert not torch.equal(data.train.x, other.train.x)
    order = np.random.default_rng([0, N["train"]]).permutation(N["train"])
    x, y = (torch.from_numpy(content()[name]) for name in NAMES[:2])
    for split, index in ((data.validation, order[:10]), (data.train, order[10:25])):
        assert torch.equal(split.x[:, 0], x[index])
        assert torch.equal(split.y, y[index].long())
    assert torch.equal(data.test.x, other.test.x)
    with pytest.raises(ValueError, match="n_validation"):
        mnist(str(tmp_path), None, 30, 0)


def test_missing_files_are_named(tmp_path, no_package):
    write(tmp_path / "raw")
    (tmp_path / "raw" / NAMES[2]).unlink()
    for load, inner in ((mnist, "MNIST/raw"), (fashion_mnist, "FashionMNIST/raw")):
        with pytest.raises(FileNotFoundError) as caught:
            load(str(tmp_path), None, 0, 0)
        lines = [line.strip() for line in str(caught.value).splitlines()]
        for name in NAMES:
            assert str(tmp_path / inner / name) in lines
            assert str(tmp_path / name) in lines
            assert f"{tmp_path / 'raw' / name}{'' if name == NAMES[2] else ' (is there)'}" in lines
            assert (str(no_package / name) in lines) == (load is fashion_mnist)
        assert "data.root=FOLDER" in lines[-1]
        assert "data.download=true" in lines[-1]
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte"):
        fashion_mnist(None, None, 0, 0)


IMAGES, LABELS = NAMES[:2]
BROKEN = [
    (IMAGES, lambda whole: whole[:-1], r"30 items of shape \(28, 28\) .* make 23,536 bytes, it has 23,535"),
    (IMAGES, lambda whole: whole + b"\0", "it has 23,537"),
    (IMAGES, lambda whole: whole[:9], r"a header of 16 bytes .* got 9 bytes"),
    (IMAGES, lambda whole: b"", "0 bytes that begin with nothing"),
    (IMAGES, lambda whole: b"<!DOCTYPE html>" * 99, "begins with 00 00 08 03, got .* web page"),
    (IMAGES, lambda whole: encoded(np.zeros((3, 28, 27), np.uint8)), r"shape \(28, 28\).* 3 of shape \(28, 27\)"),
    (IMAGES, lambda whole: encoded(np.zeros((0, 28, 28), np.uint8)), "at least 1 item"),
    (IMAGES, lambda whole: encoded(content()[IMAGES][:7]), "has 7 images, .*train-labels-idx1-ubyte.* has 30 labels"),
    (IMAGES, lambda whole: encoded(content()[LABELS]), "begins with 00 00 08 03, got .* begin with 00 00 08 01"),
    (IMAGES, lambda whole: whole[:2] + b"\x0d" + whole[3:], "begin with 00 00 0d 03"),
    (IMAGES, lambda whole: gzip.compress(whole)[:-9], "cannot be unpacked"),
    (IMAGES, lambda whole: gzip.compress(whole)[:400] + b"\xff" * 999, "cannot be unpacked"),
    (IMAGES, lambda whole: b"\x1f\x8b", "cannot be unpacked"),
    (LABELS, lambda whole: whole[:-1] + b"\x0a", r"labels must lie in 0\.\.9, got .*10\]"),
]


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize(("name", "broken", "said"), BROKEN)
def test_broken_files_are_refused(tmp_path, name, broken, said, ending):
    path = write(tmp_path) / name
    content = broken(path.read_bytes())
    path.unlink()
    path.with_name(name + ending).write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        mnist(str(tmp_path), None, 0, 0)
    assert str(path) + ending in str(caught.value)


def test_files_of_the_other_set_are_refused(tmp_path, monkeypatch):
    labels = hashlib.sha256(encoded(content()[LABELS])).hexdigest()
    write(tmp_path, packed=True)
    monkeypatch.setattr(idx, "FASHION_MNIST", replace(idx.FASHION_MNIST, sha256=("", labels, "", "")))
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte\.gz is Fashion-MNIST's.*data=fashion_mnist"):
        mnist(str(tmp_path), None, 0, 0)
    assert len(fashion_mnist(str(tmp_path), None, 0, 0).train) == N["train"]


@pytest.fixture
def mirrored(monkeypatch, no_package):
    """Let made-up files be the ones to download, which the second of two mirrors has; return it."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with Mirror() as mirror:
        for seed, source in enumerate(("MNIST", "FASHION_MNIST")):
            files = {name: encoded(array) for name, array in content(seed).items()}
            for name, file in files.items():
                url = mirror.url(f"{source}/{name}.gz", gzip.compress(file))
            base = url.removesuffix(f"{name}.gz")
            sums = tuple(hashlib.sha256(file).hexdigest() for file in files.values())
            made_up = replace(getattr(idx, source), sha256=sums, mirrors=(f"{base}gone/", base))
            monkeypatch.setattr(idx, source, made_up)
            monkeypatch.setattr(idx, "SIZES", tuple(map(len, files.values())))
        yield mirror


@pytest.mark.parametrize(
    ("load", "inner", "seed", "base"),
    [(mnist, "MNIST/raw", 0, "MNIST"), (fashion_mnist, "FashionMNIST/raw", 1, "FASHION_MNIST")],
)
def test_download_only_when_asked_and_only_once(tmp_path, mirrored, load, inner, seed, base):
    root = tmp_path / "new"
    with pytest.raises(FileNotFoundError):
        load(str(root), None, 0, 0)
    assert not root.exists()
    data = load(str(root), None, 0, 0, download=True)
    assert torch.equal(data.train.x[:, 0], torch.from_numpy(content(seed)[IMAGES]))
    assert sorted(path.name for path in (root / inner).glob("[!.]*")) == sorted(NAMES)
    assert mirrored.asked == [f"{base}/{mirror}{name}.gz" for name in NAMES for mirror in ("gone/", "")]
    load(str(root), None, 0, 0, download=True)
    (root / inner / NAMES[2]).unlink()
    load(str(root), None, 0, 0, download=True)
    assert mirrored.asked[8:] == [f"{base}/gone/{NAMES[2]}.gz", f"{base}/{NAMES[2]}.gz"]


def test_a_download_needs_a_root(mirrored):
    with pytest.raises(ValueError, match=r"data\.root=FOLDER"):
        fashion_mnist(None, None, 0, 0, download=True)
    assert mirrored.asked == []


def test_composed_as_the_command_line_does(tmp_path):
    write(tmp_path / "MNIST" / "raw")
    config = resolved(composed("data=mnist", f"data.root={tmp_path}", "data.n_validation=10"))
    data = build({key: value for key, value in config["data"].items() if key != "name"}, seed=0)
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 10, 12)
    assert (config["data"]["name"], config["data"]["download"]) == ("mnist", False)
    asked = resolved(composed("data=mnist", "data.root=x", "data.n_validation=10", "data.download=true"))
    assert folder(asked) == folder(config)
    assert {"root", "download"}.isdisjoint(left(asked)["data"])
    fashion = resolved(composed("data=fashion_mnist"))["data"]
    assert (fashion["name"], fashion["root"], fashion["_target_"]) == (
        "fashion_mnist",
        None,
        "experiments.idx.fashion_mnist",
    )
    with pytest.raises(MissingMandatoryValue, match="root"):
        resolved(composed("data=mnist"))
    with pytest.raises(ConfigCompositionException):
        composed("data=mnist", "data.download=perhaps")


@pytest.mark.parametrize(
    ("load", "source", "place"),
    [
        (mnist, idx.MNIST, SHARED / "MNIST" / "raw"),
        (fashion_mnist, idx.FASHION_MNIST, SHARED / "FashionMNIST" / "raw"),
    ],
)
def test_the_real_files_have_the_sizes_and_sums_that_a_download_must_have(load, source, place):
    files = idx._found((place, *((Path(idx.DEBIAN),) if load is fashion_mnist else ())))
    if files is None:
        pytest.skip(f"{source.title} is not on this machine")
    contents = [idx._content(path) for path in files]
    assert tuple(map(len, contents)) == idx.SIZES
    assert tuple(hashlib.sha256(content).hexdigest() for content in contents) == source.sha256
    data = load(str(place), None, 0, 0)
    assert (tuple(data.train.x.shape), tuple(data.test.x.shape)) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    counts = data.train.y.bincount().tolist()
    assert counts == ([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949] if load is mnist else [6000] * 10)
