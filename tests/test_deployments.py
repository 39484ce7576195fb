"""Deployments, the worker of `make up` and the blocks: real servers, each run started the way a reader would."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from unittest import mock

import psutil
import pytest
from batch_files import put
from conftest import CLEAN
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import FlowRun
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_aws import AwsCredentials, S3Bucket
from servers import artifact_keys, ended, running, wait_until

from wine_quality import data, registry, splits, tracking
from wine_quality.config import Settings, settings
from wine_quality.ports import free_port

pytestmark = pytest.mark.slow

ARTIFACTS = {"training-report", "models", "predicted-against-actual", "mlflow-run"}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def own(home, tmp_path_factory, few_wines) -> dict[str, str]:
    """The environment of the servers: a home, free ports, a few hundred wines."""
    ports = {f"WINE_{name}_PORT": str(free_port()) for name in ("PREFECT", "MLFLOW", "S3")}
    return {
        **CLEAN,
        **ports,
        "WINE_HOME": str(home),
        "WINE_DATA": str(few_wines),
        "PREFECT_HOME": str(home / "prefect"),
    }


@pytest.fixture(autouse=True)
def in_this_home(own, clean_environment) -> Iterator[None]:
    with mock.patch.dict(os.environ, own):
        yield


@pytest.fixture(scope="module")
def client(home, own) -> Iterator[SyncPrefectClient]:
    """Asks the Prefect of a `make up` on which `make deploy` was run."""
    with mock.patch.dict(os.environ, own), running(["-m", "orchestration.up"], home / "up.log") as up:
        log = home / "up.log"
        wait_until(lambda: up.poll() is not None or "Worker 'laptop' started" in log.read_text(), "make up")
        assert up.poll() is None, log.read_text()
        command("deploy")
        api = f"http://127.0.0.1:{own['WINE_PREFECT_PORT']}/api"
        with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as asks:
            yield asks


@pytest.fixture(scope="module")
def first_run(client) -> FlowRun:
    """A run that was started as the UI's Quick run does."""
    return quick_run(client, "nightly", max_evals=1)


def command(module: str, code: int = 0) -> str:
    """Run a command of the chapter, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"orchestration.{module}"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stdout + done.stderr


def deployment(client: SyncPrefectClient, name: str):
    return client.read_deployment_by_name(f"train-wine-quality/{name}")


def quick_run(client: SyncPrefectClient, name: str, **parameters: object) -> FlowRun:
    """Start a deployment as the UI's Quick run does."""
    return client.create_flow_run_from_deployment(deployment(client, name).id, parameters=parameters)


def runs_of(client: SyncPrefectClient, name: str) -> list[FlowRun]:
    """Return the runs of a deployment that began and were not left out for another one."""
    named = DeploymentFilter(name=DeploymentFilterName(any_=[name]))
    return [
        run for run in client.read_flow_runs(deployment_filter=named) if run.start_time and not run.state.is_cancelled()
    ]


def scheduled_runs(client: SyncPrefectClient, name: str) -> list[FlowRun]:
    """Return those of a deployment's runs that its schedule started."""
    return [run for run in runs_of(client, name) if run.auto_scheduled]


def assert_complete(client: SyncPrefectClient, flow_run: FlowRun, config: Settings) -> None:
    """Assert that a run ended well, with its report, a champion, and all in the bucket."""
    done = ended(client, flow_run)
    assert done.state.is_completed(), done.state
    assert artifact_keys(done) >= ARTIFACTS
    with tracking.store(config):
        registry.load_version(registry.champion(config))
    assert list(config.outbox.iterdir()) == []


def test_the_deployments_are_those_of_the_file(client):
    found = {name: deployment(client, name) for name in ("nightly", "lesson", "on-new-wine")}
    assert {one.work_pool_name for one in found.values()} == {"wine"}
    assert all(one.description and one.concurrency_options for one in found.values())
    assert found["nightly"].schedules[0].schedule.cron == "0 3 * * *"
    assert found["nightly"].schedules[0].active
    assert found["lesson"].schedules[0].schedule.interval == timedelta(minutes=5)
    assert not found["lesson"].schedules[0].active
    assert found["on-new-wine"].concurrency_options.collision_strategy is ConcurrencyLimitStrategy.ENQUEUE
    batches = client.read_deployment_by_name("score-wine-batches/score-batches")
    assert (batches.schedules[0].schedule.cron, batches.schedules[0].active) == ("0 * * * *", True)
    assert batches.concurrency_options.collision_strategy is ConcurrencyLimitStrategy.CANCEL_NEW
    weekly = client.read_deployment_by_name("watch-wine/watch-weekly")
    assert weekly.schedules[0].schedule.cron == "0 6 * * 1"
    assert deployment(client, "retrain").concurrency_options.collision_strategy is ConcurrencyLimitStrategy.ENQUEUE
    pool = client.read_work_pool("wine")
    assert (pool.type, pool.concurrency_limit) == ("process", 2)


def test_to_deploy_again_changes_nothing_and_keeps_what_was_edited(client):
    before = {one.id for one in client.read_deployments()}
    bucket = S3Bucket.load("wine-bucket")
    bucket.bucket_folder = "edited"
    bucket.save("wine-bucket", overwrite=True)
    try:
        assert "kept as it is" in command("deploy")
        assert S3Bucket.load("wine-bucket").bucket_folder == "edited"
    finally:
        bucket.bucket_folder = ""
        bucket.save("wine-bucket", overwrite=True)
    assert {one.id for one in client.read_deployments()} == before


