"""The flow that scores batches, on a real Prefect server, and real S3 servers."""

import json
import logging
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
import servers
from batch_files import put
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort, LogSort
from prefect.settings import PREFECT_API_URL
from versions import crown, register_model

from deployment.batch import score_wine_batches
from wine_quality import batches
from wine_quality.errors import StorageError, StorageUnavailable
from wine_quality.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_api")]


def command() -> subprocess.CompletedProcess:
    """Run the flow as a reader would who hasn't set up a bucket."""
    return servers.command(*servers.SCORE, PREFECT_API_URL=PREFECT_API_URL.value())


def incoming(home: Path, **files: str) -> Path:
    """Put CSV files into the bucket on this laptop, and return its folder."""
    bucket = home / ".local" / "s3" / "wine-quality"
    (bucket / "incoming").mkdir(parents=True)
    for name, text in files.items():
        (bucket / "incoming" / f"{name}.csv").write_text(text)
    return bucket


def last_table() -> list[dict]:
    """Return the table that the last run left."""
    scored_files = ArtifactFilter(key=ArtifactFilterKey(any_=["scored-files"]))
    with get_client(sync_client=True) as client:
        artifact, *_ = client.read_artifacts(artifact_filter=scored_files, sort=ArtifactSort.CREATED_DESC)
    return json.loads(artifact.data)


def test_the_command_scores_the_files_in_the_bucket_on_this_laptop(config, wines):
    crown(register_model(config, "linear"))
    bucket = incoming(config.home, bad="a;b\n1;2\n", good=wines.to_csv(index=False))
    done = command()
    assert (done.returncode, done.stderr) == (0, "")
    where, listed, champion, rejected, scored, total = done.stdout.splitlines()
    assert where == f"bucket    on this laptop, in the folder `{bucket}`: no other bucket is set"
    assert listed == "list      2 file(s) under incoming/"
    assert champion == "champion  version 1"
    assert rejected.startswith("rejected  bad.csv: 1 problem: row 1, columns missing: type, fixed_acidity, ")
    assert (scored, total) == ("scored    good.csv: 6 rows", "done      1 rejected, 1 scored")
    assert pd.read_csv(bucket / "scored" / "good.csv")["score"].between(0, 10).all()
    assert last_table() == [
        {"file": "bad.csv", "rows": 0, "version": "", "state": "rejected"},
        {"file": "good.csv", "rows": 6, "version": "1", "state": "scored"},
    ]
    with get_client(sync_client=True) as client:
        assert {"score bad.csv", "score good.csv"} <= {task.name for task in client.read_task_runs()}


def test_with_two_workers_the_command_scores_the_same_logs_progress_and_shows_no_key(config, wines, monkeypatch):
    monkeypatch.setenv("WINE_WORKERS", "2")
    crown(register_model(config, "linear"))
    good = wines.to_csv(index=False)
    bucket = incoming(config.home, bad="a;b\n1;2\n", good=good, more=good)
    done = command()
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert {"champion  version 1", "scored    good.csv: 6 rows", "scored    more.csv: 6 rows"} <= set(lines)
    assert [line for line in lines if line.startswith("progress")][-1] == "progress  3 of 3 files, 12 rows"
    assert lines[-1] == "done      1 rejected, 2 scored"
    assert [(row["file"], row["state"]) for row in last_table()] == [
        ("bad.csv", "rejected"),
        ("good.csv", "scored"),
        ("more.csv", "scored"),
    ]
    assert not (config.local / "batch").exists()
    assert {path.name for path in (bucket / "scored").iterdir()} == {
        name + end for name in ("good.csv", "more.csv") for end in ("", ".json")
    }
    _, secret = (config.local / "s3-keys").read_text().split(",")
    assert secret not in done.stdout
    databases = [path for path in config.home.rglob("*.db*") if path.is_file()]
    assert not any(secret.encode() in path.read_bytes() for path in databases)


def test_without_a_champion_the_command_fails_with_one_line_and_the_files_stay(config, wines):
    bucket = incoming(config.home, good=wines.to_csv())
    done = command()
    assert done.returncode == 1
    assert done.stderr == "error: wine-quality has no champion to score with. Train one first: make run.\n"
    assert [path.name for path in bucket.rglob("*.*")] == ["good.csv"]


def test_prefect_stores_its_state_in_the_home_of_the_settings(tmp_path):
    code = (
        "import deployment.batch; from orchestration.startup import prepare_home; prepare_home();"
        "from prefect.settings import PREFECT_HOME; print(PREFECT_HOME.value())"
    )
    own = {name: value for name, value in os.environ.items() if name != "PREFECT_HOME"}
    done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, timeout=120)
    assert done.stdout == f"{tmp_path / '.local' / 'prefect'}\n"


def test_files_are_scored_once_per_version_and_without_files_no_champion_is_needed(moto_bucket, config, wines):
    assert score_wine_batches() == []
    crown(register_model(config, "linear"))
    put(moto_bucket, "wines.parquet", wines)
    assert [outcome.state for outcome in score_wine_batches()] == ["scored"]
    assert [outcome.state for outcome in score_wine_batches()] == ["unchanged"]
    crown(register_model(config, "mean"))
    assert [(outcome.state, outcome.version) for outcome in score_wine_batches()] == [("scored", "2")]


def test_a_file_that_the_bucket_does_not_give_fails_the_run_after_the_others_are_scored(
    moto_bucket, config, wines, monkeypatch
):
    def list_and_take_one_away(bucket):
        entries = list_incoming(bucket)
        bucket.credentials.get_s3_client().delete_object(Bucket=bucket.bucket_name, Key="incoming/a.csv")
        return entries

    crown(register_model(config, "linear"))
    for name in ("a.csv", "b.csv"):
        put(moto_bucket, name, wines)
    list_incoming = batches.list_incoming
    monkeypatch.setattr(batches, "list_incoming", list_and_take_one_away)
    with pytest.raises(StorageError, match=r"1 of 2 files failed\. a\.csv: bucket .*: incoming/a\.csv is not"):
        score_wine_batches()
    assert {row["file"]: row["state"] for row in last_table()} == {"a.csv": "failed", "b.csv": "scored"}


def test_a_champion_that_scores_by_an_onnx_graph_logs_no_error(moto_bucket, config, wines, caplog):
    crown(register_model(config, "extra_trees", n_estimators=10))
    put(moto_bucket, "wines.csv", wines)
    began = datetime.now(UTC)  # the server has the logs of other tests as well
    assert [outcome.state for outcome in score_wine_batches()] == ["scored"]
    sender = "prefect._internal"  # of Prefect's events, which may be late on a busy machine
    records = [entry for entry in caplog.records if not entry.name.startswith(sender)]
    assert not [entry for entry in records if entry.levelno >= logging.ERROR]
    with get_client(sync_client=True) as client:
        entries = [entry for entry in client.read_logs(sort=LogSort.TIMESTAMP_DESC) if entry.timestamp >= began]
    assert not [entry.message for entry in entries if entry.level >= logging.ERROR]


def test_an_unreachable_bucket_is_reported(store, set_aws):
    set_aws(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageUnavailable, match="connection refused"):
        score_wine_batches()
