"""Prefect's server on loopback, closed to web pages of other origins.

`prefect server start` lets any web page read its secrets and start runs. So `make up`, a command that runs without
`make up`, and the tests start this one instead: Prefect's own app behind `SameOrigin`.
"""

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import uvicorn
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    get_current_settings,
    temporary_settings,
)

from wine_quality.config import Settings, settings
from wine_quality.environment import prefect_at
from wine_quality.errors import DeploymentError
from wine_quality.ports import free_port
from wine_quality.processes import comes_up, companion, last_line, module
from wine_quality.same_origin import SameOrigin

START_SECONDS, ANSWER_SECONDS = 300, 5
TEMPORARY = "--temporary"
NEXT = "Start that server, or take PREFECT_API_URL out of the environment, .env and Prefect's profile"


def connect() -> None:
    """Let this process report to a Prefect server: that of `PREFECT_API_URL`, or one that ends with this process.

    Raises
    ------
    DeploymentError
        The server does not answer as Prefect does, or a temporary one does not start.
    """
    if PREFECT_API_URL.value():
        return assert_answers(PREFECT_API_URL.value())
    until_exit = ExitStack()
    atexit.register(until_exit.close)
    url = until_exit.enter_context(temporary_server(settings()))
    until_exit.enter_context(temporary_settings({PREFECT_API_URL: url}))
    os.environ["PREFECT_API_URL"] = url  # for the processes that this one starts
    return None


def assert_answers(url: str) -> None:
    """Raise a `DeploymentError` where no Prefect API answers at an address."""
    shown = f"PREFECT_API_URL={without_credentials(url)}"
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client({"timeout": ANSWER_SECONDS}, sync_client=True) as client,
    ):
        try:
            client.api_version()
        except httpx.TransportError as error:
            raise DeploymentError(f"{shown}: nobody answers there ({error}). {NEXT}.") from None
        except PrefectHTTPStatusError as error:
            status = error.response.status_code
            if status == 401:
                raise DeploymentError(
                    f"{shown}: asks for a password. Set PREFECT_API_AUTH_STRING to user:password."
                ) from None
            raise DeploymentError(f"{shown}: it answers {status}, not as Prefect's API does. {NEXT}.") from None
        except ValueError:
            raise DeploymentError(f"{shown}: that is not Prefect's API, whose address ends in /api. {NEXT}.") from None


def without_credentials(url: str) -> str:
    """Return an address without the user and password in it."""
    return str(httpx.URL(url).copy_with(userinfo=b""))


@contextmanager
def temporary_server(config: Settings) -> Iterator[str]:
    """Run a server without pages or schedules over the project's Prefect home; yield the address of its API.

    It ends with the block, and also where this process is killed.

    Raises
    ------
    DeploymentError
        It does not start; the line is the last of its log.
    """
    port, log = free_port(), config.local / "prefect.log"
    own = prefect_at(port)
    with companion(module("orchestration.prefect_server", TEMPORARY), log, own) as server:
        if not comes_up(server, port, START_SECONDS):
            raise DeploymentError(f"Prefect's server did not start: {last_line(log)}. {log} has more.")
        yield own["PREFECT_API_URL"]


def serve(ephemeral: bool) -> None:
    """Serve until SIGINT or SIGTERM; `ephemeral` leaves out the pages and the services that schedule runs."""
    from prefect.server.api.server import create_app  # takes a second, and a command needs only its client

    api = get_current_settings().server.api
    app = SameOrigin(create_app(final=True, ephemeral=ephemeral))
    uvicorn.run(app, host="127.0.0.1", port=api.port, log_level="warning", timeout_keep_alive=api.keepalive_timeout)


if __name__ == "__main__":
    serve(TEMPORARY in sys.argv)
