"""The service of a test: a home, a server on a free port, and questions to it."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any
from unittest import mock

import mlflow
import requests
from servers import wait_until
from versions import crown, register_model, version

from deployment import service as module
from deployment.openapi import EXAMPLE
from deployment.serve import http_server, new_event_loop, run
from wine_quality.config import Settings, settings
from wine_quality.ports import free_port, listens

WINE = dict(EXAMPLE)


@contextmanager
def own_home(home: Path, wines: Path) -> Iterator[Settings]:
    """Yield the settings of a service with a home, wine and port of its own; MLflow names its store until the end."""
    with mock.patch.dict(os.environ):
        config = settings(home=home, data=str(wines), serve_port=free_port())
        mlflow.set_tracking_uri(config.mlflow_uri)
        yield config


@contextmanager
def two_versions(home: Path, wines: Path) -> Iterator[Settings]:
    """Yield settings of a home with two versions: the first scores by its pipeline, the second by an ONNX graph."""
    with own_home(home, wines) as config:
        crown(register_model(config, "linear", intervals=True))
        register_model(config, "extra_trees", intervals=True, n_estimators=10)
        yield config


@contextmanager
def watchful_service(config: Settings) -> Iterator[str]:
    """Serve with a look at the alias five times a second, and yield the address."""
    with mock.patch.object(module, "Champion", partial(module.Champion, seconds=0.2)), service(config) as url:
        yield url


@contextmanager
def alias_moved(config: Settings, url: str) -> Iterator[Callable[[str], None]]:
    """Yield what gives the alias to a version by its number; at the end the first one has it again, and serves."""
    yield lambda number: crown(version(config, number))
    crown(version(config, "1"))
    wait_for(url, "1")


@contextmanager
def service(config: Settings) -> Iterator[str]:
    """Serve in a thread, and yield the address."""
    server, stop, loop = http_server(config), asyncio.Event(), new_event_loop()
    thread = Thread(target=loop.run_until_complete, args=[run(server, stop)])
    thread.start()
    try:
        wait_until(lambda: listens(config.serve_port) or not thread.is_alive(), "the service")
        yield f"http://127.0.0.1:{config.serve_port}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=30)
    assert not thread.is_alive()
    loop.close()


def get_json(url: str) -> dict[str, Any]:
    """Return the response of a path, whatever its status."""
    return requests.get(url, timeout=30).json()


def wait_for(url: str, version: str) -> None:
    """Return once a version serves and all is well."""

    def serves() -> bool:
        return get_json(f"{url}/health/ready")["status"] == "green" and get_json(f"{url}/model")["version"] == version

    wait_until(serves, f"version {version}")
