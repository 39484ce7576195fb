"""A process that works for another one, and ends when that one does, whatever ends it."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# the watcher is the one in the background: there a shell has SIGINT ignored, and whoever it starts inherits that
AS_LONG_AS_WE_LIVE = """exec 3<&0
{ read -r _ <&3; kill $$; } & # the pipe closes with us
exec "$@" </dev/null 3<&-
"""


@contextmanager
def companion(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """Run a command with its lines in a log, and end it by SIGTERM at the end of the block, or when this process dies.

    `environment` is what it has besides that of this process.
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
        process.wait()
