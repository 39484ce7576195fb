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
import servers
import yaml
from batch_files import put
from browser import ELSEWHERE, can_open_socket, fetch, site
from conftest import CLEAN
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import FlowRun, actions, filters, schedules
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_aws import AwsCredentials, S3Bucket
from servers import artifact_keys, running, wait_for_run, wait_until

from orchestration import deploy
from wine_quality import registry, sources, splits, tracking
from wine_quality.config import settings
from wine_quality.ports import free_port

pytestmark = pytest.mark.slow

RUNS = Path(".local", "s3", "wine-quality", "runs")


@pytest.fixture(scope="module")
def own(tmp_path_factory, few_wines) -> dict[str, str]:
    """The environment of the servers: a home, free ports, a few hundred rows."""
    home = tmp_path_factory.mktemp("home")
    ports = {f"WINE_{name}_PORT": str(free_port()) for name in ("PREFECT", "MLFLOW", "S3")}
    folders = {"WINE_HOME": str(home), "WINE_DATA": str(few_wines), "PREFECT_HOME": str(home / "prefect")}
    return {**CLEAN, **ports, **folders}


@pytest.fixture(autouse=True)
def home(own, clean_environment) -> Iterator[Path]:
    with mock.patch.dict(os.environ, own):
        yield Path(own["WINE_HOME"])


@pytest.fixture(scope="module")
def client(own) -> Iterator[SyncPrefectClient]:
    """A client of the Prefect server of `make up`, after `make deploy`."""
    log = Path(own["WINE_HOME"], "up.log")
    with mock.patch.dict(os.environ, own), running(["-m", "orchestration.up"], log) as up:
        wait_until(lambda: up.poll() is not None or "Worker 'laptop' started" in log.read_text(), "make up")
        assert up.poll() is None, log.read_text()
        command("deploy")
        api = f"http://127.0.0.1:{own['WINE_PREFECT_PORT']}/api"
        with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
            yield client


@pytest.fixture(scope="module")
def first_run(client) -> FlowRun:
    """A run that was started as the UI's Quick run does."""
    return wait_for_run(client, quick_run(client, "nightly", max_evals=1))


def command(module: str, code: int = 0) -> str:
    """Run a command of the chapter, and return what it prints."""
    done = servers.command(f"orchestration.{module}")
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr if code else done.stdout


def deployment(client: SyncPrefectClient, name: str, flow: str = "train-wine-quality"):
    return client.read_deployment_by_name(f"{flow}/{name}")


def automations(client: SyncPrefectClient, name: str) -> list:
    return client.read_resource_related_automations(f"prefect.deployment.{deployment(client, name).id}")


def quick_run(client: SyncPrefectClient, name: str, **parameters: object) -> FlowRun:
    return client.create_flow_run_from_deployment(deployment(client, name).id, parameters=parameters)


def runs_of(client: SyncPrefectClient, name: str) -> list[FlowRun]:
    """Return the runs of a deployment that started, without those cancelled in favour of another."""
    named = filters.DeploymentFilter(name=filters.DeploymentFilterName(any_=[name]))
    runs = client.read_flow_runs(deployment_filter=named)
    return [run for run in runs if run.start_time and not run.state.is_cancelled()]


def assert_complete(client: SyncPrefectClient, flow_run: FlowRun) -> None:
    """Assert that a run completed, with its report, a champion, and all its files in the bucket."""
    done, config = wait_for_run(client, flow_run), settings()
    assert done.state.is_completed(), done.state
    assert artifact_keys(done) >= {"training-report", "models", "predicted-against-actual", "mlflow-run"}
    with tracking.store(config) as store:
        registry.load_version(store, registry.champion(store))
    assert list(config.outbox.iterdir()) == []


