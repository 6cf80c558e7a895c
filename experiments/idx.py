"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017) from idx files, uint8: a model normalises by itself.

An idx file: two bytes 0, the type (8: unsigned bytes), the number of dimensions, each of them as a big-endian uint32,
the values.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.data import Data, divided
from experiments.download import RemoteFile, fetch, once, page_hint

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
SIZES = (47_040_016, 60_008, 7_840_016, 10_008)
"""Of the originals, unpacked, in bytes."""

DEBIAN = "/usr/share/datasets/fashion-mnist"
"""Where Debian's package dataset-fashion-mnist has its files."""


@dataclass(frozen=True)
class Source:
    """A data set of four idx files: its folder in torchvision's layout, the files' SHA-256 unpacked, its mirrors."""

    title: str
    option: str
    folder: str
    sha256: tuple[str, str, str, str]
    mirrors: tuple[str, ...]


MNIST = Source(
    "MNIST",
    "mnist",
    "MNIST/raw",
    (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
)
FASHION_MNIST = Source(
    "Fashion-MNIST",
    "fashion_mnist",
    "FashionMNIST/raw",
    (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
)


def mnist(root: str, n_train: int | None, n_validation: int, seed: int, download: bool = False) -> Data:
    """Return MNIST with uint8 images (n, 1, 28, 28) and int64 labels.

    Args:
        root: the folder of the four idx files, packed by gzip or not, or the one that holds `raw` or `MNIST/raw`.
        n_train: size of the training part; None: all that validation leaves.
        n_validation: how many of the training images are set aside for choosing; 0 leaves that part empty.
        seed: of the draw of both parts.
        download: whether to download the files into `MNIST/raw` if they are not there.

    Raises:
        FileNotFoundError: with the paths looked for.
        ValueError: for a file of another size or content, or more samples than there are.
        experiments.download.DownloadError: if no mirror has the files.
    """
    files = _files(MNIST, Path(root).expanduser(), (), download)
    return _read(MNIST, FASHION_MNIST, files, n_train, n_validation, seed)


def fashion_mnist(root: str | None, n_train: int | None, n_validation: int, seed: int, download: bool = False) -> Data:
    """Return Fashion-MNIST with uint8 images (n, 1, 28, 28) and int64 labels.

    Args:
        root: as `mnist` has it, with `FashionMNIST/raw`; where they are not there, or with None, Debian's package
            dataset-fashion-mnist is looked for.
        n_train, n_validation, seed, download: as `mnist` has them.

    Raises:
        FileNotFoundError: with the paths looked for.
        ValueError: for a file of another size or content, more samples than there are, or a download without a root.
        experiments.download.DownloadError: if no mirror has the files.
    """
    files = _files(FASHION_MNIST, None if root is None else Path(root).expanduser(), (Path(DEBIAN),), download)
    return _read(FASHION_MNIST, MNIST, files, n_train, n_validation, seed)


def _files(source: Source, root: Path | None, elsewhere: tuple[Path, ...], download: bool) -> list[Path]:
    """Return the four files, all from one folder, downloaded if need be."""
    own = () if root is None else (root / source.folder, root / "raw", root)
    places = (*own, *elsewhere)
    if download and _found(places) is None:
        if root is None:
            raise ValueError("data.download=true needs data.root=FOLDER to download into")
        folder = root / source.folder
        once(folder, lambda: _found(places) is not None, lambda: _download(source, folder))
    files = _found(places)
    if files is None:
        looked = [place / name for place in places for name in NAMES]
        raise FileNotFoundError(
            f"{source.title} is not there; looked for (also with .gz at the end, and with a dot as in "
            "train-images.idx3-ubyte)\n  "
            + "\n  ".join(f"{path}{' (is there)' if _variant(path) else ''}" for path in looked)
            + "\nSay where the four files are with data.root=FOLDER, or have them downloaded there with "
            "data.download=true"
        )
    return files


def _found(places: tuple[Path, ...]) -> list[Path] | None:
    """Return the four files of the first folder that has them all."""
    for place in places:
        files = [_variant(place / name) for name in NAMES]
        if all(files):
            return [file for file in files if file is not None]
    return None


def _variant(path: Path) -> Path | None:
    """Return the file of that name, with a dash or a dot, unpacked or packed."""
    names = (path.name, path.name.replace("-idx", ".idx"))
    candidates = [path.with_name(name + ending) for ending in ("", ".gz") for name in names]
    return next((file for file in candidates if file.is_file()), None)


def _download(source: Source, folder: Path) -> None:
    for name, size, sha256 in zip(NAMES, SIZES, source.sha256, strict=True):
        fetch(folder, RemoteFile(name, size, sha256, tuple(f"{mirror}{name}.gz" for mirror in source.mirrors)))


def _read(source: Source, other: Source, files: list[Path], n_train: int | None, n_validation: int, seed: int) -> Data:
    """Return the data of four files; those of the other data set, whose names are the same, are refused."""
    contents = [_content(path) for path in files]
    if hashlib.sha256(contents[1]).hexdigest() == other.sha256[1]:
        raise ValueError(f"{files[1]} is {other.title}'s, not {source.title}'s: data={other.option} reads it")
    train, test = (_pairs(files[i : i + 2], contents[i : i + 2]) for i in (0, 2))
    return divided(train, test, n_train, n_validation, seed)


def _pairs(files: list[Path], contents: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 1, 28, 28) and labels of two files."""
    images, labels = _array(files[0], contents[0], (28, 28)), _array(files[1], contents[1], ())
    if len(images) != len(labels):
        raise ValueError(f"{files[0]} has {len(images)} images, {files[1]} has {len(labels)} labels: not of one set")
    if labels.max() > 9:
        raise ValueError(f"{files[1]}: labels must lie in 0..9, got {sorted(set(labels.tolist()))[-20:]}: broken?")
    return images[:, None], labels.astype(np.int64)


def _content(path: Path) -> bytes:
    """Return a file's bytes, unpacked if they are packed, whatever its name says."""
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} ({len(content):,} bytes) cannot be unpacked, a broken copy? {error}") from error


def _array(path: Path, content: bytes, item: tuple[int, ...]) -> np.ndarray:
    """Return the items of an idx file of unsigned bytes."""
    dimensions = 1 + len(item)
    magic, start = bytes((0, 0, 8, dimensions)), 4 + 4 * dimensions
    if content[:4] != magic or len(content) < start:
        raise ValueError(
            f"{path}: an idx file of bytes in {dimensions} dimensions has a header of {start} bytes that begins with "
            f"{magic.hex(' ')}, got {len(content):,} bytes that begin with {content[:4].hex(' ') or 'nothing'}"
            f"{page_hint(content)}"
        )
    n, *shape = np.frombuffer(content, ">u4", dimensions, 4).tolist()
    if n < 1 or tuple(shape) != item:
        raise ValueError(
            f"{path} must have at least 1 item of shape {item}, its header says {n} of shape {tuple(shape)}"
        )
    if len(content) != (size := start + n * math.prod(item)):
        raise ValueError(
            f"{path}: {n:,} items of shape {item} and a header make {size:,} bytes, it has {len(content):,}: "
            "a broken copy?"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(n, *item).copy()  # torch wants to own what it writes
