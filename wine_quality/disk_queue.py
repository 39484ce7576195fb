"""A durable queue of lines on the local disk, so that nobody waits for a consumer that is slow or away.

A queue is a folder of files, its segments. A process appends to one segment that it holds by a lock. A segment that
nobody holds, because its process started another one or died, may be consumed by any process.
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

from wine_quality.files import translate_disk_errors

SEGMENT_BYTES, MAX_BYTES = 1_000_000, 1_000_000_000

log = logging.getLogger("wine_quality.predictions")


class Outage:
    """The current `error`, empty if there is none; its beginning and its end are logged, once each."""

    def __init__(self, where: str) -> None:
        self.where, self.error = where, ""

    def begin(self, error: str) -> None:
        """Note that something fails."""
        if not self.error:
            log.warning("%s: %s", self.where, error)
        self.error = error

    def end(self) -> None:
        """Note that all is well."""
        if self.error:
            log.warning("%s: works again", self.where)
        self.error = ""


class DiskQueue:
    """A queue in a folder that several processes may share; raise `DataError` if it cannot be created."""

    def __init__(self, folder: Path) -> None:
        with translate_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.segment: FileIO | None = None
        self.lock = threading.RLock()
        self.outage = Outage(str(folder))
        self.measure()

    def add(self, lines: bytes) -> bool:
        """Append lines to the segment by one write; return whether all of them are on disk, else none is."""
        with self.lock:
            try:
                self.append(lines)
            except OSError as error:
                self.outage.begin(
                    f"predictions are not stored ({error.strerror}). Free some space or start the database."
                )
                return False
            self.outage.end()
            return True

    def append(self, lines: bytes) -> None:
        """Append lines to the segment, or to a new one if there is none; raise unless all of them fit."""
        if self.bytes + len(lines) > MAX_BYTES:
            raise OSError(errno.ENOSPC, f"{self.bytes / 1e9:.1f} GB wait for the database already")
        self.segment = self.segment or new_segment(self.folder)
        end = self.segment.seek(0, os.SEEK_END)
        if self.segment.write(lines) < len(lines):
            try:
                self.segment.truncate(end)
            except OSError:  # the rest of a line stands there: append nothing more to this segment
                self.release()
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.bytes += len(lines)
        if end + len(lines) >= SEGMENT_BYTES:
            self.release()

    def release(self) -> None:
        """Close the segment, so that it may be consumed; the next line starts another one."""
        with self.lock:
            segment, self.segment = self.segment, None
            if segment:
                segment.close()

    def measure(self) -> None:
        """Update how many bytes wait in the folder, of all processes."""
        size = 0
        for path in self.folder.glob("*"):
            with suppress(FileNotFoundError):  # another process has consumed it
                size += path.stat().st_size
        self.bytes = size

    def segments(self) -> list[Path]:
        """Return all segments, oldest first, including those that a process holds."""
        return sorted(self.folder.glob("*.jsonl"))


def new_segment(folder: Path) -> FileIO:
    """Return a new segment to append to. It is locked before it gets its name, so that nobody else can take it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.time_ns()}-{uuid4().hex}.jsonl"
    part = path.with_suffix(".part")
    segment = part.open("ab", buffering=0)
    fcntl.flock(segment, fcntl.LOCK_EX)
    part.rename(path)
    return segment


def open_segment(segment: Path) -> BinaryIO | None:
    """Return a segment to read, locked; None if a process holds it or has consumed it."""
    with suppress(FileNotFoundError):
        file = segment.open("rb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            file.close()
    return None
