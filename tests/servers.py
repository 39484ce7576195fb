"""Servers and other processes of a test: started, awaited, called, stopped by process id."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import FlowRun
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from wine_quality.config import ROOT
from wine_quality.environment import prefect_at
from wine_quality.ports import free_port, listens

TRAIN = ("orchestration.run", "orchestration.train:train_wine_quality")
SCORE = ("orchestration.run", "deployment.batch:score_wine_batches")
MONITOR = ("orchestration.run", "monitoring.monitor:monitor_wine_quality")


def wait_until(true: Callable[[], object], what: str, seconds: float = 300) -> None:
    """Return once `true` gives something true; fail with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not in {seconds} s"
        time.sleep(0.1)


def command(*words: str, typed: str = "", seconds: float = 600, **environment: str) -> subprocess.CompletedProcess:
    """Run a module of the repository as a reader would, by its name and words; a first word `make` runs make."""
    head = () if words[0] == "make" else (sys.executable, "-m")
    own = {**os.environ, **environment}
    return subprocess.run(
        [*head, *words], cwd=ROOT, env=own, input=typed, capture_output=True, text=True, timeout=seconds
    )


@contextmanager
def running(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen]:
    """Run a Python module or script in a session of its own, its lines in a log; end all of it at the end."""
    with log.open("wb") as screen:
        words, own = [sys.executable, *command], {**os.environ, **environment}
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=screen, stderr=screen, env=own, start_new_session=True
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen, first: signal.Signals = signal.SIGTERM) -> int:
    """Stop a process that leads its own session, by a signal and in the end by SIGKILL; return its exit code."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, first)
    try:
        return process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


@contextmanager
def prefect_server(home: Path, port: int | None = None) -> Iterator[int]:
    """Run Prefect's own server over a home; yield its port. In the block, Prefect reports to it."""
    port = port or free_port()
    home.mkdir(parents=True, exist_ok=True)
    own = {"PREFECT_HOME": str(home), **prefect_at(port)}
    with running(["-m", "orchestration.prefect_server"], home / "server.log", **own) as server:
        wait_until(lambda: server.poll() is not None or listens(port), "Prefect")
        assert server.poll() is None, (home / "server.log").read_text()
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
            drain()  # what still talks to another server
            yield port
            drain()  # else, at exit, it looks for this one for minutes


def drain() -> None:
    """Stop Prefect's background services, which start again with the settings of their next use."""
    for service in (APILogWorker, EventsWorker):
        service.drain_all(timeout=30, at_exit=False)


def wait_for_run(client: SyncPrefectClient, flow_run: FlowRun) -> FlowRun:
    """Return a run as it is once it has ended."""
    wait_until(lambda: client.read_flow_run(flow_run.id).state.is_final(), f"run {flow_run.name}")
    return client.read_flow_run(flow_run.id)


def artifact_keys(flow_run: FlowRun) -> set[str]:
    """Return the keys of the artifacts that a run left."""
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]))
    with get_client(sync_client=True) as client:
        return {str(artifact.key) for artifact in client.read_artifacts(artifact_filter=of_run)}


def processes_at(home: Path) -> list[str]:
    """Return the commands of the processes that still name a folder."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(home) in line]
