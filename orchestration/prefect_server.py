"""Prefect's server on loopback, closed to web pages of other origins.

`prefect server start` lets any web page read its secrets and start runs. So `make up`, a command that runs without
`make up`, and the tests start this one instead: Prefect's own app behind `SameOrigin`.
"""

import atexit
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import httpx
import uvicorn
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings

from wine_quality.config import settings
from wine_quality.environment import prefect_at
from wine_quality.errors import DeploymentError
from wine_quality.ports import free_port
from wine_quality.processes import companion, module, wait_for_ports
from wine_quality.same_origin import SameOrigin

ANSWER_SECONDS = 5
TEMPORARY = "--temporary"
NEXT = "Start that server, or remove PREFECT_API_URL from the environment, .env and Prefect's profile"


def connect() -> None:
    """Let this process report to a Prefect server, and return once it answers."""
    start_connecting()()


def start_connecting() -> Callable[[], None]:
    """Let this process report to a Prefect server, and return a function that waits until it answers.

    If `PREFECT_API_URL` is not set, this function starts a temporary server, which ends with this process. It has no
    pages or schedules, and uses the project's Prefect home.
    """
    if url := PREFECT_API_URL.value():
        assert_answers(url)
        return lambda: None
    until_exit, port, log = ExitStack(), free_port(), settings().local / "prefect.log"
    atexit.register(until_exit.close)
    command, own = module("orchestration.prefect_server", TEMPORARY), prefect_at(port)
    process = until_exit.enter_context(companion(command, log, own))
    os.environ["PREFECT_API_URL"] = own["PREFECT_API_URL"]  # for the processes that this one starts
    until_exit.enter_context(temporary_settings({PREFECT_API_URL: own["PREFECT_API_URL"]}))
    return partial(wait_for_ports, process, [port], log, name="Prefect's server")


def assert_answers(url: str) -> None:
    """Raise a `DeploymentError` if no Prefect API answers at an address."""
    client = get_client({"timeout": ANSWER_SECONDS}, sync_client=True)
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), client:
            client.api_version()
        return
    except httpx.TransportError as error:
        problem = f"nothing answers there ({error}). {NEXT}"
    except PrefectHTTPStatusError as error:
        problem = f"it answers {error.response.status_code}, not as Prefect's API does. {NEXT}"
        if error.response.status_code == 401:
            problem = "asks for a password. Set PREFECT_API_AUTH_STRING to user:password"
    except ValueError:
        problem = f"that is not Prefect's API, whose address ends in /api. {NEXT}"
    raise DeploymentError(f"PREFECT_API_URL={without_credentials(url)}: {problem}.")


def without_credentials(url: str) -> str:
    """Return an address without the user and password in it."""
    return str(httpx.URL(url).copy_with(userinfo=b""))


def serve(ephemeral: bool) -> None:
    """Serve until SIGINT or SIGTERM; `ephemeral` leaves out the pages and the services that schedule runs."""
    from prefect.server.api.server import (
        create_app,  # imported here because it takes a second, and most commands need only the client
    )

    api = get_current_settings().server.api
    app = SameOrigin(create_app(final=True, ephemeral=ephemeral))
    uvicorn.run(app, host="127.0.0.1", port=api.port, log_level="warning", timeout_keep_alive=api.keepalive_timeout)


if __name__ == "__main__":
    serve(TEMPORARY in sys.argv)
