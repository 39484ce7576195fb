"""`make up`: real servers on free ports, started, queried and stopped."""

import signal
import socket

import boto3
import pytest
import requests
from botocore.exceptions import ClientError
from servers import command, processes_at, running, stop, wait_until

from wine_quality.config import settings
from wine_quality.local_s3 import local_keys
from wine_quality.ports import free_port, listens

pytestmark = pytest.mark.slow


@pytest.fixture
def ports(monkeypatch) -> dict[str, int]:
    ports = {name: free_port() for name in ("PREFECT", "MLFLOW", "S3")}
    for name, port in ports.items():
        monkeypatch.setenv(f"WINE_{name}_PORT", str(port))
    return ports


def test_ports_in_use_are_named_in_one_line_and_nothing_starts(ports):
    with socket.create_server(("127.0.0.1", ports["S3"])), socket.create_server(("127.0.0.1", ports["MLFLOW"])):
        done = command("orchestration.up")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: port {ports['MLFLOW']} for MLflow is in use (WINE_MLFLOW_PORT); port {ports['S3']} for S3 is in use "
        "(WINE_S3_PORT). Stop what uses it (another make up?) or change the port in .env.\n"
    )
    assert not listens(ports["PREFECT"])


def answer(url: str) -> tuple[int, str]:
    response = requests.get(url, timeout=60)
    return response.status_code, response.text


def test_all_servers_answer_and_ctrl_c_stops_them(ports, tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_HOME")
    log, database = tmp_path / "up.log", settings().local / "prefect" / "prefect.db"
    with running(["-m", "orchestration.up"], log) as up:
        prefect, mlflow, s3 = (f"http://127.0.0.1:{port}" for port in ports.values())
        wait_until(lambda: up.poll() is not None or all(map(listens, ports.values())), "servers")
        assert up.poll() is None, log.read_text()
        wait_until(lambda: online_workers(prefect) == ["laptop"], "worker")
        assert answer(f"{prefect}/api/health") == (200, "true")
        assert "<title>Prefect Server</title>" in answer(prefect)[1]
        assert database.is_file(), "Prefect's state lies in the home, not in the checkout"
        assert answer(f"{mlflow}/health") == (200, "OK")
        assert not [line for line in processes_at(tmp_path) if settings().mlflow_uri in line]
        assert buckets(s3, *local_keys(settings())) == ["wine-quality"]
        with pytest.raises(ClientError, match="InvalidAccessKeyId"):
            buckets(s3, "another-key", "another-secret")
        wait_until(lambda: all(f"is at {url}" in log.read_text() for url in (prefect, mlflow, s3)), "addresses")
        assert stop(up, signal.SIGINT) == 0, log.read_text()
    assert not any(map(listens, ports.values()))
    assert processes_at(tmp_path) == []


def buckets(url: str, key: str, secret: str) -> list[str]:
    client = boto3.client(
        "s3", endpoint_url=url, aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1"
    )
    return [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]


def online_workers(prefect: str) -> list[str]:
    response = requests.post(f"{prefect}/api/work_pools/wine/workers/filter", json={}, timeout=60)
    workers = response.json() if response.status_code == 200 else []
    return [worker["name"] for worker in workers if worker["status"] == "ONLINE"]
