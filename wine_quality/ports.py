"""Ports of loopback: which is free, and on which a process listens."""

import socket
from contextlib import suppress
from random import SystemRandom

PORTS = range(20_000, 32_000)  # below those that the system itself gives to clients and to servers on port 0


def listens(port: int) -> bool:
    """Return whether a process listens on a port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Return a random port of loopback that nothing listens on now."""
    while True:
        port = SystemRandom().choice(PORTS)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