def test_the_deployments_and_automations_are_those_of_the_file(client):
    nightly, lesson, new, retrain = (deployment(client, n) for n in ("nightly", "lesson", "on-new-data", "retrain"))
    batches = deployment(client, "score-batches", "score-wine-batches")
    weekly = deployment(client, "monitor-weekly", "monitor-wine-quality")
    assert {one.work_pool_name for one in (nightly, lesson, new)} == {"wine"}
    assert all(one.description and one.concurrency_options for one in (nightly, lesson, new))
    scheduled = [(one.schedules[0].schedule.cron, one.schedules[0].active) for one in (nightly, batches, weekly)]
    assert scheduled == [("0 3 * * *", True), ("0 * * * *", True), ("0 6 * * 1", True)]
    assert (lesson.schedules[0].schedule.interval, lesson.schedules[0].active) == (timedelta(minutes=5), False)
    strategies = [one.concurrency_options.collision_strategy.value for one in (new, retrain, batches)]
    assert strategies == ["ENQUEUE", "ENQUEUE", "CANCEL_NEW"]
    pool = client.read_work_pool("wine")
    assert (pool.type, pool.concurrency_limit) == ("process", 2)
    for name, title in {"on-new-data": "train on new data", "retrain": "retrain on drift or a higher error"}.items():
        found = [(one.name, one.description.startswith(f"Starts {name} ")) for one in automations(client, name)]
        assert found == [(title, True)]


def test_deploying_again_keeps_what_was_edited_in_prefect(client):
    def edit(folder, schedule, limit, by_hand):
        bucket.bucket_folder = folder
        bucket.save("wine-bucket", overwrite=True)
        client.update_deployment_schedule(nightly.id, cron.id, schedule=schedule)
        client.update_deployment_schedule(lesson.id, often.id, active=by_hand)
        (client.pause_deployment if by_hand else client.resume_deployment)(retrain.id)
        (client.pause_automation if by_hand else client.resume_automation)(automation.id)
        client.update_work_pool("wine", actions.WorkPoolUpdate(concurrency_limit=limit, is_paused=by_hand))

    before, bucket = {one.id for one in client.read_deployments()}, S3Bucket.load("wine-bucket")
    nightly, lesson, retrain = (deployment(client, name) for name in ("nightly", "lesson", "retrain"))
    (cron,), (often,), (automation,) = nightly.schedules, lesson.schedules, automations(client, "retrain")
    edit("edited", schedules.CronSchedule(cron="30 4 * * *"), 5, by_hand=True)
    try:
        printed = command("deploy")
        assert "pool      wine, at most 5 runs at once, paused" in printed
        assert "unchanged; delete it in the UI" in printed
        for name, state in (("nightly", "runs 30 4 * * *"), ("lesson", "runs 0:05:00"), ("retrain", "paused")):
            assert f"unchanged {name}, with your edits in Prefect: {state}\n" in printed
        assert S3Bucket.load("wine-bucket").bucket_folder == "edited"
        assert deployment(client, "nightly").schedules[0].schedule.cron == "30 4 * * *"
        assert deployment(client, "lesson").schedules[0].active
        assert deployment(client, "retrain").paused
        assert not client.read_automation(automation.id).enabled
        pool = client.read_work_pool("wine")
        assert (pool.concurrency_limit, pool.is_paused) == (5, True)
    finally:
        edit("", cron.schedule, 2, by_hand=False)
    assert {one.id for one in client.read_deployments()} == before


def test_only_a_deployment_that_is_missing_or_was_changed_in_the_file_is_deployed(client, tmp_path, monkeypatch):
    weekly = deployment(client, "monitor-weekly", "monitor-wine-quality")
    file = deploy.ROOT / deploy.PREFECT_FILE
    (tmp_path / "prefect.yaml").write_text(file.read_text().replace('"0 6 * * 1"', '"0 7 * * 1"'))
    monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())
    client.delete_deployment(deployment(client, "retrain").id)
    before = deployment(client, "nightly").updated
    for path, cron in {tmp_path / "prefect.yaml": "0 7 * * 1", file: "0 6 * * 1"}.items():
        monkeypatch.setattr(deploy, "PREFECT_FILE", path)
        deploy.deploy()
        assert client.read_deployment(weekly.id).schedules[0].schedule.cron == cron
        assert deployment(client, "retrain")
        assert deployment(client, "nightly").updated == before


def test_a_deployment_that_matches_the_file_is_left_unchanged():
    def changed(versions):
        return [one["name"] for one in deploy.changed(file, versions)]

    file = yaml.safe_load((deploy.ROOT / deploy.PREFECT_FILE).read_text())
    versions = {one["name"]: one["version"] for one in deploy.changed(file, {})}
    names = [one["name"] for one in file["deployments"]]
    assert set(versions) == set(names)
    assert changed(versions) == []
    assert changed({**versions, "nightly": None}) == ["nightly"]
    file["deployments"][1]["schedules"][0]["interval"] = 600
    assert changed(versions) == [names[1]]
    file["pull"] = []
    assert set(changed(versions)) == set(names)


