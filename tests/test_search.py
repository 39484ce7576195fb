"""The search and its runs in real MLflow stores: resumed, interrupted, killed, run twice at once, cut off."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from itertools import chain, repeat
from unittest import mock

import mlflow
import pandas as pd
import pytest
from hyperopt import hp
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from servers import running, wait_until
from tenacity import wait_none

from wine_quality import sources, tracking, tuning
from wine_quality.config import settings
from wine_quality.engines import InProcess
from wine_quality.errors import SearchError, TrackingError
from wine_quality.ports import free_port, listens
from wine_quality.search import RETRYING, Draws, search
from wine_quality.splits import distinct_rows

SVR = {"svr": {"C": hp.loguniform("C", -1, 1)}}
HALF_BROKEN = {"svr": {"C": hp.uniform("C", -1, 1)}}
BROKEN = {"svr": {"C": hp.uniform("C", -2, -1)}}
OUTAGE = MlflowException("the server is down")
AT_ONCE = RETRYING.copy(wait=wait_none())


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return distinct_rows(sources.sample("a test").table).iloc[::40].reset_index(drop=True)


@pytest.fixture
def run(config, store, rows):
    def run(trials, seed=5, client=store.client, space=SVR, **options):
        options = {"space": space, "retrying": AT_ONCE, **options}
        return search(client, store.experiment_id, tuning.Objective(rows, seed), trials, config.local, **options)

    return run


def failing(name: str, failures: int, error: BaseException = OUTAGE) -> mock.Mock:
    """Return a client with one method that fails a few times, as if MLflow were down or the process were stopped."""
    client = mock.Mock(wraps=tracking.open_store(settings()).client)
    getattr(client, name).side_effect = chain([error] * failures, repeat(mock.DEFAULT))
    return client


def trial_runs(parent: str) -> pd.DataFrame:
    runs = mlflow.search_runs(search_all_experiments=True, filter_string=f"tags.mlflow.parentRunId = '{parent}'")
    return runs.assign(trial=runs.get("tags.trial", pd.Series(dtype=int)).astype(int)).sort_values("trial")


def status(run_id: str) -> str:
    return MlflowClient().get_run(run_id).info.status


def parent_id() -> str:
    (parent,) = mlflow.search_runs(filter_string="attributes.run_name = 'search'")["run_id"]
    return parent


def stop_at(number):
    def stop(trial):
        if trial.number == number:
            raise KeyboardInterrupt

    return stop


def all_runs() -> pd.DataFrame:
    return mlflow.search_runs(experiment_names=["wine-quality-experiment"])


def count_evaluations(monkeypatch) -> list:
    """Return a list that will contain each draw evaluated from now on."""
    evaluated, real = [], tuning.Objective.__call__
    monkeypatch.setattr(tuning.Objective, "__call__", lambda self, draw: evaluated.append(draw) or real(self, draw))
    return evaluated


def test_a_search_is_one_run_and_each_trial_a_nested_run(run):
    trials, parent = run(3)
    runs = trial_runs(parent)
    assert list(runs["tags.mlflow.runName"]) == ["trial-00-svr", "trial-01-svr", "trial-02-svr"]
    assert set(runs["status"]) == {"FINISHED"}
    assert list(runs["metrics.fold_rmse"]) == [trial.loss for trial in trials]
    assert list(runs["params.C"].astype(float)) == [trial.candidate.params["C"] for trial in trials]
    found, best = mlflow.get_run(parent), tuning.best(trials)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "search")
    spent = sum(trial.cpu_seconds for trial in trials)
    assert list(runs["metrics.cpu_seconds"]) == [trial.cpu_seconds for trial in trials]
    assert found.data.metrics == {"trials": 3, "best_fold_rmse": best.loss, "cpu_seconds": pytest.approx(spent)}
    assert found.data.params["window"] == "1"
    assert json.loads(found.data.tags["best_candidate"]) == {"name": "svr", "params": best.candidate.params}
    assert [one.dataset.name for one in found.inputs.dataset_inputs] == ["training set"]
    assert mlflow.search_logged_models(experiment_ids=[found.info.experiment_id], output_format="list") == []


def test_the_runs_go_to_the_store_of_the_client_not_to_that_of_the_process(run, config, store, tmp_path):
    own = config.mlflow_uri
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/elsewhere.db")
    _, parent = run(1)
    assert not (tmp_path / "elsewhere.db").exists()
    mlflow.set_tracking_uri(own)
    assert list(trial_runs(parent)["trial"]) == [0]


def test_the_same_seed_gives_the_same_trials_and_another_seed_others(run):
    (first, parent), (second, another), (other, _) = run(4), run(4, resume=False), run(4, seed=6)
    assert first == second
    assert parent != another
    assert first != other


def test_a_failed_trial_has_a_failed_run_with_its_error_and_the_search_continues(run):
    run(5, space=HALF_BROKEN)
    trials, parent = run(8, space=HALF_BROKEN)
    failed = [trial.loss is None for trial in trials]
    assert 0 < sum(failed) < 8
    assert [trial.candidate.params["C"] <= 0 for trial in trials] == failed
    runs = trial_runs(parent)
    assert list(runs["status"]) == ["FAILED" if did else "FINISHED" for did in failed]
    assert list(runs["tags.error"].notna()) == failed
    assert trials == run(8, space=HALF_BROKEN, resume=False)[0]


def test_if_every_trial_fails_the_search_fails_with_the_last_error(run):
    with pytest.raises(SearchError, match=r"^all 2 trials failed, the last with: InvalidParameterError: .*'C'"):
        run(2, space=BROKEN)
    assert status(parent_id()) == "FAILED"


def test_a_programming_error_is_not_a_failed_trial(run, monkeypatch):
    monkeypatch.setattr(tuning, "cross_predict", lambda *args: {}["typo"])
    with pytest.raises(KeyError, match="typo"):
        run(2)
    assert status(parent_id()) == "FAILED"
    assert trial_runs(parent_id()).empty


def test_a_search_without_trials_is_rejected_and_leaves_no_run(run):
    for trials in (0, -3):
        with pytest.raises(SearchError, match="at least one"):
            run(trials)
    assert all_runs().empty


def test_the_same_search_again_adds_nothing_and_a_longer_one_what_is_missing(run):
    first, parent = run(3)
    before = all_runs()
    for trials in (3, 2):
        assert run(trials) == (first[:trials], parent)
    pd.testing.assert_frame_equal(all_runs(), before)
    more, same = run(5)
    assert (more[:3], same) == (first, parent)
    assert list(trial_runs(parent)["trial"]) == [0, 1, 2, 3, 4]
    assert run(2, space={"svr": {"gamma": 0.1, **SVR["svr"]}})[1] != parent


def test_an_interrupted_search_resumes_with_the_same_trials(run, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        run(22, on_trial=stop_at(2))
    assert status(parent_id()) == "KILLED"
    seen, evaluated = [], count_evaluations(monkeypatch)
    resumed, parent = run(22, on_trial=lambda trial: seen.append(trial.number))
    assert (parent, status(parent)) == (parent_id(), "FINISHED")
    assert (seen, len(evaluated)) == (list(range(22)), 19)
    assert resumed == run(22, resume=False)[0]


@pytest.mark.parametrize("call", ["log_batch", "set_terminated"])
def test_a_half_written_trial_is_deleted_and_evaluated_again(run, call):
    for options in ({"on_trial": stop_at(0)}, {"client": failing(call, 1, KeyboardInterrupt())}):
        with pytest.raises(KeyboardInterrupt):
            run(3, **options)
    assert list(trial_runs(parent_id())["status"]) == ["FINISHED", "RUNNING"]
    trials, parent = run(3)
    runs = trial_runs(parent)
    assert list(zip(runs["trial"], runs["status"], strict=True)) == [(number, "FINISHED") for number in range(3)]
    assert trials == run(3, resume=False)[0]


def test_a_trial_whose_run_was_deleted_is_evaluated_again_with_the_same_draw(run):
    trials, parent = run(4)
    MlflowClient().delete_run(trial_runs(parent)["run_id"].iloc[1])
    assert run(4) == (trials, parent)
    assert list(trial_runs(parent)["trial"]) == [0, 1, 2, 3]


@pytest.mark.parametrize("call", ["search_runs", "create_run", "log_batch", "set_terminated"])
def test_a_short_outage_is_retried_and_no_run_is_created_twice(run, call):
    client = failing(call, 3)
    trials, parent = run(3, client=client)
    assert getattr(client, call).call_count > 3
    assert list(trial_runs(parent)["trial"]) == [0, 1, 2]
    assert set(trial_runs(parent)["status"]) == {"FINISHED"}
    assert trials == run(3, resume=False)[0]


def test_a_long_outage_stops_the_search_with_one_line_and_no_recorded_trial_is_lost(run, monkeypatch):
    client = failing("create_run", 0)

    def cut_off(trial):
        if trial.number == 1:
            client.create_run.reset_mock()
            client.create_run.side_effect = OUTAGE

    with pytest.raises(TrackingError, match=r"^MLflow: the server is down\. .* recorded trials are stored.*resume"):
        run(4, client=client, on_trial=cut_off)
    assert client.create_run.call_count == 5
    assert list(trial_runs(parent_id())["trial"]) == [0, 1]
    evaluated = count_evaluations(monkeypatch)
    trials, parent = run(4)
    assert (len(evaluated), status(parent)) == (2, "FINISHED")
    assert trials == run(4, resume=False)[0]


class LastFirst(InProcess):
    """An engine on which the unit that was submitted last ends first."""

    def next_done(self):
        self.waiting.rotate(1)
        return super().next_done()


def test_in_a_window_the_trials_do_not_depend_on_the_order_in_which_they_end(run):
    ended = []
    in_order, parent = run(24, window=4)
    shuffled, other = run(24, window=4, engine=LastFirst(), resume=False, on_trial=ended.append)
    assert shuffled == in_order
    assert [trial.number for trial in ended][:4] == [3, 2, 1, 0]
    assert mlflow.get_run(parent).data.params["window"] == "4"
    assert other != parent


def test_a_draw_uses_only_the_losses_before_the_window_even_if_later_trials_have_ended(rows):
    draws = Draws(tuning.Objective(rows, 5), tuning.hyperopt_space(SVR), 4)
    ended = {n: tuning.Trial(n, tuning.Candidate("svr", {}), 0.5, "", {"C": [1.0], "family": [0]}) for n in range(9)}
    for number in range(9):
        draws.next(number, ended)
    assert [doc["result"].get("loss") for doc in draws.history.trials] == [0.5] * 5 + [None] * 4


def test_another_window_is_another_search_with_other_draws_after_the_random_ones(run):
    (one, parent), (four, another) = run(24), run(24, window=4)
    assert parent != another
    assert one[:20] == four[:20]  # hyperopt draws at random
    assert one[21:] != four[21:]


def test_a_search_with_a_window_resumes_where_trials_are_missing_in_between(run, monkeypatch):
    trials, parent = run(24, window=4)
    runs = trial_runs(parent)["run_id"]
    for number in (3, 20, 22, 23):
        MlflowClient().delete_run(runs.iloc[number])
    evaluated = count_evaluations(monkeypatch)
    assert run(24, window=4, engine=LastFirst()) == (trials, parent)
    assert len(evaluated) == 4


SCRIPT = """
import sys
from hyperopt import hp
from wine_quality import sources, splits, tracking
from wine_quality.config import settings
from wine_quality.search import search
from wine_quality.tuning import Objective
rows = splits.distinct_rows(sources.sample("a test").table).iloc[::40].reset_index(drop=True)
config, seed, trials = settings(), int(sys.argv[1]), int(sys.argv[2])
store, space = tracking.open_store(config), {"svr": {"C": hp.loguniform("C", -1, 1)}}
print(search(store.client, store.experiment_id, Objective(rows, seed), trials, config.local, space=space)[1])
"""


def searching(seed: int, trials: int) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, str(seed), str(trials)]
    return subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, text=True)


def search_at_once(seeds: tuple[int, int], trials: int) -> list[str]:
    both = [searching(seed, trials) for seed in seeds]
    parents = [process.communicate(timeout=600)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    return parents


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [(1, 2), (1, 1)], ids=["two searches", "the same search"])
def test_two_processes_that_search_at_once_record_each_trial_once(store, seeds):
    parents = search_at_once(seeds, 25)
    assert len(set(parents)) == len(set(seeds))
    for parent in parents:
        assert list(trial_runs(parent)["trial"]) == list(range(25))
        assert trial_runs(parent)["metrics.fold_rmse"].notna().all()
        assert status(parent) == "FINISHED"


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(2))
def test_two_searches_that_start_in_an_empty_home_both_succeed(attempt):
    search_at_once((1, 2), 2)
    store = tracking.open_store(settings())
    runs = store.client.search_runs([store.experiment_id])
    assert (len(runs), {run.info.status for run in runs}) == (6, {"FINISHED"})


@pytest.mark.slow
def test_a_killed_search_resumes_without_losing_or_repeating_a_trial(store, run):
    process = searching(5, 500)
    while (mlflow.search_runs(filter_string="status = 'FINISHED'")).shape[0] < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    before = trial_runs(parent_id()).query("status == 'FINISHED'")
    trials, parent = run(len(before) + 1)
    after = trial_runs(parent)
    assert list(after["trial"]) == list(range(len(before) + 1))
    assert list(after["run_id"])[:-1] == list(before["run_id"])
    assert trials == run(len(trials), resume=False)[0]
    assert status(parent) == "FINISHED"


@contextmanager
def mlflow_server(port: int, folder):
    command = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "files")]
    log = folder / "server.log"
    with running([*command, *store], log, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false") as server:
        wait_until(lambda: server.poll() is not None or listens(port), "MLflow")
        assert server.poll() is None, log.read_text()
        yield server


@pytest.mark.slow
def test_a_server_that_goes_down_stops_the_search_and_the_next_one_resumes(
    rows, empty_store, tmp_path, monkeypatch, capsys
):
    port = free_port()
    shutil.copyfile(empty_store, tmp_path / "server.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    config = settings()
    with mlflow_server(port, tmp_path) as server:
        store = tracking.open_store(config)
        mlflow.set_tracking_uri(config.mlflow_uri)
        mlflow.set_experiment(experiment_id=store.experiment_id)  # where the test looks for the runs
        objective = tuning.Objective(rows, 5)
        run = partial(search, store.client, store.experiment_id, objective, 5, config.local, space=SVR)

        def stop_it(trial):
            if trial.number == 2:
                server.terminate()
                server.wait(timeout=60)

        with pytest.raises(TrackingError, match=r"^MLflow: .*Start that server"):
            run(retrying=AT_ONCE, on_trial=stop_it)
    with mlflow_server(port, tmp_path):
        recorded = trial_runs(parent_id())
        assert list(recorded["trial"]) == [0, 1, 2]
        trials, parent = run()
        runs = trial_runs(parent)
        assert list(runs["run_id"])[:3] == list(recorded["run_id"])
        assert list(runs["metrics.fold_rmse"]) == [trial.loss for trial in trials]
        assert status(parent) == "FINISHED"
    assert capsys.readouterr().out == ""