def test_the_secret_of_the_block_is_masked(client, home):
    key, secret = (home / ".local" / "s3-keys").read_text().split(",")
    shown = client.read_block_document_by_name("wine-credentials", "aws-credentials", include_secrets=False)
    assert shown.data["aws_access_key_id"] == key
    assert secret not in json.dumps(shown.data)
    assert "****" in shown.data["aws_secret_access_key"]
    assert AwsCredentials.load("wine-credentials").aws_secret_access_key.get_secret_value() == secret


def test_a_quick_run_ends_with_its_report(client, first_run):
    assert_complete(client, first_run, settings())
    assert ended(client, first_run).name.startswith("nightly 20")


def test_the_batch_job_scores_what_lies_in_the_bucket(client, first_run, home, wines):
    assert ended(client, first_run).state.is_completed()
    put(S3Bucket.load("wine-bucket"), "wines.csv", wines)
    batches = client.read_deployment_by_name("score-wine-batches/score-batches")
    done = ended(client, client.create_flow_run_from_deployment(batches.id))
    assert done.state.is_completed(), done.state
    assert artifact_keys(done) == {"scored-files"}
    assert (home / ".local" / "s3" / "wine-quality" / "scored" / "wines.csv.json").is_file()


def test_a_run_from_the_command_line_can_be_watched_and_skips_the_search_that_was_made(client, first_run, own):
    assert_complete(client, first_run, settings())
    watched = subprocess.run(
        [
            Path(sys.executable).with_name("prefect"),
            *("deployment", "run", "train-wine-quality/nightly", "--watch", "--param", "max_evals=1"),
        ],
        env={**os.environ, "PREFECT_API_URL": f"http://127.0.0.1:{own['WINE_PREFECT_PORT']}/api"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert watched.returncode == 0, watched.stdout + watched.stderr
    assert "finished successfully" in watched.stdout
    states = {(task.name, task.state_name) for task in client.read_task_runs()}
    assert {("search, 1 trials", "Cached"), ("baseline", "Cached")} <= states


def test_a_schedule_starts_a_run(client):
    lesson = deployment(client, "lesson")
    often = IntervalSchedule(interval=timedelta(seconds=15))
    (schedule,) = client.create_deployment_schedules(lesson.id, [(often, True)])
    try:
        wait_until(lambda: scheduled_runs(client, "lesson"), "a scheduled run")
    finally:
        client.delete_deployment_schedule(lesson.id, schedule.id)
    first = min(scheduled_runs(client, "lesson"), key=lambda run: run.start_time)
    assert_complete(client, first, settings())


def test_an_event_starts_a_run_on_the_wine_that_it_names(client, tmp_path, write_uci):
    more = write_uci(tmp_path / "more", splits.distinct_wines(data.load_wine(settings()).table))
    with mock.patch.dict(os.environ, WINE_DATA=str(more)):
        assert "event     wine.data.changed: " in command("data_changed")
        wait_until(lambda: runs_of(client, "on-new-wine"), "a run after the event")
        (run,) = runs_of(client, "on-new-wine")
        assert run.parameters["data"] == str(more)
        assert_complete(client, run, settings())
        assert command("data_changed").startswith("unchanged ")


def test_a_run_that_is_killed_is_told_as_crashed(client):
    run = quick_run(client, "lesson", max_evals=50, seed=5)
    wait_until(lambda: client.read_flow_run(run.id).state.is_running(), "a running run")
    for process in psutil.process_iter():
        if run_of(process) == str(run.id):
            process.send_signal(signal.SIGKILL)
    assert ended(client, run).state.is_crashed()


def run_of(process: psutil.Process) -> str | None:
    """Return the flow run that a process executes, or None."""
    try:
        return process.environ().get("PREFECT__FLOW_RUN_ID")
    except psutil.Error:
        return None


def test_the_bucket_is_listed_and_a_file_that_changed_is_told(client, first_run, home):
    assert_complete(client, first_run, settings())
    listed = command("list_bucket")
    assert "3 files as they were pushed" in listed
    assert "broken" not in listed
    report = next((home / ".local" / "s3" / "wine-quality" / "runs").glob("*/report.md"))
    good = report.read_bytes()
    report.write_bytes(good + b"!")
    try:
        assert f"broken: runs/{report.parent.name}/report.md: not the file" in command("list_bucket", code=1)
    finally:
        report.write_bytes(good)


def test_one_file_can_serve_the_flow(client, home, own):
    api = f"http://127.0.0.1:{own['WINE_PREFECT_PORT']}/api"
    log = home / "serve.log"
    with running(["-m", "orchestration.serve"], log, PREFECT_API_URL=api, PREFECT_RUNNER_POLL_FREQUENCY="1"):
        wait_until(lambda: "one-file" in log.read_text() and "being served" in log.read_text(), "serve")
        assert_complete(client, quick_run(client, "one-file", max_evals=1), settings())


def test_an_event_without_a_server_is_refused_in_one_line(tmp_path):
    with mock.patch.dict(os.environ, WINE_HOME=str(tmp_path)):
        assert command("data_changed", code=1) == (
            "error: Prefect does not run, so nobody would hear the event. Start it: make up.\n"
        )
