"""CIFAR-10 from the files that people have on disk (Krizhevsky 2009), as uint8: a model normalises by itself."""

from __future__ import annotations

import codecs
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data import Data, divided
from experiments.download import RemoteFile, fetch, once, page_hint
from mcmcopt.files import replacing

RECORD = 1 + 3 * 32 * 32
"""Bytes of a label and its image in the binary layout."""

PARTS = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
LAYOUTS = {"cifar-10-batches-bin": ".bin", "cifar-10-batches-py": ""}
"""Folder and ending of the files, by layout."""

ARCHIVE = RemoteFile(
    "cifar-10-binary.tar.gz",
    170_052_171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    (
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "https://cave.cs.toronto.edu/kriz/cifar-10-binary.tar.gz",
    ),
)


def cifar10(root: str, n_train: int | None, n_validation: int, seed: int, download: bool = False) -> Data:
    """Return CIFAR-10 with uint8 images (n, 3, 32, 32) and int64 labels.

    Args:
        root: the folder `cifar-10-batches-bin` or `cifar-10-batches-py`, or the one that holds it.
        n_train: size of the training part; None: all that validation leaves.
        n_validation: how many of the training images are set aside for choosing; 0 leaves that part empty.
        seed: of the draw of both parts.
        download: whether to download and unpack the archive of the binary version in `root` if no layout is there.

    Raises:
        FileNotFoundError: with the paths looked for.
        ValueError: for a file of another size or content, or more samples than there are.
        experiments.download.DownloadError: if no mirror has the archive.
    """
    place = Path(root).expanduser()
    if download:
        once(place, lambda: _found(place)[0] is not None, lambda: _download(place))
    files = _files(place)
    parts = [_read(path) for path in files]
    lengths = [len(labels) for _, labels in parts]
    if len(set(lengths)) > 1:
        found = ", ".join(f"{path.name} {n}" for path, n in zip(files, lengths, strict=True))
        raise ValueError(f"the files in {files[0].parent} must have the same number of images, a broken copy? {found}")
    x, y = (np.concatenate([part[i] for part in parts[:-1]]) for i in (0, 1))
    return divided((x, y), parts[-1], n_train, n_validation, seed)


def _files(root: Path) -> list[Path]:
    """Return the five training files and the test file."""
    files, looked = _found(root)
    if files is None:
        raise FileNotFoundError(
            "CIFAR-10 is not there; looked for\n  "
            + "\n  ".join(looked)
            + "\nUnpack cifar-10-binary.tar.gz or cifar-10-python.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html) "
            "and say where with data.root=FOLDER, or have the former downloaded there with data=cifar10 "
            "data.download=true"
        )
    return files


def _found(root: Path) -> tuple[list[Path] | None, list[str]]:
    """Return the files of the first layout that is complete, if one is, and the paths looked for."""
    looked = []
    for folder, ending in LAYOUTS.items():
        for place in (root / folder, root):
            files = [place / f"{part}{ending}" for part in PARTS]
            if all(file.is_file() for file in files):
                return files, looked
            looked.append(f"{place}/data_batch_{{1,2,3,4,5}}{ending} and {place}/test_batch{ending}")
    return None, looked


def _download(root: Path) -> None:
    """Put the six binary files where `_found` looks; the archive stays beside their folder."""
    fetch(root, ARCHIVE)
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(exist_ok=True)
    wanted = {f"{folder.name}/{part}.bin" for part in PARTS}
    with tarfile.open(root / ARCHIVE.name) as archive:
        for member in archive:
            # only these names, written to paths of our own: nothing else in an archive has an effect
            if member.name in wanted and (file := archive.extractfile(member)) is not None:
                path, content = root / member.name, file.read()
                if path.exists() and path.read_bytes() != content:
                    raise ValueError(f"{path} is there with another content than the original's: move it away")
                with replacing(path) as temporary:
                    temporary.write_bytes(content)


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
            + page_hint(path.read_bytes()[:256])
        )
    records = np.fromfile(path, np.uint8).reshape(-1, RECORD)
    return records[:, 1:], records[:, 0]


def _from_pickle(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with path.open("rb") as file:
        try:
            content = _ArraysOnly(file, encoding="bytes").load()
            images, labels = np.asarray(content[b"data"]), np.asarray(content[b"labels"])
        except Exception as error:  # a broken pickle may raise any: its documentation names some
            raise ValueError(
                f"{path} is not a file of CIFAR-10's Python version: {str(error) or type(error).__name__}"
                + page_hint(path.read_bytes()[:256])
            ) from error
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: labels must be a list of integers, got {labels.dtype} of shape {labels.shape}")
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
