"""Serve the champion on loopback: predictions, metrics and a page. Ctrl-C stops it.

One process does it all: a score costs microseconds, and a request most of a hundred, so that a second one would only
load the model again. Run it with `python -m deployment.serve`, or `make serve`.
"""

import gc
import logging
import socket
import sys

import uvicorn

from deployment.guards import PatientProtocol
from deployment.service import app
from wine_quality.command import exit_code
from wine_quality.config import Settings, settings
from wine_quality.errors import SettingsError

MOST_CONNECTIONS = 512  # below the 1,024 files that a process may usually hold open
LINGER = 5  # seconds that requests under way have when the service stops


class Server(uvicorn.Server):
    """A server that says where it is once it answers."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # looking through all that was imported would stop every request for a quarter of a second
        print(f"serve     http://127.0.0.1:{self.config.port}, and how to ask at /docs", flush=True)


def bound(port: int) -> socket.socket:
    """Return a socket of loopback with the port, or say why it cannot be had."""
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(("127.0.0.1", port))
    except OSError as error:
        taken.close()
        raise SettingsError(
            f"port {port} cannot be had ({error.strerror}). Stop what listens there (another make serve?) or set "
            "WINE_SERVE_PORT."
        ) from None
    return taken


def serve(config: Settings) -> None:
    """Serve until Ctrl-C, with a line for each swap of the champion and each trouble."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    with bound(config.serve_port) as door:
        Server(server_settings(config)).run(sockets=[door])


def server_settings(config: Settings) -> uvicorn.Config:
    """Return how uvicorn is set: fast, quiet but for errors, and with a limit to all that a client may hold on to."""
    return uvicorn.Config(
        app(config),
        port=config.serve_port,
        http=PatientProtocol,
        ws="none",
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=MOST_CONNECTIONS,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=LINGER,
    )


if __name__ == "__main__":
    sys.exit(exit_code(lambda: serve(settings())))
