import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import mlflow
import pandas as pd
import pytest
import requests
from hyperopt import hp
from mlflow import MlflowClient

from wine_quality import data, search_runs, tuning
from wine_quality.config import settings
from wine_quality.errors import SearchError, TrackingError
from wine_quality.journal import Journal
from wine_quality.ports import free_port
from wine_quality.search_runs import tracked_search
from wine_quality.splits import distinct_wines
from wine_quality.tuning import Trial

SVR = {"svr": {"C": hp.loguniform("C", -1, 1)}}
HALF_BROKEN = {"svr": {"C": hp.uniform("C", -1, 1)}}


@pytest.fixture(scope="module")
def few_wines() -> pd.DataFrame:
    return distinct_wines(data.sample("a test").table).iloc[::40].reset_index(drop=True)


def search(wines, trials, searched=SVR, **overrides) -> tuple[list[Trial], str]:
    return tracked_search(settings(**overrides), wines, "sample", trials, searched=searched)


def children(parent: str) -> pd.DataFrame:
    runs = mlflow.search_runs(experiment_names=["wine-quality-experiment"])
    nested = runs[runs.get("tags.mlflow.parentRunId") == parent]
    return nested.assign(trial=nested["tags.trial"].astype(int)).sort_values("trial")


def journal_lines(tmp_path) -> list[dict]:
    (path,) = (tmp_path / ".local" / "searches").iterdir()
    with Journal(path) as journal:
        return journal.lines


def test_a_search_is_one_run_and_each_trial_a_run_below_it(store, few_wines):
    trials, parent = search(few_wines, 3)
    made = children(parent)
    assert list(made["tags.mlflow.runName"]) == ["trial-00-svr", "trial-01-svr", "trial-02-svr"]
    assert set(made["status"]) == {"FINISHED"}
    assert list(made["metrics.fold_rmse"]) == [trial.loss for trial in trials]
    assert list(made["params.C"].astype(float)) == [trial.choice.params["C"] for trial in trials]
    run = mlflow.get_run(parent)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "search")
    best = tuning.best(trials)
    assert run.data.metrics == {"trials": 3, "best_fold_rmse": best.loss}
    assert mlflow.artifacts.load_dict(f"runs:/{parent}/best.json") == {"name": "svr", "params": best.choice.params}
    assert mlflow.search_logged_models(experiment_ids=[run.info.experiment_id], output_format="list") == []


def test_a_trial_that_raised_has_a_failed_run_with_its_error(store, few_wines):
    trials, parent = search(few_wines, 6, HALF_BROKEN)
    failed = [trial.loss is None for trial in trials]
    assert any(failed)
    assert not all(failed)
    made = children(parent)
    assert list(made["status"]) == ["FAILED" if did else "FINISHED" for did in failed]
    assert list(made["tags.error"].notna()) == failed


def test_the_same_search_again_adds_nothing_and_a_longer_one_what_is_missing(store, few_wines):
    first, parent = search(few_wines, 2)
    again, same = search(few_wines, 2)
    assert (again, same) == (first, parent)
    more, same = search(few_wines, 4)
    assert same == parent
    assert more[:2] == first
    assert list(children(parent)["trial"]) == [0, 1, 2, 3]
    _, other = search(few_wines, 2, seed=7)
    assert other != parent


def test_a_process_that_stopped_between_a_run_and_its_note_makes_no_second_run(store, few_wines, monkeypatch, tmp_path):
    real = Journal.add

    def stop(self, line):
        if line.get("sent") == 1:
            raise KeyboardInterrupt
        real(self, line)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            search(few_wines, 3)
    assert [line["sent"] for line in journal_lines(tmp_path) if "sent" in line] == [0]
    _, parent = search(few_wines, 3)
    assert list(children(parent)["trial"]) == [0, 1, 2]
    assert mlflow.get_run(parent).info.status == "FINISHED"


def test_an_interrupted_search_says_so_and_is_finished_when_it_goes_on(store, few_wines, monkeypatch):
    real = search_runs.SearchRun.take

    def stop(self, trial):
        real(self, trial)
        if trial.number == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(search_runs.SearchRun, "take", stop)
        with pytest.raises(KeyboardInterrupt):
            search(few_wines, 3)
    (parent,) = mlflow.search_runs(filter_string="attributes.run_name = 'search'")["run_id"]
    assert mlflow.get_run(parent).info.status == "KILLED"
    assert search(few_wines, 3)[1] == parent
    assert mlflow.get_run(parent).info.status == "FINISHED"


