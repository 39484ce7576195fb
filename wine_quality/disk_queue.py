"""Lines that wait on the local disk, so that what is slow or away need not be waited for.

A spool is a folder of files, its segments. A process appends to one that it alone holds by a lock; one that nobody
holds, as its process has gone on to the next or has died, is anyone's to take.
"""

import errno
import fcntl
import logging
import os
import threading
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from wine_quality.files import disk_errors_told

SEGMENT_BYTES, SPOOL_BYTES = 1_000_000, 1_000_000_000

log = logging.getLogger("wine_quality.predictions")


class Trouble:
    """What is wrong now, empty where nothing is. It is logged once when it begins, and once when it is over."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.now = ""

    def begins(self, what: str) -> None:
        """Note that something is wrong."""
        if not self.now:
            log.warning("%s: %s", self.where, what)
        self.now = what

    def ends(self) -> None:
        """Note that all is well."""
        if self.now:
            log.warning("%s: works again", self.where)
        self.now = ""


class Spool:
    """A folder of lines that wait, in segments. A segment belongs to the process that has its lock, until it dies.

    Raises
    ------
    DataError
        The folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        with disk_errors_told(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.segment: FileIO | None = None
        self.turn = threading.RLock()
        self.trouble = Trouble(str(folder))
        self.measure()

    def add(self, lines: bytes) -> bool:
        """Append lines to the segment by one write, and say whether all of them are there; else none is."""
        with self.turn:
            try:
                self.append(lines)
            except OSError as error:
                self.trouble.begins(
                    f"predictions are not kept ({error.strerror}). Free some space or start the database."
                )
                return False
            self.trouble.ends()
            return True

    def append(self, lines: bytes) -> None:
        """Append lines to the segment, a new one where there is none; raise where they do not all fit."""
        if self.waiting + len(lines) > SPOOL_BYTES:
            raise OSError(errno.ENOSPC, f"{self.waiting / 1e9:.1f} GB wait for the database already")
        self.segment = self.segment or new_segment(self.folder)
        end = self.segment.seek(0, os.SEEK_END)
        if self.segment.write(lines) < len(lines):
            self.take_back(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.waiting += len(lines)
        if end + len(lines) >= SEGMENT_BYTES:
            self.cut()

    def take_back(self, end: int) -> None:
        """Take away what stands after `end`; nothing is appended to a segment where that fails."""
        try:
            self.segment.truncate(end)
        except OSError:
            self.cut()
            raise

    def cut(self) -> None:
        """Close the segment; the next line begins another one."""
        with self.turn:
            segment, self.segment = self.segment, None
            if segment:
                segment.close()

    def measure(self) -> None:
        """See anew how many bytes lie in the folder, of all processes."""
        sizes = 0
        for path in self.folder.glob("*"):
            with suppress(FileNotFoundError):  # another process has shipped it
                sizes += path.stat().st_size
        self.waiting = sizes

    def segments(self) -> list[Path]:
        """Return the segments, oldest first, also those that a process holds."""
        return sorted(self.folder.glob("*.jsonl"))


def new_segment(folder: Path) -> FileIO:
    """Return a new segment to append to. It has its name only once it is locked, so that nobody else takes it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.time_ns()}-{uuid4().hex}.jsonl"
    aside = path.with_suffix(".part")
    segment = aside.open("ab", buffering=0)
    fcntl.flock(segment, fcntl.LOCK_EX)
    aside.rename(path)
    return segment


def opened(segment: Path) -> BinaryIO | None:
    """Return a segment to read, locked; None where a process holds it, or has shipped it."""
    with suppress(FileNotFoundError):
        file = segment.open("rb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            return file
    return None
