"""CIFAR-10 from the files that people have on disk (Krizhevsky 2009), as uint8: a model normalises by itself."""

from __future__ import annotations

import codecs
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.data import Data, Split

RECORD = 1 + 3 * 32 * 32
"""Bytes of a label and its image in the binary layout."""

PARTS = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
LAYOUTS = {"cifar-10-batches-bin": ".bin", "cifar-10-batches-py": ""}
"""Folder and ending of the files, by layout."""


def cifar10(root: str, n_train: int | None, n_validation: int, seed: int) -> Data:
    """Return CIFAR-10 with uint8 images (n, 3, 32, 32) and int64 labels.

    Args:
        root: the folder `cifar-10-batches-bin` or `cifar-10-batches-py`, or the one that holds it.
        n_train: size of the training part; None: all that validation leaves.
        n_validation: how many of the training images are set aside for choosing; 0 leaves that part empty.
        seed: of the draw of both parts.

    Raises:
        FileNotFoundError: with the paths looked for.
        ValueError: for a file of another size or content, or more samples than there are.
    """
    files = _files(Path(root).expanduser())
    parts = [_read(path) for path in files]
    x, y = (np.concatenate([part[i] for part in parts[:-1]]) for i in (0, 1))
    train, validation = _drawn(len(y), n_train, n_validation, seed)
    return Data(_split(x[train], y[train]), _split(x[validation], y[validation]), _split(*parts[-1]))


def _files(root: Path) -> list[Path]:
    """Return the five training files and the test file."""
    looked = []
    for folder, ending in LAYOUTS.items():
        for place in (root / folder, root):
            files = [place / f"{part}{ending}" for part in PARTS]
            if all(file.is_file() for file in files):
                return files
            looked.append(f"{place}/data_batch_{{1,2,3,4,5}}{ending} and {place}/test_batch{ending}")
    raise FileNotFoundError(
        "CIFAR-10 is not there; looked for\n  "
        + "\n  ".join(looked)
        + "\nUnpack cifar-10-binary.tar.gz or cifar-10-python.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html) and "
        "say where with data.root=FOLDER"
    )


def _drawn(n: int, n_train: int | None, n_validation: int, seed: int) -> tuple[Any, Any]:
    """Return what selects training and validation images."""
    if n_validation < 0:
        raise ValueError(f"data.n_validation must be at least 0, got {n_validation}")
    rest = n - n_validation
    if rest < 1 or not 1 <= (n_train := rest if n_train is None else n_train) <= rest:
        raise ValueError(
            f"data.n_train={n_train} and data.n_validation={n_validation} do not fit: there are {n} training images, "
            "and the training part needs at least 1"
        )
    if n_train == n:
        return slice(None), slice(0)
    order = np.random.default_rng([seed, n]).permutation(n)
    return order[n_validation : n_validation + n_train], order[:n_validation]


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return one file's images (n, 3, 32, 32) and labels."""
    images, labels = _from_bytes(path) if path.suffix == ".bin" else _from_pickle(path)
    if not len(labels) or labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"{path}: labels must lie in 0..9, got {sorted(set(labels.tolist()))[:20]}: not CIFAR-10")
    return images.reshape(-1, 3, 32, 32), labels.astype(np.int64)


def _from_bytes(path: Path) -> tuple[np.ndarray, np.ndarray]:
    size = path.stat().st_size
    if size == 0 or size % RECORD:
        raise ValueError(
            f"{path} has {size} bytes, which is no multiple of {RECORD} (the original has 30,730,000): a broken copy?"
        )
    records = np.fromfile(path, np.uint8).reshape(-1, RECORD)
    return records[:, 1:], records[:, 0]


def _from_pickle(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with path.open("rb") as file:
        try:
            content = _ArraysOnly(file, encoding="bytes").load()
            images, labels = np.asarray(content[b"data"]), np.asarray(content[b"labels"])
        except (pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a file of CIFAR-10's Python version: {error}") from error
    if images.dtype != np.uint8 or images.shape != (len(labels), RECORD - 1):
        raise ValueError(
            f"{path}: data must be uint8 of shape ({len(labels)}, {RECORD - 1}), got {images.dtype} {images.shape}"
        )
    return images, labels


class _ArraysOnly(pickle.Unpickler):
    """Reads containers, numbers, bytes and arrays; a pickle that asks for anything else is refused."""

    _reconstruct = np.empty(0).__reduce__()[0]
    KNOWN = {  # noqa: RUF012 -- a constant
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): codecs.encode,  # Python 3 writes bytes so in the older protocols
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which arrays do not need") from None


def _split(x: np.ndarray, y: np.ndarray) -> Split:
    return Split(torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y))
