"""Batches on real S3 servers, scored by a champion that was registered."""

import io
import json
import os
import resource
import signal
from pathlib import Path
from unittest import mock

import faults
import pandas as pd
import pytest
from batch_files import held, put
from botocore.client import BaseClient
from conftest import CLEAN
from pydantic import SecretStr
from versions import crown, registered

from orchestration.bucket import bucket_of_environment
from wine_quality import batches, labels, predictions, registry, tracking
from wine_quality.config import Settings, settings
from wine_quality.errors import DataError, PredictionsError, StorageError
from wine_quality.local_s3 import local_s3
from wine_quality.schema import FEATURES
from wine_quality.scoring import Scorer, load_scorer


@pytest.fixture(scope="module")
def trained(tmp_path_factory, empty_store) -> Path:
    """Return the database of an MLflow store with a champion."""
    home = tmp_path_factory.mktemp("trained")
    (home / "mlflow.db").write_bytes(empty_store.read_bytes())
    with mock.patch.dict(os.environ, CLEAN | {"WINE_HOME": str(home)}):
        tracking.open_store(settings())
        crown(registered(settings(), "linear"))
    return home / "mlflow.db"


@pytest.fixture
def config(trained, tmp_path) -> Settings:
    """The settings of a home with a champion."""
    (tmp_path / "mlflow.db").write_bytes(trained.read_bytes())
    return settings()


def champion(config: Settings) -> Scorer:
    with tracking.store(config) as store:
        version = registry.champion(store)
    return load_scorer(config, version)


@pytest.fixture
def rclone(config, set_aws):
    """The laptop's own S3 server, with an empty bucket."""
    with local_s3(config) as endpoint:
        set_aws(endpoint.url, endpoint.access_key, endpoint.secret_key)
        yield


@pytest.fixture
def moto_bucket(moto, config):
    """The bucket of the S3 server that moto plays, empty."""
    moto.create_bucket(Bucket=config.bucket)
    return bucket_of_environment(config)


@pytest.fixture(params=["moto_bucket", "rclone"])
def bucket(request, config):
    request.getfixturevalue(request.param)
    return bucket_of_environment(config)


def run(bucket, config: Settings, scorer: Scorer | None = None) -> dict[str, str]:
    """Process all files that wait, and return the state of each."""
    scorer = scorer or champion(config)
    found = batches.list_incoming(bucket)
    folder, uri = config.local / "batch", config.predictions_uri
    outcomes = [batches.process(bucket, entry, scorer, folder, uri) for entry in found]
    assert not (config.local / "batch").exists()
    return {outcome.file: outcome.state for outcome in outcomes}


def test_files_are_scored_with_version_and_time_and_stay(bucket, config, wines):
    put(bucket, "wines.csv", wines[FEATURES].assign(id="a"))
    put(bucket, "folder/wein rot ü.parquet", wines[FEATURES])
    assert run(bucket, config) == {"folder/wein rot ü.parquet": "scored", "wines.csv": "scored"}
    objects = held(bucket)
    scored = pd.read_csv(io.BytesIO(objects["scored/wines.csv"]))
    again = pd.read_parquet(io.BytesIO(objects["scored/folder/wein rot ü.parquet"]))
    assert scored.columns.tolist() == [*FEATURES, "id", *batches.ADDED]
    assert scored["score"].tolist() == again["score"].tolist()
    assert set(again["model_version"]) == {"1"}
    marker = json.loads(objects["scored/wines.csv.json"])
    assert set(scored["scored_at"]) == {marker["scored_at"]}
    assert marker["scored_at"].endswith("+00:00")
    assert (marker["rows"], marker["version"]) == (6, "1")
    assert {key for key in objects if key.startswith("incoming/")} == {
        "incoming/wines.csv",
        "incoming/folder/wein rot ü.parquet",
    }


def stored(config: Settings) -> pd.DataFrame:
    """Return the predictions in the database, by their ids."""
    return predictions.load(config.predictions_uri).set_index("id")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_every_scored_row_is_a_stored_prediction_that_a_label_can_be_added_to(moto_bucket, config, wines, suffix):
    asked = wines[FEATURES].assign(pH=[None, *wines["pH"].iloc[1:]])
    put(moto_bucket, f"wines.{suffix}", asked)
    run(moto_bucket, config)
    content, read = held(moto_bucket)[f"scored/wines.{suffix}"], {"csv": pd.read_csv, "parquet": pd.read_parquet}
    scored = read[suffix](io.BytesIO(content)).set_index("prediction_id")
    made = stored(config).loc[scored.index]
    assert len(made) == len(stored(config)) == len(wines)
    pd.testing.assert_frame_equal(made[FEATURES], scored[FEATURES], check_dtype=False, check_names=False)
    assert made["score"].tolist() == scored["score"].tolist()
    assert set(made["version"]) == {"1"}
    labels.add(config.predictions_uri, {scored.index[0]: 7})
    assert labels.labelled_predictions(config.predictions_uri)["id"].tolist() == [scored.index[0]]


