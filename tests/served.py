"""The service of a test: versions to serve, a server on a free port, and questions to it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from unittest import mock

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.models import infer_signature
from servers import wait_until
from sklearn.linear_model import LinearRegression

from deployment.openapi import EXAMPLE
from deployment.serve import Server, bound, server_settings
from wine_quality import data, registry, scoring, tracking
from wine_quality.config import Settings, settings
from wine_quality.models import build, fit
from wine_quality.ports import free_port
from wine_quality.schema import TARGET
from wine_quality.splits import distinct_wines, train_holdout_split

WINE = dict(EXAMPLE)


@contextmanager
def own_home(home: Path, wines: Path) -> Iterator[Settings]:
    """Yield the settings of a service with a home, wine and port of its own; MLflow names its store until the end."""
    with mock.patch.dict(os.environ):
        yield settings(home=home, data=str(wines), serve_port=free_port())


def add_version(config: Settings, name: str, **params: Any) -> str:
    """Fit a model by its name on the wine of the settings, and register it, ready to be served."""
    train, holdout = train_holdout_split(distinct_wines(data.load_wine(config).table))
    with tracking.store(config):
        run = tracking.log_run(name, fit(build(name, 1, **params), train), (train, holdout), "folder", params)
        version = registry.register(config, run, {})
        scoring.prepare(config, version, holdout)
    return version


def add_version_of_alcohol_alone(config: Settings) -> str:
    """Register a model that takes one column: it cannot stand in for one that takes them all."""
    wines = distinct_wines(data.load_wine(config).table)
    one_column = LinearRegression().fit(wines[["alcohol"]], wines[TARGET])
    with tracking.store(config), mlflow.start_run() as run:
        signed = infer_signature(wines[["alcohol"]], one_column.predict(wines[["alcohol"]]))
        model = mlflow.sklearn.log_model(one_column, name="model", signature=signed, pip_requirements=["scikit-learn"])
        tracked = tracking.Tracked(run.info.run_id, run.info.experiment_id, model.model_id)
        return registry.register(config, tracked, {})


def name_champion(config: Settings, version: str) -> None:
    """Give a version the alias, past every gate."""
    MlflowClient().set_registered_model_alias(config.registered_model, registry.CHAMPION, version)


@contextmanager
def service(config: Settings) -> Iterator[str]:
    """Serve in a thread, and yield the address."""
    with bound(config.serve_port) as door:
        server = Server(server_settings(config))
        thread = Thread(target=server.run, args=([door],))
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive(), "the service")
            yield f"http://127.0.0.1:{config.serve_port}"
        finally:
            server.should_exit = True
            thread.join(timeout=30)
        assert not thread.is_alive()


def told(url: str) -> dict[str, Any]:
    """Return what a path tells, whatever its status."""
    return requests.get(url, timeout=30).json()


def wait_for(url: str, status: str, version: str) -> dict[str, Any]:
    """Return what `/health/ready` tells once it has a colour and a version serves."""
    asked = f"{url}/health/ready"
    wait_until(lambda: told(asked)["status"] == status and told(f"{url}/model")["version"] == version, status, 10)
    return told(asked)