@pytest.fixture
def addresses(client, own) -> dict[str, str]:
    """The address of each server of `make up`, without the scheme."""
    return {name: f"127.0.0.1:{own[f'WINE_{name}_PORT']}" for name in ("PREFECT", "MLFLOW", "S3")}


def attacks(client: SyncPrefectClient, addresses: dict[str, str]) -> dict[str, dict[str, object]]:
    """Return the requests with which a web page would read a secret, run a command or change what is tracked."""
    prefect, mlflow = f"http://{addresses['PREFECT']}/api", f"http://{addresses['MLFLOW']}/ajax-api/2.0/mlflow"
    run = {"state": {"type": "SCHEDULED"}, "job_variables": {"command": "touch proof"}}
    bodies = {
        f"{prefect}/block_documents/filter": {"include_secrets": True},
        f"{prefect}/deployments/{deployment(client, 'lesson').id}/create_flow_run": run,
        f"{mlflow}/experiments/create": {"name": "of an attacker"},
    }
    reads = (f"{prefect}/admin/version", f"{mlflow}/experiments/search?max_results=9", f"http://{addresses['S3']}/")
    posts = {url: {"method": "POST", "body": json.dumps(body)} for url, body in bodies.items()}
    return posts | {url: {"method": "GET"} for url in reads}


@pytest.mark.parametrize("name", ["localhost", ELSEWHERE])
def test_a_page_of_another_origin_reads_nothing_and_starts_nothing(client, addresses, chromium, tmp_path, name):
    before = {run.id for run in client.read_flow_runs()}
    with site(tmp_path) as port:
        chromium.get(f"http://{name}:{port}")
        for url, request in attacks(client, addresses).items():
            for content_type in ("application/json", "text/plain"):
                headers = {"headers": {"Content-Type": content_type}} if request["method"] == "POST" else {}
                assert fetch(chromium, url, **request, **headers).startswith("blocked"), url
            assert fetch(chromium, url, mode="no-cors", **request) == ""
        assert not can_open_socket(chromium, f"ws://{addresses['PREFECT']}/api/events/in")
    assert {run.id for run in client.read_flow_runs() if not run.auto_scheduled} <= before
    search = f"http://{addresses['MLFLOW']}/api/2.0/mlflow/experiments/search?max_results=99"
    experiments = requests.get(search, timeout=30).json()["experiments"]
    assert "of an attacker" not in [one["name"] for one in experiments]
    for server in (addresses["PREFECT"], addresses["MLFLOW"]):  # nor does a name that leads here help
        address = server.replace("127.0.0.1", ELSEWHERE)
        chromium.get(f"http://{address}/")
        assert "a page of another origin" in chromium.page_source
        assert requests.get(f"http://{server}/", headers={"Host": address}, timeout=30).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_pages_of_the_servers_themselves_may_do_all_of_that(client, addresses, chromium, host):
    prefect, mlflow = (addresses[name].replace("127.0.0.1", host) for name in ("PREFECT", "MLFLOW"))
    chromium.get(f"http://{prefect}/deployments")
    wait_until(lambda: "nightly" in chromium.page_source, "the deployments on the page")
    assert "monitor-weekly" in chromium.page_source
    read = {"method": "POST", "headers": {"Content-Type": "application/json"}, "body": '{"include_secrets": true}'}
    assert "wine-credentials" in fetch(chromium, "/api/block_documents/filter", **read)
    assert can_open_socket(chromium, f"ws://{prefect}/api/events/in")
    chromium.get(f"http://{mlflow}/")
    assert "Default" in fetch(chromium, "/ajax-api/2.0/mlflow/experiments/search?max_results=9")


def test_the_secret_of_the_block_is_masked(client, home):
    key, secret = (home / ".local" / "s3-keys").read_text().split(",")
    shown = client.read_block_document_by_name("wine-credentials", "aws-credentials", include_secrets=False)
    assert shown.data["aws_access_key_id"] == key
    assert secret not in json.dumps(shown.data)
    assert "****" in shown.data["aws_secret_access_key"]
    assert AwsCredentials.load("wine-credentials").aws_secret_access_key.get_secret_value() == secret


