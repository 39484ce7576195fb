"""Batches scored in parallel in real processes, and on a real Dask cluster, with one of the workers killed."""

import io
import json
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
import psutil
import pytest
from batch_files import contents, put
from pydantic import SecretStr
from servers import wait_until
from versions import crown, register_model

from orchestration.bucket import bucket_of_environment
from wine_quality import batches, predictions, sources
from wine_quality.config import Settings
from wine_quality.engines import Engine, InProcess, OnDask, Processes
from wine_quality.errors import PredictionsError
from wine_quality.plain_bucket import PlainBucket
from wine_quality.schema import FEATURES

pytestmark = pytest.mark.slow


@contextmanager
def two_processes(_config: Settings) -> Iterator[Engine]:
    engine = Processes(2)
    yield engine
    engine.close()


@contextmanager
def two_on_dask(config: Settings) -> Iterator[Engine]:
    distributed = pytest.importorskip("distributed", reason="the group scaling is not installed")
    folder = str(config.local / "dask")
    options = {
        "threads_per_worker": 1,
        "dashboard_address": "127.0.0.1:0",
        "local_directory": folder,
        "host": "127.0.0.1",
    }
    with distributed.LocalCluster(n_workers=2, silence_logs=50, **options) as cluster:
        engine = OnDask(cluster.scheduler_address, config.dask_tls)
        yield engine
        engine.close()


@pytest.fixture(params=[two_processes, two_on_dask], ids=["processes", "dask"])
def engine(request, config) -> Iterator[Engine]:
    with request.param(config) as engine:
        yield engine


@pytest.fixture
def bucket(rclone, config):
    """The bucket on this laptop; the registry has a champion."""
    crown(register_model(config, "linear", intervals=True))
    return bucket_of_environment(config)


def run(bucket: Any, config: Settings, engine: Engine, version: str = "1") -> dict[str, str]:
    """Score all files that wait, and return the state of each, in the order in which they are listed."""
    entries = batches.list_incoming(bucket)
    place = batches.workplace(config, version, PlainBucket.like(bucket))
    outcomes = dict(batches.spread(engine, entries, batches.process_on_worker, place))
    return {outcomes[number].file: outcomes[number].state for number in range(len(entries))}


def without_time(bucket: Any) -> dict[str, Any]:
    """Return the objects in the bucket, with tables parsed, without the times of scoring."""
    found: dict[str, Any] = contents(bucket)
    for key, content in found.items():
        if key.startswith("scored/") and key.endswith(".csv"):
            found[key] = pd.read_csv(io.BytesIO(content)).drop(columns="scored_at").to_csv()
        elif key.startswith("scored/") and key.endswith(".parquet"):
            found[key] = pd.read_parquet(io.BytesIO(content)).drop(columns="scored_at").to_csv()
        elif key.startswith("scored/"):
            found[key] = {name: value for name, value in json.loads(content).items() if name != "scored_at"}
    return found


def stored(config: Settings) -> pd.DataFrame:
    return predictions.load(config.predictions_uri).drop(columns="time").sort_values("id", ignore_index=True)


def put_files(bucket: Any, wines: pd.DataFrame) -> None:
    """Put five good files, two of them alike, and two bad ones."""
    for n in range(1, 4):
        put(bucket, f"part-{n}.parquet", wines[FEATURES].assign(pH=3 + n / 10))
    for name in ("a/wines.csv", "b/wines.csv"):
        put(bucket, name, wines[FEATURES])
    put(bucket, "bad.csv", wines.assign(pH=99.0))
    put(bucket, "notes.txt", "drink soon")


def test_two_workers_leave_the_same_objects_markers_and_predictions_as_one_process(engine, bucket, config, wines):
    put_files(bucket, wines)
    states = run(bucket, config, InProcess())
    assert states == {
        **{"a/wines.csv": "scored", "b/wines.csv": "scored", "bad.csv": "rejected", "notes.txt": "rejected"},
        **{f"part-{n}.parquet": "scored" for n in range(1, 4)},
    }
    objects, rows = without_time(bucket), stored(config)
    assert len(rows) == 30
    client = bucket.credentials.get_s3_client()
    for key in contents(bucket):
        client.delete_object(Bucket=bucket.bucket_name, Key=key)
    (config.home / "predictions.db").rename(config.home / "predictions-of-one.db")
    put_files(bucket, wines)
    again = run(bucket, config, engine)
    assert (again, list(again)) == (states, list(states))
    assert without_time(bucket) == objects
    pd.testing.assert_frame_equal(stored(config), rows)
    assert not list((config.local / "batch").iterdir())
    good = {name: "unchanged" for name, state in states.items() if state == "scored"}
    assert run(bucket, config, engine) == good
    assert len(stored(config)) == 30


