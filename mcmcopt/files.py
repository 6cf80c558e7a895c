"""Files that readers see as they were or as they will be, never a part of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend a temporary path beside `path`, which it replaces at the end of the block unless something is raised.

    What was written is on the disk before it takes its name: after a power cut there is the old file or the new one,
    not an empty one.

    Raises:
        FileNotFoundError: if the folder of `path` does not exist.
        OSError: naming `path`, if it cannot be written: a full disk, a folder without permission.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: there is no folder {target.parent}")
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        # writing names no file at all on a full disk, opening the temporary one
        if error.errno is None or error.filename not in (None, str(temporary), temporary):
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        temporary.unlink(missing_ok=True)
