import json
import socket
import stat
import subprocess
import time

import boto3
import pytest

from orchestration.bucket import bucket_of_environment
from wine_quality import storage
from wine_quality.config import settings
from wine_quality.errors import DataError, StorageError, StorageUnavailable
from wine_quality.local_s3 import free_port, local_keys, local_s3


@pytest.fixture
def rclone(set_aws):
    """The laptop's own S3 server, named by the usual AWS settings, with an empty bucket."""
    with local_s3(settings()) as endpoint:
        set_aws(endpoint.url, endpoint.access_key, endpoint.secret_key)
        yield


@pytest.fixture
def moto(moto):
    """The S3 server that moto plays, with an empty bucket."""
    moto.create_bucket(Bucket="wine-quality")


@pytest.fixture(params=["moto", "rclone"])
def server(request):
    request.getfixturevalue(request.param)


def push_one(run_id: str = "run1") -> list[str]:
    config = settings()
    storage.add_to_outbox(config.outbox, run_id, {"report.md": b"good", "wines.csv": b"a;b"})
    return storage.push_waiting(bucket_of_environment(config), config.outbox)


def test_what_is_pushed_can_be_pulled_and_is_checked(server, tmp_path):
    assert push_one() == ["run1"]
    pulled = storage.pull(bucket_of_environment(settings()), "run1", tmp_path / "back")
    assert {path.name: path.read_bytes() for path in pulled} == {"report.md": b"good", "wines.csv": b"a;b"}
    assert list(settings().outbox.iterdir()) == []


def test_a_file_that_was_changed_in_the_bucket_is_refused(server, tmp_path):
    push_one()
    boto3.Session().client("s3").put_object(Bucket="wine-quality", Key="runs/run1/wines.csv", Body=b"a;c")
    with pytest.raises(StorageError, match=r"runs/run1/wines.csv: not the file"):
        storage.pull(bucket_of_environment(settings()), "run1", tmp_path / "back")
    assert not (tmp_path / "back" / "wines.csv").exists()


def test_a_run_without_manifest_is_not_there(server, tmp_path):
    push_one()
    boto3.Session().client("s3").delete_object(Bucket="wine-quality", Key="runs/run1/manifest.json")
    with pytest.raises(StorageError, match=r"bucket wine-quality: runs/run1/manifest\.json is not there"):
        storage.pull(bucket_of_environment(settings()), "run1", tmp_path / "back")


def test_an_object_that_is_missing_is_named(server, tmp_path):
    push_one()
    boto3.Session().client("s3").delete_object(Bucket="wine-quality", Key="runs/run1/wines.csv")
    with pytest.raises(StorageError, match=r"bucket wine-quality: runs/run1/wines\.csv is not there"):
        storage.pull(bucket_of_environment(settings()), "run1", tmp_path / "back")


def test_a_run_is_deleted_and_others_stay(server):
    push_one("run1")
    push_one("run10")
    bucket = bucket_of_environment(settings())
    storage.delete(bucket, "run1")
    assert set(storage.runs(bucket)) == {"run10"}
    storage.delete(bucket, "run1")


def test_the_manifest_is_deleted_first(server, monkeypatch):
    push_one()
    bucket = bucket_of_environment(settings())
    deleted = []
    client = bucket.credentials.get_s3_client()
    monkeypatch.setattr(type(client), "delete_object", lambda _self, **asked: deleted.append(asked["Key"]))
    storage.delete(bucket, "run1")
    assert deleted == ["runs/run1/manifest.json", "runs/run1/report.md", "runs/run1/wines.csv"]


def test_the_manifest_is_written_last(server, monkeypatch):
    config, sent = settings(), []
    storage.add_to_outbox(config.outbox, "run1", {"z": b"1", "a": b"2"})
    bucket = bucket_of_environment(config)
    monkeypatch.setattr(type(bucket), "upload_from_path", lambda _self, _path, key: sent.append(key))
    storage.push_waiting(bucket, config.outbox)
    assert sent == ["runs/run1/a", "runs/run1/z", "runs/run1/manifest.json"]


def test_a_missing_bucket_is_named(server, monkeypatch):
    monkeypatch.setenv("WINE_BUCKET", "no-such-wine")
    with pytest.raises(StorageError, match="bucket no-such-wine: there is no such bucket"):
        push_one()
    assert (settings().outbox / "run1" / "manifest.json").exists()


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_keys_are_told(rclone, monkeypatch, name):
    monkeypatch.setenv(name, "wrong-but-long-enough")
    with pytest.raises(StorageError, match="bucket wine-quality: the keys are refused") as caught:
        push_one()
    assert "wrong-but-long-enough" not in str(caught.value)
    assert (settings().outbox / "run1" / "manifest.json").exists()


def test_nobody_listening_is_told_and_worth_another_try(set_aws):
    set_aws(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageUnavailable, match=r"nobody listens.*AWS_ENDPOINT_URL_S3"):
        push_one()


def test_a_silent_endpoint_is_told(set_aws):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        set_aws(url)
        with pytest.raises(StorageError, match="the endpoint is silent"):
            push_one()


def test_what_waited_is_pushed_with_the_next_run(rclone, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setenv("WINE_BUCKET", "no-such-wine")
        with pytest.raises(StorageError):
            push_one("run1")
    time.sleep(0.01)
    assert push_one("run2") == ["run1", "run2"]


def test_a_disk_that_is_full_stages_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(DataError, match="No space left on device"):
        storage.add_to_outbox(tmp_path / "outbox", "run1", {"report.md": b"good"})
    assert not (tmp_path / "outbox" / "run1").exists()


def test_a_staged_run_has_the_sums_of_its_files(tmp_path):
    names = storage.add_to_outbox(tmp_path, "run1", {"report.md": b"good"})
    manifest = json.loads((tmp_path / "run1" / "manifest.json").read_text())
    assert names == ["report.md", "manifest.json"]
    assert manifest["files"] == {"report.md": "770e607624d689265ca6c44884d0807d9b054d23c473c106c72be9de08b7376c"}


def test_the_local_server_keeps_its_keys_to_itself():
    config = settings()
    with local_s3(config) as endpoint:
        processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert stat.S_IMODE((config.local / "s3-keys").stat().st_mode) == 0o600
    assert endpoint.access_key not in processes
    assert endpoint.secret_key not in repr(endpoint)
    assert local_keys(config) == (endpoint.access_key, endpoint.secret_key)


def test_the_local_server_stops_with_the_block():
    with local_s3(settings()) as endpoint:
        port = int(endpoint.url.rsplit(":", 1)[1])
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=1):
        pass


def test_a_server_that_does_not_start_is_told_with_its_last_words(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr("wine_quality.local_s3.free_port", lambda: taken.getsockname()[1])
        monkeypatch.setattr("socket.socket.connect_ex", lambda *_: 1)
        with pytest.raises(StorageUnavailable, match=r"did not start: .*address already in use"), local_s3(settings()):
            pass


def test_a_spoilt_key_file_is_told():
    path = settings().local / "s3-keys"
    path.parent.mkdir(parents=True)
    path.write_text("nonsense")
    with pytest.raises(DataError, match=rf"{path}: holds no keys"):
        local_keys(settings())
    assert path.exists()
