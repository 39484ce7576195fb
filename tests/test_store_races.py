"""Several processes create one store, or write the same records to it, at the same time: none of them fails."""

import os
import subprocess
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import Any
from unittest import mock

import faults
import pytest
from honcho.environ import parse_procfile
from servers import wait_until
from versions import few_sides

from deployment.champion import Champion
from orchestration.up import PROCFILE, environment
from wine_quality import registry, tracking
from wine_quality.config import settings
from wine_quality.models import build, fit
from wine_quality.ports import free_port, listens

pytestmark = pytest.mark.slow

AT_ONCE, WAIT = 3, 600  # processes, seconds


def started(work: Callable[..., None], inherited: dict[str, str], start: Barrier, *args: Any) -> None:
    """Do the work of one process as soon as all processes are ready."""
    os.environ.clear()
    os.environ.update(inherited)
    start.wait(WAIT)
    work(start, *args)


def at_once(work: Callable[..., None], *args: Any) -> None:
    """Do the same work in several processes that start at the same moment, and fail if one of them fails."""
    everything = (work, dict(os.environ), faults.SERVER.Barrier(AT_ONCE), *args)
    processes = [faults.SERVER.Process(target=started, args=everything) for _ in range(AT_ONCE)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(WAIT)
        assert [process.exitcode for process in processes] == [0] * AT_ONCE
    finally:
        for process in processes:
            process.kill()


def train_and_register(_start: Barrier) -> None:
    config, (train, gate_set) = settings(), few_sides()
    with tracking.store(config) as store:
        run = tracking.log_run(store, "mean", fit(build("mean", 1), train), (train, gate_set), "uci", {})
        registry.register(store, run, {})


@pytest.mark.parametrize("attempt", range(4))
def test_processes_that_meet_in_an_empty_home_create_one_store(attempt, tmp_path):
    at_once(train_and_register)
    store = tracking.open_store(settings())
    assert len(store.client.search_experiments()) == 2  # MLflow's own, and ours
    assert len(store.client.search_runs([store.experiment_id])) == AT_ONCE
    versions = store.client.search_model_versions("name = 'wine-quality'")
    assert sorted(int(one.version) for one in versions) == list(range(1, AT_ONCE + 1))
    assert len({one.run_id for one in versions}) == AT_ONCE


def log_the_same(start: Barrier, rounds: int) -> None:
    """Log several datasets, each at the same moment as the other processes."""
    train, _ = few_sides()
    store = tracking.open_store(settings())
    with tracking.running(store, "a run", {}) as run_id:
        for number in range(rounds):
            start.wait(WAIT)
            tracking.log_dataset(store, run_id, train.head(10 + number), "uci", "training")


def test_processes_that_log_the_same_datasets_at_once_all_succeed(config):
    at_once(log_the_same, 25)
    store = tracking.open_store(config)
    for run in store.client.search_runs([store.experiment_id]):
        assert len(run.inputs.dataset_inputs) == 25


@pytest.mark.parametrize("attempt", range(2))
def test_the_servers_of_make_up_start_beside_a_service_in_an_empty_home(attempt, tmp_path):
    config = settings(mlflow_port=free_port())
    command = parse_procfile(PROCFILE.read_text()).processes["mlflow"]
    champion, log = Champion(config), tmp_path / "mlflow.log"
    with log.open("wb") as screen:
        server = subprocess.Popen(
            ["/bin/sh", "-c", f"exec 2>&1; {command}"], env=environment(config), stdout=screen, start_new_session=True
        )
    try:
        seen = set()
        while not listens(config.mlflow_port):
            assert server.poll() is None, log.read_text()
            champion.refresh()
            seen.add(champion.problem)
        assert all(line.endswith("make run.") for line in seen), seen
        champion.refresh()
        assert champion.problem.startswith("no version has the alias champion")
        with mock.patch.dict(os.environ, {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{config.mlflow_port}"}):
            at_once(train_and_register)
        store = tracking.open_store(config)
        wait_until(lambda: len(store.client.search_runs([store.experiment_id])) == AT_ONCE, "the runs")
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=60)