def test_the_batch_job_scores_the_files_in_the_bucket(client, first_run, home, wines):
    assert first_run.state.is_completed()
    put(S3Bucket.load("wine-bucket"), "wines.csv", wines)
    batches = deployment(client, "score-batches", "score-wine-batches")
    done = wait_for_run(client, client.create_flow_run_from_deployment(batches.id))
    assert done.state.is_completed(), done.state
    assert artifact_keys(done) == {"scored-files"}
    assert (home / RUNS.with_name("scored") / "wines.csv.json").is_file()


def test_a_quick_run_ends_with_its_report_and_one_from_the_command_line_reuses_its_search(client, first_run):
    assert_complete(client, first_run)
    assert first_run.name.startswith("nightly 20")
    prefect = Path(sys.executable).with_name("prefect")
    run = ("deployment", "run", "train-wine-quality/nightly", "--watch", "--param", "max_evals=1")
    own = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value()}
    watched = subprocess.run([prefect, *run], env=own, capture_output=True, text=True, timeout=300)
    assert watched.returncode == 0, watched.stdout + watched.stderr
    assert "finished successfully" in watched.stdout
    states = {(task.name, task.state_name) for task in client.read_task_runs()}
    assert {("search, 1 trials", "Cached"), ("baseline", "Cached")} <= states


def test_a_schedule_starts_a_run(client):
    def runs():
        return [run for run in runs_of(client, "lesson") if run.auto_scheduled]

    lesson, often = deployment(client, "lesson"), schedules.IntervalSchedule(interval=timedelta(seconds=15))
    (schedule,) = client.create_deployment_schedules(lesson.id, [(often, True)])
    try:
        wait_until(runs, "a scheduled run")
    finally:
        client.delete_deployment_schedule(lesson.id, schedule.id)
    assert_complete(client, min(runs(), key=lambda run: run.start_time))


def test_an_event_starts_a_run_on_the_data_that_it_names(client, tmp_path, write_uci):
    rows = splits.distinct_rows(sources.load_dataset(settings()).table).iloc[1:]
    more = write_uci(tmp_path / "more", rows)
    with_repeats = write_uci(tmp_path / "with repeats", pd.concat([rows, rows.head(3)]))
    with mock.patch.dict(os.environ, WINE_DATA=str(more)):
        assert "event     wine.data.changed: " in command("data_changed")
        wait_until(lambda: runs_of(client, "on-new-data"), "a run after the event")
        (run,) = runs_of(client, "on-new-data")
        assert run.parameters["data"] == str(more)
        assert_complete(client, run)
        assert command("data_changed").startswith("unchanged ")
    with mock.patch.dict(os.environ, WINE_DATA=str(with_repeats)):
        assert command("data_changed").startswith("unchanged ")


def test_a_run_that_is_killed_is_reported_as_crashed(client):
    run = quick_run(client, "lesson", max_evals=50, seed=5)
    wait_until(lambda: client.read_flow_run(run.id).state.is_running(), "a running run")
    for process in psutil.process_iter(["environ"]):  # None where it may not be read
        if (process.info["environ"] or {}).get("PREFECT__FLOW_RUN_ID") == str(run.id):
            process.send_signal(signal.SIGKILL)
    assert wait_for_run(client, run).state.is_crashed()


def test_the_bucket_is_listed_and_a_file_that_changed_is_named(client, first_run, home):
    assert_complete(client, first_run)
    listed = command("list_bucket")
    assert "5 files match their manifest" in listed
    assert "broken" not in listed
    report = next((home / RUNS).glob("*/report.md"))
    good = report.read_bytes()
    report.write_bytes(good + b"!")
    try:
        assert f"broken: runs/{report.parent.name}/report.md: not the file" in command("list_bucket", code=1)
    finally:
        report.write_bytes(good)


def test_one_file_can_serve_the_flow(client, home):
    log, api = home / "serve.log", {"PREFECT_API_URL": PREFECT_API_URL.value(), "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    with running(["-m", "orchestration.serve"], log, **api):
        wait_until(lambda: "one-file" in log.read_text() and "being served" in log.read_text(), "serve")
        assert_complete(client, quick_run(client, "one-file", max_evals=1))


def test_an_event_without_a_server_is_refused_in_one_line(tmp_path):
    with mock.patch.dict(os.environ, WINE_HOME=str(tmp_path)):
        refused = "error: Prefect isn't running, so the event would be lost. Start it: make up.\n"
        assert command("data_changed", code=1) == refused
