"""`make cluster`: real servers with passwords and TLS, which reject clients without them and recover from failures.

One cluster for the whole file, which takes some four minutes on two cores.
"""

import os
import re
import signal
import socket
import ssl
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import boto3
import httpx
import psutil
import psycopg
import pytest
from botocore.exceptions import ClientError
from conftest import CLEAN
from dotenv import dotenv_values
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import FlowRun
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from servers import TRAIN, command, processes_at, running, stop, wait_for_run, wait_until

from wine_quality import tracking
from wine_quality.config import settings
from wine_quality.ports import free_port, listens

pytest.importorskip("distributed", reason="make setup-scaling installs Dask")
pytestmark = [pytest.mark.slow, pytest.mark.long]

ALL = ("postgres", "s3", "mlflow", "prefect", "dask", "dask-1", "dask-2", "prefect-1", "prefect-2")


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home that PostgreSQL's user can access, unlike pytest's own folders."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="wine-tests-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def own(home, few_wines) -> dict[str, str]:
    """The environment of `make cluster`."""
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        pytest.skip("no PostgreSQL in /usr/lib/postgresql: apt install postgresql")
    ports = {f"WINE_{name}_PORT": str(free_port()) for name in ("PREFECT", "MLFLOW", "S3")}
    return {**CLEAN, **ports, "WINE_HOME": str(home), "WINE_DATA": str(few_wines), "PREFECT_HOME": str(home / "own")}


@pytest.fixture(scope="module")
def folder(home, own) -> Iterator[Path]:
    """The folder of a running cluster; afterwards, no process is left."""
    log, cluster = home / "screen.log", home / ".local" / "cluster"
    with mock.patch.dict(os.environ, own), running(["-m", "scaling.cluster"], log) as launcher:
        wait_until(lambda: launcher.poll() is not None or "Ctrl-C stops" in log.read_text(), "make cluster")
        assert launcher.poll() is None, log.read_text()
        yield cluster
        assert launcher.poll() is None, log.read_text()
        assert stop(launcher, signal.SIGINT) == 130, log.read_text()
    assert processes_at(home) == []


@pytest.fixture
def client_env(folder, monkeypatch) -> dict[str, str]:
    """What `client.env` exports, exported, and a home of the client's own."""
    exported = {name: str(value) for name, value in dotenv_values(folder / "client.env").items()}
    for name, value in exported.items():
        monkeypatch.setenv(name, value)
    return exported


@pytest.fixture
def client(client_env) -> Iterator[SyncPrefectClient]:
    own = {
        PREFECT_API_URL: client_env["PREFECT_API_URL"],
        PREFECT_API_AUTH_STRING: client_env["PREFECT_API_AUTH_STRING"],
    }
    with temporary_settings(own), get_client(sync_client=True) as client:
        yield client


def pid_of(folder: Path, name: str) -> int:
    """Return the id of the process that the launcher started under a name."""
    words = {"postgres": "postgres/data", "s3": "rclone", "dask": "scheduler", "dask-1": "--name machine-1 --no-dash"}
    found = [
        one.pid
        for one in psutil.process_iter(["cmdline"])
        if str(folder) in (line := " ".join(one.info["cmdline"] or [])) and words[name] in line
    ]
    assert len(found) == 1, found
    return found[0]


def screen(folder: Path) -> str:
    return (folder.parent.parent / "screen.log").read_text()


def versions() -> dict[int, str]:
    """Return the description of each version in the shared registry."""
    with tracking.store(settings()) as store:
        found = store.client.search_model_versions("name = 'wine-quality'")
        return {int(one.version): str(one.description) for one in found}


def start(client: SyncPrefectClient, deployment: str, **parameters) -> FlowRun:
    found = client.read_deployment_by_name(f"train-wine-quality/{deployment}")
    return client.create_flow_run_from_deployment(found.id, parameters={"max_evals": 1, **parameters})


