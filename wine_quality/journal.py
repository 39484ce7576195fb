"""A file of JSON lines that outlives the process: each line is on the disk before the work goes on."""

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from wine_quality.errors import DataError, SearchError
from wine_quality.files import disk_errors_told


class Journal:
    """The lines of a file, and a way to add one. One process at a time holds it.

    A line that a killed process left half-written is taken away; all lines before it stand.

    Raises
    ------
    SearchError
        Another process holds the file.
    DataError
        The file cannot be used, or a line in its midst is not JSON.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors_told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("a+b")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.close()
            raise SearchError(
                f"{path}: the same search is running already. Wait for it, or take another seed."
            ) from None
        try:
            self.lines = self.read()
        except DataError:
            self.file.close()
            raise

    def read(self) -> list[dict[str, Any]]:
        """Return the whole lines, and take a torn last one away."""
        self.file.seek(0)
        *whole, torn = self.file.read().split(b"\n")
        lines = [self.parsed(number, line) for number, line in enumerate(whole, 1)]
        if torn:
            self.file.truncate(self.file.tell() - len(torn))
        return lines

    def parsed(self, number: int, line: bytes) -> dict[str, Any]:
        """Return a line as what was added."""
        try:
            return json.loads(line)
        except ValueError:
            raise DataError(f"{self.path}: line {number} cannot be read. Take the file away to begin anew.") from None

    def add(self, line: dict[str, Any]) -> None:
        """Add a line, and return when it is on the disk."""
        with disk_errors_told(self.path):
            self.file.write(json.dumps(line).encode() + b"\n")
            self.file.flush()
            os.fsync(self.file.fileno())
        self.lines.append(line)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()
