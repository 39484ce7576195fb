"""Help with the chapters: start with any, check your progress, clean up; each called as a reader would."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import skops.io
from prefect import task
from prefect.client.orchestration import get_client
from prefect.states import Completed
from servers import command, processes_at
from versions import few_sides, register_model

from chapters import chapter_of, check, clean
from wine_quality import files, sources, tracking
from wine_quality.config import ROOT, settings
from wine_quality.errors import SettingsError
from wine_quality.models import build, fit
from wine_quality.ports import free_port
from wine_quality.schema import FEATURES
from wine_quality.splits import distinct_rows

pytestmark = pytest.mark.slow

MAKE = ("make", "-o", ".venv/.ready")  # no test sets up its own .venv again


class Unknown:
    """A type that none of our models has."""


@pytest.fixture
def own(monkeypatch, few_wines) -> None:
    monkeypatch.setenv("WINE_DATA", str(few_wines))


def check_chapter(number: str) -> str:
    done = command("chapters.check", number)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("words", [[], ["0"], ["7"], ["three"], ["3", "4"], ["-1"], ["²"]])
def test_a_word_that_names_no_chapter_is_rejected(words):
    typed = " ".join(["make start", *(f"CH={word}" for word in words)])
    with pytest.raises(SettingsError) as caught:
        chapter_of(words, "start")
    assert str(caught.value) == f"{typed}: which chapter? Give a number from 1 to 6, as in: make start CH=3"


@pytest.mark.long
def test_from_nothing_to_the_last_chapter_with_a_dead_proxy_and_what_is_left_to_do_there(tmp_path, own, monkeypatch):
    for name in ("PREFECT", "MLFLOW", "S3", "SERVE"):
        monkeypatch.setenv(f"WINE_{name}_PORT", str(free_port()))
    nobody = f"http://127.0.0.1:{free_port()}"
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, nobody)
        monkeypatch.setenv(name.upper(), nobody)
    first = check_chapter("4")
    assert "missing   champion: none" in first
    assert first.endswith("next      make run\n")
    started = command("chapters.start", "5")
    assert started.returncode == 0, started.stdout + started.stderr
    for line in ("start     orchestration.train", "deploy    nightly: ", "scored    ", "ready     for chapter 5: "):
        assert f"\n{line}" in started.stdout
    assert not processes_at(tmp_path)
    then = check_chapter("4")
    service = "missing   the service: not running"
    for line in ("done      champion: version 1", service, "done      predictions stored: "):
        assert line in then
    assert then.endswith("next      run make serve in another terminal\n")
    assert "orchestration.train" not in command("chapters.start", "3").stdout
    third = check_chapter("3")
    assert "done      runs in the bucket: 1" in third
    assert third.endswith("next      run make up in another terminal\n")


def test_the_first_chapters_are_checked_without_a_server_and_as_the_reader_left_them(tmp_path, own):
    shutil.copytree(ROOT / "images", tmp_path / "images")  # what comes with the checkout is not the reader's
    nothing = {"2": "runs in MLflow: 0", "5": "the simulation, complete", "6": "training runs on many rows: 0"}
    for number, missing in nothing.items():
        assert f"missing   {missing}" in check_chapter(number)
    first = check_chapter("1")
    assert "missing   models of notebook 2: none" in first
    assert "missing   the figure of notebook 3" in first
    (tmp_path / ".local" / "three-worlds.png").touch()
    assert "done      the figure of notebook 3" in check_chapter("1")


def test_what_make_run_leaves_is_not_taken_for_the_runs_of_the_notebooks(config, store):
    with (
        tracking.running(store, "search", {}) as parent,
        tracking.running(store, "trial-00-svr", {"mlflow.parentRunId": parent}),
    ):
        pass
    missing = {item.what for item in check.experiment_tracking(config) if not item.done}
    assert {"runs in MLflow: 1", "trials of a search: 1"} <= missing
    with tracking.running(store, "first-forest", {}):
        pass
    assert "runs in MLflow: 2" in {item.what for item in check.experiment_tracking(config) if item.done}


def test_a_model_of_your_own_has_to_beat_the_linear_baseline(config):
    rows = distinct_rows(sources.sample("a test").table).iloc[::4]
    rows["quality"] = np.where((rows["alcohol"] - rows["alcohol"].median()).abs() < 1, 5, 7)  # no line fits this
    assert check.own_model(config, rows).what == "a model of your own: none"
    config.models.mkdir(parents=True)
    for pipeline, done in ((build("linear", 1), False), (build("extra_trees", 1, n_estimators=50), True)):
        tracking.save_model(fit(pipeline, rows), config.models / "my-model.skops")
        assert check.own_model(config, rows).done is done
    skops.io.dump(Unknown(), config.models / "my-model.skops")
    assert check.own_model(config, rows).next_step == "choose another regressor in notebook 3"


def test_a_version_of_your_own_needs_the_alias(config):
    register_model(config, "linear")
    with tracking.store(config) as store:
        assert not check.own_version(store).done
        run_id = store.client.search_runs([store.experiment_id])[0].info.run_id
        store.client.create_registered_model(check.OWN_NAME)
        store.client.create_model_version(check.OWN_NAME, f"runs:/{run_id}/model", run_id)
        assert not check.own_version(store).done
        store.client.set_registered_model_alias(check.OWN_NAME, "champion", "1")
        assert check.own_version(store).done


@pytest.mark.usefixtures("prefect_api")
def test_a_deployment_of_your_own_needs_a_completed_run_with_a_task():
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("my-flow")
        assert check.own_deployment(client, []).next_step == "finish the exercise at the end of notebook 7"
        deployment = client.create_deployment(flow, check.OWN_DEPLOYMENT)
        assert check.own_deployment(client, []).next_step == "press Quick run on the page of my-deployment"
        run = client.create_flow_run_from_deployment(deployment, state=Completed())
        runs = client.read_flow_runs()
        assert not check.own_deployment(client, runs).done
        client.create_task_run(task(lambda: None, name="mine"), run.id, dynamic_key="0")
        assert check.own_deployment(client, runs).done


@pytest.mark.parametrize(
    ("rows", "blank", "stored", "done"), [(10, 1, 10, True), (9, 1, 9, False), (10, 0, 10, False), (10, 1, 9, False)]
)
def test_a_file_of_your_own_has_ten_rows_a_blank_and_stored_predictions(rows, blank, stored, done, monkeypatch):
    table = few_sides()[0][FEATURES].head(rows).assign(prediction_id=range(rows))
    table.loc[table.index[:blank], "pH"] = np.nan
    monkeypatch.setattr(check.predictions, "load", lambda uri: pd.DataFrame({"id": range(stored)}))
    bucket = SimpleNamespace(read_path=lambda path: table.to_csv(index=False).encode())
    assert check.own_file(settings(), bucket).done is done


@pytest.mark.parametrize(
    ("weeks", "alarms", "detected", "done"),
    [(200, 0.05, 0.9, True), (199, 0.05, 0.9, False), (200, 0.06, 0.9, False), (200, 0.05, 0.05, False)],
)
def test_a_threshold_of_your_own_has_few_false_alarms_and_detects_more(store, weeks, alarms, detected, done):
    assert check.own_threshold(store).what == "runs drift-threshold: none"
    experiment = store.client.create_experiment("drift")
    run = store.client.create_run(experiment, run_name="drift-threshold").info.run_id
    store.client.log_param(run, "weeks", weeks)
    store.client.log_metric(run, "false_alarms", alarms)
    store.client.log_metric(run, "detected", detected)
    assert check.own_threshold(store).done is done


@pytest.mark.parametrize("target", ["check", "start"])
def test_make_names_the_command_as_it_was_typed_and_calls_nothing_missing_an_error(own, target):
    why = f"which chapter? Give a number from 1 to 6, as in: make {target} CH=3"
    done = command(*MAKE, target, "CH=abc")
    assert done.stderr.splitlines()[0] == f"error: make {target} CH=abc: {why}"
    if target == "check":
        done = command(*MAKE, "check", "CH=1")
        assert (done.returncode, done.stderr) == (0, "")
        assert "missing   " in done.stdout


def test_every_chapter_has_its_check_and_its_page():
    assert set(check.CHECKS) == set(range(1, 7))


@pytest.fixture
def full_home(tmp_path) -> Path:
    """A home with an example of each generated file, and a file of the reader's own."""
    for name in ("mlflow.db", "predictions.db", "models/mine.skops", "mlruns/1/meta", ".local/s3/object", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("something")
    return tmp_path


def test_clean_lists_and_asks_and_deletes_what_was_made_and_nothing_else_after_a_yes(full_home):
    def listing() -> list[Path]:
        return sorted(path for path in full_home.rglob("*") if path.suffix != ".lock")

    before = listing()
    for typed in ("", "no\n", "y\n"):
        done = command("chapters.clean", typed=typed)
        assert done.returncode == 1
        assert "mlflow.db" in done.stdout
        assert done.stdout.endswith("nothing was deleted\n")
    assert listing() == before
    done = command("chapters.clean", typed="yes\n")
    assert (done.returncode, done.stdout.splitlines()[-1][-4:]) == (0, "done")
    assert sorted(path.name for path in full_home.iterdir()) == ["models", "notes.txt"]
    assert "nothing to delete" in command("chapters.clean").stdout


def test_clean_leaves_a_home_alone_in_which_servers_run(full_home, monkeypatch):
    with files.exclusive_lock(full_home / ".local" / "up.lock"):
        monkeypatch.setattr(clean, "is_up", lambda _: files.is_locked(settings().local / "up.lock"))
        with pytest.raises(Exception, match="make up is running on what would be deleted"):
            clean.main()
    assert (full_home / "mlflow.db").exists()
