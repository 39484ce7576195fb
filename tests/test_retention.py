"""Which runs keep their files, in MLflow's store on this machine and in the bucket, and what the others say."""

import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from unittest import mock

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from servers import command
from versions import artifacts, crown, model_path, register_model, version

from chapters import clean_old
from orchestration.bucket import bucket_of_environment
from wine_quality import registry, retention, storage
from wine_quality.config import Settings, settings
from wine_quality.errors import SettingsError, StorageError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_for_commands")]


@pytest.fixture
def bucket(config, rclone) -> object:
    return bucket_of_environment(config)


@pytest.fixture
def published(config, bucket) -> Callable[[], ModelVersion]:
    def publish() -> ModelVersion:
        one = register_model(config, "mean")
        storage.add_to_outbox(config.outbox, one.run_id, {"rows.csv": b"a;b"})
        storage.push_waiting(bucket, config.outbox)
        return one

    return publish


def has_files(config: Settings, one: ModelVersion) -> list[bool]:
    pushed = config.local / "s3" / config.bucket / "runs" / one.run_id / "rows.csv"
    return [model_path(one).is_file(), any(artifacts(one).glob("*")), pushed.is_file()]


@pytest.fixture
def delete(config, store, bucket) -> Callable[[int], list[int]]:
    """A function that deletes all files but those of the newest versions, and returns the numbers of the others."""

    def delete(keep: int) -> list[int]:
        old = retention.beyond_newest(store, keep)
        for one in old:
            retention.delete_files(store, bucket, one, config.mlruns)
        return [int(one.version) for one in old]

    return delete


def test_the_newest_and_what_is_needed_again_keep_their_files_and_the_others_say_so(config, store, published, delete):
    assert delete(keep=1) == []
    all_versions = [published() for _ in range(6)]
    crown(all_versions[0])
    registry.promote(store, "3")  # version 1 is what a rollback returns to
    assert delete(keep=2) == [2, 4]
    for one in all_versions:
        gone = int(one.version) in (2, 4)
        assert has_files(config, one) == [not gone] * 3, one.version
        said = version(config, str(one.version)).tags.get(registry.FILES, "")
        assert said.startswith("deleted on 20") == gone
        assert mlflow.get_run(one.run_id).data.metrics, "scores stay"
    assert registry.rollback(store) == "1"
    assert delete(keep=2) == [3], "it is not needed any more, and what is gone is not deleted again"


def test_the_challenger_keeps_its_files_however_old_it_is(config, published, delete):
    first = published()
    published()
    MlflowClient().set_registered_model_alias(first.name, registry.CHALLENGER, first.version)
    published_last = register_model(config, "mean")
    MlflowClient().set_registered_model_alias(first.name, registry.CHALLENGER, first.version)
    assert delete(keep=1) == [2]
    assert has_files(config, first) == [True] * 3
    assert model_path(published_last).is_file()


def test_a_version_that_waits_for_approval_keeps_its_files(config, store, published, delete):
    first = published()
    registry.await_approval(store, "1", "a flow run")
    published()
    published()
    assert delete(keep=1) == [2]
    assert has_files(config, first) == [True] * 3
    registry.end_approval(store, "1", "rejected: no")
    assert delete(keep=1) == [1]


def test_what_was_cut_short_is_finished_by_the_next_run(config, published, delete, monkeypatch):
    first = published()
    published()
    with monkeypatch.context() as away:
        away.setattr(storage, "delete", mock.Mock(side_effect=StorageError("away")))
        with pytest.raises(StorageError):
            delete(keep=1)
    assert version(config, "1").tags[registry.FILES] == retention.BEGUN, "it says so before it is done"
    assert delete(keep=1) == [1]
    assert has_files(config, first) == [False] * 3


def test_a_version_without_files_is_not_taken_for_the_same_one(store, published, delete):
    one = published()
    assert registry.trained_on_same_inputs(store, "a recipe") is None
    registry.tag_inputs(store, str(one.version), "a recipe")
    assert registry.trained_on_same_inputs(store, "a recipe").version == one.version
    assert registry.trained_on_same_inputs(store, "another") is None
    published()
    delete(keep=1)
    assert registry.trained_on_same_inputs(store, "a recipe") is None


def test_files_outside_of_the_home_are_left_alone(config, tmp_path, published, delete):
    elsewhere = tmp_path / "elsewhere"
    mlflow.create_experiment("elsewhere", elsewhere.as_uri())
    one = register_model(settings(experiment="elsewhere"), "mean")
    published()
    assert delete(keep=1) == [1]
    assert model_path(one).is_file()


def test_clean_by_age_asks_and_deletes_what_is_older(config, published):
    first, second = published(), published()
    long_ago = 1000 * (datetime.now(UTC) - timedelta(days=40)).timestamp()
    with closing(sqlite3.connect(config.home / "mlflow.db", isolation_level=None)) as database:
        database.execute("UPDATE model_versions SET creation_time = ? WHERE version = 1", [int(long_ago)])
    assert command("chapters.clean_old", "50").stdout.startswith("clean     nothing is older than ")
    refused = command("chapters.clean_old", "30", typed="no\n")
    assert (refused.returncode, refused.stdout.splitlines()[-1][-19:]) == (1, "nothing was deleted")
    assert has_files(config, first) == [True] * 3
    done = command("chapters.clean_old", "30", typed="yes\n")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("1 run(s) and 0 drift report(s) are older than ")
    assert has_files(config, first) == [False] * 3
    assert has_files(config, second) == [True] * 3


@pytest.mark.parametrize("words", [[], ["0"], ["-1"], ["soon"], ["²"], ["1", "2"]])
def test_an_age_that_is_none_is_refused_in_one_line(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["clean_old", *words])
    with pytest.raises(SettingsError, match="Give a number of days from 1 to 36500, as in: make clean"):
        clean_old.main()
