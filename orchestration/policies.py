"""What holds for many flows and tasks: their names, when one is tried again, when its result is used again."""

import hashlib
import logging
from contextlib import AbstractContextManager
from datetime import datetime
from importlib.metadata import version
from typing import Any

import pandas as pd
from prefect.cache_policies import NO_CACHE
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.tasks import exponential_backoff

from wine_quality.config import ROOT
from wine_quality.data import table_checksum
from wine_quality.errors import DownloadError, PredictionsError, StorageUnavailable, TrackingError
from wine_quality.tracking import REQUIRED
from wine_quality.tuning import Candidate

log = logging.getLogger("wine_quality.train")

LIBRARIES = ("hyperopt", "numpy", *REQUIRED)


def world_failed(_task: Any, _run: Any, state: Any) -> bool:
    """Say whether a task failed because of the world outside, and tell the reader that it is tried again."""
    error = state.result(raise_on_failure=False)
    passing = isinstance(error, DownloadError | PredictionsError | StorageUnavailable | TrackingError)
    if passing:
        log.warning("%s Trying again.", error)
    return passing


uncached = {"cache_policy": NO_CACHE}  # else Prefect pickles the arguments for a key, which a model may refuse

retry_transient = {
    "retries": 4,
    "retry_delay_seconds": exponential_backoff(backoff_factor=0.5),
    "retry_condition_fn": world_failed,
}
outside = {**uncached, **retry_transient, "tags": ["outside"]}


def same_work(context: Any, parameters: dict[str, Any]) -> str:
    """Return a key that stays the same as long as the wine, the parameters, the code and the libraries do."""
    given = {
        name: table_checksum(value) if isinstance(value, pd.DataFrame) else value for name, value in parameters.items()
    }
    told = [context.task.name, sorted(given.items()), CODE_SHA256, libraries()]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def libraries() -> list[str]:
    """Return the versions of the libraries that a result depends on."""
    return [version(name) for name in LIBRARIES]


def code_checksum() -> str:
    """Return the sha256 checksum of the source on disk: the package and the training flow."""
    sources = [*sorted((ROOT / "wine_quality").glob("*.py")), ROOT / "orchestration" / "train.py"]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()


CODE_SHA256 = code_checksum()  # once, at import: after an upgrade on disk this process still runs the old code


def recipe(sides: tuple[pd.DataFrame, pd.DataFrame], choice: Candidate, seed: int) -> str:
    """Return a checksum of all that a fitted model and its scores depend on."""
    told = [*map(table_checksum, sides), choice.name, sorted(choice.params.items()), seed, CODE_SHA256, libraries()]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def say_if_kept(task: Any, _run: Any, state: Any) -> None:
    """Tell the reader where a result is that of an earlier run."""
    if state.name == "Cached":
        log.info("%-9s skipped: an earlier run found it on the same wine, with the same parameters and code", task.name)


kept = {"cache_key_fn": same_work, "persist_result": True, "on_completion": [say_if_kept], "tags": ["kept"]}


def one_heartbeat() -> AbstractContextManager:
    """Let the heartbeat of the flow stand for its subflows, which live and die with it; to end one takes a second."""
    return temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})


def asked_for() -> datetime:
    """Return when the run was to start: all its names are made from this one time, so that midnight may pass."""
    return flow_run.scheduled_start_time.astimezone()


def run_name() -> str:
    """Return the name of a run: who asked for it, and when."""
    return f"{deployment.name or 'by hand'} {asked_for():%Y-%m-%d %H:%M}"
