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

import pandas as pd
import psutil
import pytest
import requests
import yaml
from batch_files import put
from browser import ELSEWHERE, chromium_without_screen, fetched, opened_socket, site
from conftest import CLEAN
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import FlowRun
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_aws import AwsCredentials, S3Bucket
from servers import artifact_keys, ended, running, wait_until

from orchestration import deploy
from wine_quality import registry, sources, splits, tracking
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
        [sys.executable, "-m", f"orchestration.{module}"], capture_output=True, text=True, timeout=600
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
    with tracking.store(config) as store:
        registry.load_version(store, registry.champion(store))
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
    weekly = client.read_deployment_by_name("monitor-wine-quality/monitor-weekly")
    assert weekly.schedules[0].schedule.cron == "0 6 * * 1"
    assert deployment(client, "retrain").concurrency_options.collision_strategy is ConcurrencyLimitStrategy.ENQUEUE
    pool = client.read_work_pool("wine")
    assert (pool.type, pool.concurrency_limit) == ("process", 2)


def test_deploying_again_keeps_what_was_edited_in_prefect(client):
    before = {one.id for one in client.read_deployments()}
    nightly, lesson, retrain = (deployment(client, name) for name in ("nightly", "lesson", "retrain"))
    (cron,), (often,) = nightly.schedules, lesson.schedules
    (automation,) = client.read_resource_related_automations(f"prefect.deployment.{retrain.id}")
    bucket = S3Bucket.load("wine-bucket")
    bucket.bucket_folder = "edited"
    bucket.save("wine-bucket", overwrite=True)
    client.update_deployment_schedule(nightly.id, cron.id, schedule=CronSchedule(cron="30 4 * * *"))
    client.update_deployment_schedule(lesson.id, often.id, active=True)
    client.pause_deployment(retrain.id)
    client.pause_automation(automation.id)
    client.update_work_pool("wine", WorkPoolUpdate(concurrency_limit=5, is_paused=True))
    try:
        said = command("deploy")
        assert "pool      wine, at most 5 runs at once, paused" in said
        assert "unchanged; delete it in the UI" in said
        for name, state in {"nightly": "runs 30 4 * * *", "lesson": "runs 0:05:00", "retrain": "paused"}.items():
            assert f"unchanged {name}, with your edits in Prefect: {state}\n" in said
        assert S3Bucket.load("wine-bucket").bucket_folder == "edited"
        assert deployment(client, "nightly").schedules[0].schedule.cron == "30 4 * * *"
        assert deployment(client, "lesson").schedules[0].active
        assert deployment(client, "retrain").paused
        assert not client.read_automation(automation.id).enabled
        pool = client.read_work_pool("wine")
        assert (pool.concurrency_limit, pool.is_paused) == (5, True)
    finally:
        bucket.bucket_folder = ""
        bucket.save("wine-bucket", overwrite=True)
        client.update_deployment_schedule(nightly.id, cron.id, schedule=cron.schedule)
        client.update_deployment_schedule(lesson.id, often.id, active=False)
        client.resume_deployment(retrain.id)
        client.resume_automation(automation.id)
        client.update_work_pool("wine", WorkPoolUpdate(concurrency_limit=2, is_paused=False))
    assert {one.id for one in client.read_deployments()} == before


def test_only_a_deployment_that_is_missing_or_was_changed_in_the_file_is_deployed(client, tmp_path, monkeypatch):
    weekly = client.read_deployment_by_name("monitor-wine-quality/monitor-weekly")
    file = deploy.ROOT / deploy.PREFECT_FILE
    (tmp_path / "prefect.yaml").write_text(file.read_text().replace('"0 6 * * 1"', '"0 7 * * 1"'))
    monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())
    monkeypatch.setattr(deploy, "PREFECT_FILE", tmp_path / "prefect.yaml")
    client.delete_deployment(deployment(client, "retrain").id)
    kept = deployment(client, "nightly").updated
    deploy.deploy()
    assert client.read_deployment(weekly.id).schedules[0].schedule.cron == "0 7 * * 1"
    assert deployment(client, "retrain")
    assert deployment(client, "nightly").updated == kept
    monkeypatch.setattr(deploy, "PREFECT_FILE", file)
    deploy.deploy()
    assert client.read_deployment(weekly.id).schedules[0].schedule.cron == "0 6 * * 1"


def test_what_is_deployed_as_the_file_says_is_left_alone():
    file = yaml.safe_load((deploy.ROOT / deploy.PREFECT_FILE).read_text())
    names = {one["name"] for one in file["deployments"]}
    versions = {one["name"]: one["version"] for one in deploy.changed(file, {})}
    assert set(versions) == names
    assert deploy.changed(file, versions) == []
    assert [one["name"] for one in deploy.changed(file, {**versions, "nightly": None})] == ["nightly"]
    file["deployments"][1]["schedules"][0]["interval"] = 600
    assert [one["name"] for one in deploy.changed(file, versions)] == [file["deployments"][1]["name"]]
    file["pull"] = []
    assert {one["name"] for one in deploy.changed(file, versions)} == names