def pids(engine: Any) -> list[int]:
    """Return the process ids of the workers."""
    if isinstance(engine, OnDask):
        return list(engine.client.run(os.getpid).values())
    children = psutil.Process().children()
    return [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]


def test_a_worker_killed_while_storing_predictions_loses_and_duplicates_nothing(engine, bucket, config):
    rows = sources.sample("a test").table[FEATURES]
    large = pd.concat([rows] * 4, ignore_index=True)
    for n in range(3):
        put(bucket, f"part-{n}.parquet", large.assign(pH=3 + n / 10))
    killed: list[tuple[int, set[str]]] = []

    def kill_one() -> None:
        wait_until(lambda: predictions.count(config.predictions_uri) > 0, "no prediction was stored")
        objects = set(contents(bucket))
        os.kill(pids(engine)[0], signal.SIGKILL)
        killed.append((predictions.count(config.predictions_uri), objects))

    thread = threading.Thread(target=kill_one, daemon=True)
    thread.start()
    states = run(bucket, config, engine)
    thread.join()
    assert states == {f"part-{n}.parquet": "scored" for n in range(3)}
    ((before, objects),) = killed
    assert 0 < before < 3 * len(large)
    assert not {key for key in objects if key.startswith("scored/")}, "the kill came too late to be in the midst"
    after = stored(config)
    assert len(after) == after["id"].nunique() == 3 * len(large)
    scored = [pd.read_parquet(io.BytesIO(contents(bucket)[f"scored/part-{n}.parquet"])) for n in range(3)]
    assert sorted(pd.concat(scored)["prediction_id"]) == after["id"].tolist()
    assert run(bucket, config, engine) == dict.fromkeys(states, "unchanged")


def test_an_error_of_a_worker_ends_the_run_with_its_line_and_leaves_the_file(bucket, config, wines):
    put(bucket, "wines.csv", wines)
    missing = f"sqlite:///{config.home}/missing/predictions.db"
    with two_processes(config) as engine:
        with pytest.raises(PredictionsError, match=r"predictions cannot be stored .* and run again"):
            run(bucket, config.model_copy(update={"predictions": SecretStr(missing)}), engine)
        assert set(contents(bucket)) == {"incoming/wines.csv"}
        assert run(bucket, config, engine) == {"wines.csv": "scored"}


def test_a_file_that_was_deleted_fails_without_affecting_others(bucket, config, wines):
    for name in ("a.csv", "b.csv"):
        put(bucket, name, wines)
    entries = batches.list_incoming(bucket)
    bucket.credentials.get_s3_client().delete_object(Bucket=bucket.bucket_name, Key="incoming/a.csv")
    place = batches.workplace(config, "1", PlainBucket.like(bucket))
    with two_processes(config) as engine:
        outcomes = dict(batches.spread(engine, entries, batches.process_on_worker, place))
    assert [outcomes[number].state for number in (0, 1)] == ["failed", "scored"]
    assert "incoming/a.csv is not there" in outcomes[0].reasons


def test_what_travels_to_a_worker_prints_no_secret_and_opens_the_same_bucket(bucket, config, wines):
    secret = bucket.credentials.aws_secret_access_key.get_secret_value()
    plain = PlainBucket.like(bucket)
    place = batches.workplace(config, "1", plain)
    assert secret not in repr(place)
    assert bucket.credentials.aws_access_key_id not in repr(place)
    put(bucket, "wines.csv", wines)
    other = pickle.loads(pickle.dumps(plain))
    assert other.list_objects("incoming/") == bucket.list_objects("incoming/")
    assert secret not in repr(other)
