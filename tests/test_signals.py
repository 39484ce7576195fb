"""A command started where SIGINT is ignored: a signal sent to it alone ends it and all that it started."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from servers import TRAIN, stop, wait_until

from wine_quality.config import ROOT
from wine_quality.ports import free_port, listens

pytestmark = pytest.mark.slow

IGNORING = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")  # as in a background job of a script
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
KILLED = {**CODES, signal.SIGKILL: -signal.SIGKILL}


@pytest.fixture
def ports(monkeypatch, few_wines) -> dict[str, int]:
    ports = {name: free_port() for name in ("PREFECT", "MLFLOW", "S3", "SERVE")}
    for name, port in ports.items():
        monkeypatch.setenv(f"WINE_{name}_PORT", str(port))
    monkeypatch.delenv("PREFECT_HOME")
    monkeypatch.setenv("WINE_DATA", str(few_wines))
    return ports


@contextmanager
def started(log: Path, there: Callable[[subprocess.Popen], bool], *words: str) -> Iterator[subprocess.Popen]:
    """Run a module where SIGINT is ignored until it is `there`; at the end of the block it has ended in any case."""
    with log.open("wb") as screen:
        streams = {"stdin": subprocess.DEVNULL, "stdout": screen, "stderr": screen}
        command = [*IGNORING, sys.executable, "-m", *words]
        process = subprocess.Popen(command, cwd=ROOT, **streams, start_new_session=True)
    try:
        wait_until(lambda: process.poll() is not None or there(process), "the servers")
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        stop(process, signal.SIGKILL)


def started_by(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def runs(words: str) -> Callable[[subprocess.Popen], bool]:
    def there(process: subprocess.Popen) -> bool:
        for one in started_by(process):
            with suppress(psutil.Error):
                if words in " ".join(one.cmdline()):
                    return True
        return False

    return there


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

    def there(_up: subprocess.Popen) -> bool:
        return "Worker 'laptop' started" in log.read_text() and listens(ports["MLFLOW"])

    with started(log, there, "orchestration.up") as up:
        assert assert_ends(up, number) == {signal.SIGINT: 0, signal.SIGTERM: 143}[number], log.read_text()
    assert not any(map(listens, ports.values()))


@pytest.mark.parametrize("number", CODES)
def test_make_serve_ends(ports, tmp_path, number):
    log = tmp_path / "log"
    with started(log, lambda _serve: "http://127.0.0.1" in log.read_text(), "deployment.serve") as serve:
        serve.send_signal(number)
        assert serve.wait(timeout=60) == CODES[number], log.read_text()
    assert "Traceback" not in log.read_text()


SIMULATE = (runs("monitoring.simulation.run"), "monitoring.simulation", "--short")
RUN = (runs("orchestration.prefect_server"), *TRAIN)


@pytest.mark.parametrize(
    ("command", "number"), [*((SIMULATE, number) for number in CODES), *((RUN, number) for number in KILLED)]
)
def test_make_simulate_and_make_run_end_with_all_that_they_started(ports, tmp_path, command, number):
    log = tmp_path / "log"
    with started(log, *command) as process:
        assert assert_ends(process, number) == KILLED[number], log.read_text()
    assert "Traceback" not in log.read_text()
