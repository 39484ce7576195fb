"""Batches on real S3 servers, scored by a registered champion."""

import io
import json
import os
import signal
from unittest import mock
from uuid import NAMESPACE_URL, uuid5

import faults
import pandas as pd
import pytest
from batch_files import contents, put
from botocore.client import BaseClient
from conftest import CLEAN
from pydantic import SecretStr
from versions import crown, register_model

from orchestration.bucket import bucket_of_environment
from wine_quality import batches, labels, predictions, registry, tracking
from wine_quality.config import Settings, settings
from wine_quality.errors import DataError, PredictionsError, StorageError
from wine_quality.schema import FEATURES
from wine_quality.scoring import Scorer, load_scorer


@pytest.fixture(scope="module")
def trained(tmp_path_factory, empty_store) -> bytes:
    """The database of an MLflow store with a champion."""
    home = tmp_path_factory.mktemp("trained")
    (home / "mlflow.db").write_bytes(empty_store.read_bytes())
    with mock.patch.dict(os.environ, CLEAN | {"WINE_HOME": str(home)}):
        tracking.open_store(settings())
        crown(register_model(settings(), "linear"))
    return (home / "mlflow.db").read_bytes()


@pytest.fixture
def config(trained, tmp_path) -> Settings:
    (tmp_path / "mlflow.db").write_bytes(trained)
    return settings()


@pytest.fixture(params=["moto_bucket", "rclone"])
def bucket(request, config):
    request.getfixturevalue(request.param)
    return bucket_of_environment(config)


def champion(config: Settings) -> Scorer:
    with tracking.store(config) as store:
        version = registry.champion(store)
    return load_scorer(config, version)


def run(bucket, config: Settings, scorer: Scorer | None = None) -> dict[str, str]:
    """Process all incoming files, and return the state of each."""
    scorer, folder = scorer or champion(config), config.local / "batch"
    entries = batches.list_incoming(bucket)
    outcomes = [batches.process(bucket, entry, scorer, folder, config.predictions_uri) for entry in entries]
    assert not folder.exists()
    return {outcome.file: outcome.state for outcome in outcomes}


def stored_predictions(config: Settings) -> pd.DataFrame:
    return predictions.load(config.predictions_uri).set_index("id")


def test_files_are_scored_with_version_and_time_and_stay_under_incoming(bucket, config, wines):
    put(bucket, "wines.csv", wines[FEATURES].assign(id="a"))
    put(bucket, "folder/wein rot ü.parquet", wines[FEATURES])
    assert run(bucket, config) == {"folder/wein rot ü.parquet": "scored", "wines.csv": "scored"}
    objects = contents(bucket)
    scored = pd.read_csv(io.BytesIO(objects["scored/wines.csv"]))
    again = pd.read_parquet(io.BytesIO(objects["scored/folder/wein rot ü.parquet"]))
    assert scored.columns.tolist() == [*FEATURES, "id", *batches.ADDED]
    assert scored["score"].tolist() == again["score"].tolist()
    assert set(again["model_version"]) == {"1"}
    marker = json.loads(objects["scored/wines.csv.json"])
    assert set(scored["scored_at"]) == {marker["scored_at"]}
    assert marker["scored_at"].endswith("+00:00")
    assert (marker["rows"], marker["version"]) == (6, "1")
    remaining = {key for key in objects if key.startswith("incoming/")}
    assert remaining == {"incoming/wines.csv", "incoming/folder/wein rot ü.parquet"}


@pytest.mark.parametrize(("suffix", "read"), [("csv", pd.read_csv), ("parquet", pd.read_parquet)])
def test_every_scored_row_is_a_stored_prediction_that_can_be_labelled(moto_bucket, config, wines, suffix, read):
    put(moto_bucket, f"wines.{suffix}", wines[FEATURES].assign(pH=[None, *wines["pH"].iloc[1:]]))
    run(moto_bucket, config)
    scored = read(io.BytesIO(contents(moto_bucket)[f"scored/wines.{suffix}"])).set_index("prediction_id")
    rows = stored_predictions(config).loc[scored.index]
    assert len(rows) == len(stored_predictions(config)) == len(wines)
    pd.testing.assert_frame_equal(rows[FEATURES], scored[FEATURES], check_dtype=False, check_names=False)
    assert rows["score"].tolist() == scored["score"].tolist()
    assert set(rows["version"]) == {"1"}
    labels.add(config.predictions_uri, {scored.index[0]: 7})
    assert labels.labelled_predictions(config.predictions_uri)["id"].tolist() == [scored.index[0]]