def test_a_database_that_was_taken_away_gets_all_kept_trials_again(config, empty_store, few_wines, monkeypatch):
    first, parent = search(few_wines, 3)
    shutil.copyfile(empty_store, config.home / "mlflow.db")
    monkeypatch.setattr(tuning.Objective, "rmse", None)
    again, new = search(few_wines, 3)
    assert again == first
    assert new != parent
    assert list(children(new)["metrics.fold_rmse"]) == [trial.loss for trial in first]


def test_a_search_of_no_trials_leaves_no_run(store, few_wines):
    with pytest.raises(SearchError, match="at least one of each"):
        search(few_wines, 0)
    assert mlflow.search_runs(experiment_names=["wine-quality-experiment"]).empty


SCRIPT = """
import sys
from hyperopt import hp
from wine_quality import data, splits
from wine_quality.config import settings
from wine_quality.search_runs import tracked_search
wines = splits.distinct_wines(data.sample("a test").table).iloc[::40].reset_index(drop=True)
searched = {"svr": {"C": hp.loguniform("C", -1, 1)}}
print(tracked_search(settings(seed=int(sys.argv[1])), wines, "sample", int(sys.argv[2]), searched=searched)[1])
"""


def searching(seed: int, trials: int) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, str(seed), str(trials)]
    return subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_searches_into_one_store_at_once_lose_no_run(store):
    both = [searching(seed, 25) for seed in (1, 2)]
    parents = [process.communicate(timeout=120)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    for parent in parents:
        made = children(parent)
        assert list(made["trial"]) == list(range(25))
        assert made["metrics.fold_rmse"].notna().all()
        assert mlflow.get_run(parent).info.status == "FINISHED"


@pytest.mark.slow
def test_a_killed_search_goes_on_without_losing_or_repeating_a_trial(store, few_wines, tmp_path):
    process = searching(3, 500)
    folder = tmp_path / ".local" / "searches"
    while not folder.exists() or sum(path.read_text().count('"sent"') for path in folder.iterdir()) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    kept = [line["trial"] for line in journal_lines(tmp_path) if "trial" in line]
    trials, parent = search(few_wines, len(kept) + 1, seed=3)
    assert [trial.ended for trial in trials[:-1]] == [line["ended"] for line in kept]
    assert list(children(parent)["trial"]) == list(range(len(kept) + 1))
    assert mlflow.get_run(parent).info.status == "FINISHED"


@contextmanager
def mlflow_server(port: int, folder):
    """Run an MLflow server for the time of the block; yield its process."""
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "files")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", *command, *store], env=environment, stdout=log, stderr=log)
    try:
        while True:
            assert process.poll() is None
            try:
                requests.get(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except requests.ConnectionError:
                time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.slow
def test_a_server_that_goes_away_costs_no_trial(few_wines, empty_store, tmp_path, monkeypatch, caplog, capsys):
    port = free_port()
    shutil.copyfile(empty_store, tmp_path / "server.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(search_runs, "WAIT", 0)
    real = search_runs.SearchRun.take
    with mlflow_server(port, tmp_path) as server, monkeypatch.context() as patch:

        def stop_it(self, trial):
            if trial.number == 2:
                server.terminate()
                server.wait(timeout=30)
            real(self, trial)

        patch.setattr(search_runs.SearchRun, "take", stop_it)
        with (
            caplog.at_level(logging.WARNING, "wine_quality"),
            pytest.raises(TrackingError, match=r"3 finished trials wait in .*\.jsonl.*none is repeated"),
        ):
            search(few_wines, 5)
    warned = [record.getMessage() for record in caplog.records if record.name == "wine_quality.search"]
    assert len(warned) == 1
    assert "The search goes on; its trials are kept in" in warned[0]

    with mlflow_server(port, tmp_path):
        monkeypatch.setattr(tuning.Objective, "rmse", None)
        trials, parent = search(few_wines, 5)
        made = children(parent)
        assert list(made["metrics.fold_rmse"]) == [trial.loss for trial in trials]
        assert MlflowClient().get_run(parent).info.status == "FINISHED"
    assert capsys.readouterr().out == ""
