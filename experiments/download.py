"""Files from public mirrors, only when asked: hashed before they get their name, by one process of a machine."""

from __future__ import annotations

import gzip
import hashlib
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from experiments.record import FolderBusyError, locked
from experiments.terminal import say
from mcmcopt.files import replacing

SILENCE_S = 30.0
"""How long a connection may say nothing."""

WAIT_S = 3600.0
"""How long to wait for another process that downloads the same files."""

LOOK_S = 0.1
"""Between two looks at what it has done."""


class DownloadError(RuntimeError):
    """No address gave the file, or the process that should have fetched it did not."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as it is to lie on disk, and the addresses to try in turn.

    An address that ends in `.gz` where the name does not is unpacked on the way.
    """

    name: str
    size: int
    sha256: str
    urls: tuple[str, ...]


def once(folder: Path, ready: Callable[[], bool], work: Callable[[], None], wait_s: float = WAIT_S) -> None:
    """Call `work`, in one process of the machine at a time and not where `ready()` already; return when it is ready.

    Of the processes that torchrun starts, that of local rank 0 works and the others wait for it; elsewhere, the first
    one works, under a lock on the folder.

    Raises:
        DownloadError: after so many seconds of waiting for another process.
    """
    if ready():
        return
    deadline = time.monotonic() + wait_s
    if rank := int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0"))):
        while not ready():
            if time.monotonic() > deadline:
                raise DownloadError(f"rank {rank} waited {wait_s:g} s for rank 0 to download into {folder}")
            time.sleep(LOOK_S)
        return
    with _alone(folder, deadline, wait_s):
        if not ready():
            work()


def fetch(folder: Path, file: RemoteFile) -> None:
    """Put a file into an existing folder, unless it is there.

    Raises:
        ValueError: if a file of that name and another content is there.
        DownloadError: with what was wrong at each address.
    """
    path = folder / file.name
    if path.exists():
        with path.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != file.sha256:
            raise ValueError(
                f"{path} is there with another content ({path.stat().st_size:,} bytes, SHA-256 {found}) than the one "
                f"to download ({file.size:,} bytes, SHA-256 {file.sha256}): move it away, or set data.download=false"
            )
        return
    failures = []
    for url in file.urls:
        say(f"downloading {url} to {path}")
        try:
            with replacing(path) as temporary:
                _save(url, temporary, file)
            return
        except (OSError, HTTPException, zlib.error, ValueError) as error:
            failures.append(f"{url}: {str(error) or type(error).__name__}")
            if isinstance(error, HTTPError):
                error.close()  # it is an open answer as well
    raise DownloadError(f"{path} could not be downloaded:\n  " + "\n  ".join(failures))


def page_hint(head: bytes) -> str:
    """Return what to add to an error about a file that begins so, if it looks like a web page."""
    start = head[:256].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] != b"<":
        return ""
    return f"; it begins with {start[:20].decode('ascii', 'replace')!r}: a web page under the file's name?"


def _save(url: str, path: Path, file: RemoteFile) -> None:
    """Write what an address holds; raise unless it is the file."""
    if not url.startswith(("http://", "https://")):
        raise ValueError("the address must begin with http:// or https://")
    digest, size, head = hashlib.sha256(), 0, b""
    request = Request(url, headers={"User-Agent": "mcmcopt"})  # noqa: S310 -- checked above; some refuse urllib's name
    with urlopen(request, timeout=SILENCE_S) as answer, path.open("wb") as target:  # noqa: S310
        packed = url.endswith(".gz") and not file.name.endswith(".gz")
        source = gzip.GzipFile(fileobj=answer) if packed else answer
        try:
            # an answer without an end does not fill the disk
            while size <= file.size and (block := source.read(2**20)):
                target.write(block)
                digest.update(block)
                size += len(block)
                head = head or block[:256]
        except EOFError:
            pass  # gzip's word for an answer that is too short, as its size then says
    if size > file.size:
        raise ValueError(f"it is longer than {file.size:,} bytes{page_hint(head)}")
    if size < file.size:
        raise ValueError(f"it ended after {size:,} of {file.size:,} bytes{page_hint(head)}")
    if digest.hexdigest() != file.sha256:
        raise ValueError(f"its SHA-256 is {digest.hexdigest()}, not {file.sha256}")


@contextmanager
def _alone(folder: Path, deadline: float, wait_s: float) -> Iterator[None]:
    """Hold a folder for this process as soon as no other one does."""
    with ExitStack() as stack:
        told = False
        while True:
            try:
                stack.enter_context(locked(folder))
                break
            except FolderBusyError:
                if time.monotonic() > deadline:
                    raise DownloadError(f"waited {wait_s:g} s for another process to download into {folder}") from None
            if not told:
                say(f"waiting for another process to download into {folder}")
                told = True
            time.sleep(LOOK_S)
        yield
