"""Serve the champion on loopback: predictions, metrics and a web page. Ctrl-C stops it.

It runs as a single process: scoring takes microseconds and a whole request under a millisecond, so a second one would
mostly add another copy of the model. Run it with `python -m deployment.serve`, or `make serve`.
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
except ImportError:  # not available on Windows
    from asyncio import new_event_loop

MAX_CONNECTIONS = 512  # below the usual limit of 1,024 open files per process
GRACE_SECONDS = 3  # for requests in progress when the service stops


def serve(config: Settings) -> None:
    """Serve until Ctrl-C, and log each swap of the champion and each problem."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    check_port(config.serve_port)
    with shadowing(config):
        serve_until_stopped(config)


@contextmanager
def shadowing(config: Settings) -> Iterator[None]:
    """Run the shadow next to the service, unless it's switched off."""
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
    """Check that the port is free, because the server itself would share it with another process.

    Raises
    ------
    SettingsError
        The port is in use, or may not be used.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SettingsError(
                f"port {port} is not available ({error.strerror}). Stop the process that uses it (another make serve?) "
                "or set WINE_SERVE_PORT."
            ) from None


def http_server(config: Settings) -> Server:
    """Return the server, which logs only errors and limits what a client can occupy."""
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
    """Serve until the event is set, print the address once the service is up, and let requests in progress finish."""
    serving, stopping = asyncio.create_task(server.serve()), asyncio.create_task(stop.wait())
    announcing = asyncio.create_task(announce(server.bind_port))
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    announcing.cancel()
    server.stop()
    with suppress(TimeoutError):
        await asyncio.wait_for(serving, GRACE_SECONDS)


async def announce(port: int) -> None:
    """Print the address of the service once it's up."""
    while not listens(port):
        await asyncio.sleep(0.05)
    print(f"serve     http://127.0.0.1:{port} (API documentation: /docs)", flush=True)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: serve(settings())))
