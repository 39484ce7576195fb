"""Measure what tracking costs a search of 50 trials: `python -m benchmarks.tracking` with `WINE_DATA` set.

Timed inside one and the same search: the seconds within the calls to MLflow, over all the seconds of the search. Once
into SQLite and once through the MLflow server of `make up`, three times each, in turn.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from honcho.environ import parse_procfile
from mlflow import MlflowClient

from benchmarks.machine import REPEATS, spread, write_results
from orchestration.up import PROCFILE, environment
from wine_quality import sources, splits
from wine_quality.config import Settings, settings
from wine_quality.ports import free_port, listens
from wine_quality.search import search
from wine_quality.tracking import open_store

TRIALS = 50


class TimedClient:
    """A client of MLflow that counts the seconds of its calls."""

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


def search_once() -> dict[str, float]:
    """Make a search in the current settings, and return its seconds and the share of them that was tracking."""
    config = settings()
    train, _ = splits.train_gate_split(splits.distinct_rows(sources.load_dataset(config).table))
    store = open_store(config)  # to make a database takes MLflow some seconds, once, and is no part of a search
    timed, began = TimedClient(store.client), time.perf_counter()
    search(timed, store.experiment_id, train, TRIALS, config.seed, config.local)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "tracking": timed.seconds, "share": timed.seconds / seconds}


@contextmanager
def server(config: Settings) -> Iterator[str]:
    """Run the MLflow server of `make up` on a free port, and yield its address."""
    port = free_port()
    command = parse_procfile(PROCFILE.read_text()).processes["mlflow"]
    own = environment(config.model_copy(update={"mlflow_port": port}))
    process = subprocess.Popen(f"exec {command}", shell=True, env=own)
    try:
        while not listens(port):
            assert process.poll() is None
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def through_server() -> dict[str, float]:
    """Make a search whose runs go through a server."""
    with server(settings()) as address:
        os.environ["MLFLOW_TRACKING_URI"] = address
        try:
            return search_once()
        finally:
            del os.environ["MLFLOW_TRACKING_URI"]


def in_a_home(search: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Make a search where none was made before."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["WINE_HOME"] = home
        return search()


def main() -> None:
    kinds = {"sqlite": search_once, "server": through_server}
    made = [{kind: in_a_home(search) for kind, search in kinds.items()} for _ in range(REPEATS)]
    found = {
        kind: {measure: spread([one[kind][measure] for one in made], 4) for measure in made[0][kind]} for kind in kinds
    }
    write_results("tracking", {"trials": TRIALS, **found})


if __name__ == "__main__":
    main()
