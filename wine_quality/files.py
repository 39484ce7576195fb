"""Write a file whole or not at all."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wine_quality.errors import DataError


@contextmanager
def disk_errors_told(path: Path) -> Iterator[None]:
    """Turn an error of the disk (full, read-only, no permission) into a line that names the path."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: cannot be used ({error.strerror or error}). Free some space or mend the permissions."
        ) from None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes the place of `path` when the block ends well.

    Raises
    ------
    DataError
        The disk is full or refuses; what stood at `path` before still stands there.
    """
    with disk_errors_told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as aside:
            part = Path(aside) / path.name
            yield part
            part.replace(path)
