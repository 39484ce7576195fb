"""What a command does before it talks to Prefect: choose Prefect's home and server, and connect."""

import logging
import os
import sys

from prefect.context import refresh_global_settings_context
from prefect.logging.configuration import setup_logging

from orchestration.prefect_server import connect
from wine_quality.config import Settings, settings
from wine_quality.files import is_locked, translate_disk_errors
from wine_quality.ports import listens

UP_LOCK = "up.lock"  # held by `make up` while it runs


def prepare_home() -> Settings:
    """Store Prefect's state with the project's, report to the server of `make up`, and return the settings.

    Values that are already set stay. Prefect reads its settings when it is imported, so it reads them again here.
    """
    config = settings()
    with translate_disk_errors(config.local):
        config.local.mkdir(parents=True, exist_ok=True)  # Prefect creates its own folder but not the one above it
    os.environ.setdefault("PREFECT_HOME", str(config.local / "prefect"))
    if is_up(config):
        os.environ.setdefault("PREFECT_API_URL", f"http://127.0.0.1:{config.prefect_port}/api")
    refresh_global_settings_context()
    return config


def is_up(config: Settings) -> bool:
    """Return whether `make up` is running and its Prefect server answers."""
    return is_locked(config.local / UP_LOCK) and listens(config.prefect_port)


def connect_quietly() -> Settings:
    """Prepare the home, connect to Prefect with its own log lines on its server only, and return the settings."""
    config = prepare_quietly()
    connect()
    return config


def prepare_quietly() -> Settings:
    """Prepare the home, keep Prefect's log lines off the screen, and return the settings."""
    config = prepare_home()
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    setup_logging()
    return config


def log_to_screen() -> None:
    """Print a flow's own log lines."""
    logging.getLogger("wine_quality").addHandler(logging.StreamHandler(sys.stdout))
