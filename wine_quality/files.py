"""Write a file whole or not at all, and one process at a time; know it by its sum."""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wine_quality.errors import DataError


@contextmanager
def translate_disk_errors(path: Path) -> Iterator[None]:
    """Turn an error of the disk (full, read-only, no permission) into a line that names the path."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: cannot be used ({error.strerror or error}). Free some space or fix the permissions."
        ) from None


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes the place of `path` when the block ends well.

    Otherwise `path` stays as it was; raise `DataError` if the disk is full or refuses.
    """
    with translate_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as aside:
            part = Path(aside) / path.name
            yield part
            part.replace(path)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only you can read, whole or not at all, into a folder that only you can read if it is new."""
    with translate_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = path.with_name(f".{path.name}-{os.getpid()}")
        part.touch(mode=0o600)
        part.write_bytes(content)
        part.replace(path)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path` in the block; other processes wait for it. It is free again where its holder dies."""
    with translate_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("a")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_locked(path: Path) -> bool:
    """Say whether a process that lives holds the lock file `path`."""
    try:
        with path.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


def sha256(path: Path) -> str:
    """Return the sha256 sum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