def test_a_batch_that_is_scored_again_after_a_failure_stores_each_row_once(moto_bucket, config, wines, monkeypatch):
    put(moto_bucket, "wines.csv", wines)
    with monkeypatch.context() as broken:
        broken.setattr(batches, "upload", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(moto_bucket, config)
    first = stored(config)
    assert run(moto_bucket, config) == {"wines.csv": "scored"}
    pd.testing.assert_frame_equal(stored(config), first)
    crown(registered(config, "mean"))
    run(moto_bucket, config)
    assert stored(config)["version"].value_counts().to_dict() == {"1": 6, "2": 6}


def test_a_rejected_file_stores_nothing_not_even_its_good_rows(moto_bucket, config, wines, monkeypatch):
    monkeypatch.setattr("wine_quality.table_files.CHUNK", 2)
    put(moto_bucket, "wines.csv", wines.assign(pH=[*wines["pH"].iloc[:5], 99.0]))
    assert run(moto_bucket, config) == {"wines.csv": "rejected"}
    assert stored(config).empty


def test_two_files_of_one_content_are_traffic_twice_and_rows_alike_are_too(moto_bucket, config, wines):
    for name in ("a.csv", "b.csv"):
        put(moto_bucket, name, pd.concat([wines, wines]))
    run(moto_bucket, config)
    assert len(stored(config)) == 24


def test_without_the_database_of_predictions_the_file_waits_for_the_next_run(moto_bucket, config, wines):
    put(moto_bucket, "wines.csv", wines)
    away = config.model_copy(update={"predictions": SecretStr(f"sqlite:///{config.home}/missing/predictions.db")})
    with pytest.raises(PredictionsError, match=r"predictions cannot be stored .* and run again"):
        run(moto_bucket, away)
    assert set(held(moto_bucket)) == {"incoming/wines.csv"}
    assert run(moto_bucket, config) == {"wines.csv": "scored"}
    assert len(stored(config)) == 6


def test_what_was_scored_is_not_scored_again_until_it_changes(bucket, config, wines):
    put(bucket, "wines.csv", wines)
    assert run(bucket, config) == {"wines.csv": "scored"}
    before = held(bucket)
    put(bucket, "wines.csv", wines)
    assert run(bucket, config) == {"wines.csv": "unchanged"}
    assert held(bucket) == before
    put(bucket, "wines.csv", wines.head(4))
    assert run(bucket, config) == {"wines.csv": "scored"}
    assert held(bucket)["scored/wines.csv"].count(b"\n") == 5


def test_a_new_version_scores_again(bucket, config, wines):
    put(bucket, "wines.csv", wines)
    run(bucket, config)
    crown(registered(config, "mean"))
    assert run(bucket, config) == {"wines.csv": "scored"}
    scored = pd.read_csv(io.BytesIO(held(bucket)["scored/wines.csv"]))
    assert set(scored["model_version"]) == {2}
    assert scored["score"].nunique() == 1


def test_a_scored_file_that_is_gone_or_whose_marker_is_spoilt_is_made_again(moto_bucket, config, wines):
    client, there = moto_bucket.credentials.get_s3_client(), {"Bucket": moto_bucket.bucket_name}
    put(moto_bucket, "wines.csv", wines)
    run(moto_bucket, config)
    client.delete_object(**there, Key="scored/wines.csv")
    assert run(moto_bucket, config) == {"wines.csv": "scored"}
    client.put_object(**there, Key="scored/wines.csv.json", Body=b'{"sha256')
    assert run(moto_bucket, config) == {"wines.csv": "scored"}
    assert run(moto_bucket, config) == {"wines.csv": "unchanged"}


def test_bad_files_are_moved_with_their_reasons_and_the_good_ones_scored(bucket, config, wines):
    bad = {"a.csv": wines.assign(pH=99.0).to_csv().encode(), "b.parquet": b"PAR1", "notes.txt": b"drink soon"}
    for name, content in bad.items():
        put(bucket, name, content)
    put(bucket, "c.csv", wines)
    assert run(bucket, config) == dict.fromkeys(bad, "rejected") | {"c.csv": "scored"}
    objects = held(bucket)
    assert {name: objects[f"rejected/{name}"] for name in bad} == bad
    reasons = objects["rejected/a.csv.reasons.txt"].decode()
    assert reasons.startswith("'incoming/a.csv': 6 problems: row 2, pH: 99.0 is not 2 to 5 pH; row 3, ")
    assert b"must be a plain path" in objects["rejected/notes.txt.reasons.txt"]
    assert {key for key in objects if not key.startswith("rejected/")} == {
        "incoming/c.csv",
        "scored/c.csv",
        "scored/c.csv.json",
    }
    assert not any(str(config.home).encode() in content for content in objects.values())


@pytest.mark.parametrize("name", ["../../up.csv", "/etc/root.csv", "a/./b.csv", "a//b.csv", "a\u202eb.csv", "x" * 900])
def test_a_name_that_is_no_plain_path_goes_no_further(moto_bucket, config, wines, name):
    put(moto_bucket, name, wines)
    ((told, state),) = run(moto_bucket, config).items()
    assert state == "rejected"
    assert set(held(moto_bucket)) == {f"rejected/{told}", f"rejected/{told}.reasons.txt"}
    assert told.startswith("unfit-name-")
    assert not list(config.home.rglob("*.csv"))


def test_a_bad_file_whose_place_another_took_meanwhile_is_left_to_the_next_run(bucket, config, wines, monkeypatch):
    put(bucket, "wines.csv", "bad")
    score_once = batches.score_once

    def slowly(*args):
        put(bucket, "wines.csv", wines)
        return score_once(*args)

    with monkeypatch.context() as patch:
        patch.setattr(batches, "score_once", slowly)
        assert run(bucket, config) == {"wines.csv": "changed"}
    assert set(held(bucket)) == {"incoming/wines.csv"}
    assert run(bucket, config) == {"wines.csv": "scored"}


def test_a_full_disk_is_told_and_rejects_nothing(moto_bucket, config, wines):
    put(moto_bucket, "wines.csv", wines)
    scorer, before = champion(config), resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for most in (100, 500):  # while it is fetched, and while it is scored
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        try:
            with pytest.raises(DataError, match=r"batch: cannot be used \(File too large\)"):
                run(moto_bucket, config, scorer)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert set(held(moto_bucket)) == {"incoming/wines.csv"}


def test_a_bucket_without_files_and_one_that_is_missing(moto_bucket, config, monkeypatch):
    assert batches.list_incoming(moto_bucket) == []
    monkeypatch.setenv("WINE_BUCKET", "no-such-wine")
    with pytest.raises(StorageError, match="bucket no-such-wine: there is no such bucket"):
        batches.list_incoming(bucket_of_environment(settings()))


def killed_run(environment: dict[str, str], changes: int) -> None:
    """Process the files in another process, which SIGKILL ends after some changes of the bucket."""
    os.environ.clear()
    os.environ.update(environment)
    config, call, made = settings(), BaseClient._make_api_call, []

    def call_and_die(client, operation, parameters):
        answer = call(client, operation, parameters)
        if operation in ("PutObject", "DeleteObject"):
            made.append(operation)
            if len(made) == changes:
                os.kill(os.getpid(), signal.SIGKILL)
        return answer

    BaseClient._make_api_call = call_and_die
    run(bucket_of_environment(config), config)


@pytest.mark.slow
def test_runs_that_are_killed_each_a_change_later_leave_nothing_half_and_the_next_one_completes(
    moto_bucket, config, wines
):
    scorer, killed, changes = champion(config), True, 0
    while killed:
        put(moto_bucket, "good.csv", wines)
        run(moto_bucket, config, scorer)
        put(moto_bucket, "bad.csv", "bad")
        put(moto_bucket, "good.csv", wines.head(3))
        changes += 1
        process = faults.SERVER.Process(target=killed_run, args=(dict(os.environ), changes))
        process.start()
        process.join(120)
        killed = process.exitcode == -signal.SIGKILL
        assert killed or process.exitcode == 0
        assert_nothing_half(held(moto_bucket))
        assert "failed" not in run(moto_bucket, config, scorer).values()
        assert_complete(held(moto_bucket))
    assert changes == 7  # three to score the one, three to move the other, and a run that ended


def assert_nothing_half(objects: dict[str, bytes]) -> None:
    """Assert that the scored file is whole, that its marker speaks of it, and that the bad one is somewhere."""
    rows = objects["scored/good.csv"].count(b"\n") - 1
    assert rows in (3, 6)
    assert json.loads(objects["scored/good.csv.json"]).get("rows", rows) == rows
    assert b"bad" in (objects.get("incoming/bad.csv"), objects.get("rejected/bad.csv"))
    assert "rejected/bad.csv" not in objects or "rejected/bad.csv.reasons.txt" in objects
    assert not any(key.startswith("scored/bad") for key in objects)


def assert_complete(objects: dict[str, bytes]) -> None:
    assert set(objects) == {
        "incoming/good.csv",
        *("scored/good.csv", "scored/good.csv.json"),
        *("rejected/bad.csv", "rejected/bad.csv.reasons.txt"),
    }
    assert json.loads(objects["scored/good.csv.json"])["rows"] == 3
    assert objects["scored/good.csv"].count(b"\n") == 4
