"""A search on processes and on a Dask cluster: the same trials whatever happens to the workers."""

import os
import shutil
import signal
import time
from dataclasses import replace

import mlflow
import pandas as pd
import psutil
import pytest
from hyperopt import hp

from wine_quality import sources, tuning
from wine_quality.config import ROOT
from wine_quality.engines import InProcess, OnDask, Processes
from wine_quality.errors import EngineError
from wine_quality.search import Draws, search
from wine_quality.splits import distinct_rows
from wine_quality.tuning import Candidate, Trial

pytestmark = pytest.mark.slow

SPACE = {
    "svr": {"C": hp.loguniform("svr.C", -1, 1)},
    "xgboost": {"max_depth": hp.uniformint("xgboost.max_depth", 2, 5), "learning_rate": 0.2},
}
CANDIDATE = Candidate("svr", {})
TRIALS, WINDOW = 24, 3  # hyperopt draws the first twenty at random


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return distinct_rows(sources.sample("a test").table).iloc[::30].reset_index(drop=True)


@pytest.fixture
def run(config, store, rows):
    def run(trials=TRIALS, window=WINDOW, **options):
        objective, locks = tuning.Objective(rows, 5), config.local
        options = {"space": SPACE, "window": window, "resume": False, **options}
        return search(store.client, store.experiment_id, objective, trials, locks, **options)

    return run


@pytest.fixture
def expected(run):
    """The trials in this process, with a window as well."""
    return run()[0]


@pytest.fixture
def processes():
    engine = Processes(2)
    yield engine
    engine.close()


@pytest.fixture
def cluster(tmp_path):
    pytest.importorskip("distributed", reason="Dask is not installed: make setup-scaling")
    from dask_cluster import dask_cluster

    with dask_cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def dask(cluster, tmp_path):
    engine = OnDask(cluster.address, tmp_path, patience=20)
    yield engine
    engine.close()


def plain(trials):
    """Return trials with losses to twelve digits: on one thread and on two, linear algebra differs after that."""
    return [replace(trial, loss=round(trial.loss, 12)) for trial in trials]


def at(number, action):
    """Return a callback that acts when trial `number` is done, while the next ones run."""
    return lambda trial: action() if trial.number == number else None


def trial_count(parent):
    return len(mlflow.search_runs(search_all_experiments=True, filter_string=f"tags.mlflow.parentRunId = '{parent}'"))


def kill_a_child():
    child = max(psutil.Process().children(recursive=True), key=lambda one: one.cpu_times().user)
    os.kill(child.pid, signal.SIGKILL)


def test_a_draw_depends_on_the_trials_before_its_window_and_not_on_those_within_it(rows):
    objective, number = tuning.Objective(rows, 5), 30
    expression = tuning.hyperopt_space(SPACE)
    draws = {window: Draws(objective, expression, window) for window in (1, 5, number)}
    drawn: dict = {}
    for earlier in range(number):
        drawn[earlier] = draws[number].draw({}, drawn, earlier)

    def trials(best: int) -> dict[int, Trial]:
        losses = {earlier: 0.5 if earlier == best else 1.0 + earlier / 100 for earlier in range(number)}
        return {earlier: Trial(earlier, CANDIDATE, loss, "", drawn[earlier]) for earlier, loss in losses.items()}

    def drawn_by(window: int, best: int):
        return draws[window].draw(trials(best), drawn, number)

    assert drawn_by(5, best=27) == drawn_by(5, best=29) != drawn_by(5, best=25)
    assert drawn_by(1, best=27) != drawn_by(1, best=29)


def test_two_processes_make_the_trials_of_one_and_the_runs_say_with_which_window(run, expected, processes):
    trials, parent = run(engine=processes)
    assert plain(trials) == plain(expected)
    assert plain(run(engine=processes, window=1)[0]) == plain(run(window=1)[0])
    logged = mlflow.get_run(parent).data
    assert logged.params["window"] == str(WINDOW)
    assert logged.metrics["cpu_seconds"] == pytest.approx(sum(trial.seconds for trial in trials))
    assert min(trial.seconds for trial in trials) > 0


def test_a_process_that_is_killed_in_a_trial_changes_nothing(run, expected, processes):
    assert plain(run(engine=processes, on_trial=at(4, kill_a_child))[0]) == plain(expected)


def test_a_search_that_was_stopped_goes_on_with_the_draws_it_would_have_made(run):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(engine=InProcess(), on_trial=at(21, stop), resume=True)
    resumed, parent = run(resume=True)
    assert trial_count(parent) == TRIALS
    assert resumed == run()[0]


def test_on_a_cluster_the_trials_are_the_same_also_after_a_worker_was_killed_in_one(run, expected, dask, cluster):
    from dask_cluster import kill

    assert dask.workers == 2
    trials = run(engine=dask, on_trial=at(4, lambda: kill(cluster.workers[0])))[0]
    assert plain(trials) == plain(expected)
    assert dask.workers == 1


def test_after_the_scheduler_was_killed_a_line_says_so_and_the_search_goes_on_elsewhere(run, dask, cluster):
    from dask_cluster import kill

    killed = []

    def kill_scheduler():
        kill(cluster.scheduler)
        killed.append(time.monotonic())

    with pytest.raises(EngineError, match=r"the Dask scheduler at .* went away"):
        run(engine=dask, on_trial=at(4, kill_scheduler), resume=True)
    assert time.monotonic() - killed[0] < 15
    resumed, parent = run(resume=True)
    assert trial_count(parent) == TRIALS
    assert plain(resumed) == plain(run()[0])


def test_without_a_worker_it_waits_for_a_new_one_and_then_gives_up_with_a_line(run, expected, dask, cluster):
    from dask_cluster import kill

    def kill_both():
        for worker in cluster.workers:
            kill(worker)

    def replace_both():
        kill_both()
        cluster.workers.clear()
        cluster.add_worker()

    assert plain(run(engine=dask, on_trial=at(4, replace_both))[0]) == plain(expected)
    dask.patience = 3
    with pytest.raises(EngineError, match="has no worker left"):
        run(engine=dask, on_trial=at(4, kill_both))


def test_a_worker_with_another_code_is_refused_and_named(run, dask, cluster, tmp_path):
    from dask_cluster import kill

    shutil.copytree(ROOT / "wine_quality", tmp_path / "other" / "wine_quality")
    module = tmp_path / "other" / "wine_quality" / "ports.py"
    module.write_text(f"{module.read_text()}# another release\n")
    for worker in cluster.workers:
        kill(worker)
    cluster.add_worker(PYTHONPATH=str(tmp_path / "other"))
    with pytest.raises(EngineError, match=r"a worker on .* differs from its client: code"):
        run(trials=3, engine=dask)
