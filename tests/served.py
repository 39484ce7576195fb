"""A service for tests: a home, a server on a free port, and helpers to query it."""

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

SAMPLE = dict(EXAMPLE)


@contextmanager
def own_home(home: Path, data: Path) -> Iterator[Settings]:
    """Yield settings for a service with its own home, data and port; MLflow uses its store until the end."""
    with mock.patch.dict(os.environ):
        config = settings(home=home, data=str(data), serve_port=free_port())
        mlflow.set_tracking_uri(config.mlflow_uri)
        yield config


@contextmanager
def two_versions(home: Path, data: Path) -> Iterator[Settings]:
    """Yield settings of a home with two versions: the first scores with its pipeline, the second with an ONNX graph."""
    with own_home(home, data) as config:
        crown(register_model(config, "linear", intervals=True))
        register_model(config, "extra_trees", intervals=True, n_estimators=10)
        yield config


@contextmanager
def fast_polling_service(config: Settings) -> Iterator[str]:
    """Start a service that checks the alias five times a second, and yield its address."""
    with mock.patch.object(module, "Champion", partial(module.Champion, seconds=0.2)), service(config) as url:
        yield url


@contextmanager
def alias_moved(config: Settings, url: str) -> Iterator[Callable[[str], None]]:
    """Yield a function that moves the alias to a version; at the end, move it back to the first and wait for that."""
    yield lambda number: crown(version(config, number))
    crown(version(config, "1"))
    wait_for(url, "1")


@contextmanager
def service(config: Settings) -> Iterator[str]:
    """Start the service in a thread, and yield its address."""
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
    """Return the JSON of a response, whatever its status."""
    return requests.get(url, timeout=30).json()


def wait_for(url: str, version: str) -> None:
    """Wait until a version is serving and the service is ready."""

    def serves() -> bool:
        return get_json(f"{url}/health/ready")["status"] == "green" and get_json(f"{url}/model")["version"] == version

    wait_until(serves, f"version {version}")
