"""Break it: whatever strikes a run, nothing is lost or registered half, and the next run completes.

Each run is a real process that reports to a real Prefect server, with MLflow on SQLite and a real S3 server.
"""

import json
import socket
import socketserver
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import faults
import pytest
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

pytestmark = pytest.mark.slow

KILLED = 9


@pytest.fixture(scope="module")
def prefect_home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="module", autouse=True)
def prefect_port(prefect_home) -> Iterator[int]:
    with prefect_server(prefect_home) as port:
        yield port


@pytest.fixture(autouse=True)
def small_runs(store, few_wines, prefect_port, monkeypatch):
    """Let every run take few wines, and report to the server."""
    monkeypatch.setenv("WINE_DATA", str(few_wines))
    monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())


def next_run(**parameters: int) -> str:
    """Run the flow undisturbed in this process."""
    return train_wine_quality(max_evals=1, **parameters)


def assert_whole() -> None:
    """Assert that there is a champion, that every version loads, and that all the bucket holds is complete."""
    config = settings()
    assert_registry_whole()
    with tracking.store(config) as store:
        assert registry.champion(store)
    for folder in bucket_folders():
        assert_pushed(folder)
    assert list(config.outbox.iterdir()) == []


def assert_registry_whole() -> None:
    """Assert that every version loads, among them the champion where there is one."""
    config = settings()
    with tracking.store(config) as store:
        for version in store.client.search_model_versions(f"name = '{config.registered_model}'"):
            registry.load_version(store, version)


def bucket_folders() -> list[Path]:
    return list((settings().local / "s3" / "wine-quality" / "runs").glob("*"))


def assert_pushed(folder: Path) -> None:
    sums = json.loads((folder / "manifest.json").read_text())["files"]
    assert {name: storage.sha256(folder / name) for name in sums} == sums


def versions() -> int:
    config = settings()
    with tracking.store(config) as store:
        return len(store.client.search_model_versions(f"name = '{config.registered_model}'"))


STEPS = [
    *(f"train.{task}" for task in ("load", "check", "check_split", "baseline", "search", "final_fit", "score")),
    *("train.find_identical", "tracking.log_dataset", "tracking.log_model", "train.track", "train.compare"),
    *("train.record_comparison", "train.register", "storage.sha256", "train.add_to_outbox", "train.promote"),
    "train.tag_inputs",
    *("storage.push", "train.push", "train.delete_old_files", "train.report"),
]


def test_runs_that_are_killed_each_a_step_later_leave_nothing_half_and_the_next_one_completes(
    tmp_path, write_uci, monkeypatch
):
    rows = splits.distinct_rows(sources.sample("a test").table).iloc[
        ::4
    ]  # so many that the gate promotes at its nth use
    monkeypatch.setenv("WINE_DATA", str(write_uci(tmp_path / "wine", rows)))
    for number, step in enumerate(STEPS):
        log = tmp_path / f"log-{number}"
        struck = faults.start(log, ("killed after", step), max_evals=1)
        struck.join(120)
        assert struck.exitcode == -KILLED, f"{step}: {log.read_text()}"
        wait_until(lambda: processes_at(tmp_path) == [], "the end of what it had started")
        assert not is_locked(settings().local / "registry.lock")
        assert_registry_whole()
    run_id = next_run()
    assert_whole()
    assert (settings().local / "s3" / "wine-quality" / "runs" / run_id).is_dir()
    made = STEPS.index("train.tag_inputs") - STEPS.index("train.register") + 1
    assert versions() == made, "what was published whole is not made again"


@pytest.fixture
def named_s3(set_aws) -> int:
    """A free port that the AWS settings name, with the keys of the laptop's server; nobody listens there yet."""
    with local_s3(settings()) as endpoint:
        key, secret = endpoint.access_key, endpoint.secret_key
    port = free_port()
    set_aws(f"http://127.0.0.1:{port}", key, secret)
    return port


def test_s3_that_is_away_for_a_while_is_waited_for(named_s3, tmp_path):
    log = tmp_path / "log"
    run = faults.start(log, max_evals=1)
    wait_until(lambda: log.exists() and "nobody listens" in log.read_text(), "the first try")
    with local_s3(settings(), named_s3):
        run.join(120)
    assert run.exitcode == 0, log.read_text()
    assert "Trying again." in log.read_text()
    assert_whole()
    assert len(bucket_folders()) == 1


def test_a_task_that_fails_twice_succeeds_the_third_time(named_s3, tmp_path):
    log = tmp_path / "log"
    with local_s3(settings()) as endpoint, failing_twice(named_s3, int(endpoint.url.rsplit(":", 1)[1])):
        run = faults.start(log, max_evals=1)
        run.join(120)
    assert run.exitcode == 0, log.read_text()
    assert log.read_text().count("Trying again.") == 2
    assert_whole()


UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@contextmanager
def failing_twice(port: int, behind: int) -> Iterator[None]:
    """Answer the first two connections with 503, and hand the others on to a server behind."""
    tries = iter(range(1000))

    class Front(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if next(tries) < 2:
                self.request.recv(65536)
                self.request.sendall(UNAVAILABLE)
                return
            with socket.create_connection(("127.0.0.1", behind)) as server:
                question = threading.Thread(target=pump, args=(self.request, server))
                question.start()
                pump(server, self.request)
                question.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", port), Front) as front:
        threading.Thread(target=front.serve_forever, args=(0.05,)).start()
        try:
            yield
        finally:
            front.shutdown()


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Hand on what comes from one socket to another until one of the two hangs up."""
    with suppress(OSError):
        while block := source.recv(65536):
            sink.sendall(block)
        sink.shutdown(socket.SHUT_WR)


def test_wrong_keys_are_told_at_once_and_the_next_run_pushes_both(named_s3, monkeypatch):
    with local_s3(settings(), named_s3):
        with monkeypatch.context() as wrong:
            wrong.setenv("AWS_SECRET_ACCESS_KEY", "wrong-but-long-enough")
            with pytest.raises(StorageError, match="the keys are refused"):
                next_run()
        assert bucket_folders() == []
        next_run(seed=7)
    assert len(bucket_folders()) == 2
    assert_whole()


def test_what_cannot_delete_old_files_fails_visibly_and_loses_nothing(named_s3, monkeypatch, tmp_path):
    monkeypatch.setenv("WINE_KEEP_RUNS", "1")
    with local_s3(settings(), named_s3):
        for seed in (1, 2):
            next_run(seed=seed)
        run = faults.start(tmp_path / "log", ("keys refused at", "storage.delete"), max_evals=1, seed=3)
        run.join(180)
        log = (tmp_path / "log").read_text()
        assert run.exitcode == 1, log
        assert "error: bucket wine-quality: the keys are refused (AccessDenied)." in log
        config = settings()
        with tracking.store(config) as store:
            newest = max(retention.versions(store), key=lambda one: int(one.version))
            report = store.read_text(newest.run_id, "report.md")
        assert "Old files were not deleted: bucket wine-quality: the keys are refused" in report
        assert_pushed(settings().local / "s3" / "wine-quality" / "runs" / newest.run_id)
        next_run(seed=4)
    with tracking.store(config) as store:
        kept = {int(one.version) for one in retention.versions(store) if registry.FILES not in one.tags}
        needed = {int(number) for number in retention.needed_again(store)}
    assert kept == needed | {4}
    assert len(bucket_folders()) == len(kept)


def test_a_store_that_is_locked_is_waited_for(tmp_path):
    log = tmp_path / "log"
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        run = faults.start(log, max_evals=1)
        wait_until(lambda: log.exists() and "database is locked" in log.read_text(), "the first try")
        other.execute("ROLLBACK")
        run.join(120)
    assert run.exitcode == 0, log.read_text()
    assert versions() == 1
    assert_whole()


def test_a_prefect_server_that_is_restarted_loses_no_run(prefect_home, tmp_path, monkeypatch):
    log, home = tmp_path / "log", tmp_path / "prefect"
    with prefect_server(home) as port:
        monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())
        run = faults.start(log, max_evals=1, seed=11)
        wait_until(lambda: log.exists() and "baseline" in log.read_text(), "the baseline")
    with prefect_server(home, port), get_client(sync_client=True) as client:
        run.join(180)
        assert run.exitcode == 0, log.read_text()
        states = {found.name: found.state_name for found in client.read_flow_runs()}
    assert len(states) == 4
    assert set(states.values()) == {"Completed"}
    assert_whole()


def test_two_runs_at_once_both_complete_and_one_is_champion(tmp_path):
    logs = tmp_path / "one", tmp_path / "other"
    runs = [faults.start(log, max_evals=1, seed=seed) for seed, log in enumerate(logs, 1)]
    for run, log in zip(runs, logs, strict=True):
        run.join(180)
        assert run.exitcode == 0, log.read_text()
    assert versions() == 2
    assert len(bucket_folders()) == 2
    assert_whole()


def test_a_disk_that_is_full_at_the_model_registers_nothing(tmp_path):
    log = tmp_path / "log"
    run = faults.start(log, ("full disk at", "tracking.save_model"), max_evals=1)
    run.join(120)
    assert run.exitcode == 1
    assert "File too large" in log.read_text()
    assert versions() == 0
    next_run()
    assert versions() == 1
    assert_whole()


def test_a_run_may_pass_midnight(tmp_path):
    with get_client(sync_client=True) as client:
        before = {run.id for run in client.read_flow_runs()}
        run = faults.start(tmp_path / "log", ("midnight", 3), max_evals=1)
        run.join(120)
        assert run.exitcode == 0, (tmp_path / "log").read_text()
        (flow_run,) = [one for one in client.read_flow_runs() if one.id not in before and not one.parent_task_run_id]
    config = settings()
    with tracking.store(config) as store:
        name = store.client.get_run(registry.champion(store).run_id).info.run_name
    day = flow_run.name.split()[-2]
    assert f"-{day}-" in name
    assert_whole()