def test_the_id_of_a_row_is_the_uuid_of_its_file_and_row_number():
    names = [f"wein ü.csv abc 1 {row}" for row in range(7, 1_007)]
    assert batches.row_ids("wein ü.csv abc 1", range(7, 1_007)) == [str(uuid5(NAMESPACE_URL, name)) for name in names]


def test_after_a_failure_the_next_run_scores_the_file_and_stores_each_row_once_per_version(
    moto_bucket, config, wines, monkeypatch
):
    put(moto_bucket, "wines.csv", wines)
    away = config.model_copy(update={"predictions": SecretStr(f"sqlite:///{config.home}/missing/predictions.db")})
    with pytest.raises(PredictionsError, match=r"predictions cannot be stored .* and run again"):
        run(moto_bucket, away)
    assert set(contents(moto_bucket)) == {"incoming/wines.csv"}
    with monkeypatch.context() as broken:
        broken.setattr(batches, "upload", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(moto_bucket, config)
    first = stored_predictions(config)
    assert len(first) == 6
    assert run(moto_bucket, config) == {"wines.csv": "scored"}
    pd.testing.assert_frame_equal(stored_predictions(config), first)
    crown(register_model(config, "mean"))
    run(moto_bucket, config)
    assert stored_predictions(config)["version"].value_counts().to_dict() == {"1": 6, "2": 6}


def test_identical_rows_and_files_are_all_stored_but_a_rejected_file_is_not(moto_bucket, config, wines, monkeypatch):
    monkeypatch.setattr("wine_quality.table_files.CHUNK", 2)
    put(moto_bucket, "bad.csv", wines.assign(pH=[*wines["pH"].iloc[:5], 99.0]))
    assert run(moto_bucket, config) == {"bad.csv": "rejected"}
    assert stored_predictions(config).empty
    for name in ("a.csv", "b.csv"):
        put(moto_bucket, name, pd.concat([wines, wines]))
    run(moto_bucket, config)
    assert len(stored_predictions(config)) == 24


def test_a_file_is_scored_again_once_it_or_its_result_or_the_version_changed(bucket, config, wines):
    client, there = bucket.credentials.get_s3_client(), {"Bucket": bucket.bucket_name}
    put(bucket, "wines.csv", wines)
    assert run(bucket, config) == {"wines.csv": "scored"}
    before = contents(bucket)
    put(bucket, "wines.csv", wines)
    assert run(bucket, config) == {"wines.csv": "unchanged"}
    assert contents(bucket) == before
    put(bucket, "wines.csv", wines.head(4))
    assert run(bucket, config) == {"wines.csv": "scored"}
    assert contents(bucket)["scored/wines.csv"].count(b"\n") == 5
    client.delete_object(**there, Key="scored/wines.csv")
    assert run(bucket, config) == {"wines.csv": "scored"}
    client.put_object(**there, Key="scored/wines.csv.json", Body=b'{"sha256')
    assert run(bucket, config) == {"wines.csv": "scored"}
    assert run(bucket, config) == {"wines.csv": "unchanged"}
    crown(register_model(config, "mean"))
    assert run(bucket, config) == {"wines.csv": "scored"}
    scored = pd.read_csv(io.BytesIO(contents(bucket)["scored/wines.csv"]))
    assert set(scored["model_version"]) == {2}
    assert scored["score"].nunique() == 1


def test_bad_files_are_moved_with_their_reasons_and_the_good_ones_scored(bucket, config, wines):
    bad = {"a.csv": wines.assign(pH=99.0).to_csv().encode(), "b.parquet": b"PAR1", "notes.txt": b"drink soon"}
    for name, content in {**bad, "c.csv": wines}.items():
        put(bucket, name, content)
    assert run(bucket, config) == dict.fromkeys(bad, "rejected") | {"c.csv": "scored"}
    objects = contents(bucket)
    assert {name: objects[f"rejected/{name}"] for name in bad} == bad
    reasons = objects["rejected/a.csv.reasons.txt"].decode()
    assert reasons.startswith("'incoming/a.csv': 6 problems: row 2, pH: 99.0 is not 2 to 5 pH; row 3, ")
    assert b"must be a plain path" in objects["rejected/notes.txt.reasons.txt"]
    others = {key for key in objects if not key.startswith("rejected/")}
    assert others == {"incoming/c.csv", "scored/c.csv", "scored/c.csv.json"}
    assert not any(str(config.home).encode() in content for content in objects.values())


@pytest.mark.parametrize("name", ["../../up.csv", "/etc/root.csv", "a/./b.csv", "a//b.csv", "a\u202eb.csv", "x" * 900])
def test_a_name_that_is_not_a_plain_path_is_replaced(moto_bucket, config, wines, name):
    put(moto_bucket, name, wines)
    ((safe_name, state),) = run(moto_bucket, config).items()
    assert state == "rejected"
    assert set(contents(moto_bucket)) == {f"rejected/{safe_name}", f"rejected/{safe_name}.reasons.txt"}
    assert safe_name.startswith("unfit-name-")
    assert not list(config.home.rglob("*.csv"))


def test_a_bad_file_that_was_replaced_in_the_meantime_is_left_to_the_next_run(bucket, config, wines, monkeypatch):
    def slowly(*args):
        put(bucket, "wines.csv", wines)
        return score_once(*args)

    put(bucket, "wines.csv", "bad")
    score_once = batches.score_once
    with monkeypatch.context() as patch:
        patch.setattr(batches, "score_once", slowly)
        assert run(bucket, config) == {"wines.csv": "changed"}
    assert set(contents(bucket)) == {"incoming/wines.csv"}
    assert run(bucket, config) == {"wines.csv": "scored"}


def test_a_full_disk_is_an_error_and_rejects_nothing(moto_bucket, config, wines):
    put(moto_bucket, "wines.csv", wines)
    scorer = champion(config)
    for size in (100, 500):  # during the download, and during scoring
        with faults.largest_file(size), pytest.raises(DataError, match=r"batch: cannot be used \(File too large\)"):
            run(moto_bucket, config, scorer)
    assert set(contents(moto_bucket)) == {"incoming/wines.csv"}


def test_an_empty_bucket_and_a_missing_one(moto_bucket, config, monkeypatch):
    assert batches.list_incoming(moto_bucket) == []
    monkeypatch.setenv("WINE_BUCKET", "no-such-wine")
    with pytest.raises(StorageError, match="bucket no-such-wine: there is no such bucket"):
        batches.list_incoming(bucket_of_environment(settings()))


def killed_run(environment: dict[str, str], changes: int) -> None:
    """Process the files in another process, which is killed by SIGKILL after some changes to the bucket."""
    os.environ.clear()
    os.environ.update(environment)
    config, call, done = settings(), BaseClient._make_api_call, []

    def call_and_die(client, operation, parameters):
        response = call(client, operation, parameters)
        if operation in ("PutObject", "DeleteObject"):
            done.append(operation)
            if len(done) == changes:
                os.kill(os.getpid(), signal.SIGKILL)
        return response

    BaseClient._make_api_call = call_and_die
    run(bucket_of_environment(config), config)


@pytest.mark.slow
def test_a_run_killed_after_any_change_leaves_nothing_incomplete_and_the_next_one_finishes(moto_bucket, config, wines):
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
        assert_nothing_half(contents(moto_bucket))
        assert "failed" not in run(moto_bucket, config, scorer).values()
        objects = contents(moto_bucket)
        rejected = {"rejected/bad.csv", "rejected/bad.csv.reasons.txt"}
        assert set(objects) == {"incoming/good.csv", "scored/good.csv", "scored/good.csv.json"} | rejected
        assert json.loads(objects["scored/good.csv.json"])["rows"] == 3
        assert objects["scored/good.csv"].count(b"\n") == 4
    assert changes == 7  # three to score one file, three to move the other, and a run that completed


def assert_nothing_half(objects: dict[str, bytes]) -> None:
    """Assert that the scored file is complete, that its marker matches, and that the bad file isn't lost."""
    rows = objects["scored/good.csv"].count(b"\n") - 1
    assert rows in (3, 6)
    assert json.loads(objects["scored/good.csv.json"]).get("rows", rows) == rows
    assert b"bad" in (objects.get("incoming/bad.csv"), objects.get("rejected/bad.csv"))
    assert "rejected/bad.csv" not in objects or "rejected/bad.csv.reasons.txt" in objects
    assert not any(key.startswith("scored/bad") for key in objects)
