"""Break it: whatever fault hits a run, nothing is lost or half registered, and the next run completes.

Each run is a real process that reports to a real Prefect server, with MLflow on SQLite and a real S3 server.
"""

import json
import signal
import sqlite3
from contextlib import closing, nullcontext
from http.server import ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler

import faults
import pytest
from loopback import serving
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL
from servers import prefect_server, processes_at, wait_until

from orchestration.train import train_wine_quality
from wine_quality import registry, retention, sources, splits, storage, tracking
from wine_quality.config import settings
from wine_quality.errors import StorageError
from wine_quality.files import is_locked
from wine_quality.local_s3 import local_s3
from wine_quality.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_for_commands")]


@pytest.fixture(autouse=True)
def small_runs(store, few_wines, monkeypatch):
    monkeypatch.setenv("WINE_DATA", str(few_wines))


@pytest.fixture
def log(tmp_path) -> Path:
    """The log of a run in another process."""
    (tmp_path / "log").touch()
    return tmp_path / "log"


def log_at_end(run, log: Path, code: int = 0) -> str:
    """Return the log of a run once it has ended with an exit code."""
    run.join(180)
    assert run.exitcode == code, log.read_text()
    return log.read_text()


def next_run(**parameters: int) -> str:
    """Run the flow in this process, without a fault."""
    return train_wine_quality(max_evals=1, **parameters)


def assert_whole(versions: int | None = None, pushed: int | None = None) -> None:
    """Assert that there is a champion, that every version loads, and that everything in the bucket is complete."""
    config = settings()
    assert_registry_whole(versions)
    with tracking.store(config) as store:
        assert registry.champion(store)
    for folder in bucket_folders():
        assert_pushed(folder)
    assert pushed in (None, len(bucket_folders()))
    assert list(config.outbox.iterdir()) == []


def assert_registry_whole(number: int | None = None) -> None:
    """Assert that every version loads, the champion included, if there is one."""
    with tracking.store(settings()) as store:
        versions = store.client.search_model_versions(f"name = '{settings().registered_model}'")
        for version in versions:
            registry.load_version(store, version)
    assert number in (None, len(versions))


def bucket_folders() -> list[Path]:
    return list((settings().local / "s3" / "wine-quality" / "runs").glob("*"))


def assert_pushed(folder: Path) -> None:
    sums = json.loads((folder / "manifest.json").read_text())["files"]
    assert {name: storage.sha256(folder / name) for name in sums} == sums


STEPS = """
train.load train.remove_duplicates train.split_rows train.check_split train.baseline train.search train.final_fit
train.fit_intervals
train.evaluate train.find_identical tracking.log_dataset tracking.log_interval tracking.log_evaluation
tracking.log_model train.track train.compare train.record_comparison train.register storage.sha256 train.add_to_outbox
train.promote train.tag_inputs storage.push train.push train.delete_old_files train.report
""".split()  # noqa: SIM905


def test_runs_killed_after_each_step_in_turn_leave_nothing_incomplete_and_the_next_one_completes(
    tmp_path, write_uci, monkeypatch
):
    distinct = splits.distinct_rows(sources.sample("a test").table)
    rows = distinct.iloc[::4]  # so many that the gate promotes at its nth use
    monkeypatch.setenv("WINE_DATA", str(write_uci(tmp_path / "wine", rows)))
    for number, step in enumerate(STEPS):
        log = tmp_path / f"log-{number}"
        log_at_end(faults.start(log, ("killed after", step), max_evals=1), log, -signal.SIGKILL)
        wait_until(lambda: processes_at(tmp_path) == [], "the end of what it had started")
        assert not is_locked(settings().local / "registry.lock")
        assert_registry_whole()
    run_id = next_run()
    complete = STEPS.index("train.tag_inputs") - STEPS.index("train.register") + 1
    assert_whole(versions=complete)  # what was published whole is not made again
    assert run_id in [folder.name for folder in bucket_folders()]


@pytest.fixture
def named_s3(set_aws) -> int:
    """A free port that the AWS settings name, with the keys of the local server; nothing listens there yet."""
    with local_s3(settings()) as endpoint:
        key, secret = endpoint.access_key, endpoint.secret_key
    port = free_port()
    set_aws(f"http://127.0.0.1:{port}", key, secret)
    return port