def test_automations_say_what_they_do(client):
    for name, title in {"on-new-wine": "train on new wine", "retrain": "retrain on drift or a higher error"}.items():
        found = client.read_resource_related_automations(f"prefect.deployment.{deployment(client, name).id}")
        assert [(one.name, one.description.startswith(f"Starts {name} ")) for one in found] == [(title, True)]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with chromium_without_screen(tmp_path_factory.mktemp("chromium")) as chromium:
        yield chromium


@pytest.fixture
def servers(client, own) -> dict[str, str]:
    """The address of each server of `make up`, without the scheme."""
    return {name: f"127.0.0.1:{own[f'WINE_{name}_PORT']}" for name in ("PREFECT", "MLFLOW", "S3")}


def attacks(client: SyncPrefectClient, servers: dict[str, str]) -> dict[str, dict[str, object]]:
    """Return the requests with which a web page would read a secret, run a command or change what is tracked."""
    prefect, mlflow = f"http://{servers['PREFECT']}/api", f"http://{servers['MLFLOW']}/ajax-api/2.0/mlflow"
    run = {"state": {"type": "SCHEDULED"}, "job_variables": {"command": "touch proof"}}
    bodies = {
        f"{prefect}/block_documents/filter": {"include_secrets": True},
        f"{prefect}/deployments/{deployment(client, 'lesson').id}/create_flow_run": run,
        f"{mlflow}/experiments/create": {"name": "of an attacker"},
    }
    reads = (f"{prefect}/admin/version", f"{mlflow}/experiments/search?max_results=9", f"http://{servers['S3']}/")
    return {
        **{url: {"method": "POST", "body": json.dumps(body)} for url, body in bodies.items()},
        **{url: {"method": "GET"} for url in reads},
    }


def experiments(servers: dict[str, str]) -> list[str]:
    found = requests.get(f"http://{servers['MLFLOW']}/api/2.0/mlflow/experiments/search?max_results=99", timeout=30)
    return [one["name"] for one in found.json()["experiments"]]


@pytest.mark.parametrize("name", ["localhost", ELSEWHERE])
def test_a_page_of_another_origin_reads_nothing_and_starts_nothing(client, servers, chromium, tmp_path, name):
    before = {run.id for run in client.read_flow_runs()}
    with site(tmp_path) as port:
        chromium.get(f"http://{name}:{port}")
        for url, request in attacks(client, servers).items():
            for content_type in ("application/json", "text/plain"):
                headers = {"headers": {"Content-Type": content_type}} if request["method"] == "POST" else {}
                assert fetched(chromium, url, **request, **headers).startswith("blocked"), url
            assert fetched(chromium, url, mode="no-cors", **request) == ""
        assert not opened_socket(chromium, f"ws://{servers['PREFECT']}/api/events/in")
    started = {run.id for run in client.read_flow_runs() if not run.auto_scheduled}
    assert started <= before
    assert "of an attacker" not in experiments(servers)


def test_a_name_that_leads_here_is_no_way_in(client, servers, chromium):
    for server in ("PREFECT", "MLFLOW"):
        address = servers[server].replace("127.0.0.1", ELSEWHERE)
        chromium.get(f"http://{address}/")
        assert "a page of another origin" in chromium.page_source
        assert requests.get(f"http://{servers[server]}/", headers={"Host": address}, timeout=30).status_code == 403


def test_pages_of_the_servers_themselves_may_do_all_of_that(client, servers, chromium):
    chromium.get(f"http://{servers['PREFECT']}/deployments")
    read = {"method": "POST", "headers": {"Content-Type": "application/json"}, "body": '{"include_secrets": true}'}
    assert "wine-credentials" in fetched(chromium, "/api/block_documents/filter", **read)
    assert opened_socket(chromium, f"ws://{servers['PREFECT']}/api/events/in")
    chromium.get(f"http://{servers['MLFLOW']}/")
    assert "Default" in fetched(chromium, "/ajax-api/2.0/mlflow/experiments/search?max_results=9")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_prefects_pages_list_the_deployments(client, servers, chromium, host):
    chromium.get(f"http://{servers['PREFECT'].replace('127.0.0.1', host)}/deployments")
    wait_until(lambda: "nightly" in chromium.page_source, "the deployments on the page")
    assert "monitor-weekly" in chromium.page_source


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
    rows = splits.distinct_rows(sources.load_dataset(settings()).table).iloc[1:]
    more = write_uci(tmp_path / "more", rows)
    with_repeats = write_uci(tmp_path / "with repeats", pd.concat([rows, rows.head(3)]))
    with mock.patch.dict(os.environ, WINE_DATA=str(more)):
        assert "event     wine.data.changed: " in command("data_changed")
        wait_until(lambda: runs_of(client, "on-new-wine"), "a run after the event")
        (run,) = runs_of(client, "on-new-wine")
        assert run.parameters["data"] == str(more)
        assert_complete(client, run, settings())
        assert command("data_changed").startswith("unchanged ")
    with mock.patch.dict(os.environ, WINE_DATA=str(with_repeats)):
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
