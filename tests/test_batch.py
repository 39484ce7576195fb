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
from batch_files import held, put
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort, LogSort
from prefect.settings import PREFECT_API_URL
from versions import crown, registered

from deployment.batch import score_wine_batches
from orchestration.bucket import bucket_of_environment
from wine_quality import batches
from wine_quality.errors import StorageError, StorageUnavailable
from wine_quality.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_api")]


@pytest.fixture
def bucket(moto, config):
    moto.create_bucket(Bucket=config.bucket)
    return bucket_of_environment(config)


def command() -> subprocess.CompletedProcess:
    """Run the flow as a reader would, who has not set up any bucket."""
    return subprocess.run(
        [sys.executable, "-m", "deployment.batch"],
        env={**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value()},
        capture_output=True,
        text=True,
        timeout=120,
    )


def incoming(home: Path, **files: str) -> Path:
    """Put CSV files into the bucket on this laptop, and return its folder."""
    bucket = home / ".local" / "s3" / "wine-quality"
    (bucket / "incoming").mkdir(parents=True)
    for name, text in files.items():
        (bucket / "incoming" / f"{name}.csv").write_text(text)
    return bucket


def test_the_command_scores_what_lies_in_the_bucket_of_this_laptop(config, wines):
    crown(registered(config, "linear"))
    bucket = incoming(config.home, bad="a;b\n1;2\n", good=wines.to_csv(index=False))
    done = command()
    assert (done.returncode, done.stderr) == (0, "")
    where, look, champion, rejected, scored, total = done.stdout.splitlines()
    assert where == f"bucket    on this laptop, in the folder `{bucket}`: no other one is set"
    assert look == "list      2 file(s) under incoming/"
    assert champion == "champion  version 1"
    assert rejected.startswith("rejected  bad.csv: 1 problem: row 1, columns missing: type, fixed_acidity, ")
    assert (scored, total) == ("scored    good.csv: 6 rows", "done      1 rejected, 1 scored")
    assert pd.read_csv(bucket / "scored" / "good.csv")["score"].between(0, 10).all()
    assert table() == [
        {"file": "bad.csv", "rows": 0, "version": "", "state": "rejected"},
        {"file": "good.csv", "rows": 6, "version": "1", "state": "scored"},
    ]
    with get_client(sync_client=True) as client:
        assert {"score bad.csv", "score good.csv"} <= {task.name for task in client.read_task_runs()}


def table() -> list[dict]:
    """Return the table that the last run left."""
    with get_client(sync_client=True) as client:
        artifact, *_ = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["scored-files"])),
            sort=ArtifactSort.CREATED_DESC,
        )
    return json.loads(artifact.data)


def test_without_a_champion_the_command_ends_with_one_line_and_the_files_stay(config, wines):
    bucket = incoming(config.home, good=wines.to_csv())
    done = command()
    assert done.returncode == 1
    assert done.stderr == "error: wine-quality has no champion to score with. Train one first: make run.\n"
    assert [path.name for path in bucket.rglob("*.*")] == ["good.csv"]


def test_prefect_keeps_its_state_in_the_home_of_the_settings(tmp_path):
    code = (
        "import deployment.batch as b; b.prepare_home();"
        "from prefect.settings import PREFECT_HOME; print(PREFECT_HOME.value())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={name: value for name, value in os.environ.items() if name != "PREFECT_HOME"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == f"{tmp_path / '.local' / 'prefect'}\n"


def test_without_files_nobody_asks_for_a_champion(bucket):
    assert score_wine_batches() == []


def test_a_rerun_changes_nothing_and_a_new_version_scores_again(bucket, config, wines):
    crown(registered(config, "linear"))
    put(bucket, "wines.parquet", wines)
    assert [outcome.state for outcome in score_wine_batches()] == ["scored"]
    before = held(bucket)
    assert [outcome.state for outcome in score_wine_batches()] == ["unchanged"]
    assert held(bucket) == before
    crown(registered(config, "mean"))
    assert [(outcome.state, outcome.version) for outcome in score_wine_batches()] == [("scored", "2")]


def test_a_file_that_the_bucket_does_not_give_fails_the_run_after_the_others_are_scored(
    bucket, config, wines, monkeypatch
):
    crown(registered(config, "linear"))
    for name in ("a.csv", "b.csv"):
        put(bucket, name, wines)
    waiting = batches.list_incoming

    def and_one_is_taken_away(bucket):
        found = waiting(bucket)
        bucket.credentials.get_s3_client().delete_object(Bucket=bucket.bucket_name, Key="incoming/a.csv")
        return found

    monkeypatch.setattr(batches, "waiting", and_one_is_taken_away)
    with pytest.raises(StorageError, match=r"1 of 2 files failed\. a\.csv: bucket .*: incoming/a\.csv is not"):
        score_wine_batches()
    assert {row["file"]: row["state"] for row in table()} == {"a.csv": "failed", "b.csv": "scored"}


def test_a_champion_that_scores_by_an_onnx_graph_logs_no_error(bucket, config, wines, caplog):
    crown(registered(config, "extra_trees", n_estimators=10))
    put(bucket, "wines.csv", wines)
    began = datetime.now(UTC)  # the server has the logs of other tests as well
    assert [outcome.state for outcome in score_wine_batches()] == ["scored"]
    assert not [entry for entry in caplog.records if entry.levelno >= logging.ERROR]
    with get_client(sync_client=True) as client:
        own = [entry for entry in client.read_logs(sort=LogSort.TIMESTAMP_DESC) if entry.timestamp >= began]
    assert not [entry.message for entry in own if entry.level >= logging.ERROR]


def test_a_bucket_that_is_away_is_told(store, set_aws):
    set_aws(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageUnavailable, match="nobody listens"):
        score_wine_batches()
