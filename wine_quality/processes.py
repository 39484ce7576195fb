"""A process that works for another one, and ends when that one does, whatever ends it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wine_quality.ports import listens

STOP_SECONDS = 30  # that a process has to end after SIGTERM, before SIGKILL
# the watcher is the one in the background: there a shell has SIGINT ignored, and whoever it starts inherits that
AS_LONG_AS_WE_LIVE = """exec 3<&0
{ read -r _ <&3; kill $$; } & # the pipe closes with us
exec "$@" </dev/null 3<&-
"""


def module(name: str, *words: str | Path) -> list[str | Path]:
    """Return the command that runs a module with this Python."""
    return [sys.executable, "-m", name, *words]


def run_module(name: str, *words: str | Path, **environment: str) -> None:
    """Run a module to its end; `environment` is what it has besides that of this process.

    Raises
    ------
    SystemExit
        It failed, and has said why.
    """
    if code := run_to_end(module(name, *words), environment):
        raise SystemExit(code)


def run_to_end(command: list[str | Path], environment: dict[str, str]) -> int:
    """Run a command and return its exit code; where this process is stopped meanwhile, stop the command first."""
    process = subprocess.Popen(command, env={**os.environ, **environment})
    try:
        return process.wait()
    finally:
        process.terminate()
        end(process)


def end(process: subprocess.Popen) -> None:
    """Wait for a process that was told to end, and kill it where it does not."""
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def companion(command: list[str | Path], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """Run a command with its lines in a log, and end it by SIGTERM at the end of the block, or when this process dies.

    At the end of the block, SIGKILL follows where SIGTERM was not enough. `environment` is what it has besides that of
    this process.
    """
    with log.open("wb") as lines:
        process = subprocess.Popen(
            ["/bin/sh", "-c", AS_LONG_AS_WE_LIVE, "companion", *command],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=lines,
            stderr=lines,
        )
    try:
        yield process
    finally:
        process.stdin.close()
        end(process)


def comes_up(server: subprocess.Popen, port: int, seconds: float) -> bool:
    """Wait until a server listens at a port, and say whether it does: it may have ended, or take too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        if listens(port):
            return True
        time.sleep(0.05)
    return False


def last_line(log: Path) -> str:
    """Return the last line of what a process has said."""
    return (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"])[-1]
