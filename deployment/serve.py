"""Serve the champion on loopback: predictions, metrics and a page. Ctrl-C stops it.

One process does it all: a score costs microseconds, and a request most of a hundred, so that a second one would only
load the model again. Run it with `python -m deployment.serve`, or `make serve`.
"""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server

from deployment import limits
from deployment.service import app
from wine_quality.command import exit_code
from wine_quality.config import Settings, settings
from wine_quality.errors import SettingsError
from wine_quality.files import translate_disk_errors
from wine_quality.ports import listens
from wine_quality.processes import companion, module

try:
    from uvloop import new_event_loop
except ImportError:  # there is none for Windows
    from asyncio import new_event_loop

MAX_CONNECTIONS = 512  # below the 1,024 files that a process may usually hold open
GRACE_SECONDS = 3  # seconds that requests under way have when the service stops


def serve(config: Settings) -> None:
    """Serve until Ctrl-C, with a line for each swap of the champion and each trouble."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    check_port(config.serve_port)
    with shadowing(config):
        serve_until_stopped(config)


@contextmanager
def shadowing(config: Settings) -> Iterator[None]:
    """Run the challenger in the shadow of the service, unless it is switched off."""
    if not config.shadow:
        yield
        return
    with translate_disk_errors(config.local):
        config.local.mkdir(parents=True, exist_ok=True)
    with companion(module("deployment.shadow"), config.local / "shadow.log", {}):
        yield


def serve_until_stopped(config: Settings) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    received, handlers = [], {}
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        server, stop = http_server(config), asyncio.Event()

        def note(number: int, _frame: object) -> None:
            received.append(number)
            runner.get_loop().call_soon_threadsafe(stop.set)

        for number in (signal.SIGINT, signal.SIGTERM):
            handlers[number] = signal.signal(number, note)
        runner.run(run(server, stop))
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for number in received[:1]:
        signal.raise_signal(number)


def check_port(port: int) -> None:
    """Raise where something listens on the port: the server itself would share the port with it.

    Raises
    ------
    SettingsError
        The port is taken, or not ours to take.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SettingsError(
                f"port {port} is not available ({error.strerror}). Stop what listens there (another make serve?) or "
                "set WINE_SERVE_PORT."
            ) from None


def http_server(config: Settings) -> Server:
    """Return the server: quiet but for errors, and with a limit to all that a client may hold on to."""
    return Server(
        app(config),
        port=config.serve_port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=MAX_CONNECTIONS,
        backpressure=MAX_CONNECTIONS,
        http1_settings=HTTP1Settings(
            header_read_timeout=int(1000 * limits.MAX_SECONDS), max_buffer_size=limits.MAX_HEAD_BYTES
        ),
        log_level=LogLevels.error,
    )


async def run(server: Server, stop: asyncio.Event) -> None:
    """Serve until the event, say where as soon as it answers, and let requests under way end."""
    serving, stopping = asyncio.create_task(server.serve()), asyncio.create_task(stop.wait())
    announcing = asyncio.create_task(announce(server.bind_port))
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    announcing.cancel()
    server.stop()
    with suppress(TimeoutError):
        await asyncio.wait_for(serving, GRACE_SECONDS)


async def announce(port: int) -> None:
    """Say where the service is once it answers."""
    while not listens(port):
        await asyncio.sleep(0.05)
    print(f"serve     http://127.0.0.1:{port} (API documentation: /docs)", flush=True)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: serve(settings())))
