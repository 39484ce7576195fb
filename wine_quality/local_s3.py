"""A real S3 server for a laptop: rclone on loopback, its objects plain files under `.local/s3/`."""

import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from wine_quality.config import Settings
from wine_quality.errors import DataError, StorageError, StorageUnavailable
from wine_quality.files import translate_disk_errors, write_private
from wine_quality.ports import free_port
from wine_quality.processes import server

START_SECONDS = 30
FRESH = ["--dir-cache-time", "1s"]  # a file that was put into the folder by hand is seen at once


@dataclass(frozen=True)
class Endpoint:
    """Where an S3 server listens and the keys it takes."""

    url: str
    access_key: str
    secret_key: str = field(repr=False)


@contextmanager
def local_s3(config: Settings, port: int | None = None) -> Iterator[Endpoint]:
    """Run the server on a port, by default a free one, and stop it at the end."""
    port = port or free_port()
    key, secret = local_keys(config)
    (config.local / "s3" / config.bucket).mkdir(parents=True, exist_ok=True)
    log = config.local / "s3.log"
    command, keys, name = s3_command(config, port), s3_environment(key, secret), "the local S3 server"
    with server(command, [port], log, keys, name=name, seconds=START_SECONDS, error=StorageUnavailable):
        yield Endpoint(f"http://127.0.0.1:{port}", key, secret)


def s3_command(config: Settings, port: int) -> list[str | Path]:
    """Return the command of the local S3 server."""
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if rclone is None:
        raise StorageError("rclone is not installed. Install requirements.txt again (make setup).")
    return [rclone, "serve", "s3", str(config.local / "s3"), "--addr", f"127.0.0.1:{port}", "--config", "", *FRESH]


def s3_environment(key: str, secret: str) -> dict[str, str]:
    """Return the keys as rclone takes them from the environment; on a command line they would show in `ps`."""
    return {"RCLONE_AUTH_KEY": f'"{key},{secret}"'}


def local_keys(config: Settings) -> tuple[str, str]:
    """Return the keys of the local S3 server, random ones, stored at the first call in a file only you can read."""
    path = config.local / "s3-keys"
    with translate_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_private(path, f"{secrets.token_hex(10)},{secrets.token_hex(20)}".encode())
        path.chmod(0o600)
    key, _, secret = path.read_text().partition(",")
    if not (key and secret):
        raise DataError(f"{path}: holds no keys. Delete it, and it will be created again.")
    return key, secret
