"""A Dask scheduler and workers as processes of a test, on loopback, stopped by process id."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from servers import running, wait_until

from wine_quality.ports import free_port, listens

WORKER = [
    "-m",
    "distributed.cli.dask_worker",
    "--no-nanny",
    "--nthreads",
    "1",
    "--no-dashboard",
    "--death-timeout",
    "60",
]
QUIET = {"DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": "[]"}


@dataclass
class Cluster:
    """A scheduler and its workers, each a process that may be killed."""

    address: str
    folder: Path
    scheduler: subprocess.Popen
    stack: ExitStack
    workers: list[subprocess.Popen] = field(default_factory=list)

    def add_worker(self, **environment: str) -> subprocess.Popen:
        number = len(self.workers)
        command = [*WORKER, "--local-directory", str(self.folder / f"worker-{number}"), self.address]
        log = self.folder / f"worker-{number}.log"
        worker = self.stack.enter_context(running(command, log, **QUIET, **environment))
        wait_until(lambda: worker.poll() is not None or "Registered to" in log.read_text(), "a Dask worker", 60)
        assert worker.poll() is None, log.read_text()
        self.workers.append(worker)
        return worker


def kill(process: subprocess.Popen) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def dask_cluster(folder: Path, workers: int = 2) -> Iterator[Cluster]:
    """Run a scheduler at a free port of loopback, and workers with one thread each."""
    port, log = free_port(), folder / "scheduler.log"
    command = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    with ExitStack() as stack:
        scheduler = stack.enter_context(running(command, log))
        wait_until(lambda: scheduler.poll() is not None or listens(port), "the Dask scheduler", 60)
        cluster = Cluster(f"tcp://127.0.0.1:{port}", folder, scheduler, stack)
        for _ in range(workers):
            cluster.add_worker()
        yield cluster
