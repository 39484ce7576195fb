"""Chapter 3: the training flow, its bucket and its report."""

import os
from contextlib import suppress

from wine_quality.config import Settings, settings
from wine_quality.errors import WineError
from wine_quality.files import disk_errors_told, is_held
from wine_quality.ports import listens

UP_LOCK = "up.lock"  # held by `make up` as long as it runs


def prepare_home() -> None:
    """Keep Prefect's state with the project's, not in the reader's home, and report to the server of `make up`."""
    config = settings()
    with disk_errors_told(config.local):
        config.local.mkdir(parents=True, exist_ok=True)  # Prefect makes its own folder but not the one above it
    os.environ.setdefault("PREFECT_HOME", str(config.local / "prefect"))
    # of the server that Prefect starts by itself where you call a flow from your own Python
    os.environ.setdefault("UVICORN_HTTP", "wine_quality.same_origin:SameOriginProtocol")
    if is_up(config):
        os.environ.setdefault("PREFECT_API_URL", f"http://127.0.0.1:{config.prefect_port}/api")


def is_up(config: Settings) -> bool:
    """Say whether `make up` runs and its Prefect answers."""
    return is_held(config.local / UP_LOCK) and listens(config.prefect_port)


with suppress(WineError):  # it must come before Prefect is imported; the command calls it again and tells what is wrong
    prepare_home()
