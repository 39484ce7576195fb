"""Child processes: start them, wait until they answer, and end them with this one, whatever ends it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wine_quality.errors import DeploymentError, WineError
from wine_quality.ports import listens

START_SECONDS = 300
STOP_SECONDS = 30  # that a process has to end after SIGTERM, before SIGKILL
# the watcher is the one in the background: there a shell has SIGINT ignored, and whoever it starts inherits that
AS_LONG_AS_WE_LIVE = """exec 3<&0
stop=$1; shift
{ read -r _ <&3; kill -s "$stop" $$; } & # the pipe closes with us
exec "$@" </dev/null 3<&-
"""


def module(name: str, *words: str | Path) -> list[str | Path]:
    """Return the command that runs a module with this Python."""
    return [sys.executable, "-m", name, *words]


def run_module(name: str, *words: str | Path, **environment: str) -> None:
    """Run a module to its end, with `environment` over that of this process; raise `SystemExit` if it fails."""
    if code := run_to_end(module(name, *words), environment):
        raise SystemExit(code)


def run_to_end(command: list[str | Path], environment: dict[str, str]) -> int:
    """Run a command and return its exit code; if this process is stopped meanwhile, stop the command first."""
    process = subprocess.Popen(command, env={**os.environ, **environment})
    try:
        return process.wait()
    finally:
        process.terminate()
        end(process)


def end(process: subprocess.Popen) -> None:
    """Wait for a process that got SIGTERM, and kill it if it does not end."""
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def companion(
    command: list[str | Path], log: Path, environment: dict[str, str], stop: str = "TERM"
) -> Iterator[subprocess.Popen]:
    """Run a command with its output in a log, and stop it at the end of the block, or when this process dies."""
    with log.open("wb") as lines:
        process = subprocess.Popen(
            ["/bin/sh", "-c", AS_LONG_AS_WE_LIVE, "companion", stop, *command],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=lines,
            stderr=lines,
        )
    try:
        yield process
    finally:
        if process.stdin:
            process.stdin.close()
        end(process)


@contextmanager
def server(
    command: list[str | Path],
    ports: list[int],
    log: Path,
    environment: dict[str, str],
    *,
    name: str = "",
    seconds: float = START_SECONDS,
    error: type[WineError] = DeploymentError,
) -> Iterator[None]:
    """Run a server from when it listens on all of its ports until the end of the block; raise `error` if it fails."""
    with companion(command, log, environment) as process:
        wait_for_ports(process, ports, log, name=name or str(command[-1]), seconds=seconds, error=error)
        yield


def wait_for_ports(
    process: subprocess.Popen, ports: list[int], log: Path,
    *, name: str, seconds: float = START_SECONDS, error: type[WineError] = DeploymentError,
) -> None:  # fmt: skip
    """Return once a server listens on all of its ports; raise `error` if it ends before that or the time is up."""
    for port in ports:
        if not comes_up(process, port, seconds):
            raise error(f"{name} did not start: {last_line(log)}. {log} has more.")


def wait_until(condition: Callable[[], Any], what: str, seconds: float) -> Any:
    """Return the value of `condition` once it is true, or raise `DeploymentError` if that takes too long."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise DeploymentError(f"{what}: not in {seconds:g} s. Look into the logs under .local, and run it again.")
        time.sleep(0.1)
    return value


def comes_up(server: subprocess.Popen, port: int, seconds: float) -> bool:
    """Wait until a server listens at a port; return whether it does before it ends or the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        if listens(port):
            return True
        time.sleep(0.05)
    return False


def last_line(log: Path) -> str:
    """Return the last line of a log."""
    return (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"])[-1]
