"""A Dask cluster of a test: a scheduler and workers as processes on loopback, each stopped by its process id."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from servers import running, wait_until

from wine_quality.config import ROOT
from wine_quality.ports import free_port, listens

ONE_WORKER = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"]


@dataclass
class Cluster:
    """A scheduler at `address` and the workers that were started; a worker has no nanny, so what is killed stays so."""

    address: str
    folder: Path
    scheduler: subprocess.Popen
    started: ExitStack
    workers: list[subprocess.Popen] = field(default_factory=list)

    def add_worker(self, source: Path = ROOT) -> subprocess.Popen:
        """Start a worker that runs the code in a folder, and return once it has joined."""
        name = f"worker-{len(self.workers)}"
        command = ["-m", "distributed.cli.dask_worker", self.address, *ONE_WORKER, "--name", name]
        log = self.folder / f"{name}.log"
        own = {"PYTHONPATH": f"{source}:{Path(__file__).parent}"}  # the units of the tests are beside this file
        local = ["--local-directory", str(self.folder / name)]
        worker = self.started.enter_context(running([*command, *local], log, **own))
        wait_until(lambda: worker.poll() is not None or "Starting established connection" in log.read_text(), name, 60)
        assert worker.poll() is None, log.read_text()
        self.workers.append(worker)
        return worker


@contextmanager
def dask_cluster(folder: Path, workers: int = 2, port: int | None = None) -> Iterator[Cluster]:
    """Run a scheduler and workers until the end of the block."""
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    command = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    with ExitStack() as started:
        scheduler = started.enter_context(running(command, folder / "scheduler.log", PYTHONPATH=str(ROOT)))
        wait_until(lambda: scheduler.poll() is not None or listens(port), "the scheduler", 60)
        assert scheduler.poll() is None, (folder / "scheduler.log").read_text()
        cluster = Cluster(f"tcp://127.0.0.1:{port}", folder, scheduler, started)
        for _ in range(workers):
            cluster.add_worker()
        yield cluster
        kill(*cluster.workers, scheduler)


def kill(*processes: subprocess.Popen) -> float:
    """Kill processes by SIGKILL, as a machine that goes away does, and return the time."""
    for process in processes:
        process.kill()
        process.wait(timeout=60)
    return time.monotonic()
