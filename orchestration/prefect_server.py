"""Prefect's server on loopback, closed to web pages of other origins.

`prefect server start` lets any web page read its secrets and start runs. So `make up`, a command that runs without
`make up`, and the tests start this one instead: Prefect's own app behind `SameOrigin`.
"""

import atexit
import os
import sys
from contextlib import ExitStack

import httpx
import uvicorn
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings

from wine_quality.config import settings
from wine_quality.environment import prefect_at
from wine_quality.errors import DeploymentError
from wine_quality.ports import free_port
from wine_quality.processes import module, server
from wine_quality.same_origin import SameOrigin

ANSWER_SECONDS = 5
TEMPORARY = "--temporary"
NEXT = "Start that server, or take PREFECT_API_URL out of the environment, .env and Prefect's profile"


def connect() -> None:
    """Let this process report to a Prefect server: that of `PREFECT_API_URL`, or one that ends with this process.

    The latter has no pages or schedules, and lies over the project's Prefect home.
    """
    if url := PREFECT_API_URL.value():
        return assert_answers(url)
    until_exit, port = ExitStack(), free_port()
    atexit.register(until_exit.close)
    command, own = module("orchestration.prefect_server", TEMPORARY), prefect_at(port)
    until_exit.enter_context(server(command, [port], settings().local / "prefect.log", own, name="Prefect's server"))
    os.environ["PREFECT_API_URL"] = own["PREFECT_API_URL"]  # for the processes that this one starts
    until_exit.enter_context(temporary_settings({PREFECT_API_URL: own["PREFECT_API_URL"]}))
    return None


def assert_answers(url: str) -> None:
    """Raise a `DeploymentError` where no Prefect API answers at an address."""
    client = get_client({"timeout": ANSWER_SECONDS}, sync_client=True)
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), client:
            client.api_version()
        return
    except httpx.TransportError as error:
        problem = f"nobody answers there ({error}). {NEXT}"
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
    from prefect.server.api.server import create_app  # takes a second, and a command needs only its client

    api = get_current_settings().server.api
    app = SameOrigin(create_app(final=True, ephemeral=ephemeral))
    uvicorn.run(app, host="127.0.0.1", port=api.port, log_level="warning", timeout_keep_alive=api.keepalive_timeout)


if __name__ == "__main__":
    serve(TEMPORARY in sys.argv)
