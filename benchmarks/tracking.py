"""Measure the overhead of tracking in a search of 50 trials: `python -m benchmarks.tracking` with `WINE_DATA` set.

The overhead is the share of a search's time that is spent in calls to MLflow. It is measured with SQLite and with the
MLflow server of `make up`, three times each, in turn.
"""

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

from honcho.environ import parse_procfile
from mlflow import MlflowClient

from benchmarks.machine import REPEATS, spread, write_results
from orchestration.up import PROCFILE, environment
from wine_quality import sources, splits
from wine_quality.config import Settings, settings
from wine_quality.ports import free_port
from wine_quality.processes import server
from wine_quality.search import search
from wine_quality.tracking import open_store
from wine_quality.tuning import Objective

TRIALS = 50


class TimedClient:
    """An MLflow client that adds up the seconds of its calls."""

    def __init__(self, client: MlflowClient) -> None:
        self.client, self.seconds = client, 0.0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self.client, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


def mlflow_server(config: Settings) -> AbstractContextManager[None]:
    """Run the MLflow server of `make up` at the port of the settings."""
    command = parse_procfile(PROCFILE.read_text()).processes["mlflow"]
    return server(["/bin/sh", "-c", command], [config.mlflow_port], config.home / "mlflow.log", environment(config))


def share_of_tracking(through_server: bool) -> float:
    """Run a search in a separate home, and return the share of its time that was spent on tracking."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["WINE_HOME"] = home
        config = settings().model_copy(update={"mlflow_port": free_port()})
        train, _ = splits.train_gate_split(splits.distinct_rows(sources.load_dataset(config).table))
        with mlflow_server(config) if through_server else nullcontext():
            address = f"http://127.0.0.1:{config.mlflow_port}" if through_server else config.mlflow_uri
            # before the clock starts, because creating the database takes seconds, but only once
            store = open_store(config.model_copy(update={"tracking_uri": address}))
            timed, began = TimedClient(store.client), time.perf_counter()
            search(cast(MlflowClient, timed), store.experiment_id, Objective(train, config.seed), TRIALS, config.local)
            return timed.seconds / (time.perf_counter() - began)


def main() -> None:
    shares = [(share_of_tracking(False), share_of_tracking(True)) for _ in range(REPEATS)]
    sqlite, server = ({"share": spread(list(values), 4)} for values in zip(*shares, strict=True))
    write_results("tracking", {"trials": TRIALS, "sqlite": sqlite, "server": server})


if __name__ == "__main__":
    main()
