"""The gate's lock between machines: two homes that share MLflow's and Prefect's servers, but no file."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import faults
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from servers import prefect_server, processes_at

from orchestration.gate import LEASE_SECONDS, gate_lock, make_limit
from wine_quality import registry, tracking
from wine_quality.config import settings
from wine_quality.ports import free_port
from wine_quality.processes import module, server

pytestmark = pytest.mark.slow

PROCESSES = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def prefect(tmp_path_factory) -> Iterator[str]:
    """The address of a Prefect server that has the limit."""
    with prefect_server(tmp_path_factory.mktemp("prefect")):
        make_limit()
        make_limit()  # as often as you like
        yield PREFECT_API_URL.value()


@pytest.fixture
def shared(prefect, store, few_wines, tmp_path, monkeypatch) -> Iterator[None]:
    """MLflow's and Prefect's servers, set in the environment, and a dataset."""
    port = free_port()
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    command = module("mlflow", "server", "--port", str(port), "--workers", "1", "--backend-store-uri")
    command += [settings().mlflow_uri, "--artifacts-destination", tmp_path / "mlruns"]
    with server(command, [port], tmp_path / "mlflow.log", {}, name="MLflow"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("PREFECT_API_URL", prefect)
        monkeypatch.setenv("WINE_EXPERIMENT", "shared")  # else the artifacts of the one in the store stay in a folder
        monkeypatch.setenv("WINE_DATA", str(few_wines))
        yield


def train(home: Path, fault: tuple[str, str], seed: int) -> faults.BaseProcess:
    """Start a run in a home of its own."""
    home.mkdir()
    os.environ["WINE_HOME"] = str(home)
    return faults.start(home / "log", fault, max_evals=1, seed=seed)


def test_two_machines_that_train_at_once_each_compare_with_the_champion_that_they_find(shared, tmp_path):
    homes = [tmp_path / "one", tmp_path / "other"]
    runs = [train(home, ("slow after", "train.compare"), seed) for seed, home in enumerate(homes, 1)]
    for run, home in zip(runs, homes, strict=True):
        run.join(240)
        assert run.exitcode == 0, (home / "log").read_text()
    with tracking.store(settings()) as store:
        versions = store.client.search_model_versions("name = 'wine-quality'")
        cards = {int(one.version): one.description for one in versions}
        champion = int(registry.champion(store).version)
    assert sorted(cards) == [1, 2]
    assert "the mean of the training set" in cards[1]
    assert "champion version 1" in cards[2]
    assert (champion == 2) is ("champion, in place of version 1." in cards[2])


def hold(config_home: str, prefect: str, holds: Event) -> None:
    """Hold the lock in a home of its own until the process is killed."""
    os.environ["WINE_HOME"] = config_home
    with temporary_settings({PREFECT_API_URL: prefect}), gate_lock(settings()):
        holds.set()
        time.sleep(600)


def test_the_lock_of_a_machine_that_dies_at_the_gate_is_released(shared, prefect, tmp_path):
    holds = PROCESSES.Event()
    holder = PROCESSES.Process(target=hold, args=(str(tmp_path / "other"), prefect, holds))
    holder.start()
    assert holds.wait(120)
    os.kill(holder.pid, signal.SIGKILL)
    died = time.monotonic()
    with gate_lock(settings()):
        waited = time.monotonic() - died
    assert LEASE_SECONDS / 3 < waited < 2 * LEASE_SECONDS
    assert processes_at(tmp_path / "other") == []


def test_a_prefect_server_without_the_limit_is_named_in_the_log(shared, tmp_path, caplog):
    with prefect_server(tmp_path / "prefect"), gate_lock(settings()):
        pass
    assert "has no limit wine-gate, so runs on other machines don't wait" in caplog.text
