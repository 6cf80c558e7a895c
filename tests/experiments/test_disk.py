"""A disk that fills up during a run: said plainly, nothing half written, and resumed when there is space again."""

import csv
import json
import os
import resource
import shutil
import subprocess
from contextlib import contextmanager

import pytest
import torch

from experiments import record
from experiments.config import folder, resolved
from experiments.job import run

from .test_run import status, table

FULL = "train.epochs=3", "resistance.finetune_epochs=0", "energy=off", "progress.checkpoint_steps=1"


@contextmanager
def files_of_at_most(size):
    """Let no file grow beyond a size: a disk that is full for some files, without being root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def disk(tmp_path):
    """Return a file system of 512 KiB, where mounting is permitted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [mount, "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system of its own size is not permitted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def assert_whole(path):
    """Assert that every file under its final name can be read to its end, and that no temporary one is left."""
    for file in path.glob("*.json"):
        json.loads(file.read_text())
    for file in path.glob("*.csv"):
        text = file.read_text()
        assert text.endswith("\n")
        assert len({len(row) for row in csv.reader(text.splitlines())}) == 1, file
    if (path / "checkpoint.pt").exists():
        torch.load(path / "checkpoint.pt", weights_only=True)
    assert not list(path.glob(".*.tmp*"))


def assert_resumes(cfg, whole):
    path = run(cfg)
    assert status(path)["status"] == "ok"
    for name in ("metrics.csv", "layers.csv", "resistance.csv"):
        assert table(path / name) == table(whole / name), name


@pytest.mark.parametrize("size", [100, 600, 1500, 8000])
def test_files_that_cannot_grow(short, tmp_path, size, capsys):
    """From a disk that takes next to nothing to one on which only the checkpoint does not fit."""
    whole = run(short("sgd", *FULL, f"out={tmp_path}/whole"))
    cfg = short("sgd", *FULL)
    capsys.readouterr()
    with files_of_at_most(size), pytest.raises(OSError, match="File too large"):
        run(cfg)
    path, said = folder(resolved(cfg)), capsys.readouterr().err
    assert "failed with OSError: [Errno 27] File too large: '" in said
    named = said.partition("too large: '")[2].partition("'")[0]
    assert os.path.dirname(named).startswith(str(path))  # noqa: PTH120
    assert ".tmp" not in named
    assert_whole(path)
    if "status.json" in said.partition("traceback: ")[2].partition("\n")[0]:
        assert status(path)["status"] == "failed"
        assert "File too large" in status(path)["traceback"]
    else:
        assert "the traceback instead:" in said
        assert "Traceback (most recent call last)" in said
    assert_resumes(cfg, whole)


@pytest.mark.parametrize("room", [8192, 28672, 53248])
def test_disk_full(short, tmp_path, disk, room, capsys):
    whole = run(short("sgd", *FULL, f"out={tmp_path}/whole"))
    cfg = short("sgd", *FULL, f"out={disk}")
    path, ballast = folder(resolved(cfg)), disk / "ballast"
    path.mkdir(parents=True)
    free = shutil.disk_usage(disk).free
    ballast.write_bytes(b"." * (free - room))
    capsys.readouterr()
    with pytest.raises(OSError, match="No space left on device") as caught:
        run(cfg)
    said = capsys.readouterr().err
    assert f"No space left on device: '{path}/" in said
    assert ".tmp" not in str(caught.value)
    assert_whole(path)
    if "the traceback instead:" in said:
        assert "Traceback (most recent call last)" in said
    else:
        assert status(path)["status"] == "failed"
    ballast.unlink()
    assert_resumes(cfg, whole)


def test_rows_that_do_not_fit_are_taken_back(tmp_path):
    rows = record.Table(tmp_path / "a.csv", ("x",))
    rows.add({"x": 1})
    with files_of_at_most(100), pytest.raises(OSError, match=r"too large: '.*a\.csv'"):
        rows.add({"x": "2" * 200})
    assert (tmp_path / "a.csv").read_text() == "x\n1\n"
    rows.add({"x": 3})
    assert (rows.rows, (tmp_path / "a.csv").read_text()) == (2, "x\n1\n3\n")