class Unavailable(BaseRequestHandler):
    """Answers every request with 503."""

    def handle(self) -> None:
        self.request.recv(65536)
        self.request.sendall(b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize("answers", [False, True], ids=["away", "unavailable"])
def test_s3_that_is_away_or_unavailable_for_a_while_is_waited_for(named_s3, log, answers):
    with serving(ThreadingHTTPServer(("127.0.0.1", named_s3), Unavailable)) if answers else nullcontext():
        run = faults.start(log, max_evals=1)
        wait_until(lambda: log.read_text().count("Retrying.") >= 2, "the second try")
        assert ("connection refused" in log.read_text()) is not answers
    with local_s3(settings(), named_s3):
        log_at_end(run, log)
    assert_whole(pushed=1)


def test_wrong_keys_are_reported_at_once_and_the_next_run_pushes_both(named_s3, monkeypatch):
    with local_s3(settings(), named_s3):
        with monkeypatch.context() as wrong:
            wrong.setenv("AWS_SECRET_ACCESS_KEY", "wrong-but-long-enough")
            with pytest.raises(StorageError, match="the keys are refused"):
                next_run()
        assert bucket_folders() == []
        next_run(seed=7)
    assert_whole(pushed=2)


def test_a_run_that_cannot_delete_old_files_fails_visibly_and_loses_nothing(named_s3, monkeypatch, log):
    monkeypatch.setenv("WINE_KEEP_RUNS", "1")
    config = settings()
    with local_s3(config, named_s3):
        for seed in (1, 2):
            next_run(seed=seed)
        run = faults.start(log, ("keys refused at", "storage.delete"), max_evals=1, seed=3)
        assert "error: bucket wine-quality: the keys are refused (AccessDenied)." in log_at_end(run, log, 1)
        with tracking.store(config) as store:
            newest = max(retention.versions(store), key=lambda one: int(one.version))
            report = store.read_text(newest.run_id, "report.md")
        assert "Old files were not deleted: bucket wine-quality: the keys are refused" in report
        assert_pushed(config.local / "s3" / "wine-quality" / "runs" / newest.run_id)
        next_run(seed=4)
    with tracking.store(config) as store:
        with_files = {int(one.version) for one in retention.versions(store) if registry.FILES not in one.tags}
        needed = {int(number) for number in retention.protected_versions(store)}
    assert with_files == needed | {4}
    assert len(bucket_folders()) == len(with_files)


def test_a_store_that_is_locked_is_waited_for(tmp_path, log):
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        run = faults.start(log, max_evals=1)
        wait_until(lambda: "database is locked" in log.read_text(), "the first try")
        other.execute("ROLLBACK")
        log_at_end(run, log)
    assert_whole(versions=1)


def test_a_prefect_server_that_is_restarted_loses_no_run(tmp_path, log, monkeypatch):
    home = tmp_path / "prefect"
    with prefect_server(home) as port:
        monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())
        run = faults.start(log, max_evals=1, seed=11)
        wait_until(lambda: "baseline" in log.read_text(), "the baseline")
    with prefect_server(home, port), get_client(sync_client=True) as client:
        log_at_end(run, log)
        states = {flow_run.name: flow_run.state_name for flow_run in client.read_flow_runs()}
    assert len(states) == 4
    assert set(states.values()) == {"Completed"}
    assert_whole()


def test_two_runs_at_once_both_complete_and_one_is_champion(tmp_path):
    logs = tmp_path / "one", tmp_path / "other"
    runs = [faults.start(log, max_evals=1, seed=seed) for seed, log in enumerate(logs, 1)]
    for run, log in zip(runs, logs, strict=True):
        log_at_end(run, log)
    assert_whole(versions=2, pushed=2)


def test_a_disk_that_is_full_when_the_model_is_saved_registers_nothing(log):
    run = faults.start(log, ("full disk at", "tracking.save_model"), max_evals=1)
    assert "File too large" in log_at_end(run, log, 1)
    assert_registry_whole(0)
    next_run()
    assert_whole(versions=1)


def test_a_run_may_pass_midnight(log):
    with get_client(sync_client=True) as client:
        before = {run.id for run in client.read_flow_runs()}
        log_at_end(faults.start(log, ("midnight", 3), max_evals=1), log)
        (flow_run,) = [one for one in client.read_flow_runs() if one.id not in before and not one.parent_task_run_id]
    with tracking.store(settings()) as store:
        name = store.client.get_run(registry.champion(store).run_id).info.run_name
    assert f"-{flow_run.name.split()[-2]}-" in name
    assert_whole()
