"""Options that flows and tasks share: run names, retries of transient failures, caching of results."""

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
from wine_quality.engines import code_checksum
from wine_quality.errors import DownloadError, PredictionsError, StorageUnavailable, TrackingError
from wine_quality.sources import table_checksum
from wine_quality.tracking import REQUIRED
from wine_quality.tuning import Candidate

log = logging.getLogger("wine_quality.train")

LIBRARIES = ("hyperopt", "numpy", *REQUIRED)


def is_transient(_task: Any, _run: Any, state: Any) -> bool:
    """Return whether a task may succeed if it is retried, and if so, log the error."""
    error = state.result(raise_on_failure=False)
    transient = isinstance(error, DownloadError | PredictionsError | StorageUnavailable | TrackingError)
    if transient:
        log.warning("%s Retrying.", error)
    return transient


# of the package and the training flows, at import: after an upgrade on disk this process still runs the old code
CODE_SHA256 = code_checksum(ROOT / "orchestration" / "train.py", ROOT / "scaling" / "train_at_scale.py")


def checksum(*parts: Any) -> str:
    """Return a checksum of inputs, of the code and of the library versions."""
    return hashlib.sha256(repr([*parts, CODE_SHA256, *map(version, LIBRARIES)]).encode()).hexdigest()


def cache_key(context: Any, parameters: dict[str, Any]) -> str:
    """Return the key of a task's result: it depends on the data, the parameters, the code and the libraries."""
    inputs = {
        name: table_checksum(value) if isinstance(value, pd.DataFrame) else value for name, value in parameters.items()
    }
    return checksum(context.task.name, sorted(inputs.items()))


def inputs_checksum(
    split: tuple[pd.DataFrame, pd.DataFrame], choice: Candidate, seed: int, whole: str | None = None
) -> str:
    """Return a checksum of everything that a fitted model and its scores depend on.

    `whole` is the checksum of the dataset and the training mode, if the split holds samples of it.
    """
    more = [] if whole is None else [whole]
    return checksum(*map(table_checksum, split), choice.name, sorted(choice.params.items()), seed, *more)


def log_cache_hit(task: Any, _run: Any, state: Any) -> None:
    """Log that a result was taken from an earlier run."""
    if state.name == "Cached":
        log.info("%-9s cached: an earlier run had the same data, parameters, code and libraries", task.name)


# otherwise Prefect pickles the arguments for a key, which fails for some models
UNCACHED: dict[str, Any] = {"cache_policy": NO_CACHE}
RETRIES: dict[str, Any] = {
    "retries": 4,
    "retry_delay_seconds": exponential_backoff(backoff_factor=0.5),
    "retry_condition_fn": is_transient,
}
RETRY_TRANSIENT: dict[str, Any] = {**UNCACHED, **RETRIES}
CACHED: dict[str, Any] = {
    "cache_key_fn": cache_key,
    "persist_result": True,
    "on_completion": [log_cache_hit],
}


def one_heartbeat() -> AbstractContextManager:
    """Run subflows without heartbeats of their own: the flow's is enough, and stopping one takes up to a second."""
    return temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})


def scheduled_time() -> datetime:
    """Return when the run was due. All names derive from this time, so a run that passes midnight has one date."""
    return flow_run.scheduled_start_time.astimezone()


def run_name() -> str:
    """Return the name of a run: its deployment, and when it was due."""
    return f"{deployment.name or 'by hand'} {scheduled_time():%Y-%m-%d %H:%M}"
