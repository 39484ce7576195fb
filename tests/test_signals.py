"""A command started where SIGINT is ignored: a signal sent to it alone ends it and all that it started."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from servers import stop, wait_until

from wine_quality.config import ROOT
from wine_quality.ports import free_port, listens

pytestmark = pytest.mark.slow

IGNORING = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")  # as in a background job of a script, or under nohup
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture
def ports(monkeypatch, few_wines) -> dict[str, int]:
    """A free port for each server, in the environment."""
    found = {name: free_port() for name in ("PREFECT", "MLFLOW", "S3", "SERVE")}
    for name, port in found.items():
        monkeypatch.setenv(f"WINE_{name}_PORT", str(port))
    monkeypatch.delenv("PREFECT_HOME")
    monkeypatch.setenv("WINE_DATA", str(few_wines))
    return found


@contextmanager
def started(log: Path, module: str, *words: str) -> Iterator[subprocess.Popen]:
    """Run a module where SIGINT is ignored; at the end of the block it has ended, whatever came of it."""
    command = [*IGNORING, sys.executable, "-m", module, *words]
    with log.open("wb") as screen:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=screen, stderr=screen, start_new_session=True
        )
    try:
        yield process
    finally:
        stop(process, signal.SIGKILL)


def started_by(process: subprocess.Popen) -> list[psutil.Process]:
    """Return the processes that a process has started, and those that these have started."""
    return psutil.Process(process.pid).children(recursive=True)


def runs(process: subprocess.Popen, words: str) -> bool:
    """Say whether one of the processes that a process has started has some words in its command."""
    for one in started_by(process):
        try:
            if words in " ".join(one.cmdline()):
                return True
        except psutil.Error:
            continue
    return False


def wait_for(process: subprocess.Popen, there: Callable[[], bool], log: Path) -> None:
    """Return once a command has started what it starts."""
    wait_until(lambda: process.poll() is not None or there(), "the servers", 300)
    assert process.poll() is None, log.read_text()


def assert_ends(process: subprocess.Popen, number: signal.Signals) -> int:
    """Send a signal to a process alone; return its exit code once it and all that it started have ended."""
    others = started_by(process)
    assert others
    process.send_signal(number)
    code = process.wait(timeout=120)
    _, left = psutil.wait_procs(others, timeout=60)
    assert [one.cmdline() for one in left] == []
    return code


@pytest.mark.parametrize("number", CODES)
def test_make_up_ends_with_all_of_its_servers(ports, tmp_path, number):
    log = tmp_path / "log"
    with started(log, "orchestration.up") as up:
        wait_for(up, lambda: "Worker 'laptop' started" in log.read_text() and listens(ports["MLFLOW"]), log)
        assert assert_ends(up, number) == {signal.SIGINT: 0, signal.SIGTERM: 143}[number], log.read_text()
    assert not any(map(listens, ports.values()))


@pytest.mark.parametrize("number", CODES)
def test_make_serve_ends(ports, tmp_path, number):
    log = tmp_path / "log"
    with started(log, "deployment.serve") as serve:
        wait_for(serve, lambda: "http://127.0.0.1" in log.read_text(), log)
        serve.send_signal(number)
        assert serve.wait(timeout=60) == CODES[number], log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("number", CODES)
def test_make_simulate_ends_with_all_that_it_started(ports, tmp_path, number):
    log = tmp_path / "log"
    with started(log, "monitoring.simulation", "--short") as simulation:
        wait_for(simulation, lambda: runs(simulation, "monitoring.simulation.run"), log)
        assert assert_ends(simulation, number) == CODES[number], log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("number", [*CODES, signal.SIGKILL])
def test_make_run_ends_with_the_prefect_server_that_it_started(ports, tmp_path, number):
    log = tmp_path / "log"
    with started(log, "orchestration.train") as run:
        wait_for(run, lambda: runs(run, "orchestration.prefect_server"), log)
        assert assert_ends(run, number) == {**CODES, signal.SIGKILL: -signal.SIGKILL}[number], log.read_text()
    assert "Traceback" not in log.read_text()
