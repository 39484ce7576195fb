"""Chapter 3: the training flow, its bucket and its report."""

import os
from contextlib import suppress

from wine_quality.config import settings
from wine_quality.errors import WineError
from wine_quality.files import disk_errors_told


def prepare_home() -> None:
    """Keep Prefect's state with the project's, not in the reader's home."""
    local = settings().local
    with disk_errors_told(local):
        local.mkdir(parents=True, exist_ok=True)  # Prefect makes its own folder but not the one above it
    os.environ.setdefault("PREFECT_HOME", str(local / "prefect"))


with suppress(WineError):  # it must come before Prefect is imported; the command calls it again and tells what is wrong
    prepare_home()
