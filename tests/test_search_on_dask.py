"""A search with an ordered window on real processes and a real Dask cluster: the same trials, whoever is killed.

It takes some two minutes: hyperopt draws at random until it has 20 trials, and each test makes 25.
"""

from functools import partial

import mlflow
import pandas as pd
import pytest
from hyperopt import hp
from mlflow import MlflowClient

from wine_quality import sources, tracking, tuning
from wine_quality.config import settings
from wine_quality.engines import InProcess, OnDask, Processes, open_engine
from wine_quality.errors import EngineError
from wine_quality.search import search
from wine_quality.splits import distinct_rows

TRIALS, WINDOW = 25, 4  # hyperopt draws at random until it has 20
SPACE = {
    "svr": {"C": hp.loguniform("C", -1, 1)},
    "kernel_ridge": {"alpha": hp.loguniform("alpha", -2, 1)},
    "extra_trees": {"max_features": hp.uniform("max_features", 0.2, 1), "min_samples_split": hp.uniformint("s", 2, 6)},
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return distinct_rows(sources.sample("a test").table).iloc[::40].reset_index(drop=True)


@pytest.fixture
def run(config, store, rows):
    def run(engine, trials=TRIALS, window=WINDOW, **options):
        options = {"space": SPACE, "engine": engine, "window": window, **options}
        return search(store.client, store.experiment_id, tuning.Objective(rows, 5), trials, config.local, **options)

    return run


@pytest.fixture(scope="module")
def expected(rows, tmp_path_factory, empty_store) -> list[tuning.Trial]:
    """The trials of a sequential search in one process."""
    store = tracking.open_store(settings(home=tmp_path_factory.mktemp("expected")))
    objective, locks = tuning.Objective(rows, 5), tmp_path_factory.mktemp("locks")
    trials, _ = search(store.client, store.experiment_id, objective, TRIALS, locks, space=SPACE, window=WINDOW)
    return trials


@pytest.fixture
def cluster(tmp_path):
    pytest.importorskip("dask", reason="needs the group scaling")
    from dask_cluster import dask_cluster

    return partial(dask_cluster, tmp_path / "cluster")


def on_trial(number: int, act):
    """Return a hook that acts once after that many trials, while others are running."""
    ended = []

    def watch(trial):
        ended.append(trial.number)
        if len(ended) == number:
            act()

    return watch


def recorded(parent: str) -> list[int]:
    runs = mlflow.search_runs(search_all_experiments=True, filter_string=f"tags.mlflow.parentRunId = '{parent}'")
    assert set(runs["status"]) == {"FINISHED"}
    return sorted(runs["tags.trial"].astype(int))


def test_two_processes_find_the_trials_of_one_and_each_has_its_own_cpu_seconds(run, expected):
    with open_engine(settings(workers=2)) as engine:
        assert isinstance(engine, Processes)
        trials, parent = run(engine)
    assert trials == expected
    assert recorded(parent) == list(range(TRIALS))
    metrics, params = mlflow.get_run(parent).data.metrics, mlflow.get_run(parent).data.params
    assert metrics["cpu_seconds"] == pytest.approx(sum(trial.cpu_seconds for trial in trials))
    assert all(trial.cpu_seconds > 0 for trial in trials)
    assert params["window"] == str(WINDOW)


def test_a_search_on_two_processes_that_was_stopped_resumes_in_one_with_the_same_trials(run, expected):
    def stop():
        raise KeyboardInterrupt

    with open_engine(settings(workers=2)) as engine, pytest.raises(KeyboardInterrupt):
        run(engine, on_trial=on_trial(9, stop))
    again = []
    trials, parent = run(InProcess(), on_trial=lambda trial: again.append(trial.number))
    assert (trials, sorted(again), recorded(parent)) == (expected, list(range(TRIALS)), list(range(TRIALS)))


def test_the_finalists_of_trials_on_other_processes_are_those_of_trials_in_this_one(run, rows, expected):
    objective = tuning.Objective(rows, 5)
    for trial in expected:
        objective({"name": trial.candidate.name, **trial.candidate.params})
    cached, fresh = (tuning.finalists(expected, one) for one in (objective, tuning.Objective(rows, 5)))
    assert [(one.candidate, one.predicted.tolist()) for one in cached] == [
        (one.candidate, one.predicted.tolist()) for one in fresh
    ]


def test_two_workers_of_dask_find_the_same_trials_though_one_is_killed_mid_trial(run, expected, cluster):
    from dask_cluster import kill

    with cluster() as running:
        with open_engine(settings(dask=running.address)) as engine:
            assert isinstance(engine, OnDask)
            trials, parent = run(engine, on_trial=on_trial(7, lambda: kill(running.workers[0])))
            assert engine.workers == 1
        assert trials == expected
        assert recorded(parent) == list(range(TRIALS))


def test_a_window_of_one_on_dask_is_the_sequential_search_bit_for_bit(run, cluster):
    sequential, _ = run(None, window=1)
    with cluster() as running, open_engine(settings(dask=running.address)) as engine:
        assert run(engine, window=1, resume=False)[0] == sequential


def test_after_the_scheduler_was_killed_the_search_resumes_from_its_runs_on_another(run, expected, cluster):
    from dask_cluster import kill

    with cluster() as running, pytest.raises(EngineError, match=r"went away\. Start it"):  # noqa: SIM117
        with open_engine(settings(dask=running.address)) as engine:
            run(engine, on_trial=on_trial(7, lambda: kill(running.scheduler)))
    (parent,) = mlflow.search_runs(filter_string="attributes.run_name = 'search'")["run_id"]
    assert MlflowClient().get_run(parent).info.status == "FAILED"
    before = recorded(parent)
    assert 7 <= len(before) < TRIALS
    with cluster() as running, open_engine(settings(dask=running.address)) as engine:
        trials, same = run(engine)
    assert (trials, same, recorded(same)) == (expected, parent, list(range(TRIALS)))


def test_without_workers_the_search_waits_then_fails_in_one_line_and_loses_no_trial(run, expected, cluster):
    from dask_cluster import kill

    with cluster() as running:
        with open_engine(settings(dask=running.address)) as engine:
            engine.patience = 2
            with pytest.raises(EngineError, match=r"had no worker for 2 s\. Start one and run again\.$"):
                run(engine, on_trial=on_trial(5, lambda: kill(*running.workers)))
        running.add_worker()
        with open_engine(settings(dask=running.address)) as engine:

            def replace():
                kill(running.workers[-1])
                running.add_worker()

            trials, parent = run(engine, on_trial=on_trial(12, replace))
    assert (trials, recorded(parent)) == (expected, list(range(TRIALS)))