def test_all_is_healthy_and_only_you_can_read_the_passwords(folder, client_env):
    shown = screen(folder)
    assert [line.split()[0] for line in shown.splitlines() if line.endswith("is healthy")] == list(ALL)
    secrets = {path.read_text() for path in (folder / "secrets").iterdir()}
    assert len(secrets) == 7
    assert not [secret for secret in secrets if secret in shown]
    lines = [" ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])]
    assert not [line for line in lines if any(secret in line for secret in secrets)]
    private = [folder / "client.env", *(folder / "secrets").iterdir(), *(folder / "tls").iterdir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in ("tls", "secrets", "s3", "machine-1")} == {0o700}
    logs = "".join(path.read_text(errors="replace") for path in folder.glob("*.log"))
    assert not [secret for secret in secrets if secret in logs]


def test_prefect_mlflow_and_s3_reject_requests_without_a_password(folder, client_env):
    prefect, mlflow, s3 = (
        client_env[name] for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL_S3")
    )
    search = f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=5"
    for account in (None, ("wine", "wrong"), ("", "")):
        assert httpx.post(f"{prefect}/flow_runs/filter", json={}, auth=account).status_code == 401
        for url in (mlflow, search, f"{mlflow}/api/2.0/mlflow-artifacts/artifacts", f"{mlflow}/graphql"):
            assert httpx.get(url, auth=account).status_code == 401
    user = client_env["MLFLOW_TRACKING_USERNAME"], client_env["MLFLOW_TRACKING_PASSWORD"]
    assert httpx.get(search, auth=user).status_code == 200
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert httpx.get(search, auth=user, headers=headers).status_code == 403
    assert listed(s3, client_env["AWS_ACCESS_KEY_ID"], client_env["AWS_SECRET_ACCESS_KEY"]) == [
        "mlflow",
        "wine-quality",
    ]
    for key in (client_env["AWS_ACCESS_KEY_ID"], "another"):
        with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|InvalidAccessKeyId"):
            listed(s3, key, "wrong-but-long-enough")


def listed(url: str, key: str, secret: str) -> list[str]:
    keys = {"aws_access_key_id": key, "aws_secret_access_key": secret, "region_name": "us-east-1"}
    return sorted(one["Name"] for one in boto3.client("s3", endpoint_url=url, **keys).list_buckets()["Buckets"])


def test_each_postgresql_role_can_only_connect_to_its_own_database(folder):
    secret = {name: (folder / "secrets" / name).read_text() for name in ("postgres", "mlflow", "prefect")}
    port = re.search(r"postgres +postgresql://wine_admin:\*\*\*@127\.0\.0\.1:(\d+)/", screen(folder))[1]

    def connect(user: str, password: str, database: str) -> psycopg.Connection:
        return psycopg.connect(host="127.0.0.1", port=port, user=user, password=password, dbname=database)

    for user, password, database in (
        ("mlflow", "", "mlflow"),
        ("mlflow", secret["prefect"], "mlflow"),
        ("mlflow", secret["mlflow"], "prefect"),
        ("prefect", secret["prefect"], "mlflow"),
    ):
        with pytest.raises(psycopg.OperationalError, match=r"password|permission denied for database"):
            connect(user, password, database)
    for tool in ("mlflow", "prefect"):
        with connect(tool, secret[tool], tool) as connection:
            row = connection.execute(
                "SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = %s", [tool]
            )
            assert row.fetchone() == (False, False, False)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("COPY (SELECT 1) TO PROGRAM 'true'")


def test_dask_rejects_a_client_without_a_certificate(folder, client_env, tmp_path):
    from distributed import Client, Security

    from scaling.certificates import certificates
    from wine_quality.engines import OnDask

    host, port = client_env["WINE_DASK"].removeprefix("tls://").split(":")
    without = ssl.create_default_context(cafile=str(folder / "tls" / "ca.pem"))
    with (
        socket.create_connection((host, int(port))) as plain,
        pytest.raises(OSError, match="alert"),
        without.wrap_socket(plain, server_hostname=host) as connected,
    ):
        connected.recv(1)
    foreign = certificates(tmp_path / "foreign")
    files = {"tls_client_cert": str(foreign / "cert.pem"), "tls_client_key": str(foreign / "key.pem")}
    stranger = Security(require_encryption=True, tls_ca_file=str(folder / "tls" / "ca.pem"), **files)
    for address, security in ((f"tls://{host}:{port}", stranger), (f"tcp://{host}:{port}", None)):
        with pytest.raises(OSError):  # noqa: PT011
            Client(address, security=security, timeout=3, set_as_default=False)
    engine = OnDask(client_env["WINE_DASK"], folder / "tls")
    try:
        engine.submit(1, os.getpid)
        assert engine.next_done()[0] == 1
        assert engine.workers == 2
    finally:
        engine.close()


def test_two_runs_at_once_on_two_machines_are_both_registered_and_no_promotion_is_lost(folder, client, tmp_path):
    runs = [start(client, "nightly", seed=1), start(client, "on-new-data", seed=2)]
    ended = [wait_for_run(client, one) for one in runs]
    assert [one.state_name for one in ended] == ["Completed", "Completed"]
    trained = [folder / f"machine-{number}" / "models" / "wine-quality.skops" for number in (1, 2)]
    assert all(path.is_file() for path in trained), "each machine had a run"
    cards = versions()
    assert sorted(cards) == [1, 2]
    assert "the mean of the training set" in cards[1]
    assert "champion version 1" in cards[2]
    assert len(list((folder / "s3" / "wine-quality" / "runs").iterdir())) == 2


def test_a_command_with_the_exported_settings_uses_the_cluster(folder, client_env, tmp_path):
    before = len(versions())
    done = command(*TRAIN, WINE_TRIALS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    bucket = (
        f"bucket    in the bucket `wine-quality` at {client_env['AWS_ENDPOINT_URL_S3']}: set by the block wine-bucket"
    )
    assert done.stdout.splitlines()[0] == bucket
    assert len(versions()) == before + 1
    assert "on this laptop" not in done.stdout.lower()
    assert client_env["MLFLOW_TRACKING_URI"] in done.stdout
    assert client_env["MLFLOW_TRACKING_PASSWORD"] not in done.stdout
    listing = command("orchestration.list_bucket")
    assert (listing.returncode, listing.stdout.splitlines()[0]) == (0, bucket)
    assert not list(tmp_path.glob("mlruns/*")), "the artifacts are in S3"


def answers(client: SyncPrefectClient) -> bool:
    """Return whether Prefect's server answers without a database error."""
    try:
        client.read_flow_runs(limit=1)
    except PrefectHTTPStatusError:
        return False
    return True


def test_postgresql_that_is_restarted_during_a_run_loses_nothing(folder, client):
    before = len(versions())
    run = start(client, "nightly", seed=3)
    wait_until(lambda: client.read_flow_run(run.id).state.is_running(), "the run")
    time.sleep(8)
    os.kill(pid_of(folder, "postgres"), signal.SIGQUIT)  # as after a crash
    wait_until(lambda: "postgres ended with exit code" in screen(folder), "the end of PostgreSQL")
    wait_until(lambda: answers(client), "Prefect on PostgreSQL")
    ended = wait_for_run(client, run)
    if ended.state_name != "Completed":  # what it had registered, its cache and its trials are there
        ended = wait_for_run(client, start(client, "nightly", seed=3))
    assert ended.state_name == "Completed"
    assert len(versions()) == before + 1


def test_if_s3_is_down_at_the_push_the_next_run_pushes_the_run(folder, client):
    pushed = folder / "s3" / "wine-quality" / "runs"
    before, waited = len(list(pushed.iterdir())), set(folder.glob("machine-*/.local/outbox/*"))
    moved = folder / "s3" / "gone"
    (folder / "s3" / "wine-quality").rename(moved)
    try:
        failed = wait_for_run(client, start(client, "on-new-data", seed=4))
        assert "there is no such bucket" in str(failed.state.message)
    finally:
        moved.rename(folder / "s3" / "wine-quality")
    (waiting,) = set(folder.glob("machine-*/.local/outbox/*")) - waited
    with mock.patch.dict(os.environ, WINE_HOME=str(waiting.parent.parent.parent)):
        pushing = command("orchestration.push", waiting.name)  # as the next run on that machine does
    assert pushing.returncode == 0, pushing.stderr
    assert f"push      runs/{waiting.name}" in pushing.stdout
    assert len(list(pushed.iterdir())) > before


def test_a_process_that_exits_is_restarted(folder, client_env):
    os.kill(pid_of(folder, "dask"), signal.SIGKILL)
    wait_until(lambda: "dask ended with exit code -9: starting it again" in screen(folder), "the end of the scheduler")
    from wine_quality.engines import OnDask

    wait_until(lambda: listens(int(client_env["WINE_DASK"].rpartition(":")[2])), "the scheduler")
    engine = OnDask(client_env["WINE_DASK"], folder / "tls")
    try:
        wait_until(lambda: engine.workers == 2, "both workers")
    finally:
        engine.close()


def test_a_launcher_that_is_killed_leaves_no_process(home, folder, own, tmp_path):
    other = home / "other"
    other.mkdir()
    ports = {f"WINE_{name}_PORT": str(free_port()) for name in ("PREFECT", "MLFLOW", "S3")}
    with (
        mock.patch.dict(os.environ, {**own, **ports, "WINE_HOME": str(other)}),
        running(["-m", "scaling.cluster"], other / "screen.log") as launcher,
    ):
        wait_until(lambda: "dask-2    is healthy" in (other / "screen.log").read_text(), "the workers of Dask")
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
        wait_until(lambda: processes_at(other) == [], "the end of all processes", 60)


def test_a_server_that_refuses_access_is_named_in_one_line(tmp_path, monkeypatch):
    for name in ("PREFECT", "MLFLOW", "S3"):
        monkeypatch.setenv(f"WINE_{name}_PORT", str(free_port()))
    monkeypatch.setenv("WINE_POSTGRES", f"postgresql://admin:hush@127.0.0.1:{free_port()}/postgres")
    done = command("scaling.cluster")
    assert done.returncode == 1
    assert re.search(r"error: PostgreSQL: .*Connection refused", done.stderr.splitlines()[-1])
    assert "hush" not in done.stderr
    assert processes_at(tmp_path) == []


def test_taken_ports_are_named_and_nothing_starts(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("WINE_S3_PORT", str(taken.getsockname()[1]))
        done = command("scaling.cluster")
    assert done.returncode == 1
    assert "for S3 is in use (WINE_S3_PORT)" in done.stderr
    assert not (tmp_path / ".local" / "cluster").exists()
