"""A PostgreSQL server of a test, of Debian's package: its own data, a free port of loopback, stopped by process id."""

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from servers import wait_until

from scaling.database import unprivileged
from wine_quality.ports import free_port

PASSWORD = "corked&secret"


class Postgres:
    """A server over the data in a folder. It may be stopped and started again, on the same port."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.data, self.log = programs, folder / "data", folder / "log"
        self.port = free_port()
        self.user = unprivileged()
        if self.user:
            shutil.chown(folder, self.user)
        password = folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        options = ["--username=wine", f"--pwfile={password}", "--auth=scram-sha-256", "--no-locale", "--encoding=UTF8"]
        initdb = [programs / "initdb", *options, "--no-sync", self.data]
        subprocess.run(initdb, user=self.user, cwd=folder, check=True, capture_output=True)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://wine:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def new_database(self, name: str) -> str:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def start(self) -> None:
        options = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        command = [self.programs / "postgres", "-D", self.data, *(f"--{key}={value}" for key, value in options.items())]
        with self.log.open("ab") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self.process = subprocess.Popen(command, user=self.user, cwd=self.data.parent, **streams)
        wait_until(self.answers, "PostgreSQL")

    def answers(self) -> bool:
        """Say whether the server answers; fail where it has ended."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            psycopg.connect(self.url()).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Stop the server at once, whoever is connected, where it runs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.send_signal(signal.SIGCONT)  # where a test has halted it
        self.process.wait(timeout=60)


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Run a server; skip the test where PostgreSQL is not installed."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("no PostgreSQL in /usr/lib/postgresql: apt install postgresql")
    with tempfile.TemporaryDirectory(prefix="wine-tests-") as name:
        Path(name).chmod(0o755)
        server = Postgres(programs[-1].parent, Path(name))
        server.start()
        try:
            yield server
        finally:
            server.stop()
